"""How often the host waits for the device inside a method, and what crosses to it."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from fastrebasin.matching.descent import WeightMatcher
from fastrebasin.permutation import identity_permutation
from gpu_bench.context import Context
from gpu_bench.networks import networks
from gpu_bench.row import Row, at_most

__all__ = ["Crossings", "crossings", "read_trace", "trace"]

WIDTH, BATCH = 4, 8
SMALL = 4096  # bytes of a flag, or of a few numbers for each group
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


class Crossings(NamedTuple):
    """What crossed from the device to the host.

    Attributes:
        waits: calls in which torch made the host wait.
        runtime_waits: calls of CUDA's runtime that wait, from torch or our own kernels.
        copies: from device to host.
        large: of them, those of more than `SMALL` bytes.
    """

    waits: int
    runtime_waits: int
    copies: int
    large: int

    def less(self, other: Crossings) -> Crossings:
        """Return what crossed beyond `other`."""
        return Crossings(*(mine - its for mine, its in zip(self, other, strict=True)))


def crossings(context: Context) -> Iterator[Row]:
    """Count what crosses in a weight matching, and in some steps of straight-through matching."""
    there = networks(context, WIDTH).to(context.device)
    matcher = WeightMatcher(there.spec, *there.states)
    start = identity_permutation(matcher.sizes)

    def match() -> int:
        return matcher.match(start, torch.Generator().manual_seed(0), 1000)[1]

    # What tracing does, or a search before its first and after its last step, is in both counts.
    sweeps = match()
    found = count(context, match).less(count(context, lambda: None))
    yield _row(f"weight matching, {there.name}", sweeps, found)
    few, many = (partial(there.search, BATCH, steps) for steps in context.pick((3, 8), (1, 2)))
    sweeps = many().sweeps - few().sweeps
    found = count(context, many).less(count(context, few))
    yield _row(f"straight-through steps, {there.name}", sweeps, found)


def _row(name: str, sweeps: int, found: Crossings) -> Row:
    a_sweep = {what: value / sweeps for what, value in found._asdict().items()}
    return Row(
        f"crossings, {name}",
        targets=(
            at_most("waits a sweep", a_sweep["waits"], 1.0),
            at_most("waits of the runtime a sweep", a_sweep["runtime_waits"], 1.0),
            at_most("copies to the host a sweep", a_sweep["copies"], 1.0),
            at_most(f"copies of over {SMALL} bytes", found.large, 0.0),
        ),
        facts={"sweeps": sweeps, **found._asdict()},
    )


def count(context: Context, call: Callable[[], Any]) -> Crossings:
    """Return what crosses during a call, which is called twice; nothing on the CPU."""
    if context.device.type != "cuda":
        call()
        return Crossings(0, 0, 0, 0)
    return read_trace(trace(call, ProfilerActivity.CUDA), _waits(call))


def trace(call: Callable[[], Any], activity: ProfilerActivity) -> dict[str, Any]:
    """Return what the profiler saw during a call, as Chrome reads it."""
    with profile(activities=[activity]) as profiler:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        found: dict[str, Any] = json.loads(path.read_text())
    return found


def _waits(call: Callable[[], Any]) -> int:
    """Return how many of torch's operations make the host wait."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def read_trace(seen: dict[str, Any], waits: int) -> Crossings:
    """Return what a trace tells of crossings, with torch's own count of waits."""
    events = [event for event in seen["traceEvents"] if event.get("ph") == "X"]
    sizes = [
        event["args"].get("bytes", 0) for event in events if event["name"].startswith("Memcpy DtoH")
    ]
    runtime = sum(event["name"] in WAITS for event in events)
    return Crossings(waits, runtime, len(sizes), sum(size > SMALL for size in sizes))
