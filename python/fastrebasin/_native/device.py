"""The core's work on a CUDA device: tensors in, tensors out, on the device's current stream."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from fastrebasin import _core
from fastrebasin._precision import Precision
from fastrebasin._unit_pairs import ELEMENTS, aligned

__all__ = [
    "CrossMoments", "DeviceSolutions", "Factors", "Observations", "cross_moments", "cuda_build",
    "cuda_built", "has_cross_moments", "runs_on", "solve_device_assignments", "summed_products",
]  # fmt: skip

_OLDEST = (8, 0)  # compute capability of the oldest devices that the kernels are for
# By the numbers that the core knows them by.
_PRECISIONS: dict[Precision, int] = {"highest": 0, "high": 1, "medium": 2}


def cuda_built() -> bool:
    """Whether the core was built with CUDA kernels."""
    return _core.cuda_built()


def cuda_build() -> tuple[str, str]:
    """Return what compiled the CUDA kernels, and for which GPU generations; empty without any."""
    return _core.cuda_build()


class DeviceSolutions(NamedTuple):
    """What the core says of matrices of shape (batch, n, m) on a CUDA device, without waiting."""

    col4row: torch.Tensor  # (batch, n) int64; -1 for a row that is left over
    row_duals: torch.Tensor  # (batch, n) float64
    col_duals: torch.Tensor  # (batch, m) float64
    gap: torch.Tensor  # (batch) float64
    status: torch.Tensor  # (batch) int32: 0 solved, 1 an entry isn't valid, 2 infeasible


def solve_device_assignments(
    stacks: Sequence[torch.Tensor],
    warm: Sequence[tuple[torch.Tensor, torch.Tensor] | None],
    maximize: bool,
) -> list[DeviceSolutions]:
    """Solve all matrices of all stacks on their CUDA device, on its current stream.

    Each stack has shape (batch, n, m) with n <= m, float32 or float64, and contiguous rows. Its
    warm start is (col4row, col_duals) of former results of shape (batch, n); it only counts for
    square matrices.
    """
    device = stacks[0].device
    found, given = [], []
    for costs, former in zip(stacks, warm, strict=True):
        batch, n, m = costs.shape
        new = torch.empty if n else torch.zeros  # the core leaves out what is empty
        numbers = new(batch * (n + m + 1), dtype=torch.float64, device=device)
        row_duals, col_duals, gap = numbers.split([batch * n, batch * m, batch])
        solution = DeviceSolutions(
            torch.empty(batch, n, dtype=torch.int64, device=device),
            row_duals.view(batch, n),
            col_duals.view(batch, m),
            gap,
            new(batch, dtype=torch.int32, device=device),
        )
        shape = (batch, n, m, costs.stride(0), costs.stride(1))
        start = (0, 0) if former is None else (former[0].data_ptr(), former[1].data_ptr())
        address = costs.data_ptr(), costs.dtype == torch.float64
        col4row, *_, status = (tensor.data_ptr() for tensor in solution)
        numbers_found = row_duals.data_ptr(), col_duals.data_ptr(), gap.data_ptr()
        given.append((*address, shape, start, (col4row, *numbers_found, status)))
        found.append(solution)
    room = _core.device_assignments_workspace(given)
    workspace = torch.empty(room, dtype=torch.uint8, device=device)
    stream = torch.cuda.current_stream(device)
    _core.solve_device_assignments(
        given, maximize, workspace.data_ptr(), stream.device_index, stream.cuda_stream
    )
    return found


class Observations(NamedTuple):
    """The same observations of n units of x and m of y, each with what is taken off its values."""

    x: torch.Tensor
    y: torch.Tensor
    axis: int  # of the units, in both
    shift_x: torch.Tensor | None = None  # (n), contiguous float32; found if both are None
    shift_y: torch.Tensor | None = None  # (m)


class CrossMoments(NamedTuple):
    """Sums over observations of n units of x and m of y, about their shifts: float64."""

    products: torch.Tensor  # (n, m)
    sums_x: torch.Tensor  # (n)
    squares_x: torch.Tensor
    sums_y: torch.Tensor  # (m)
    squares_y: torch.Tensor
    shift_x: torch.Tensor  # (n), float32
    shift_y: torch.Tensor  # (m)


@functools.lru_cache
def runs_on(device: torch.device) -> bool:
    """Whether the core has kernels that a CUDA device can run."""
    return cuda_built() and torch.cuda.get_device_capability(device) >= _OLDEST


def has_cross_moments(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Whether the core has kernels for two tensors' device and dtypes, and there is any work."""
    known = x.dtype in ELEMENTS and y.dtype in ELEMENTS
    return x.is_cuda and runs_on(x.device) and known and x.numel() > 0 and y.numel() > 0


