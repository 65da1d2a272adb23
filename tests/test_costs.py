"""Dtypes of costs: all are read without loss, integers beyond float64 too, or refused."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastrebasin import linear_sum_assignment, solve_assignment
from fastrebasin._costs import as_costs

BIG = 2**53


def exact_optimum(cost: npt.NDArray[Any], maximize: bool) -> int:
    """Return the optimum by brute force over Python's integers, which have no limit."""
    rows: list[list[int]] = (cost if cost.shape[0] <= cost.shape[1] else cost.T).tolist()
    sums = [
        sum(row[j] for row, j in zip(rows, cols, strict=True))
        for cols in itertools.permutations(range(max(cost.shape)), len(rows))
    ]
    return max(sums) if maximize else min(sums)


def exact_sum(cost: npt.NDArray[Any], pairs: tuple[Any, Any]) -> int:
    return sum(int(cost[i, j]) for i, j in zip(*pairs, strict=True))


@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([np.int64, np.uint64]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_integers_beyond_float64_are_exact(
    n: int, m: int, dtype: type[np.integer[Any]], maximize: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # Neighbouring integers that float64 rounds to one another, far apart from row to row (or from
    # column to column, where rows are more).
    info = np.iinfo(dtype)
    offsets = rng.integers(info.min + 1, info.max - 20, min(n, m), dtype=dtype)
    small = rng.integers(0, 9, (n, m), dtype=dtype)
    cost = small + (offsets[:, None] if n <= m else offsets[None, :])
    best = exact_optimum(cost, maximize)
    assert exact_sum(cost, linear_sum_assignment(cost, maximize)) == best
    found = solve_assignment(cost, maximize=maximize)
    assert exact_sum(cost, (found.row_ind, found.col_ind)) == best
    assert found.objective == float(best)
    assert found.gap == 0
    if dtype == np.int64:
        rows, cols = linear_sum_assignment(torch.from_numpy(cost), maximize)
        assert exact_sum(cost, (rows, cols)) == best


def test_rounding_to_float64_would_give_another_answer() -> None:
    cost = np.array([[BIG + 1, BIG], [BIG, BIG + 1]])  # as float64: all equal
    assert linear_sum_assignment(cost.astype(np.float64))[1].tolist() == [0, 1]
    for layout in (cost, np.asfortranarray(cost), cost.astype(cost.dtype.newbyteorder())):
        assert linear_sum_assignment(layout)[1].tolist() == [1, 0]
    batch = np.stack([cost, cost.T[::-1], cost - BIG])
    assert solve_assignment(batch).col_ind.tolist() == [[1, 0], [0, 1], [1, 0]]
    assert solve_assignment(batch).objective.tolist() == [2.0 * BIG, 2.0 * BIG, 0.0]


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
def test_duals_of_shifted_integers_are_those_of_the_costs_given(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    cost = rng.integers(0, 2**40, shape) + 2**60
    found = solve_assignment(cost)
    slack = cost.astype(float) - found.row_duals[:, None] - found.col_duals
    assert slack.min() >= -1024  # what float64 tells apart near 2**60, a few times
    assert np.abs(slack[found.row_ind, found.col_ind]).max() <= 1024
    again = solve_assignment(cost + 1, warm_start=found)
    assert np.array_equal(again.col_ind, found.col_ind)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_integers_too_far_apart_are_refused(dtype: type[np.integer[Any]]) -> None:
    info = np.iinfo(dtype)
    cost = np.zeros((2, 3), dtype)
    cost[0, 1], cost[0, 2] = info.max, info.min
    expected = rf"cost_matrix .* at most 2\*\*53 within a row.* {2**64 - 1}"
    with pytest.raises(ValueError, match=expected):
        linear_sum_assignment(cost)
    with pytest.raises(ValueError, match=r"cost .* within a column"):
        solve_assignment(cost.T)
    with pytest.raises(ValueError, match=r"cost\[1\] must hold integers"):
        solve_assignment([np.eye(2), cost])


@pytest.mark.parametrize("limit", [BIG, -BIG])
def test_integers_that_float64_holds_are_not_shifted(limit: int) -> None:
    cost = np.array([[limit, 0], [0, limit]])
    values, shift = as_costs(cost, "cost")
    assert shift is None
    assert values.tolist() == cost.tolist()


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [("?", "f4"), ("i1", "f4"), ("u1", "f4"), ("i2", "f4"), ("u2", "f4"), ("f2", "f4"),
     ("f4", "f4"), ("i4", "f8"), ("u4", "f8"), ("i8", "f8"), ("u8", "f8"), ("f8", "f8")],
)  # fmt: skip
def test_every_value_of_a_dtype_survives(dtype: str, wanted: str) -> None:
    kind = np.dtype(dtype).kind
    given_costs = np.array([[0, 1], [1, 0]], dtype)
    if kind in "iu" and dtype[1] != "8":
        info = np.iinfo(dtype)
        given_costs = np.array([[info.min, info.max], [info.max - 1, info.min + 1]], dtype)
    elif kind == "f":
        limits = np.finfo(dtype)
        given_costs = np.array([[limits.min, limits.max], [limits.tiny, limits.eps]], dtype)
    values, shift = as_costs(given_costs, "cost")
    assert values.dtype == wanted
    assert shift is None
    assert values.astype(dtype).tolist() == given_costs.tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.uint16, torch.int16])
def test_tensors_of_narrow_dtypes(dtype: torch.dtype) -> None:
    cost = torch.tensor([[3.0, 1.0, 2.0], [1.0, 4.0, 0.0]]).to(dtype)
    assert linear_sum_assignment(cost)[1].tolist() == [1, 2]
    assert solve_assignment(cost).objective.item() == 1.0


def test_a_lazily_negated_tensor_is_read_as_negated() -> None:
    hidden = torch.complex(torch.zeros(2, 2), torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
    cost = hidden.conj().imag
    assert cost.is_neg()
    assert linear_sum_assignment(cost)[1].tolist() == [1, 0]


@pytest.mark.parametrize("dtype", ["c8", "O", "U3", "m8[s]", "M8[s]", "V8"])
def test_dtypes_that_are_no_numbers_are_refused(dtype: str) -> None:
    cost = np.zeros((2, 2), dtype)
    with pytest.raises(TypeError, match="Cannot cast array data"):
        solve_assignment(cost)


def test_long_double_is_refused_where_it_is_wider() -> None:
    cost = np.zeros((2, 2), np.longdouble)
    if np.finfo(np.longdouble).nmant > np.finfo(np.float64).nmant:
        with pytest.raises(TypeError, match="Cannot cast array data"):
            linear_sum_assignment(cost)
    else:
        assert linear_sum_assignment(cost)[1].tolist() == [0, 1]


@pytest.mark.parametrize(
    "tensor",
    [torch.eye(2, dtype=torch.complex64), torch.eye(2).to_sparse()],
    ids=["complex", "sparse"],
)
def test_tensors_that_are_no_dense_reals_are_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(TypeError, match="cost_matrix must be a dense real tensor, got torch"):
        linear_sum_assignment(tensor)
