"""Weight matching of structured units: planted permutations, brute force, and random specs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Literal

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nested_specs import CASES, Case, transformer

from fastrebasin import PermutationSpec, apply_permutation, invert, nesting, weight_matching
from fastrebasin.matching import families
from fastrebasin.permutation import Permutation, check_permutation

Params = dict[str, torch.Tensor]


def inner_product(a: Params, b: Params) -> float:
    return sum(torch.sum(a[name].double() * b[name].double()).item() for name in a)


def planted(case: Case, seed: int) -> tuple[PermutationSpec, Params, Params, Permutation]:
    """Return a spec, A, a permuted copy of A, and the permutation that undoes it."""
    spec, a = case.spec(), case.params(seed)
    answer = spec.random_permutation(seed + 1)
    return spec, a, apply_permutation(spec, invert(answer), a), answer


@pytest.mark.parametrize("name", CASES)
def test_planted_permutation_is_recovered(name: str) -> None:
    starts: tuple[Literal["identity", "anchored"], ...] = ("identity", "anchored")
    for seed, init in enumerate(starts):
        spec, a, b, answer = planted(CASES[name], seed)
        assert inner_product(a, b) < 0.5 * inner_product(a, a)
        found = weight_matching(spec, a, b, init=init, seed=seed)
        assert all(torch.equal(found.permutation[group], answer[group]) for group in answer)
        assert found.objective == pytest.approx(inner_product(a, a), rel=1e-6)


def fresh_transformer(seed: int) -> tuple[PermutationSpec, Params, Params, Permutation]:
    """Return a transformer as initialised, its embedding small and tied, and a permuted copy."""
    case = transformer(fixed=10, tied=True)
    spec, a = case.spec(), case.params(seed)
    for name, tensor in a.items():
        if tensor.ndim == 1:
            tensor.fill_(float("norm" in name and "weight" in name))
    answer = spec.random_permutation(seed + 1)
    return spec, a, apply_permutation(spec, invert(answer), a), answer


@pytest.mark.parametrize("seed", range(3))
def test_the_anchored_start_unscrambles_a_fresh_transformer(seed: int) -> None:
    spec, a, b, answer = fresh_transformer(seed)
    found = weight_matching(spec, a, b, init="anchored")
    assert all(torch.equal(found.permutation[group], answer[group]) for group in answer)


def test_the_anchored_start_withstands_noise() -> None:
    spec, a, b, answer = fresh_transformer(0)
    noisy = {name: t + torch.randn_like(t) if t.ndim > 1 else t for name, t in b.items()}
    found = weight_matching(spec, a, noisy, init="anchored")
    right = sum((found.permutation[g] == answer[g]).sum().item() for g in answer)
    assert right > 0.95 * sum(len(indices) for indices in answer.values())


@pytest.mark.parametrize("name", CASES)
def test_the_anchored_start_is_a_permutation_that_the_seed_leaves_alone(name: str) -> None:
    spec, a, _, _ = planted(CASES[name], 0)
    b = CASES[name].params(1)
    starts = [weight_matching(spec, a, b, init="anchored", max_sweeps=0, seed=s) for s in range(2)]
    check_permutation(starts[0].permutation, spec.sizes, spec.within)
    assert all(torch.equal(*(s.permutation[g] for s in starts)) for g in spec.groups)
    assert starts[0].objective > inner_product(a, b)


def test_nothing_fixed_gives_no_anchor() -> None:
    spec = PermutationSpec.from_axes({"w": ("P", "Q"), "ones": ("P",)})
    a = {"w": torch.randn(5, 6), "ones": torch.ones(5)}
    start = weight_matching(spec, a, a, init="anchored", max_sweeps=0).permutation
    assert all(torch.equal(start[group], torch.arange(len(start[group]))) for group in start)


def test_an_unknown_start_is_refused() -> None:
    spec, a, b, _ = planted(CASES["experts"], 0)
    with pytest.raises(
        ValueError, match='init must be "identity", "anchored", a permutation or a Matching'
    ):
        weight_matching(spec, a, b, init="random")  # type: ignore[arg-type]


def every_permutation(spec: PermutationSpec) -> Iterator[Permutation]:
    """Yield all permutations that a spec allows."""
    own = spec.extents
    combinations = {group: size // own[group] for group, size in spec.sizes.items()}
    tables = [
        itertools.product(itertools.permutations(range(own[group])), repeat=count)
        for group, count in combinations.items()
    ]
    for choice in itertools.product(*tables):
        inner = {g: torch.tensor(rows) for g, rows in zip(combinations, choice, strict=True)}
        yield nesting.combine(inner, own, spec.within)


# Blocks in which no two groups within G lie beside each other, so that the best can be found.
EXACT = [("G", None), ("G*C", None), (None, "G*C"), ("G*C*2 + G",), ("G*(C + D)", "2"),
         ("C*3", "G"), ("D", "G", None)]  # fmt: skip
COUPLED = [("G*C", "D"), ("G*C*D",), ("G*C", "C"), ("G*C", "G*D"), ("S", "G*C"), ("S", "S"),
           ("S", "G*(C + D)"), ("G*D", "G"), ("2*S", None), ("G*E*D", "S"), ("G*E*B", "C"),
           ("G", "E*B"), ("B", "G", "E", "B")]  # fmt: skip
NESTING = {"C": ("G",), "D": ("G",), "E": ("G",), "B": ("G", "E")}


@st.composite
def specs(draw: st.DrawFn, tables: list[tuple[str | None, ...]], largest: int) -> Case:
    """Draw a spec of random blocks, with groups of random sizes."""
    chosen = draw(st.lists(st.sampled_from(tables), min_size=1, max_size=5))
    axes = {f"w{k}": layouts for k, layouts in enumerate(chosen)}
    groups = PermutationSpec.from_axes(axes).groups
    groups |= dict.fromkeys((p for g in groups for p in NESTING.get(g, ())), ())
    if missing := groups.keys() - PermutationSpec.from_axes(axes).groups.keys():
        axes |= {f"v{group}": (group, None) for group in sorted(missing)}
    own = {group: draw(st.integers(1, largest)) for group in sorted(groups)}
    within = {group: NESTING[group] for group in own if group in NESTING}
    return Case(axes, own, within, fixed=2)


@given(specs(EXACT, 3), st.integers(0, 2**20))
@settings(max_examples=40)
def test_a_family_gets_the_best_of_all_nested_permutations(case: Case, seed: int) -> None:
    spec = case.spec()
    count = math.prod(
        math.factorial(spec.extents[g]) ** (n // spec.extents[g]) for g, n in spec.sizes.items()
    )
    assume(count <= 300)
    a, b = ({n: t.double() for n, t in case.params(seed + k).items()} for k in range(2))
    best = max(
        inner_product(a, apply_permutation(spec, permutation, b))
        for permutation in every_permutation(spec)
    )
    assert weight_matching(spec, a, b).objective == pytest.approx(best, rel=1e-9, abs=1e-9)


@given(specs(EXACT + COUPLED, 3), st.integers(0, 2**20))
@settings(max_examples=30)
def test_matching_never_loses_and_ends_where_it_stays(case: Case, seed: int) -> None:
    spec = case.spec()
    a, b = ({n: t.double() for n, t in case.params(seed + k).items()} for k in range(2))
    start = spec.random_permutation(seed)
    found = weight_matching(spec, a, b, init=start, seed=seed)
    check_permutation(found.permutation, spec.sizes, spec.within)
    direct = inner_product(a, apply_permutation(spec, found.permutation, b))
    assert found.objective == pytest.approx(direct, rel=1e-9, abs=1e-9)
    assert direct >= inner_product(a, apply_permutation(spec, start, b)) - 1e-9
    again = weight_matching(spec, a, b, init=found.permutation, seed=seed + 1)
    assert again.objective == pytest.approx(direct, rel=1e-9, abs=1e-9)


@given(specs(EXACT + COUPLED, 3), st.integers(0, 2**20))
@settings(max_examples=40)
def test_the_answer_is_a_fixed_point(case: Case, seed: int) -> None:
    spec, a, b, answer = planted(case, seed)
    found = weight_matching(spec, a, b, init=answer)
    assert found.sweeps == 1
    assert all(torch.equal(found.permutation[group], answer[group]) for group in answer)


@pytest.mark.parametrize("name", ["grouped-query attention", "grouped convolution", "three levels"])
@pytest.mark.parametrize("small", [False, True])
def test_memory_bounds_change_nothing(
    name: str, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, a, _, _ = planted(CASES[name], 0)
    b = CASES[name].params(1)
    expected = weight_matching(spec, a, b)
    monkeypatch.setattr(families, "_NUMBERS", 8000)
    monkeypatch.setattr(families, "_is_small", lambda *_: small)
    found = weight_matching(spec, a, b)
    assert all(torch.equal(found.permutation[g], expected.permutation[g]) for g in spec.groups)
