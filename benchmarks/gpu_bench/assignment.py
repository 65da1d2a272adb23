"""Exact assignment on problems of trained networks: cold, and warm after a drift."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from assignment_matrices import Case, cases
from torch import Tensor

from gpu_bench import adapters, proof
from gpu_bench.context import Context, Times
from gpu_bench.host import SCIPY, Host, drifted
from gpu_bench.rivals import compare
from gpu_bench.row import Row, Target, at_least, at_most

__all__ = ["batch", "large", "rival_batch", "rival_single", "single"]

LARGEST_FOR_SCIPY = 2048  # of every matrix


@dataclass(frozen=True)
class Bounds:
    """What times should be: at most so many milliseconds, and times shorter than others'."""

    cold: float | None = None
    warm: float | None = None
    scipy: float | None = None
    cpu: float | None = None

    def targets(self, times: Times, peers: dict[str, float], *, warm: bool) -> list[Target]:
        """Return them for one row."""
        found, bound = [], self.warm if warm else self.cold
        if bound is not None:
            found.append(at_most("ms", 1e3 * times.called, bound))
        if self.scipy is not None and SCIPY in peers:
            found.append(at_least("SciPy / ours", peers[SCIPY] / times.called, self.scipy))
        cpu = min(seconds for name, seconds in peers.items() if name != SCIPY)
        if self.cpu is not None:
            found.append(at_least("CPU / ours", cpu / times.called, self.cpu))
        return found


def batch(context: Context) -> Iterator[Row]:
    """Measure twelve problems of the sizes of ResNet20 at 16 times its width, at once."""
    sizes = context.pick((256, 512, 1024), (16, 32))
    stacks = [torch.stack([cost for _, cost in _trained(context, n)]) for n in sizes]
    name = f"{sum(map(len, stacks))} of {', '.join(map(str, sizes))}"
    yield from _measure(context, name, stacks, Bounds(cold=3.0, warm=0.6), scipy=True)


def single(
    context: Context, n: int, cold: float | None = None, warm: float | None = None
) -> Iterator[Row]:
    """Measure the problems of two layers of width n, and one of dead units, one at a time."""
    n, bounds = context.pick(n, n // 64), Bounds(cold, warm, scipy=100.0, cpu=1.0)
    for name, cost in [*_trained(context, n), *_synthetic(context, n, "dead units")]:
        # SciPy takes seconds: it's asked about the trained layer with more dead units.
        scipy = n <= LARGEST_FOR_SCIPY or "layer 2" in name
        yield from _measure(context, f"{n}, {name}", [cost[None]], bounds, scipy=scipy)


def large(context: Context) -> Iterator[Row]:
    """Measure correlations by few causes, with and without dead units, of wide layers."""
    n, bounds = context.pick(16384, 256), Bounds(cold=50.0, cpu=1.0)
    for name, cost in _synthetic(context, n, "low rank", "dead units"):
        yield from _measure(context, f"{n}, {name}", [cost[None]], bounds, scipy=False)


def rival_batch(context: Context) -> Iterator[Row]:
    """Measure many small problems beside a rival that is made for them."""
    count, n = context.pick((208, 300), (3, 10))
    generator = torch.Generator(context.device).manual_seed(0)
    costs = torch.rand(count, n, n, generator=generator, device=context.device)
    yield compare(context, f"{count} of {n}, uniform", costs, bound=3.0)


def rival_single(context: Context) -> Iterator[Row]:
    """Measure one large problem beside the same rival."""
    name, cost = _trained(context, context.pick(4096, 64))[-1]
    yield compare(context, f"{len(cost)}, {name}", cost[None], bound=20.0)


def _trained(context: Context, n: int) -> list[tuple[str, Tensor]]:
    """Return the four problems of two networks of width n, late in their training."""
    late = _late_in_training(n, context.data_dir, context.device)
    return [
        (", ".join(case.name.split(", ")[-2:]), torch.from_numpy(case.cost).to(context.device))
        for case in late
    ]


@functools.cache
def _late_in_training(n: int, data_dir: Path | None, device: torch.device) -> list[Case]:
    return list(cases(n, ["digits" if data_dir is None else "mnist"], data_dir, device))[-4:]


def _synthetic(context: Context, n: int, *kinds: str) -> Iterator[tuple[str, Tensor]]:
    for case in cases(n, list(kinds), None):
        yield case.name, torch.from_numpy(case.cost).to(context.device)


def _measure(
    context: Context, name: str, stacks: list[Tensor], bounds: Bounds, *, scipy: bool
) -> Iterator[Row]:
    """Yield a row from nothing, and one from the result before a drift."""
    host = Host(stacks)
    former = adapters.solve(drifted(stacks))
    nbytes = sum(4 * cost.numel() for cost in stacks)
    inputs = [[cost.clone() for cost in stacks] for _ in range(context.copies(nbytes))]
    for warm in (False, True):
        start = former if warm else None
        solved = adapters.solve(stacks, start)
        excess = proof.worst(stacks, solved, host.objectives)
        times = context.times([partial(adapters.solve, each, start) for each in inputs])
        graph = context.replayed(partial(adapters.solve, stacks, start))
        peers = host.seconds(context, warm=warm, scipy=scipy and not warm)
        yield Row(
            f"assignment, {name}, {'warm' if warm else 'cold'}",
            times.called, times.device, nbytes=nbytes,
            peers=peers | graph,
            checked=f"{excess:.1e} of the tolerance off the optimum",
            wrong=not excess <= 1.0,
            targets=tuple(bounds.targets(times, peers, warm=warm)),
            facts={"gap": max(each.gap.max().item() for each in solved)},
        )  # fmt: skip
