"""The one importer of the compiled core: arrays in, arrays out.

The core sees an address, a dtype, a shape and strides. Everything that knows NumPy or torch and
the core at once is here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from fastrebasin import _core

_NO_CUDA = (
    "{argument} is on {device}, but this build of fastrebasin has no CUDA kernels: "
    "move it with .cpu(), or install a version of fastrebasin that has them"
)


class Solution(NamedTuple):
    """What the core says of one assignment problem; float64 duals, int64 columns."""

    col4row: npt.NDArray[np.int64]
    row_duals: npt.NDArray[np.float64]
    col_duals: npt.NDArray[np.float64]


def cuda_built() -> bool:
    """Whether the core was built with CUDA kernels."""
    return _core.cuda_built()


def solve_assignment(
    cost: npt.NDArray[np.float32] | npt.NDArray[np.float64] | torch.Tensor,
    maximize: bool,
    warm: tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]] | None = None,
    gap: npt.NDArray[np.float64] | None = None,
) -> Solution:
    """Solve one assignment problem given as a float32 or float64 matrix on the CPU.

    Any strides are read in place. `col4row` has -1 for a row that is left over. `warm` is
    (col4row, col_duals) of a problem of the same shape, contiguous; `gap` takes one number.

    Raises:
        ValueError: the matrix is on another device, is infeasible, or has NaN or infinitely good
            entries.
    """
    rows, cols = cost.shape
    if isinstance(cost, torch.Tensor):
        if cost.device.type != "cpu":
            raise ValueError(_NO_CUDA.format(argument="cost", device=cost.device))
        address, dtype = cost.data_ptr(), str(cost.dtype).removeprefix("torch.")
        strides = cost.stride()
    else:
        address, dtype = cost.ctypes.data, str(cost.dtype)
        strides = tuple(stride // cost.itemsize for stride in cost.strides)
    solution = Solution(np.empty(rows, np.int64), np.empty(rows), np.empty(cols))
    warm_arrays = (None, None) if warm is None else warm
    addresses = [
        0 if array is None else array.ctypes.data for array in (*warm_arrays, *solution, gap)
    ]
    _core.solve_assignment(address, dtype, (rows, cols), strides, maximize, *addresses)
    return solution
