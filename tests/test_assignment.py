"""The assignment solver: optimal by its own certificate and by SciPy, and SciPy's door."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastrebasin import linear_sum_assignment, solve_assignment

Matrix = npt.NDArray[Any]


def total(cost: Matrix, pairs: tuple[Matrix, Matrix]) -> float:
    return float(cost.astype(np.float64)[pairs].sum())


def assert_certified(cost: Matrix, maximize: bool) -> None:
    """Check feasibility, and optimality by the duals: no independent solver can be fooled alike."""
    solution = solve_assignment(cost, maximize=maximize)
    rows, cols = linear_sum_assignment(cost, maximize)
    assert len(rows) == min(cost.shape)
    assert len(set(cols.tolist())) == len(cols)
    sign = -1.0 if maximize else 1.0
    signed = sign * cost.astype(np.float64)
    u, v = sign * solution.row_duals, sign * solution.col_duals
    slack = signed - u[:, None] - v[None, :]
    finite = np.abs(signed[np.isfinite(signed)])
    tolerance = 1e-12 * (finite.max(initial=0.0) + 1e-300) * max(cost.shape)
    assert slack.min() >= -tolerance
    assert np.abs(slack[rows, cols]).max() <= tolerance
    # What is left over has a dual of zero, and no dual of the longer side is positive.
    longer, used = (v, cols) if cost.shape[0] <= cost.shape[1] else (u, rows)
    if cost.shape[0] != cost.shape[1]:
        assert longer.max() <= 0
        assert not longer[np.setdiff1d(np.arange(len(longer)), used)].any()


def brute_force(cost: Matrix) -> float:
    short = cost if cost.shape[0] <= cost.shape[1] else cost.T
    rows = np.arange(short.shape[0])
    choices = itertools.permutations(range(short.shape[1]), short.shape[0])
    return min(float(short[rows, list(cols)].sum()) for cols in choices)


shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)
# Few distinct values make ties; wide ones make magnitudes meet.
entries = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e30, 1e30, allow_subnormal=False))


@given(hnp.arrays(np.float64, shapes, elements=entries), st.booleans())
def test_is_certified_optimal(cost: Matrix, maximize: bool) -> None:
    assert_certified(cost, maximize)


@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=5),
                  elements=st.integers(-9, 9).map(float)))  # fmt: skip
def test_equals_brute_force(cost: Matrix) -> None:
    assert total(cost, linear_sum_assignment(cost)) == brute_force(cost)


@pytest.mark.parametrize("n", [1, 2, 10, 64, 128, 321, 512])
@pytest.mark.parametrize(
    "kind", ["uniform", "low rank", "rank 1", "ties", "constant", "dead units"]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_objective_equals_scipy(n: int, kind: str, dtype: type) -> None:
    rng = np.random.default_rng(n)
    kinds: dict[str, Callable[[], Matrix]] = {
        "uniform": lambda: rng.random((n, n)),
        "low rank": lambda: rng.normal(size=(n, 8)) @ rng.normal(size=(8, n)),
        "rank 1": lambda: np.outer(rng.random(n), rng.random(n)),
        "ties": lambda: rng.integers(0, 5, (n, n)),
        "constant": lambda: np.ones((n, n)),
        "dead units": lambda: rng.normal(size=(n, n)) * (rng.random(n) < 0.7)[:, None]
        * (rng.random(n) < 0.7)[None, :],
    }  # fmt: skip
    cost: Matrix = kinds[kind]().astype(dtype)
    for maximize in (False, True):
        ours = total(cost, linear_sum_assignment(cost, maximize))
        reference = total(cost, scipy.optimize.linear_sum_assignment(cost, maximize))
        assert ours == pytest.approx(reference, rel=1e-12, abs=1e-12 * n)
    assert_certified(cost, True)


@given(st.integers(15, 150), st.integers(0, 20), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=100)
def test_ties_in_any_part_of_a_row_agree_with_scipy(n: int, more: int, top: int, seed: int) -> None:
    # Passes along a row go by vectors, by blocks of them, and one by one at its end.
    cost = np.random.default_rng(seed).integers(0, top, (n, n + more)).astype(np.float32)
    reference = total(cost, scipy.optimize.linear_sum_assignment(cost))
    assert total(cost, linear_sum_assignment(cost)) == reference
    assert_certified(cost, False)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=300)
def test_forbidden_edges_agree_with_scipy(n: int, m: int, seed: int, maximize: bool) -> None:
    rng = np.random.default_rng(seed)
    forbidden = -np.inf if maximize else np.inf
    cost = np.where(rng.random((n, m)) < 0.4, forbidden, rng.integers(0, 9, (n, m)))
    try:
        reference = total(cost, scipy.optimize.linear_sum_assignment(cost, maximize))
    except ValueError as error:
        with pytest.raises(ValueError, match=str(error)):
            linear_sum_assignment(cost, maximize)
    else:
        assert total(cost, linear_sum_assignment(cost, maximize)) == reference


@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e300])
def test_scale_does_not_matter(scale: float) -> None:
    cost = np.random.default_rng(0).normal(size=(50, 60))
    expected = linear_sum_assignment(cost)[1]
    assert np.array_equal(linear_sum_assignment(cost * scale)[1], expected)


def test_negation_is_maximisation() -> None:
    cost = np.random.default_rng(0).normal(size=(40, 30))
    for ours, negated in zip(
        linear_sum_assignment(cost, maximize=True), linear_sum_assignment(-cost), strict=True
    ):
        assert np.array_equal(ours, negated)


@pytest.mark.parametrize("n", [1, 5, 100])
def test_constant_costs_give_the_identity(n: int) -> None:
    assert np.array_equal(linear_sum_assignment(np.full((n, n), 7.0))[1], np.arange(n))


def with_dead_units(rng: np.random.Generator, n: int, rows: int, cols: int) -> Matrix:
    cost = rng.normal(size=(n, n))
    cost[rng.permutation(n)[:rows]] = 0
    cost[:, rng.permutation(n)[:cols]] = 0
    return cost


@pytest.mark.parametrize(
    ("rows", "cols"), [(40, 40), (80, 20), (20, 80), (0, 30), (30, 0), (1, 1), (339, 3), (340, 340)]
)
@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_dead_units_of_both_sides(rows: int, cols: int, shift: float) -> None:
    cost = with_dead_units(np.random.default_rng(rows + cols), 340, rows, cols)
    cost[cost != 0] += shift  # from dead pairs being the best choice to being the worst
    assert_certified(cost, maximize=False)
    assert_certified(cost, maximize=True)


def test_columns_that_only_look_dead() -> None:
    rng = np.random.default_rng(0)
    cost = rng.normal(size=(340, 340))
    cost[7] = 0.0
    cost[:, 50:90] = 0.0
    cost[33, 60] = -1.0  # where nobody looks before listing candidates
    assert_certified(cost, maximize=False)
    assert_certified(cost, maximize=True)


@pytest.mark.parametrize("shape", [(330, 400), (400, 330), (340, 341), (330, 5000), (1, 1000)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_rectangular_problems(shape: tuple[int, int], dtype: type) -> None:
    rng = np.random.default_rng(0)
    for cost in (rng.normal(size=shape), rng.integers(0, 9, shape), np.ones(shape)):
        assert_certified(cost.astype(dtype), maximize=False)
        assert_certified(cost.astype(dtype), maximize=True)


@pytest.mark.parametrize("density", [0.004, 0.02, 0.3])
def test_large_problems_with_forbidden_edges_agree_with_scipy(density: float) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        allowed = rng.random((340, 340)) < density
        allowed[np.arange(340), rng.permutation(340)] |= seed % 2 == 0  # feasible every other time
        cost = np.where(allowed, rng.integers(0, 9, allowed.shape), np.inf)
        try:
            reference = total(cost, scipy.optimize.linear_sum_assignment(cost))
        except ValueError as error:
            with pytest.raises(ValueError, match=str(error)):
                linear_sum_assignment(cost)
        else:
            assert total(cost, linear_sum_assignment(cost)) == reference


@pytest.mark.parametrize("position", [(0, 0), (299, 299), (123, 288)])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_one_bad_entry_anywhere_is_refused(position: tuple[int, int], bad: float) -> None:
    cost = np.random.default_rng(0).normal(size=(340, 340))
    cost[position] = bad
    with pytest.raises(ValueError, match="invalid numeric entries"):
        linear_sum_assignment(cost)


def test_large_constant_costs_give_the_identity() -> None:
    assert np.array_equal(linear_sum_assignment(np.full((700, 700), 3.0))[1], np.arange(700))