def cross_moments(
    observations: Sequence[Observations], precision: Precision = "highest"
) -> list[CrossMoments]:
    """Sum the products of units of many pairs on one CUDA device, on the current stream.

    Args:
        observations: tensors as `has_cross_moments` accepts, read as they lie.
        precision: of the products; sums of values and of squares are float32 or wider.
    """
    device = observations[0].x.device
    found, pairs, unshifted, kept = [], [], [], []
    for each in observations:
        sums = _zeros(each, device)
        pair = aligned(each.x, each.y, each.axis)
        kept.append(pair)  # copies among them
        of_x, of_y = (sums.shift_x, *sums[1:3]), (sums.shift_y, *sums[3:5])
        pairs.append(pair.addresses(sums.products, of_x, of_y))
        found.append(sums)
        if each.shift_x is None:
            unshifted.append(pairs[-1])
    if unshifted:
        stream = torch.cuda.current_stream(device)
        _core.find_shifts(unshifted, stream.device_index, stream.cuda_stream)
    _add_products(pairs, precision, device)
    return found


class Factors(NamedTuple):
    """The same observations of n units of x and m of y, in another order along an axis."""

    x: torch.Tensor
    y: torch.Tensor
    axis: int  # of the units, in both
    gathered: int | None = None  # an axis of observations
    order: torch.Tensor | None = None  # where y's lie on it; contiguous int64, on the device


def summed_products(
    sums: Sequence[Sequence[Factors]], precision: Precision = "highest"
) -> list[torch.Tensor]:
    """Return sums over terms of the products of x's units with y's: float64, of shape (n, m) each.

    Nothing is copied to be gathered. All terms lie on one CUDA device, and have dtypes that
    `has_cross_moments` accepts; none may be empty.
    """
    found = [
        torch.zeros(
            terms[0].x.shape[terms[0].axis], terms[0].y.shape[terms[0].axis],
            dtype=torch.float64, device=terms[0].x.device,
        )
        for terms in sums
    ]  # fmt: skip
    # The first terms of all, then the second ones: what adds to one matrix can't be done at once.
    pairs, kept = [], []
    for row in itertools.zip_longest(*sums):
        for products, term in zip(found, row, strict=True):
            if term is not None:
                kept.append(aligned(term.x, term.y, term.axis, term.gathered))
                pairs.append(kept[-1].addresses(products, index=term.order))
    _add_products(pairs, precision, found[0].device)
    return found


def _zeros(observations: Observations, device: torch.device) -> CrossMoments:
    """Return sums over nothing, in one piece of memory, and shifts as given or yet to be found."""
    x, y, axis, shift_x, shift_y = observations
    n, m = x.shape[axis], y.shape[axis]
    sizes = n * m, n, n, m, m
    zeros = torch.zeros(sum(sizes), dtype=torch.float64, device=device)
    products, sums_x, squares_x, sums_y, squares_y = zeros.split(sizes)
    if shift_x is None or shift_y is None:
        shift_x = torch.empty(n, device=device)
        shift_y = shift_x if y is x else torch.empty(m, device=device)
    sums = sums_x, squares_x, sums_y, squares_y
    return CrossMoments(products.view(n, m), *sums, shift_x, shift_y)


def _add_products(pairs: Sequence[Any], precision: Precision, device: torch.device) -> None:
    """Queue the kernels on the device's current stream."""
    stream = torch.cuda.current_stream(device)
    place = _PRECISIONS[precision], stream.device_index
    room = _core.cross_moments_workspace(pairs, *place)
    workspace = torch.empty(room, dtype=torch.uint8, device=device)
    _core.add_cross_moments(
        pairs, place[0], workspace.data_ptr(), stream.device_index, stream.cuda_stream
    )
