"""The one room that imports the compiled core: arrays in, arrays out.

The core sees an address, a dtype, a shape and strides. Everything that knows NumPy or torch and
the core at once is here; what runs on a CUDA device in `device`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from fastrebasin import _core
from fastrebasin._native.device import (
    CrossMoments,
    DeviceSolutions,
    Factors,
    Observations,
    cross_moments,
    cuda_build,
    cuda_built,
    has_cross_moments,
    runs_on,
    solve_device_assignments,
    summed_products,
)

__all__ = [
    "CrossMoments", "DeviceSolutions", "Factors", "Observations", "Solutions", "as_array",
    "cross_moments", "cuda_build", "cuda_built", "gather_kernels", "has_cross_moments",
    "linear_sum_assignment", "runs_on", "solve_assignments", "solve_device_assignments",
    "summed_products",
]  # fmt: skip

_NO_CUDA = (
    "{argument} is on {device}, but this build of fastrebasin has no CUDA kernels: "
    "move it with .cpu(), or install a version of fastrebasin that has them"
)

# (cost, maximize, threads) -> (row_ind, col_ind), or None for anything but an array that can be
# read as it lies: a matrix of float32 or float64, aligned, in native byte order. Without a wrapper,
# because small problems are solved in the time of a call in Python.
linear_sum_assignment = _core.linear_sum_assignment

WarmStart = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


class Solutions(NamedTuple):
    """What the core says of matrices of shape (batch, n, m)."""

    col4row: npt.NDArray[np.int64]  # (batch, n); -1 for a row that is left over
    row_costs: npt.NDArray[np.float64]  # (batch, n): of each row's pair; 0 for one left over
    row_duals: npt.NDArray[np.float64]  # (batch, n)
    col_duals: npt.NDArray[np.float64]  # (batch, m)
    gap: npt.NDArray[np.float64]  # (batch)


def as_array(tensor: torch.Tensor, argument: str) -> npt.NDArray[Any]:
    """Return an array of a tensor's values that shares its memory where NumPy has the dtype.

    Raises:
        ValueError: the tensor is on a device that this build has no kernels for.
        TypeError: it is sparse, complex or quantized.
    """
    if not (tensor.is_cpu or tensor.is_cuda):
        raise ValueError(
            f"{argument} is on {tensor.device}, for which there are no kernels: move it with .cpu()"
        )
    if tensor.is_cuda:
        raise ValueError(_NO_CUDA.format(argument=argument, device=tensor.device))
    dtype = tensor.dtype
    if dtype.is_complex or tensor.is_quantized or tensor.layout != torch.strided:
        raise TypeError(
            f"{argument} must be a dense real tensor, got {dtype} with layout {tensor.layout}"
        )
    if tensor.requires_grad:
        tensor = tensor.detach()
    if dtype.is_floating_point and dtype not in (torch.float32, torch.float64):
        tensor = tensor.float()  # without loss: all others are narrower
    return (tensor.resolve_neg() if tensor.is_neg() else tensor).numpy()


def gather_kernels(
    block: torch.Tensor, units: int, index: torch.Tensor, room: torch.Tensor | None = None
) -> torch.Tensor:
    """Return, for each entry of one axis, the kernels at `index` on the other.

    Args:
        block: contiguous, of shape (rows, cols, ...) and any dtype.
        units: the axis, 0 or 1.
        index: positions on the other axis, int64, on the block's device.
        room: a vector to write to, if it is long enough: new memory takes as long as the copy.

    Returns:
        A tensor of shape (units, index, ...); gradients flow through it where `room` isn't given.
    """
    count = block.shape[units]
    size = count * len(index) * math.prod(block.shape[2:])
    if block.is_cpu and not block.requires_grad:
        out = block.new_empty(size) if room is None or len(room) < size else room[:size]
        out = out.view(count, len(index), math.prod(block.shape[2:]))
        array, found = _bytes(block), _bytes(out)
        _core.gather_kernels(array, units, index.numpy(), found)
    else:  # every kernel by its number: one pass
        entries, cols = torch.arange(count, device=block.device)[:, None], block.shape[1]
        kernels = entries * cols + index if units == 0 else entries + index * cols
        out = block.flatten(0, 1).index_select(0, kernels.flatten())
    return out.view(count, len(index), *block.shape[2:])


def _bytes(tensor: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Return the memory of a contiguous tensor of any dtype, with its first two axes."""
    array: npt.NDArray[np.uint8] = tensor.view(-1).view(torch.uint8).numpy()
    rows, cols, *kernel = tensor.shape
    return array.reshape(rows, cols, math.prod(kernel) * tensor.element_size())


def solve_assignments(
    stacks: Sequence[npt.NDArray[np.float32] | npt.NDArray[np.float64]],
    warm: Sequence[WarmStart | None],
    maximize: bool,
    name: Callable[[int], str],
) -> list[Solutions]:
    """Solve all matrices of all stacks as one batch, on as many threads as torch uses.

    Each stack has shape (batch, n, m), aligned, in native byte order. Its warm start is (col4row,
    col_duals) of former results of shape (batch, n); for square matrices only.

    Raises:
        ValueError: a matrix is infeasible, or has NaN or infinitely good entries. The message
            begins with its `name`, which is given its index over all stacks.
    """
    failure, solved = _core.solve_assignments(stacks, warm, maximize, torch.get_num_threads())
    if failure is not None:
        index, reason = failure
        raise ValueError(name(index) + reason)
    return [Solutions(*arrays) for arrays in solved]
