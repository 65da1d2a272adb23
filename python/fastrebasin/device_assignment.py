"""Linear assignment of CUDA tensors: solved on their device, without waiting for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastrebasin import _native
from fastrebasin._native import DeviceSolutions
from fastrebasin.assignment_result import Assignment, check_axes, check_start

__all__ = [
    "DeviceSolutions", "DeviceStack", "as_device_stack", "check_status", "solve_on_device",
    "solve_stacks",
]  # fmt: skip

_EXACT = 2**53  # float64 holds every integer up to here
_MOST = 65535  # rows or columns, whichever are fewer: the core tells bids apart by 16 bits
# SciPy's words.
_FAILURES = {1: "matrix contains invalid numeric entries", 2: "cost matrix is infeasible"}

Former = tuple[Tensor, Tensor]


def solve_on_device(
    costs: Sequence[Tensor], warm: Sequence[Former | None], maximize: bool
) -> list[DeviceSolutions]:
    """Solve matrices of shape (batch, n, m), all at once; nothing waits for the device.

    Args:
        costs: float32 or float64, on one CUDA device, of any sizes and strides.
        warm: for each, None or (col4row, col_duals) of former results of similar problems. Only
            square problems start from them.
        maximize: find the assignments of largest instead of smallest sum.

    Returns:
        For each: the columns given to rows, duals, gaps, and what `check_status` reads.

    Raises:
        ValueError: this build has no kernels for the device.
    """
    stacks, formers = [], []
    for cost, former in zip(costs, warm, strict=True):
        _check_kernels(cost, "costs")
        _, n, m = cost.shape
        stack = (cost.mT if n > m else cost).detach().resolve_neg()
        stacks.append(stack if stack.stride(2) == 1 or stack.shape[2] == 1 else stack.contiguous())
        col4row, col_duals = (None, None) if former is None or n != m else former
        formers.append(
            None
            if col4row is None or col_duals is None
            else (col4row.contiguous(), col_duals.contiguous())
        )
    if not stacks:
        return []
    found = _native.solve_device_assignments(stacks, formers, maximize)
    return [
        _turned(solution) if cost.shape[1] > cost.shape[2] else solution
        for cost, solution in zip(costs, found, strict=True)
    ]


def check_status(status: Tensor, name: Callable[[int], str]) -> None:
    """Raise for the first matrix of all stacks that couldn't be solved; waits for the device.

    Raises:
        ValueError: a matrix is infeasible, or has NaN or infinitely good entries.
    """
    for index, code in enumerate(status.tolist()):
        if code:
            raise ValueError(name(index) + _FAILURES[code])


class DeviceStack(NamedTuple):
    """Problems of one shape on a CUDA device."""

    costs: Tensor  # (batch, n, m)
    former: Former | None
    is_batch: bool  # whether the user's costs had the first axis

    def assignment(self, solution: DeviceSolutions) -> Assignment:
        """Return the result in the user's terms."""
        batch, n, m = self.costs.shape
        col_ind = solution.col4row
        row_ind = torch.arange(n, device=col_ind.device).expand(batch, n)
        if n > m:  # rows left over sort last
            row_ind = torch.where(col_ind < 0, n, row_ind).sort(dim=1).values[:, :m]
            col_ind = col_ind.gather(1, row_ind)
        each = torch.arange(batch, device=col_ind.device)[:, None]
        pairs = self.costs.detach()[each, row_ind, col_ind]
        fields = (
            row_ind, col_ind, solution.row_duals, solution.col_duals, pairs.double().sum(1),
            solution.gap,
        )  # fmt: skip
        return Assignment(*(fields if self.is_batch else (field[0] for field in fields)))


def solve_stacks(
    stacks: Sequence[DeviceStack], maximize: bool, name: Callable[[int], str]
) -> list[Assignment]:
    """Solve all problems; waits for the device, to see whether they could be.

    Raises:
        ValueError: as `check_status`, or the problems lie on several devices.
    """
    if len({stack.costs.device for stack in stacks}) > 1:
        found = ", ".join(str(stack.costs.device) for stack in stacks)
        raise ValueError(f"cost must lie on one device, got {found}")
    costs, formers = [stack.costs for stack in stacks], [stack.former for stack in stacks]
    solved = solve_on_device(costs, formers, maximize)
    check_status(torch.cat([solution.status for solution in solved]), name)
    return [stack.assignment(found) for stack, found in zip(stacks, solved, strict=True)]


def as_device_stack(
    cost: Tensor, start: object, argument: str, start_argument: str, ndims: tuple[int, ...]
) -> DeviceStack:
    """Return costs of shape (n, m) or (batch, n, m) as a stack.

    Raises:
        ValueError, TypeError: as `solve_assignment`.
    """
    costs = _as_device_costs(cost, argument)
    check_axes(cost.ndim, ndims, argument)
    if min(cost.shape[-2:]) > _MOST:
        raise ValueError(
            f"{argument} must have at most {_MOST} rows or columns on a CUDA device, "
            f"got {tuple(cost.shape)}"
        )
    is_batch = cost.ndim == 3
    former = None
    if start is not None:
        found = check_start(start, tuple(cost.shape), start_argument)
        col_ind, col_duals = (
            torch.as_tensor(part, device=cost.device) for part in (found.col_ind, found.col_duals)
        )
        former = (col_ind, col_duals) if is_batch else (col_ind[None], col_duals[None])
    return DeviceStack(costs if is_batch else costs[None], former, is_batch)


def _as_device_costs(cost: Tensor, argument: str) -> Tensor:
    """Return a CUDA tensor of any real dtype as float32 or float64, without loss.

    Raises:
        ValueError: integers that float64 can't tell apart, or no kernels in this build.
        TypeError: it is sparse, complex or quantized.
    """
    _check_kernels(cost, argument)
    dtype = cost.dtype
    if dtype.is_complex or cost.is_quantized or cost.layout != torch.strided:
        raise TypeError(
            f"{argument} must be a dense real tensor, got {dtype} with layout {cost.layout}"
        )
    if dtype in (torch.float32, torch.float64):
        return cost
    if dtype in (torch.int64, torch.uint64, torch.int32, torch.uint32):
        wide = cost.double()
        if dtype.itemsize == 8 and cost.numel() and wide.abs().max().item() >= _EXACT:
            raise ValueError(
                f"{argument} must hold integers below 2**53 on a CUDA device, got {dtype} with "
                "larger ones: move it with .cpu()"
            )
        return wide
    return cost.float()


def _check_kernels(cost: Tensor, argument: str) -> None:
    if not cost.is_cuda or _native.runs_on(cost.device):
        return
    if not _native.cuda_built():
        _native.as_array(cost, argument)  # says what to do
    capability = ".".join(map(str, torch.cuda.get_device_capability(cost.device)))
    raise ValueError(
        f"{argument} must be on a device of compute capability 8.0 or newer, "
        f"got {cost.device} with {capability}: move it with .cpu()"
    )


def _turned(solution: DeviceSolutions) -> DeviceSolutions:
    """Return the solution of a matrix of more rows than columns, whose transpose was solved."""
    row4col, col_duals, row_duals, gap, status = solution
    batch, m = row4col.shape
    n = row_duals.shape[1]
    # One entry more takes what was not found.
    col4row = row4col.new_full((batch, n + 1), -1)
    places = torch.where(row4col < 0, n, row4col)
    cols = torch.arange(m, device=row4col.device).expand(batch, m)
    return DeviceSolutions(
        col4row.scatter_(1, places, cols)[:, :n], row_duals, col_duals, gap, status
    )
