"""`solve_assignment`: certificates, warm starts from anything, batches."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastrebasin import Assignment, linear_sum_assignment, solve_assignment

Matrix = npt.NDArray[Any]


def assert_optimal(cost: Matrix, found: Assignment, maximize: bool = False) -> None:
    """Compare with the door's answer, and check the certificate from its definition."""
    best = float(cost.astype(float)[linear_sum_assignment(cost, maximize)].sum())
    scale = float(np.abs(cost).max()) * max(cost.shape)
    assert found.objective == pytest.approx(best, rel=1e-12, abs=1e-12 * scale)
    assert found.objective == cost.astype(float)[found.row_ind, found.col_ind].sum()
    assert found.gap == pytest.approx(0, abs=1e-12 * scale)
    sign = -1.0 if maximize else 1.0
    slack = sign * (cost.astype(float) - found.row_duals[:, None] - found.col_duals[None, :])
    assert slack.min() >= -1e-12 * scale


@pytest.mark.parametrize("shape", [(1, 1), (9, 9), (40, 60), (60, 40), (300, 300), (300, 320)])
@pytest.mark.parametrize("maximize", [False, True])
def test_is_optimal_with_its_proof(shape: tuple[int, int], maximize: bool) -> None:
    cost = np.random.default_rng(0).normal(size=shape)
    assert_optimal(cost, solve_assignment(cost, maximize=maximize), maximize)


@pytest.mark.parametrize("n", [30, 300])
@pytest.mark.parametrize("noise", [0.0, 1e-3, 0.05, 1.0])
@pytest.mark.parametrize("maximize", [False, True])
def test_a_warm_start_gives_the_optimum_of_the_new_matrix(
    n: int, noise: float, maximize: bool
) -> None:
    rng = np.random.default_rng(0)
    cost = rng.normal(size=(n, 20)) @ rng.normal(size=(20, n))
    former = solve_assignment(cost, maximize=maximize)
    changed = cost + noise * cost.std() * rng.normal(size=cost.shape)
    found = solve_assignment(changed, maximize=maximize, warm_start=former)
    assert_optimal(changed, found, maximize)


@given(
    st.sampled_from([12, 260]),
    st.sampled_from([0.0, 1e-30, 1.0, 1e6, 1e300, np.inf, np.nan]),
    st.integers(0, 10),
)
def test_a_warm_start_may_be_anything(n: int, size: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cost = rng.normal(size=(n, n))
    cost[rng.permutation(n)[: n // 5]] = 0.0
    cost[:, rng.permutation(n)[: n // 5]] = 0.0
    nonsense = Assignment(
        np.arange(n), rng.integers(-n, 2 * n, n), rng.normal(size=n) * size,
        rng.normal(size=n) * size, 0.0, 0.0,
    )  # fmt: skip
    assert_optimal(cost, solve_assignment(cost, warm_start=nonsense))


def test_rectangular_problems_take_warm_starts_too() -> None:
    cost = np.random.default_rng(0).normal(size=(270, 300))
    former = solve_assignment(cost)
    assert_optimal(cost.round(1), solve_assignment(cost.round(1), warm_start=former))


def test_a_batch_is_its_matrices_one_by_one() -> None:
    costs = np.random.default_rng(0).normal(size=(4, 20, 30)).astype(np.float32)
    former = solve_assignment(costs)
    for batch in (former, solve_assignment(costs, warm_start=former)):
        for k, cost in enumerate(costs):
            single = solve_assignment(cost)
            for field in dataclasses.fields(Assignment):
                one, many = (getattr(a, field.name) for a in (single, batch))
                assert np.array_equal(one, many[k]), field.name


def test_tensors_give_tensors() -> None:
    cost = torch.randn(2, 9, 9)
    found = solve_assignment(cost, maximize=True)
    again = solve_assignment(cost, maximize=True, warm_start=found)
    assert found.col_ind.dtype == torch.int64
    assert found.col_duals.dtype == found.objective.dtype == torch.float64
    assert torch.equal(found.col_ind, again.col_ind)
    picked = cost.double()[torch.arange(2)[:, None], found.row_ind, found.col_ind].sum(1)
    assert torch.allclose(found.objective, picked)


def test_mistakes_are_named() -> None:
    cost = np.zeros((3, 3))
    with pytest.raises(ValueError, match="a matrix or a batch of them, got 1 axes"):
        solve_assignment([1.0, 2.0])
    with pytest.raises(ValueError, match="at least one matrix"):
        solve_assignment(np.zeros((0, 3, 3)))
    with pytest.raises(TypeError, match="must be an Assignment, got tuple"):
        solve_assignment(cost, warm_start=linear_sum_assignment(cost))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"of shape \(3, 3\), got \(4, 4\)"):
        solve_assignment(cost, warm_start=solve_assignment(np.zeros((4, 4))))
    with pytest.raises(ValueError, match="infeasible"):
        solve_assignment(np.full((2, 2), np.inf))
