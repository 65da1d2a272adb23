"""The loop of weight matching: costs that follow the permutation, colours, starts, restarts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fastrebasin import PermutationSpec, _native, apply_permutation, invert, weight_matching
from fastrebasin.architectures import mlp, resnet
from fastrebasin.experiments.models import MLP, resnet20
from fastrebasin.matching.blocks import Blocks
from fastrebasin.matching.descent import _colours
from fastrebasin.matching.flat import Flat
from fastrebasin.permutation import Permutation

Params = dict[str, torch.Tensor]

# Every way in which a group can lie beside another: in matrices, kernels, sums, blocks, alone.
AXES = {
    "matrix": ("P", "Q"),
    "turned": ("Q", "P"),
    "kernels": ("P", "Q", None, None),
    "turned kernels": ("Q", "P", None),
    "behind": (None, "P", "Q"),
    "blocks": ("P*3", "Q"),
    "sum": ("Q + P", None),
    "three": ("P", "Q", "R"),
    "bias": ("P",),
    "scale": ("P",),
    "still": (None, None),
}
EXTENTS = {"P": 6, "Q": 5, "R": 4}


def pair(dtype: torch.dtype) -> tuple[PermutationSpec, Params, Params]:
    generator = torch.Generator().manual_seed(0)

    def size(text: str | None) -> int:
        total = {"P*3": 18, "Q + P": 11}
        return 3 if text is None else total.get(text, EXTENTS.get(text, 0))

    a, b = (
        {
            name: torch.randn([size(text) for text in texts], generator=generator, dtype=dtype)
            for name, texts in AXES.items()
        }
        for _ in range(2)
    )
    return PermutationSpec.from_axes(AXES).bind(a), a, b


def plain_cost(spec: PermutationSpec, a: Params, b: Params, group: str, perm: Permutation) -> Any:
    """Score every pair of units by moving one unit of B beside one of A, by the definition."""
    n = spec.sizes[group]
    cost = np.zeros((n, n))
    for shift in range(n):  # n permutations hold every pair once; the rest of the model cancels
        cyclic = (torch.arange(n) + shift) % n
        moved = apply_permutation(spec, {**perm, group: cyclic}, b)
        for name, texts in spec.axes.items():
            for axis, text in enumerate(texts):
                if text is None or group not in text.replace("*", " ").split():
                    continue
                products = (a[name].double() * moved[name].double()).movedim(axis, 0)
                if text == "P*3":
                    products = products.unflatten(0, (6, 3))
                if text == "Q + P":
                    products = products[:5] if group == "Q" else products[5:]
                cost[np.arange(n), cyclic.numpy()] += products.reshape(n, -1).sum(1).numpy()
    return cost


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("group", ["P", "Q", "R"])
def test_a_groups_cost_follows_the_others(group: str, dtype: torch.dtype) -> None:
    """What is added when others move equals what is computed anew, and the definition."""
    spec, a, b = pair(dtype)
    blocks = Blocks(spec, list(a), a, b)
    flat = Flat(group, blocks)
    rng = np.random.default_rng(1)
    perm = spec.random_permutation(seed=0)
    for _ in range(6):
        found = flat.cost(perm)
        assert found is not None
        tolerance = 1e-4 if dtype == torch.float32 else 1e-12
        assert np.allclose(found.numpy(), plain_cost(spec, a, b, group, perm), atol=tolerance)
        for other in rng.choice(["P", "Q", "R"], 2):  # a swap, or everything
            i, j = rng.choice(EXTENTS[other], 2, replace=False)
            perm = {**perm, other: perm[other].clone()}
            perm[other][[i, j]] = perm[other][[j, i]]
    blocks.set_target(b)
    again = flat.cost(perm)
    assert again is not None
    assert np.allclose(again.numpy(), plain_cost(spec, b, b, group, perm), atol=1e-3)


@pytest.mark.parametrize(
    "shape", [(7, 5, 3, 3), (64, 40, 9), (3, 4, 1), (200, 300, 3, 3), (4, 5, 0), (0, 5, 3)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int8])
def test_gathered_kernels_are_what_indexing_gives(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    block = (100 * torch.randn(shape)).to(dtype)
    for units in (0, 1):
        index = torch.randint(max(1, shape[1 - units]), (2 * shape[1 - units],))
        expected = block.movedim(units, 0)[:, index]
        assert torch.equal(_native.gather_kernels(block, units, index), expected)
    with pytest.raises(IndexError):
        _native.gather_kernels(block, 0, torch.tensor([0, shape[1]]))


def test_gradients_flow_through_gathered_kernels() -> None:
    block = torch.randn(4, 5, 3, requires_grad=True)
    _native.gather_kernels(block, 1, torch.tensor([3, 3, 0]))[:, 0].sum().backward()
    assert block.grad is not None
    assert block.grad.sum(dim=(1, 2)).tolist() == [0, 0, 0, 15]


def test_batches_decide_as_one_group_after_another() -> None:
    for seed in range(10):
        torch.manual_seed(seed)
        spec, a, b = mlp(3), *(MLP(20, (24, 22, 20), 5).state_dict() for _ in range(2))
        if seed % 2:
            spec, a, b = resnet(), *(resnet20().state_dict() for _ in range(2))
        found, serial = (
            weight_matching(spec, a, b, init="identity", order=order, seed=seed)
            for order in ("colour", "serial")
        )
        assert found.objectives == serial.objectives
        assert all(torch.equal(found.permutation[g], p) for g, p in serial.permutation.items())


def test_no_batch_holds_neighbours_and_none_comes_before_its_turn() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        near = np.triu(rng.random((9, 9)) < 0.3, 1)
        neighbours = [set(np.flatnonzero(row).tolist()) for row in near | near.T]
        visits = rng.permutation(9).tolist()
        batches = _colours(visits, neighbours)
        assert sorted(k for batch in batches for k in batch) == list(range(9))
        when = {k: i for i, batch in enumerate(batches) for k in batch}
        for k in range(9):
            for j in neighbours[k]:
                assert (when[k] < when[j]) == (visits.index(k) < visits.index(j))
    assert _colours([], []) == []


def test_each_sweeps_objective_is_that_of_its_permutation() -> None:
    torch.manual_seed(0)
    a, b = (MLP(20, (24, 22, 20), 5).double().state_dict() for _ in range(2))
    seen: list[tuple[int, float, float]] = []

    def note(sweep: int, permutation: Permutation, gain: float) -> None:
        moved = apply_permutation(mlp(3), permutation, b)
        seen.append((sweep, sum((a[n] * moved[n]).sum().item() for n in a), gain))

    found = weight_matching(mlp(3), a, b, init="identity", callback=note)
    assert [sweep for sweep, *_ in seen] == list(range(1, found.sweeps + 1))
    assert found.objectives == pytest.approx([value for _, value, _ in seen], rel=1e-12)
    gains = np.diff(found.objectives)
    assert gains == pytest.approx([gain for *_, gain in seen[1:]], rel=1e-9, abs=1e-12)
    assert found.objectives[-1] == pytest.approx(found.objective, rel=1e-12)


def test_a_former_matching_is_a_start() -> None:
    torch.manual_seed(0)
    a, b = resnet20().state_dict(), resnet20().state_dict()
    first = weight_matching(resnet(), a, b)
    assert first.assignments.keys() == first.permutation.keys()
    again = weight_matching(resnet(), a, b, init=first)
    assert again.sweeps == 1
    assert all(torch.equal(again.permutation[g], first.permutation[g]) for g in first.permutation)


def test_restarts_keep_the_best() -> None:
    torch.manual_seed(0)
    a, b = (MLP(20, (24, 22, 20), 5).double().state_dict() for _ in range(2))
    alone = weight_matching(mlp(3), a, b, seed=3)
    results: list[float] = []
    weight_matching(mlp(3), a, b, seed=3, restarts=4, callback=lambda k, *_: results.append(k))
    best = weight_matching(mlp(3), a, b, seed=3, restarts=4)
    assert best.objective >= alone.objective
    assert results == list(range(1, best.sweeps + 1))
    assert best.objective >= max(
        weight_matching(mlp(3), a, b, seed=3, restarts=k).objective for k in range(4)
    )


def residual(kind: str, seed: int) -> tuple[PermutationSpec, Params]:
    """Return a residual block that no fixed axis touches: a stream of 30 or 3, 50 or 5 hidden."""
    d, h = (30, 50) if kind == "large" else (3, 5)
    spec = PermutationSpec.from_axes({"up": ("H", "S"), "down": ("S", "H")})
    generator = torch.Generator().manual_seed(seed)
    shapes = {"up": (h, d), "down": (d, h)}
    return spec, {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("kind", ["small", "large"])
def test_residual_blocks_by_themselves_are_recovered(kind: str) -> None:
    """From the identity, descent recovers one large block in ten."""
    for seed in range(100):
        spec, a = residual(kind, seed)
        answer = spec.bind(a).random_permutation(seed)
        b = apply_permutation(spec, invert(answer), a)
        found = weight_matching(spec, a, b).permutation
        moved = apply_permutation(spec, found, b)
        assert all(torch.equal(moved[name], a[name]) for name in a), seed


def test_signatures_survive_groups_on_both_axes() -> None:
    spec = PermutationSpec.from_axes({"one": ("S", "S"), "other": ("S", "S")})
    for seed in range(20):
        a = {name: torch.randn(40, 40) for name in spec.axes}
        answer = spec.bind(a).random_permutation(seed)
        b = apply_permutation(spec, invert(answer), a)
        found = weight_matching(spec, a, b).permutation
        assert torch.equal(found["S"], answer["S"]), seed


def test_models_of_different_precisions_are_matched_in_the_wider() -> None:
    torch.manual_seed(0)
    a = MLP(20, (24, 22, 20), 5).double().state_dict()
    answer = mlp(3).bind(a).random_permutation(1)
    b = {n: t.float() for n, t in apply_permutation(mlp(3), invert(answer), a).items()}
    found = weight_matching(mlp(3), a, b).permutation
    assert all(torch.equal(found[group], answer[group]) for group in answer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "random"}, 'order must be "colour" or "serial", got \'random\''),
        ({"restarts": -1, "max_sweeps": -2}, "restarts .* got -1; max_sweeps .* got -2"),
        ({"init": 3}, "a permutation or a Matching, got int"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    spec, a, b = pair(torch.float32)
    with pytest.raises(ValueError, match=message):
        weight_matching(spec, a, b, **options)  # type: ignore[arg-type]
