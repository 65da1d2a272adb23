"""Linear assignment: a cost matrix becomes a permutation. SciPy's door, for NumPy and torch."""

from __future__ import annotations

from typing import overload

import numpy as np
import numpy.typing as npt
import torch

from fastrebasin import _native

__all__ = ["linear_sum_assignment"]

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
