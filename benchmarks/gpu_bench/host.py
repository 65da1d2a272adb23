"""The CPU's answers to the same problems: ours on one thread and on all, and SciPy's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from functools import partial

import scipy.optimize
import torch
from torch import Tensor

import fastrebasin
from gpu_bench.context import Context

__all__ = ["SCIPY", "Host", "threads"]

SCIPY = "SciPy"
DRIFT = 0.01  # of a deviation


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch, and what asks it, use so many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def drifted(stacks: Sequence[Tensor]) -> list[Tensor]:
    """Return costs as they may have been a training step ago."""
    generator = torch.Generator(stacks[0].device).manual_seed(0)
    return [
        cost + DRIFT * cost.std() * torch.randn(cost.shape, generator=generator, device=cost.device)
        for cost in stacks
    ]


class Host:
    """Solves on the CPU what lies on a device.

    Attributes:
        objectives: of the matrices of each stack (batch), float64.
    """

    def __init__(self, stacks: Sequence[Tensor]) -> None:
        self._costs = _matrices(stacks)
        self._former = fastrebasin.solve_assignment([*_matrices(drifted(stacks))])
        solved = iter(fastrebasin.solve_assignment([*self._costs]))
        self.objectives = [
            torch.stack([next(solved).objective for _ in cost]).to(cost.device) for cost in stacks
        ]

    def seconds(self, context: Context, *, warm: bool, scipy: bool) -> dict[str, float]:
        """Return the median seconds of each solver."""
        found, former = {}, self._former if warm else None
        for count in sorted({1, os.cpu_count() or 1}):
            solve = partial(fastrebasin.solve_assignment, self._costs, warm_start=former)
            with threads(count):
                name = f"CPU, {count} thread{'s' * (count > 1)}"
                found[name] = context.host_seconds(solve)
        if scipy:
            found[SCIPY] = context.host_seconds(self._by_scipy, repeats=1)
        return found

    def _by_scipy(self) -> None:
        for cost in self._costs:
            scipy.optimize.linear_sum_assignment(cost.numpy())


def _matrices(stacks: Sequence[Tensor]) -> list[Tensor]:
    return [matrix for cost in stacks for matrix in cost.cpu()]
