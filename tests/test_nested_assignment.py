"""Nested assignment: optimal by brute force, and the same as a loop over SciPy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastrebasin import NestedAssignment, solve_nested_assignment

Array = npt.NDArray[Any]


def total(cost: Array, permutation: Array) -> float:
    """Sum the costs of a flat permutation; fails if it mixes blocks."""
    h, _, r, c = cost.shape
    block, unit = np.divmod(permutation.reshape(h, r), c)
    assert (block == block[:, :1]).all()
    assert len(set(block[:, 0].tolist())) == h
    assert all(len(set(row.tolist())) == r for row in unit)
    return float(cost[np.arange(h)[:, None], block, np.arange(r), unit].sum())


def brute_force(cost: Array, maximize: bool) -> float:
    best = max if maximize else min
    h, _, r, c = cost.shape

    def inner(i: int, j: int) -> float:
        choices = itertools.permutations(range(c), r)
        return best(float(cost[i, j, np.arange(r), list(cols)].sum()) for cols in choices)

    return best(
        sum(inner(i, j) for i, j in enumerate(blocks))
        for blocks in itertools.permutations(range(h))
    )


def scipy_loop(cost: Array, maximize: bool) -> float:
    h = len(cost)
    outer = np.array(
        [[cost[i, j][scipy.optimize.linear_sum_assignment(cost[i, j], maximize)].sum()
          for j in range(h)] for i in range(h)]
    )  # fmt: skip
    return float(outer[scipy.optimize.linear_sum_assignment(outer, maximize)].sum())


def assert_consistent(cost: Array, found: NestedAssignment) -> None:
    h, _, r, c = cost.shape
    assert found.blocks.dtype == found.inner.dtype == found.permutation.dtype == np.int64
    assert found.blocks.shape == (h,)
    assert found.inner.shape == (h, r)
    for i, k in itertools.product(range(h), range(r)):
        assert found.permutation[i * r + k] == found.blocks[i] * c + found.inner[i, k]
    assert found.gap == pytest.approx(0, abs=1e-9)


sides = st.integers(1, 3)


@given(sides, sides, st.integers(0, 1), st.booleans(), st.integers(0, 2**32 - 1))
def test_equals_brute_force(h: int, r: int, spare: int, maximize: bool, seed: int) -> None:
    cost = np.random.default_rng(seed).integers(-4, 5, (h, h, r, r + spare)).astype(float)
    found = solve_nested_assignment(cost, maximize=maximize)
    assert_consistent(cost, found)
    assert found.objective == total(cost, found.permutation) == brute_force(cost, maximize)


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("shape", [(12, 12, 16, 16), (4, 4, 40, 50), (2, 2, 300, 300)])
def test_equals_a_loop_over_scipy(shape: tuple[int, ...], maximize: bool) -> None:
    cost = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = solve_nested_assignment(cost, maximize=maximize)
    assert_consistent(cost, found)
    reference = scipy_loop(cost.astype(float), maximize)
    assert found.objective == pytest.approx(reference, rel=1e-12)
    assert total(cost.astype(float), found.permutation) == pytest.approx(reference, rel=1e-12)


def test_a_hidden_permutation_is_found() -> None:
    rng = np.random.default_rng(0)
    heads = rng.normal(size=(5, 7, 20))  # (block, unit, feature)
    blocks, inner = rng.permutation(5), np.stack([rng.permutation(7) for _ in range(5)])
    flat = (blocks[:, None] * 7 + inner).ravel()
    b = np.empty((35, 20))
    b[flat] = heads.reshape(35, 20)  # unit i of A is unit flat[i] of B
    cost = np.einsum("iku,jlu->ijkl", heads, b.reshape(5, 7, 20))
    assert np.array_equal(solve_nested_assignment(cost, maximize=True).permutation, flat)


def test_tensors_give_tensors() -> None:
    cost = torch.randn(3, 3, 4, 4)
    found = solve_nested_assignment(cost.requires_grad_())
    same = solve_nested_assignment(cost.detach().numpy())
    assert torch.is_tensor(found.objective)
    assert found.permutation.dtype == torch.int64
    assert np.array_equal(found.permutation, same.permutation)


def test_no_blocks_and_no_units() -> None:
    assert solve_nested_assignment(np.zeros((0, 0, 3, 3))).permutation.shape == (0,)
    assert solve_nested_assignment(np.zeros((2, 2, 0, 0))).blocks.tolist() == [0, 1]


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 2, 5, 4), (2, 2, 4)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \(h, h, r, c\) with r <= c, got \(2,"):
        solve_nested_assignment(np.zeros(shape))


def test_the_pair_of_blocks_at_fault_is_named() -> None:
    cost = np.zeros((3, 3, 2, 2))
    cost[1, 2, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"^cost\[1, 2\]: matrix contains invalid"):
        solve_nested_assignment(cost)
    with pytest.raises(ValueError, match="cost is on meta"):
        solve_nested_assignment(torch.zeros(2, 2, 2, 2, device="meta"))
