"""Matrices that assignment solvers find hard, and the proof that an answer is optimal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.optimize

from fastrebasin import Assignment

Matrix = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]


def _low_rank_with_dead_units(rng: np.random.Generator, n: int, m: int) -> Float64:
    """Return products of few factors; shares of rows and columns, drawn apart, are zero."""
    alive = [rng.random(size) >= rng.choice([0.0, 0.2, 0.8]) for size in (n, m)]
    product = rng.normal(size=(n, 4)) @ rng.normal(size=(4, m))
    masked: Float64 = product * alive[0][:, None] * alive[1][None, :] + 0.0
    return masked


def _planted(rng: np.random.Generator, n: int, m: int) -> Float64:
    cost = rng.random((n, m))
    k = min(n, m)
    cost[rng.permutation(n)[:k], rng.permutation(m)[:k]] -= 2.0
    return cost


def _blocks(rng: np.random.Generator, n: int, m: int) -> Float64:
    """Return a matrix whose rows of a block are alike up to little noise, as are its columns."""
    coarse = rng.random((3, 3))[rng.integers(0, 3, n)[:, None], rng.integers(0, 3, m)[None, :]]
    noisy: Float64 = coarse + 1e-3 * rng.random((n, m))
    return noisy


# Each returns float64 entries of a size around one.
STRUCTURES: dict[str, Callable[[np.random.Generator, int, int], Float64]] = {
    "uniform": lambda rng, n, m: rng.random((n, m)),
    "ties": lambda rng, n, m: rng.integers(-2, 3, (n, m)).astype(np.float64),
    "constant": lambda rng, n, m: np.full((n, m), rng.normal()),
    "duplicates": lambda rng, n, m: rng.random((3, 4))[
        rng.integers(0, 3, n)[:, None], rng.integers(0, 4, m)[None, :]
    ],
    "rank 1": lambda rng, n, m: np.outer(rng.random(n), rng.random(m)),
    "dead units": _low_rank_with_dead_units,
    "near ties": lambda rng, n, m: 1 + np.finfo(np.float64).eps * rng.integers(0, 4, (n, m)),
    "planted": _planted,
    "blocks": _blocks,
    "magnitudes": lambda rng, n, m: rng.random((n, m)) * 10.0 ** rng.integers(-8, 5, (n, m)),
}  # fmt: skip


def with_forbidden_edges(
    cost: Matrix, rng: np.random.Generator, maximize: bool, share: float
) -> Matrix:
    """Return float `cost` with a share of its edges forbidden, and one assignment always left."""
    forbidden = rng.random(cost.shape) < share
    k = min(cost.shape)
    forbidden[rng.permutation(cost.shape[0])[:k], rng.permutation(cost.shape[1])[:k]] = False
    return np.where(forbidden, -np.inf if maximize else np.inf, cost).astype(cost.dtype)


def rounding(cost: Matrix) -> float:
    """Bound the rounding of duals, which add up costs along paths; costs of integers have none."""
    if not np.issubdtype(cost.dtype, np.floating):
        return 0.0
    exact = np.abs(cost.astype(np.float64))
    return 1e-14 * sum(cost.shape) * float(exact.max(initial=0.0, where=np.isfinite(exact)))


def scipy_objective(cost: Matrix, maximize: bool) -> float:
    """Return the best sum that SciPy finds."""
    exact = cost.astype(np.float64)
    return float(exact[scipy.optimize.linear_sum_assignment(exact, maximize)].sum())


def assert_certified(
    cost: Matrix, found: Assignment, maximize: bool, tolerance: float | None = None
) -> None:
    """Check an answer by weak duality, which knows nothing of solvers, and beside SciPy."""
    tolerance = rounding(cost) if tolerance is None else tolerance
    exact = cost.astype(np.float64)
    rows, cols = found.row_ind, found.col_ind
    assert rows.dtype == cols.dtype == np.int64
    assert np.all(np.diff(rows) > 0)
    assert len(rows) == len(set(cols.tolist())) == min(cost.shape)
    sign = -1.0 if maximize else 1.0
    u, v = sign * found.row_duals, sign * found.col_duals
    slack = sign * exact - u[:, None] - v[None, :]
    assert slack.min(initial=0.0) >= -tolerance
    assert np.abs(slack[rows, cols]).max(initial=0.0) <= tolerance
    # What is left over has a dual of zero; the other duals of the longer side aren't positive.
    for duals, used, length, other in ((u, rows, *cost.shape), (v, cols, *cost.shape[::-1])):
        assert not duals[np.setdiff1d(np.arange(length), used)].any()
        assert length <= other or duals.max() <= tolerance
    assert abs(found.gap) <= tolerance
    assert found.objective == exact[rows, cols].sum()
    assert abs(found.objective - scipy_objective(cost, maximize)) <= tolerance
