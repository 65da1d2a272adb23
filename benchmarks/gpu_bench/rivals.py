"""Another exact solver for batches on a GPU, where it's installed: torch-linear-assignment."""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gpu_bench import adapters, proof
from gpu_bench.context import Context
from gpu_bench.row import Row, at_least
from gpu_bench.worker import Failure, Worker

__all__ = ["compare"]

NAME = "torch-linear-assignment"
LIMIT = 40.0  # seconds, with its process's start and its compilation
CALLS = 8

Costs = npt.NDArray[np.float32]


def compare(context: Context, name: str, costs: Tensor, *, bound: float) -> Row:
    """Time both solvers on costs of shape (batch, n, n), cold."""
    solved = adapters.solve([costs])
    excess = proof.worst([costs], solved)
    inputs = [costs.clone() for _ in range(context.copies(4 * costs.numel()))]
    times = context.times([partial(adapters.solve, [each]) for each in inputs])
    theirs, least = _rival(context, costs, proof.objective(costs, solved[0].col4row))
    ratio = None if least is None else least / times.called
    return Row(
        f"assignment, {name}, beside {NAME}",
        times.called, times.device, nbytes=4.0 * costs.numel(),
        peers={NAME: theirs},
        checked=f"{excess:.1e} of the tolerance off the optimum",
        wrong=not excess <= 1.0,
        targets=(at_least(f"{NAME} / ours", ratio, bound),),
    )  # fmt: skip


def _rival(context: Context, costs: Tensor, best: Tensor) -> tuple[float | str, float | None]:
    """Return the rival's seconds, or what became of it, and the seconds that it takes at least."""
    if importlib.util.find_spec(NAME.replace("-", "_")) is None:
        return "not installed", None
    seconds: list[float] = []
    since = None
    with Worker() as worker:
        try:
            for taken, sums in worker.run(_solve, context, costs.cpu().numpy(), limit=LIMIT):
                since = time.perf_counter()
                if taken:
                    seconds.append(taken)
                    off = (torch.from_numpy(sums) - best.cpu()).abs() / proof.tolerance(costs).cpu()
                    if not off.max() <= 1.0:
                        return f"wrong by {off.max():.1e} of the tolerance", None
        except Failure as failure:
            if not seconds and since is not None:
                waited = time.perf_counter() - since
                return f"over {waited:.0f} s", waited
            if not seconds:
                return str(failure), None
    median = statistics.median(seconds)
    return median, median


def _solve(context: Context, costs: Costs) -> Iterator[tuple[float, Costs | None]]:
    """Yield zero when all is compiled, then the seconds of each call and the sums that it found."""
    solve = importlib.import_module(NAME.replace("-", "_")).batch_linear_assignment
    cost = torch.from_numpy(costs).to(context.device)
    solve(-torch.eye(cost.shape[1], device=cost.device).expand_as(cost).contiguous())  # easy
    context.wait()
    yield 0.0, None
    for _ in range(context.pick(CALLS, 2)):
        start = time.perf_counter()
        columns = solve(cost)
        context.wait()
        taken = time.perf_counter() - start
        yield taken, proof.objective(cost, columns).cpu().numpy()
