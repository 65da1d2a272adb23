"""The table of benchmarks: cheap and important ones first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from gpu_bench import assignment, correlation, crossings, matching
from gpu_bench.context import Context
from gpu_bench.row import Row

__all__ = ["BENCHMARKS", "Benchmark"]


class Benchmark(NamedTuple):
    """What yields rows, and the seconds after which it's stopped."""

    run: Callable[[Context], Iterator[Row]]
    limit: float


BENCHMARKS = {
    "cross-moments": Benchmark(correlation.flat, 60),
    "cross-moments-images": Benchmark(correlation.channels_first, 30),
    "assignment-batch": Benchmark(assignment.batch, 60),
    "assignment-4096": Benchmark(partial(assignment.single, n=4096, cold=5.0, warm=1.0), 90),
    "crossings": Benchmark(crossings.crossings, 60),
    "straight-through": Benchmark(matching.straight_through_step, 60),
    "assignment-1024": Benchmark(partial(assignment.single, n=1024), 40),
    "assignment-2048": Benchmark(partial(assignment.single, n=2048), 60),
    "rival-batch": Benchmark(assignment.rival_batch, 60),
    "weight-matching": Benchmark(matching.weight_matching, 60),
    "activation-matching": Benchmark(matching.activation_matching, 60),
    "assignment-16384": Benchmark(assignment.large, 90),
    "rival-4096": Benchmark(assignment.rival_single, 80),
}
