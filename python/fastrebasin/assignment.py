"""Linear assignment: a cost matrix becomes a permutation. SciPy's door, for NumPy and torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch

from fastrebasin import _native

__all__ = ["Assignment", "linear_sum_assignment", "solve_assignment"]

_EXACT_IN_FLOAT32 = {
    torch.float16,
    torch.bfloat16,
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
}


@overload
def linear_sum_assignment(
    cost_matrix: torch.Tensor, maximize: bool = ...
) -> tuple[torch.Tensor, torch.Tensor]: ...
@overload
def linear_sum_assignment(
    cost_matrix: npt.ArrayLike, maximize: bool = ...
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]: ...
def linear_sum_assignment(
    cost_matrix: npt.ArrayLike | torch.Tensor, maximize: bool = False
) -> tuple[torch.Tensor, torch.Tensor] | tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Solve the linear sum assignment problem exactly, with the signature of SciPy's function.

    Args:
        cost_matrix: shape (n, m), any real dtype and strides; an array, anything NumPy makes one
            of, or a torch CPU tensor. Computed with float64 duals. An entry of +inf (-inf with
            `maximize`) forbids its pair.
        maximize: find the assignment of largest instead of smallest sum.

    Returns:
        (row_ind, col_ind), int64 arrays of length min(n, m), `row_ind` ascending; torch tensors
        for a torch input. Equal costs everywhere give the identity.

    Raises:
        ValueError: not a matrix, NaN or infinitely good entries, no complete assignment, or a
            tensor on a device that this build has no kernels for.
        TypeError: a dtype that float64 can't hold, such as complex or object.

    Ctrl-C stops a running solve, and other Python threads run during it.

    Example:
        >>> import numpy as np
        >>> from fastrebasin import linear_sum_assignment
        >>> cost = np.array([[4, 1, 3], [2, 0, 5], [3, 2, 2]])
        >>> rows, cols = linear_sum_assignment(cost)
        >>> cols.tolist(), int(cost[rows, cols].sum())
        ([1, 0, 2], 5)

    Source: Jonker and Volgenant 1987, doi:10.1007/BF02278710; rectangular problems as in Crouse
    2016, doi:10.1109/TAES.2016.140952.
    """
    if isinstance(cost_matrix, torch.Tensor):
        rows, cols = _pairs(_as_float_tensor(cost_matrix), maximize)
        return torch.from_numpy(rows), torch.from_numpy(cols)
    return _pairs(_as_float_array(cost_matrix), maximize)


@dataclass(frozen=True)
class Assignment:
    """An optimal assignment and its proof.

    Attributes:
        row_ind, col_ind: int64 vectors of length min(n, m), `row_ind` ascending.
        row_duals, col_duals: float64 vectors of length n and m; up to rounding, their sums never
            exceed the costs (never fall below them when maximising), and equal them on the pairs.
        objective: sum of the pairs' costs, in float64.
        gap: bound on how far the objective can be from the optimum, in float64, computed from
            `col_duals` alone; zero, or what rounding makes of it.

    Arrays are torch tensors if the cost was one. A batch has a leading axis on all of them.
    """

    row_ind: Any
    col_ind: Any
    row_duals: Any
    col_duals: Any
    objective: Any
    gap: Any


def solve_assignment(
    cost: npt.ArrayLike | torch.Tensor,
    *,
    maximize: bool = False,
    warm_start: Assignment | None = None,
) -> Assignment:
    """Solve one assignment problem or a batch exactly, with duals, and from a former result.

    Args:
        cost: shape (n, m) or (batch, n, m); as for `linear_sum_assignment`.
        maximize: find the assignment of largest instead of smallest sum.
        warm_start: the result of a similar problem of the same shape, such as this one a training
            step ago. It only saves time: the answer is the optimum of `cost` whatever it was.

    Returns:
        The assignment, its duals, objective and gap.

    Raises:
        ValueError: not a matrix or a batch of matrices, a warm start of another shape, NaN or
            infinitely good entries, no complete assignment, or a tensor on a device that this
            build has no kernels for.
        TypeError: a dtype that float64 can't hold, or a warm start that is no `Assignment`.

    Example:
        >>> import numpy as np
        >>> cost = np.random.default_rng(0).normal(size=(300, 300))
        >>> first = solve_assignment(cost)
        >>> again = solve_assignment(cost + 1e-3 * cost**2, warm_start=first)
        >>> bool(again.gap < 1e-9)
        True

    Source: as `linear_sum_assignment`; candidate lists, auction and dead units are our own.
    """
    is_tensor = isinstance(cost, torch.Tensor)
    costs = _as_float_tensor(cost) if isinstance(cost, torch.Tensor) else _as_float_array(cost)
    if costs.ndim not in (2, 3):
        raise ValueError(f"cost must be a matrix or a batch of them, got {costs.ndim} axes")
    if costs.ndim == 3 and costs.shape[0] == 0:
        raise ValueError(f"cost must hold at least one matrix, got shape {tuple(costs.shape)}")
    if warm_start is not None:
        _check_warm_start(warm_start, tuple(costs.shape))
    starts = _numpy_fields(warm_start)
    if costs.ndim == 2:
        fields = _solve_one(costs, maximize, starts)
    else:
        solved = [
            _solve_one(costs[k], maximize, None if starts is None else [f[k] for f in starts])
            for k in range(costs.shape[0])
        ]
        fields = [np.stack(parts) for parts in zip(*solved, strict=True)]
    return Assignment(*(torch.as_tensor(f) if is_tensor else f for f in fields))


