"""The package's functions for a device, as benchmarks call them, whatever the build has of them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

import fastrebasin
from fastrebasin import _native
from fastrebasin.device_assignment import solve_on_device
from fastrebasin.statistics import Moments
from gpu_bench.context import Call

__all__ = ["PRECISIONS", "Solved", "moments", "precisions", "products", "solve"]

PRECISIONS = ("highest", "high", "medium")
Warm = tuple[Tensor, Tensor]


class Solved(NamedTuple):
    """The solution of a stack of costs of shape (batch, n, m), on their device."""

    col4row: Tensor  # (batch, n)
    col_duals: Tensor  # (batch, m)
    gap: Tensor  # (batch)


def solve(costs: Sequence[Tensor], warm: Sequence[Solved | None] | None = None) -> list[Solved]:
    """Minimise all matrices of all stacks at once; on a CUDA device, without waiting for it."""
    warm = [None] * len(costs) if warm is None else warm
    if not costs[0].is_cuda:
        return [_on_the_host(cost, former) for cost, former in zip(costs, warm, strict=True)]
    starts = [None if former is None else (former.col4row, former.col_duals) for former in warm]
    solved = solve_on_device(costs, starts, False)
    return [Solved(each.col4row, each.col_duals, each.gap) for each in solved]


def _on_the_host(costs: Tensor, former: Solved | None) -> Solved:
    start = None
    if former is not None:
        rows = torch.arange(costs.shape[1]).expand(costs.shape[:2])
        nothing = torch.zeros(costs.shape[:2], dtype=torch.float64)
        start = fastrebasin.Assignment(rows, former.col4row, nothing, former.col_duals, 0, 0)
    found = fastrebasin.solve_assignment(costs, warm_start=start)
    return Solved(found.col_ind, found.col_duals, found.gap)


def precisions() -> tuple[str, ...]:
    """Return the precisions that moments can be asked for."""
    known = "precision" in inspect.signature(Moments.update).parameters
    return PRECISIONS if known else PRECISIONS[:1]


def moments(x: Tensor, y: Tensor, axis: int, precision: str) -> Moments:
    """Return the moments of one batch, as a user gets them."""
    options: Any = {} if precision == "highest" else {"precision": precision}
    found = Moments()
    found.update(x, y, axis=axis, **options)
    return found


def products(x: Tensor, y: Tensor, axis: int, precision: str) -> Call:
    """Return a call of the kernel alone; of `moments` where there is none."""
    if not _native.has_cross_moments(x, y):
        return lambda: moments(x, y, axis, precision)
    shifts = [u.movedim(axis, 0).flatten(1).float().mean(1) for u in (x, y)]
    call: Any = _native.cross_moments
    if hasattr(_native, "Observations"):  # many pairs at once
        observations = [_native.Observations(x, y, axis, *shifts)]
        return lambda: call(observations, precision)
    return lambda: call(x, y, axis, *shifts)
