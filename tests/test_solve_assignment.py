"""`solve_assignment`: certificates, warm starts from anything, batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
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


@pytest.mark.parametrize("shape", [(1, 1), (9, 9), (40, 60), (60, 40), (340, 340), (340, 360)])
@pytest.mark.parametrize("maximize", [False, True])
def test_is_optimal_with_its_proof(shape: tuple[int, int], maximize: bool) -> None:
    cost = np.random.default_rng(0).normal(size=shape)
    assert_optimal(cost, solve_assignment(cost, maximize=maximize), maximize)


@pytest.mark.parametrize("n", [30, 340])
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
    cost = np.random.default_rng(0).normal(size=(330, 340))
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


@pytest.mark.parametrize("shape", [(0, 3, 4), (0, 4, 3), (2, 0, 3), (2, 3, 0), (0, 0, 0)])
def test_an_empty_batch_gives_an_empty_result(shape: tuple[int, int, int]) -> None:
    batch, n, m = shape
    for cost in (np.zeros(shape), torch.zeros(shape)):
        found: Assignment = solve_assignment(cost)
        assert tuple(found.row_ind.shape) == tuple(found.col_ind.shape) == (batch, min(n, m))
        assert tuple(found.row_duals.shape) == (batch, n)
        assert tuple(found.col_duals.shape) == (batch, m)
        assert tuple(found.objective.shape) == tuple(found.gap.shape) == (batch,)
        assert type(found.gap) is type(cost)
    assert solve_assignment([]) == []


def mixed_matrices(seed: int) -> list[Matrix | torch.Tensor]:
    """Matrices of many shapes, dtypes, strides and owners, of sizes for every solver."""
    rng = np.random.default_rng(seed)
    shapes = [(1, 1), (3, 5), (17, 9), (340, 340), (40, 40), (0, 4), (330, 340), (64, 64)]
    costs: list[Matrix | torch.Tensor] = [rng.normal(size=shape) for shape in shapes]
    costs += [rng.normal(size=(30, 20)).astype(np.float32).T, rng.integers(0, 9, (12, 12))]
    costs += [torch.randn(50, 40).T, torch.randn(20, 20).bfloat16(), torch.randint(9, (5, 6))]
    return costs


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("container", [list, tuple])
def test_a_list_is_its_matrices_one_by_one(maximize: bool, container: type) -> None:
    costs = mixed_matrices(0)
    singles = [solve_assignment(cost, maximize=maximize) for cost in costs]
    starts = [None if k % 2 else single for k, single in enumerate(singles)]
    for warm in (None, starts):
        found = solve_assignment(container(costs), maximize=maximize, warm_start=warm)
        assert isinstance(found, list)
        for cost, one, many in zip(costs, singles, found, strict=True):
            assert type(one.col_ind) is type(many.col_ind)
            assert torch.is_tensor(many.col_ind) == torch.is_tensor(cost)
            assert np.array_equal(one.row_ind, many.row_ind)
            assert np.array_equal(one.col_ind, many.col_ind)
            assert float(one.objective) == float(many.objective)


def test_nested_lists_of_numbers_are_one_array() -> None:
    rows = [[4.0, 1.0], [2.0, 0.0]]
    assert solve_assignment(rows).col_ind.tolist() == [1, 0]
    assert solve_assignment([np.array(row) for row in rows]).col_ind.tolist() == [1, 0]
    assert solve_assignment([rows, rows]).col_ind.tolist() == [[1, 0], [1, 0]]


def test_the_number_of_threads_changes_nothing(threads: Callable[[int], None]) -> None:
    batch = np.random.default_rng(0).normal(size=(20, 100, 100)).round(1)  # with ties
    mixed = [np.random.default_rng(0).normal(size=(1100, 1100)), *mixed_matrices(1)]
    results = []
    for count in (1, 2, 7):
        threads(count)
        results.append([*solve_assignment(mixed), solve_assignment(batch)])
    for other in results[1:]:
        for one, many in zip(results[0], other, strict=True):
            for field in dataclasses.fields(Assignment):
                assert np.array_equal(getattr(one, field.name), getattr(many, field.name))


@pytest.mark.parametrize("count", [1, 4])
def test_the_first_bad_matrix_of_a_batch_is_named(
    threads: Callable[[int], None], count: int
) -> None:
    threads(count)
    costs = np.random.default_rng(0).normal(size=(40, 60, 60))
    costs[[7, 8, 30], 5] = np.inf
    costs[[9, 20], 5, 5] = np.nan
    with pytest.raises(ValueError, match=r"^matrix 7: cost matrix is infeasible$"):
        solve_assignment(costs)
    with pytest.raises(ValueError, match=r"^matrix 2: matrix contains invalid numeric entries$"):
        solve_assignment([*costs[:2], costs[9], *np.zeros((3, 400, 400)), costs[8]])


def test_mistakes_are_named() -> None:
    cost = np.zeros((3, 3))
    with pytest.raises(ValueError, match="a matrix or a batch of them, got 1 axes"):
        solve_assignment([1.0, 2.0])
    with pytest.raises(TypeError, match="must be an Assignment, got tuple"):
        solve_assignment(cost, warm_start=linear_sum_assignment(cost))  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"of shape \(3, 3\), got \(4, 4\)"):
        solve_assignment(cost, warm_start=solve_assignment(np.zeros((4, 4))))
    with pytest.raises(ValueError, match=r"^cost matrix is infeasible$"):
        solve_assignment(np.full((2, 2), np.inf))


def test_mistakes_in_a_list_are_named_at_once() -> None:
    cost = np.zeros((3, 3))
    with pytest.raises(ValueError, match="warm_start must be a list of 2") as raised:
        solve_assignment([cost, cost], warm_start=[solve_assignment(cost)])
    assert "got 1" in str(raised.value)
    with pytest.raises(ValueError, match="warm_start must be a list of 2") as raised:
        solve_assignment([cost, cost], warm_start=solve_assignment(cost))
    assert "got Assignment" in str(raised.value)
    with pytest.raises(ValueError, match=r"cost\[1\] must be a matrix, got 1 axes") as raised:
        solve_assignment(
            [cost, np.zeros(3), torch.zeros(2, 2, device="meta"), cost],
            warm_start=[None, None, None, solve_assignment(np.zeros((4, 4)))],
        )
    assert "cost[2] is on meta" in str(raised.value)
    assert "warm_start[3] must be of a problem of shape (3, 3)" in str(raised.value)
