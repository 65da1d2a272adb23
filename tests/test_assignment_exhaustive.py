"""Small assignment problems by the hundred thousand, beside the best of all assignments."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from assignment_oracle import STRUCTURES, Matrix, with_forbidden_edges

from fastrebasin import linear_sum_assignment, solve_assignment

SIDES = range(1, 9)
SHAPES = list(itertools.product(SIDES, SIDES))
PROBLEMS = 200_000


def least_sums(costs: Matrix) -> npt.NDArray[np.float64]:
    """Return the least sum of a complete assignment for each matrix of a batch.

    Goes through rows and, for every set of columns, keeps the least sum with which the rows so far
    can take just that set: that covers all assignments, at 2^8 sets instead of 8! orders.
    """
    if costs.shape[1] > costs.shape[2]:
        costs = costs.transpose(0, 2, 1)
    count, rows, cols = costs.shape
    sets = np.arange(2**cols)
    least = np.full((count, 2**cols), np.inf)
    least[:, 0] = 0.0
    for i in range(rows):
        longer = np.full_like(least, np.inf)
        for j in range(cols):
            without = sets[(sets >> j) & 1 == 0]
            through = least[:, without] + costs[:, i, j, None]
            longer[:, without | 1 << j] = np.minimum(longer[:, without | 1 << j], through)
        least = longer
    best: npt.NDArray[np.float64] = least.min(axis=1)
    return best


def problems(
    rng: np.random.Generator, structure: str, shape: tuple[int, int], count: int, maximize: bool
) -> Matrix:
    """Return a batch of a structure, a quarter of it with forbidden edges."""
    costs = [STRUCTURES[structure](rng, *shape) for _ in range(count)]
    for k in range(0, count, 4):
        costs[k] = with_forbidden_edges(costs[k], rng, maximize, share=0.4)
    return np.stack(costs)


def test_least_sums_are_those_of_all_permutations() -> None:
    costs = np.random.default_rng(0).random((20, 4, 6))
    rows = np.arange(4)
    orders = list(itertools.permutations(range(6), 4))
    sums = np.stack([costs[:, rows, list(order)].sum(1) for order in orders])
    assert np.allclose(least_sums(costs), sums.min(axis=0), rtol=1e-15)
    assert np.array_equal(least_sums(costs.transpose(0, 2, 1)), least_sums(costs))


@pytest.mark.slow
@pytest.mark.parametrize("structure", sorted(STRUCTURES))
@pytest.mark.parametrize("maximize", [False, True])
def test_no_assignment_is_better(structure: str, maximize: bool) -> None:
    rng = np.random.default_rng(sorted(STRUCTURES).index(structure))
    sign = -1.0 if maximize else 1.0
    count = -(-PROBLEMS // (2 * len(STRUCTURES) * len(SHAPES)))
    for shape in SHAPES:
        costs = problems(rng, structure, shape, count, maximize)
        found = solve_assignment(costs, maximize=maximize)
        # Sums in another order differ in their last bits.
        tolerance = 1e-15 * sum(shape) * np.abs(costs).max(where=np.isfinite(costs), initial=0.0)
        assert np.abs(sign * found.objective - least_sums(sign * costs)).max() <= tolerance
        assert np.abs(found.gap).max() <= tolerance
        for k, cost in enumerate(costs):
            rows, cols = linear_sum_assignment(cost, maximize)
            assert np.array_equal(rows, found.row_ind[k])
            assert np.array_equal(cols, found.col_ind[k])