def _solve_one(
    cost: npt.NDArray[np.float64] | torch.Tensor,
    maximize: bool,
    start: list[npt.NDArray[Any]] | None,
) -> list[npt.NDArray[Any]]:
    """Solve one matrix; fields in the order of `Assignment`."""
    gap = np.zeros(1)
    warm = None
    if start is not None and cost.shape[0] == cost.shape[1]:  # the core starts others cold
        warm = (
            np.ascontiguousarray(start[1], np.int64),
            np.ascontiguousarray(start[3], np.float64),
        )
    solution = _native.solve_assignment(cost, bool(maximize), warm, gap)
    row_ind = np.flatnonzero(solution.col4row >= 0)
    col_ind = solution.col4row[row_ind]
    objective = np.asarray(cost)[row_ind, col_ind].astype(np.float64).sum()
    return [row_ind, col_ind, solution.row_duals, solution.col_duals, objective, gap[0]]


def _numpy_fields(start: Assignment | None) -> list[npt.NDArray[Any]] | None:
    if start is None:
        return None
    return [np.asarray(f) for f in (start.row_ind, start.col_ind, start.row_duals, start.col_duals)]


def _check_warm_start(start: Assignment, shape: tuple[int, ...]) -> None:
    if not isinstance(start, Assignment):
        raise TypeError(f"warm_start must be an Assignment, got {type(start).__name__}")
    found = (*np.shape(start.row_duals), *np.shape(start.col_duals)[-1:])
    pairs = (*shape[:-2], min(shape[-2:]))
    if found != shape or np.shape(start.col_ind) != pairs:
        raise ValueError(f"warm_start must be of a problem of shape {shape}, got {found}")


def _pairs(
    cost: npt.NDArray[np.float64] | torch.Tensor, maximize: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    if cost.ndim != 2:
        raise ValueError(f"expected a matrix (2-D array), got a {cost.ndim} array")
    col4row = _native.solve_assignment(cost, bool(maximize)).col4row
    if cost.shape[0] <= cost.shape[1]:
        return np.arange(len(col4row), dtype=np.int64), col4row
    row_ind = np.flatnonzero(col4row >= 0)
    return row_ind, col4row[row_ind]


def _as_float_array(cost: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(cost)
    if array.dtype == np.float32 and array.dtype.isnative and _whole_strides(array):
        return array  # read in place
    if not np.can_cast(array.dtype, np.float64, "safe"):
        raise TypeError(
            f"Cannot cast array data from {array.dtype!r} to dtype('float64') "
            "according to the rule 'safe'"
        )
    array = np.asarray(array, dtype=np.float64)
    return array if _whole_strides(array) else array.copy()


def _whole_strides(array: npt.NDArray[np.generic]) -> bool:
    """Whether entries are aligned and a whole number of entries apart, as the core needs."""
    return array.flags.aligned and all(stride % array.itemsize == 0 for stride in array.strides)


def _as_float_tensor(cost: torch.Tensor) -> torch.Tensor:
    if cost.is_complex() or cost.layout != torch.strided:
        raise TypeError(
            f"cost_matrix must be a dense real tensor, got {cost.dtype} with layout {cost.layout}"
        )
    cost = cost.detach()
    if cost.dtype in (torch.float32, torch.float64):
        return cost
    return cost.to(torch.float32 if cost.dtype in _EXACT_IN_FLOAT32 else torch.float64)
