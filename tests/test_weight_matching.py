"""Weight matching: planted permutations, monotone descent, and the published loop as oracle."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.optimize
import torch

from fastrebasin import (
    PermutationSpec,
    apply_permutation,
    architectures,
    identity_permutation,
    invert,
    weight_matching,
)
from fastrebasin.experiments.models import MLP, resnet20, vgg11

Params = dict[str, torch.Tensor]
Perm = dict[str, torch.Tensor]


def planted(width: int, seed: int) -> tuple[PermutationSpec, Params, Params, Perm]:
    """Return a spec, A, a permuted copy of A, and the permutation that undoes it."""
    torch.manual_seed(seed)
    a = MLP(64, (width,) * 3).state_dict()
    spec = architectures.mlp(3).bind(a)
    answer = spec.random_permutation(seed)
    return spec, a, apply_permutation(spec, invert(answer), a), answer


def assert_recovered(width: int, seed: int) -> None:
    spec, a, b, answer = planted(width, seed)
    found = weight_matching(spec, a, b, seed=seed)
    assert all(torch.equal(found.permutation[group], answer[group]) for group in answer), width
    norm = sum(tensor.double().square().sum().item() for tensor in a.values())
    assert found.objective == pytest.approx(norm, rel=1e-6)


@pytest.mark.parametrize("width", [2, 3, 4, 5, 7, 8, 16, 31, 64, 100, 128, 257, 512, 1024])
def test_planted_permutation_is_recovered(width: int) -> None:
    assert_recovered(width, seed=width)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(2, 1025, 64))
def test_planted_permutation_is_recovered_at_every_width(start: int) -> None:
    for width in range(start, min(start + 64, 1025)):
        assert_recovered(width, seed=width)


@pytest.mark.parametrize(
    ("factory", "spec"),
    [(lambda: vgg11(0.125), architectures.vgg()), (resnet20, architectures.resnet())],
    ids=["vgg11", "resnet20"],
)
def test_planted_permutation_of_a_network_with_batch_norm(
    factory: type[torch.nn.Module], spec: PermutationSpec
) -> None:
    model = factory()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    a = model.state_dict()
    answer = spec.bind(a).random_permutation(1)
    b = apply_permutation(spec, invert(answer), a)
    found = weight_matching(spec, a, b).permutation
    assert all(torch.equal(found[group], answer[group]) for group in answer)


def independent_pair(dtype: torch.dtype = torch.float64) -> tuple[PermutationSpec, Params, Params]:
    models = (MLP(12, (10, 9, 8), 4).to(dtype) for _ in range(2))
    a, b = (model.state_dict() for model in models)
    return architectures.mlp(3).bind(a), a, b


def inner_product(a: Params, b: Params) -> float:
    return sum(torch.sum(a[name].double() * b[name].double()).item() for name in a)


def published_weight_matching(
    spec: PermutationSpec, a: Params, b: Params, seed: int
) -> tuple[Perm, int]:
    """Restate the published loop plainly: apply everything, SciPy, serial, no shortcut."""
    perm = identity_permutation(spec.sizes)
    generator = torch.Generator().manual_seed(seed)
    groups, sweeps, progress = list(spec.groups), 0, True
    while progress:
        progress, sweeps = False, sweeps + 1
        for index in torch.randperm(len(groups), generator=generator).tolist():
            group = groups[index]
            others = {**perm, group: torch.arange(spec.sizes[group])}
            moved = apply_permutation(spec, others, b)
            cost = np.zeros((spec.sizes[group],) * 2)
            for name, axis in spec.groups[group]:
                u, v = (np.moveaxis(p[name].numpy(), axis, 0).reshape(len(cost), -1)
                        for p in (a, moved))  # fmt: skip
                cost += u @ v.T
            rows, best = scipy.optimize.linear_sum_assignment(cost, maximize=True)
            if cost[rows, best].sum() > cost[rows, perm[group].numpy()].sum() + 1e-12:
                progress = True
                perm[group] = torch.from_numpy(best)
    return perm, sweeps


@pytest.mark.parametrize("seed", range(10))
def test_decides_as_the_published_loop(seed: int) -> None:
    torch.manual_seed(seed)
    spec, a, b = independent_pair()
    expected, _ = published_weight_matching(spec, a, b, seed)
    found = weight_matching(spec, a, b, init="identity", order="serial", seed=seed)
    assert all(torch.equal(found.permutation[group], expected[group]) for group in expected)
    assert found.objective == pytest.approx(
        inner_product(a, apply_permutation(spec, found.permutation, b)), rel=1e-12
    )


def test_objective_never_falls_with_more_sweeps() -> None:
    spec, a, b = independent_pair()
    objectives = [
        weight_matching(spec, a, b, seed=2, max_sweeps=sweeps).objective for sweeps in range(1, 12)
    ]
    assert objectives[0] > inner_product(a, b)
    assert all(later >= earlier - 1e-12 for earlier, later in itertools.pairwise(objectives))


def test_no_single_group_can_do_better() -> None:
    spec, a, b = independent_pair()
    found = weight_matching(spec, a, b)
    for group, size in spec.sizes.items():
        for seed in range(30):
            other = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
            moved = apply_permutation(spec, {**found.permutation, group: other}, b)
            assert inner_product(a, moved) <= found.objective + 1e-12


def test_same_seed_same_result_and_the_inputs_are_untouched() -> None:
    spec, a, b = independent_pair(torch.float32)
    init = identity_permutation(spec.sizes)
    copies = [{k: v.clone() for k, v in p.items()} for p in (a, b, init)]
    first, second = (weight_matching(spec, a, b, init=init, seed=5) for _ in range(2))
    assert all(torch.equal(first.permutation[g], second.permutation[g]) for g in spec.sizes)
    for before, after in zip(copies, (a, b, init), strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_starting_at_the_answer_takes_one_sweep() -> None:
    spec, a, b, answer = planted(32, seed=0)
    found = weight_matching(spec, a, b, init=answer)
    assert found.sweeps == 1
    assert all(torch.equal(found.permutation[group], answer[group]) for group in answer)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_dtype_recovers_a_planted_permutation(dtype: torch.dtype) -> None:
    spec, a, b, answer = planted(20, seed=0)
    a, b = ({name: t.to(dtype) for name, t in p.items()} for p in (a, b))
    found = weight_matching(spec, a, b).permutation
    assert all(torch.equal(found[group], answer[group]) for group in answer)


def test_running_statistics_take_no_part() -> None:
    spec = architectures.resnet()
    a, b = resnet20().state_dict(), resnet20().state_dict()
    found = weight_matching(spec, a, b).permutation
    loud = {n: t * 1e6 if n.endswith("running_var") else t for n, t in b.items()}
    again = weight_matching(spec, a, loud).permutation
    assert all(torch.equal(found[group], again[group]) for group in found)


def test_misfits_are_named() -> None:
    spec, a, b = independent_pair()
    b["layer1.bias"] = torch.zeros(3)
    b["extra"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"extra is only in B; layer1.bias has shape \(9,\) in A"):
        weight_matching(spec, a, b)
    with pytest.raises(ValueError, match="'P0' must have shape"):
        weight_matching(spec, a, a, init={"P0": [0], "P1": range(9), "P2": range(8)})


def test_a_group_on_both_axes_has_a_quadratic_cost() -> None:
    spec = PermutationSpec.from_axes({"recurrent": ("P", "P"), "input": ("P", None)})
    a = {"recurrent": torch.randn(6, 6), "input": torch.randn(6, 1)}
    b = {"recurrent": torch.randn(6, 6), "input": torch.randn(6, 1)}
    found = weight_matching(spec, a, b)
    moved = apply_permutation(spec, found.permutation, b)
    assert found.objective == pytest.approx(inner_product(a, moved), rel=1e-6)
    assert found.objective > inner_product(a, b)


def test_weights_that_are_not_finite_are_named() -> None:
    spec, a, b = independent_pair()
    b["layer1.weight"][2, 3] = float("nan")
    a["layer0.bias"][1] = float("inf")
    with pytest.raises(ValueError, match=r"layer0.bias of A, layer1.weight of B"):
        weight_matching(spec, a, b)
