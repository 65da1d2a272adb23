"""Alignment of more than two models: the objective, cycles, brute force, Frank-Wolfe steps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import get_args

import pytest
import scipy.optimize
import torch
from nested_specs import CASES

from fastrebasin import (
    PermutationSpec,
    apply_permutation,
    architectures,
    compose,
    identity_permutation,
    invert,
    weight_matching,
)
from fastrebasin.experiments.models import MLP
from fastrebasin.matching import frank_wolfe, synchronised_matching
from fastrebasin.matching.synchronised import Synchronisation
from fastrebasin.permutation import Permutation

Params = dict[str, torch.Tensor]
METHODS: tuple[Synchronisation, ...] = get_args(Synchronisation)


def independent(count: int, seed: int = 0, width: int = 24) -> tuple[PermutationSpec, list[Params]]:
    """Return untrained networks that are no copies of each other."""
    torch.manual_seed(seed)
    models = [MLP(12, (width, width), 5).double().state_dict() for _ in range(count)]
    return architectures.mlp(2).bind(models[0]), models


def sum_over_pairs(
    spec: PermutationSpec, params: Sequence[Params], permutations: Sequence[Permutation]
) -> float:
    moved = [apply_permutation(spec, p, m) for p, m in zip(permutations, params, strict=True)]
    return sum(
        torch.sum(one[name].double() * other[name].double()).item()
        for one, other in itertools.combinations(moved, 2)
        for name in one
    )


@pytest.mark.parametrize("name", ["multi-head attention", "LSTM", "grouped convolution", "experts"])
def test_structured_groups_are_recovered(name: str) -> None:
    spec, params = CASES[name].spec(), CASES[name].params(1)
    moves = [spec.random_permutation(seed) for seed in range(3)]
    models = [apply_permutation(spec, move, params) for move in moves]
    found = synchronised_matching(spec, models, progress=False)
    for k, move in enumerate(moves):
        answer = compose(invert(move), moves[0])
        assert all(torch.equal(found.permutations[k][group], answer[group]) for group in answer)


@pytest.mark.parametrize("method", METHODS)
def test_the_objective_is_the_sum_over_pairs_and_never_falls(method: Synchronisation) -> None:
    for seed in range(2):
        spec, params = independent(4, seed)
        found = synchronised_matching(spec, params, method=method, seed=seed, progress=False)
        expected = sum_over_pairs(spec, params, found.permutations)
        assert found.objective == pytest.approx(expected, rel=1e-9)
        steps = list(found.objectives)
        assert steps == sorted(steps)
        if method == "merge-many":
            assert found.sweeps == len(steps) > 2
        if steps:
            assert steps[-1] == found.objective


def test_cycle_consistent_matching_is_never_worse_than_the_others_and_mostly_better() -> None:
    gains = []
    for seed in range(5):
        spec, params = independent(3, seed, width=16)
        best, *others = (
            synchronised_matching(spec, params, method=m, seed=seed, progress=False).objective
            for m in ("cycle-consistent", "merge-many", "anchor")
        )
        assert best >= max(others)
        gains.append(best / max(others) - 1)
    assert sum(gain > 0.01 for gain in gains) >= 3


@pytest.mark.parametrize("seed", range(3))
def test_no_exhaustive_search_finds_much_better(seed: int) -> None:
    torch.manual_seed(seed)
    models = [MLP(3, (3, 3), 2).double().state_dict() for _ in range(3)]
    spec = architectures.mlp(2).bind(models[0])
    orders = [torch.tensor(order) for order in itertools.permutations(range(3))]
    moves = [{"P0": p, "P1": q} for p in orders for q in orders]
    at = [[apply_permutation(spec, move, model) for move in moves] for model in models]
    flat = [torch.stack([torch.cat([t.flatten() for t in m.values()]) for m in ms]) for ms in at]
    fixed = flat[0][:1]
    every = (fixed @ flat[1].T)[..., None] + (fixed @ flat[2].T)[:, None] + flat[1] @ flat[2].T
    found = synchronised_matching(spec, models, progress=False).objective
    assert found <= every.max().item() + 1e-9
    values = every.flatten().sort(descending=True).values
    assert (values > found + 1e-9).sum() < 0.01 * len(values)


@pytest.mark.parametrize("method", METHODS)
def test_maps_around_any_cycle_compose_to_the_identity(method: Synchronisation) -> None:
    spec, params = independent(4, width=16)
    found = synchronised_matching(spec, params, method=method, anchor=2, progress=False)
    identity = identity_permutation(spec.sizes)
    assert all(torch.equal(found.permutations[2][g], identity[g]) for g in identity)
    for length in (1, 2, 3, 4):
        for cycle in itertools.permutations(range(4), length):
            around = identity
            for source, target in itertools.pairwise([*cycle, cycle[0]]):
                around = compose(around, found.between(target, source))
            assert all(torch.equal(around[group], identity[group]) for group in identity)
    onto = apply_permutation(spec, found.between(0, 3), params[3])
    basis = apply_permutation(spec, found.permutations[0], onto)
    straight = apply_permutation(spec, found.permutations[3], params[3])
    assert all(torch.equal(basis[name], straight[name]) for name in straight)


def test_pairwise_matching_is_not_cycle_consistent() -> None:
    spec, params = independent(3)
    around = identity_permutation(spec.sizes)
    for source, target in ((0, 1), (1, 2), (2, 0)):
        found = weight_matching(spec, params[target], params[source])
        around = compose(around, found.permutation)
    assert any(not torch.equal(p, torch.arange(len(p))) for p in around.values())


def test_two_models_are_matched_as_well_as_a_pair() -> None:
    for seed in range(2):
        spec, (a, b) = independent(2, seed, width=16)
        pair = weight_matching(spec, a, b, seed=seed)
        found = synchronised_matching(spec, [a, b], seed=seed, progress=False)
        assert found.objective >= pair.objective - 1e-9


def test_restarts_only_help() -> None:
    spec, params = independent(3, width=16)
    for method in ("merge-many", "cycle-consistent"):
        once, more = (
            synchronised_matching(spec, params, method=method, restarts=n, progress=False)
            for n in (0, 4)
        )
        assert more.sweeps > once.sweeps
        assert more.objective >= once.objective
        if method == "merge-many":
            assert more.objective > once.objective
        assert more.objective == pytest.approx(sum_over_pairs(spec, params, more.permutations))


def test_frank_wolfe_climbs_and_leaves_nested_groups() -> None:
    spec, params = independent(3)
    start = sum_over_pairs(spec, params, [identity_permutation(spec.sizes)] * 3)
    values = [
        sum_over_pairs(spec, params, frank_wolfe.frank_wolfe(spec, params, steps=n, progress=False))
        for n in (0, 1, 100)
    ]
    assert values[0] == pytest.approx(start)
    assert values[2] > max(values[1], start + 1)
    case = CASES["multi-head attention"]
    models = [case.params(seed) for seed in range(3)]
    found = frank_wolfe.frank_wolfe(case.spec(), models, steps=20, progress=False)
    for permutation in found:
        assert all(torch.equal(permutation[g], torch.arange(24)) for g in ("QK",))
    assert any(not torch.equal(p["S"], torch.arange(20)) for p in found)
    nothing = [{n: torch.zeros_like(t) for n, t in params[0].items()}] * 2
    (zero, _) = frank_wolfe.frank_wolfe(spec, nothing, steps=5, progress=False)
    assert torch.equal(zero["P0"], torch.arange(24))


def mixed_value(params: Sequence[Params], matrices: Sequence[Params]) -> torch.Tensor:
    """Return the objective of doubly stochastic matrices, written out."""
    moved = [
        torch.cat([
            (m["P"] @ p["w"]).flatten(),
            torch.einsum("qx,pz,xzk->qpk", m["Q"], m["P"], p["v"]).flatten(),
            (m["Q"] @ p["r"] @ m["Q"].T).flatten(),
            m["Q"] @ p["b"],
            (p["out"] @ m["Q"].T).flatten(),
        ])
        for m, p in zip(matrices, params, strict=True)
    ]  # fmt: skip
    return torch.stack([x @ y for x, y in itertools.combinations(moved, 2)]).sum()


def test_frank_wolfe_steps_to_the_best_point_before_the_gradients_vertex() -> None:
    axes = {
        "w": ("P", None),
        "v": ("Q", "P", None),
        "r": ("Q", "Q"),
        "b": ("Q",),
        "out": (None, "Q"),
    }
    shapes = {"w": (6, 4), "v": (5, 6, 3), "r": (5, 5), "b": (5,), "out": (2, 5)}
    params = [{n: torch.randn(s, dtype=torch.float64) for n, s in shapes.items()} for _ in "abc"]
    relaxation = frank_wolfe._Relaxation(PermutationSpec.from_axes(axes, params[0]), params)
    for _ in range(5):
        before = [
            {g: m.clone().requires_grad_() for g, m in ms.items()} for ms in relaxation.matrices
        ]
        flat = [m for ms in before for m in ms.values()]
        vertices = [
            torch.eye(len(g), dtype=g.dtype)[
                scipy.optimize.linear_sum_assignment(g, maximize=True)[1]
            ]
            for g in torch.autograd.grad(mixed_value(params, before), flat)
        ]
        grid = [
            mixed_value(params, [
                {g: torch.lerp(m, next(turns), share) for g, m in ms.items()} for ms in before
            ]).item()
            for share in torch.linspace(0, 1, 201).tolist()
            for turns in [iter(vertices)]
        ]  # fmt: skip
        relaxation.step()
        assert mixed_value(params, relaxation.matrices).item() >= max(grid) - 1e-9
        assert mixed_value(params, relaxation.matrices).item() == pytest.approx(max(grid), rel=1e-2)
