"""`solve_assignment` on matrices of every kind, dtype and layout: proofs and invariances."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from assignment_oracle import (
    STRUCTURES,
    Matrix,
    assert_certified,
    rounding,
    scipy_objective,
    with_forbidden_edges,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastrebasin import Assignment, solve_assignment

small = st.tuples(st.integers(0, 40), st.integers(0, 40))
square = st.integers(1, 40).map(lambda n: (n, n))
# On both sides of the size from which the solver keeps candidate lists.
large = st.one_of(
    st.integers(310, 350).map(lambda n: (n, n)),
    st.tuples(st.integers(310, 350), st.integers(310, 350)),
)
structures = st.sampled_from(sorted(STRUCTURES))
seeds = st.integers(0, 2**32 - 1)
directions = st.booleans()

FLOATS = (np.float16, np.float32, np.float64)
INTEGERS = (
    np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64
)  # fmt: skip


def make(structure: str, shape: tuple[int, int], seed: int) -> npt.NDArray[np.float64]:
    return STRUCTURES[structure](np.random.default_rng(seed), *shape)


def as_dtype(cost: npt.NDArray[np.float64], dtype: Any) -> Matrix:
    """Return the costs in a dtype, integers spread over its range as far as sums are exact."""
    if np.issubdtype(dtype, np.floating):
        return cost.astype(dtype)
    if dtype is np.bool_:
        return cost > np.median(cost) if cost.size else cost.astype(bool)
    info = np.iinfo(dtype)
    low, high = max(info.min, -(2**40)), min(info.max, 2**40)
    unit = 1e-6 + np.abs(cost).max(initial=0.0)
    share = cost / unit if low < 0 else np.abs(cost) / unit
    whole: Matrix = np.clip(np.rint(share * high), low, high).astype(dtype)
    return whole


@given(small, structures, st.sampled_from(FLOATS + INTEGERS), directions, seeds)
@settings(max_examples=400)
def test_every_dtype_is_certified(
    shape: tuple[int, int], structure: str, dtype: Any, maximize: bool, seed: int
) -> None:
    cost = as_dtype(make(structure, shape, seed), dtype)
    assert_certified(cost, solve_assignment(cost, maximize=maximize), maximize)


@given(small, structures, directions, seeds)
def test_bfloat16_is_certified(
    shape: tuple[int, int], structure: str, maximize: bool, seed: int
) -> None:
    cost = torch.from_numpy(make(structure, shape, seed)).to(torch.bfloat16)
    found = solve_assignment(cost, maximize=maximize)
    fields = (getattr(found, field.name).numpy() for field in dataclasses.fields(found))
    assert_certified(cost.float().numpy(), Assignment(*fields), maximize)


def unaligned(cost: Matrix) -> Matrix:
    """Return a copy that starts one byte into its memory."""
    memory = np.frombuffer(b"x" + cost.tobytes(), np.uint8)
    moved: Matrix = np.ndarray(cost.shape, cost.dtype, memory, offset=1)
    return moved


def read_only(cost: Matrix) -> Matrix:
    cost = cost.copy()
    cost.flags.writeable = False
    return cost


def part_of_a_record(cost: Matrix) -> Matrix:
    records = np.zeros(cost.shape, [("sign", np.int8), ("cost", cost.dtype)])
    records["cost"] = cost
    field: Matrix = records["cost"]
    return field


LAYOUTS: dict[str, Callable[[Matrix], Matrix]] = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "transposed": lambda c: c.T,
    "reversed": lambda c: c[::-1, ::-1],
    "stepped": lambda c: c[1::2, ::3],
    "stepped backwards": lambda c: c[::-2],
    "one row again and again": lambda c: np.broadcast_to(c[:1], c.shape),
    "one column again and again": lambda c: np.broadcast_to(c[:, :1], c.shape),
    "read-only": read_only,
    "unaligned": unaligned,
    "byte-swapped": lambda c: c.astype(c.dtype.newbyteorder()),
    "part of a record": part_of_a_record,
}


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)), structures,
    st.sampled_from(sorted(LAYOUTS)), st.sampled_from((np.float32, np.float64, np.int32)),
    directions, seeds,
)  # fmt: skip
@settings(max_examples=300)
def test_every_layout_is_certified(
    shape: tuple[int, int], structure: str, layout: str, dtype: Any, maximize: bool, seed: int
) -> None:
    cost = LAYOUTS[layout](as_dtype(make(structure, shape, seed), dtype))
    found = solve_assignment(cost, maximize=maximize)
    assert_certified(cost, found, maximize)
    plain: Matrix = np.array(cost, dtype=dtype, order="C")
    assert np.array_equal(found.col_ind, solve_assignment(plain, maximize=maximize).col_ind)


@given(small, structures, st.sampled_from((0.1, 0.5, 0.95)), directions, seeds)
@settings(max_examples=200)
def test_forbidden_edges_are_certified(
    shape: tuple[int, int], structure: str, share: float, maximize: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    cost = with_forbidden_edges(make(structure, shape, seed), rng, maximize, share)
    assert_certified(cost, solve_assignment(cost, maximize=maximize), maximize)


@given(large, structures, st.sampled_from((0.0, 0.9)), st.sampled_from(FLOATS), directions, seeds)
@settings(max_examples=80)
def test_large_problems_are_certified(
    shape: tuple[int, int], structure: str, share: float, dtype: Any, maximize: bool, seed: int
) -> None:
    cost = make(structure, shape, seed).astype(dtype)
    if share:
        cost = with_forbidden_edges(cost, np.random.default_rng(seed), maximize, share)
    assert_certified(cost, solve_assignment(cost, maximize=maximize), maximize)


@given(small, structures, st.sampled_from((np.float32, np.float64)), st.floats(-30, 30), seeds)
def test_every_scale_is_certified(
    shape: tuple[int, int], structure: str, dtype: Any, exponent: float, seed: int
) -> None:
    cost = make(structure, shape, seed)
    cost = (cost / (1e-300 + np.abs(cost).max(initial=0.0)) * 10.0**exponent).astype(dtype)
    assert_certified(cost, solve_assignment(cost), maximize=False)


@given(st.one_of(small, large), structures, st.integers(-900, 900), directions, seeds)
@settings(max_examples=60)
def test_a_power_of_two_changes_nothing(
    shape: tuple[int, int], structure: str, exponent: int, maximize: bool, seed: int
) -> None:
    cost = make(structure, shape, seed)
    found = solve_assignment(cost, maximize=maximize)
    scaled = solve_assignment(np.ldexp(cost, exponent), maximize=maximize)
    assert np.array_equal(found.row_ind, scaled.row_ind)
    assert np.array_equal(found.col_ind, scaled.col_ind)


@given(st.one_of(small, large), structures, directions, seeds)
@settings(max_examples=60)
def test_the_objective_knows_no_order(
    shape: tuple[int, int], structure: str, maximize: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    cost = make(structure, shape, seed)
    shuffled = cost[rng.permutation(shape[0])][:, rng.permutation(shape[1])]
    expected = solve_assignment(cost, maximize=maximize).objective
    for changed in (cost.T, shuffled):
        found = solve_assignment(changed, maximize=maximize).objective
        assert abs(found - expected) <= rounding(cost)


@given(st.one_of(small, large), structures, directions, seeds)
@settings(max_examples=40)
def test_the_same_matrix_gives_the_same_result(
    shape: tuple[int, int], structure: str, maximize: bool, seed: int
) -> None:
    cost = make(structure, shape, seed)
    first = solve_assignment(cost, maximize=maximize)
    again = solve_assignment(cost.copy(), maximize=maximize)
    for field in dataclasses.fields(Assignment):
        one, other = getattr(first, field.name), getattr(again, field.name)
        assert np.array_equal(one, other), field.name


@given(
    st.one_of(square, small, st.integers(316, 345).map(lambda n: (n, n))), structures, structures,
    st.sampled_from((0.0, 1e-300, 1e-3, 1.0, 1e6, 1e300, np.inf, np.nan)), directions, seeds,
)  # fmt: skip
@example((326, 326), "dead units", "dead units", 0.0, False, 326)  # columns dead, and no row
@settings(max_examples=150)
def test_a_warm_start_changes_only_the_time(
    shape: tuple[int, int], structure: str, former: str, size: float, maximize: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    cost = make(structure, shape, seed)
    start = solve_assignment(make(former, shape, seed + 1), maximize=bool(rng.integers(2)))
    with np.errstate(invalid="ignore"):
        nonsense = dataclasses.replace(
            start,
            col_ind=rng.integers(-shape[1], 2 * shape[1] + 1, min(shape)),
            col_duals=rng.normal(size=shape[1]) * size,
        )
    for warm_start in (start, nonsense):
        found = solve_assignment(cost, maximize=maximize, warm_start=warm_start)
        largest = np.abs(found.col_duals).max(initial=1.0)  # prices of the start may stay
        tolerance = rounding(cost) + 1e-14 * sum(shape) * largest
        assert_certified(cost, found, maximize, tolerance)


@given(st.integers(1, 350), st.floats(-1e30, 1e30), directions)
def test_constant_costs_give_the_identity(n: int, value: float, maximize: bool) -> None:
    found = solve_assignment(np.full((n, n), value), maximize=maximize)
    assert np.array_equal(found.row_ind, np.arange(n))
    assert np.array_equal(found.col_ind, np.arange(n))


@given(st.integers(1, 5), small, structures, directions, seeds)
def test_a_batch_is_certified(
    count: int, shape: tuple[int, int], structure: str, maximize: bool, seed: int
) -> None:
    costs = np.stack([make(structure, shape, (seed + k) % 2**32) for k in range(count)])
    found = solve_assignment(costs, maximize=maximize)
    for k, cost in enumerate(costs):
        fields = (getattr(found, field.name)[k] for field in dataclasses.fields(found))
        assert_certified(cost, Assignment(*fields), maximize)


def test_the_proof_refuses_a_worse_answer() -> None:
    cost = np.array([[1.0, 2.0], [2.0, 1.0]])
    best = solve_assignment(cost)
    worse = dataclasses.replace(best, col_ind=best.col_ind[::-1].copy(), objective=4.0)
    for wrong in (worse, dataclasses.replace(best, col_duals=best.col_duals + 1)):
        with pytest.raises(AssertionError):
            assert_certified(cost, wrong, maximize=False)
    assert scipy_objective(cost, maximize=False) == 2.0
