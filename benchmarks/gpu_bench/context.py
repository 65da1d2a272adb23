"""Where a benchmark runs, how large it is, and how it times."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

__all__ = ["Call", "Context", "Mark", "Times"]

Call = Callable[[], Any]
Mark = Any  # a moment: an event of CUDA, or seconds
T = TypeVar("T")

REPEATS = 21
# Clocks of a GPU run at up to two for each nanosecond.
CYCLES = 2e9
SLACK = 1e-4  # seconds


class Times(NamedTuple):
    """Median seconds of a call.

    Attributes:
        called: from the call to the end of its work, on an idle device: what one waits.
        device: of its work alone, as the device had other work while it was called.
    """

    called: float
    device: float


@dataclass(frozen=True)
class Context:
    """What a benchmark is given.

    Attributes:
        device: that the benchmark runs on.
        quick: whether to run everything at a size that shows only that it runs.
        data_dir: a folder with MNIST, or None for scikit-learn's digits.
        ceilings: operations or bytes a second by the name of what reached them.
    """

    device: torch.device
    quick: bool = False
    data_dir: Path | None = None
    ceilings: Mapping[str, float] = field(default_factory=dict)

    def pick(self, full: T, quick: T) -> T:
        """Return the size for this run."""
        return quick if self.quick else full

    def copies(self, nbytes: int) -> int:
        """Return how many inputs of so many bytes, used in turn, are read from memory each time."""
        if self.device.type != "cuda":
            return 2
        cache = torch.cuda.get_device_properties(self.device).L2_cache_size
        return 1 + math.ceil(2 * cache / nbytes) if nbytes < 2 * cache else 1

    def times(self, calls: Sequence[Call], patience: float = 3.0) -> Times:
        """Return the medians of calls, which do the same on inputs of their own, in turn."""
        repeats = self.pick(REPEATS, 3)
        for call in calls:  # warm
            call()
        called = self._median(lambda k: self._once(calls[k % len(calls)]), repeats, patience)
        if self.device.type != "cuda":
            return Times(called, called)
        busy = self._seconds_to_call(calls[0]) + SLACK
        device = self._median(lambda k: self._once(calls[k % len(calls)], busy), repeats, patience)
        return Times(called, device)

    def replayed(self, call: Call) -> dict[str, float | str]:
        """Return the median seconds of a call that a CUDA graph replays, or why there are none."""
        if self.device.type != "cuda":
            return {}
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                call()
        except RuntimeError as error:
            return {"as a graph": f"not captured: {str(error).splitlines()[0]}"}
        return {"as a graph": self.times([graph.replay]).called}

    def host_seconds(self, call: Call, repeats: int = 3, patience: float = 3.0) -> float:
        """Return the median seconds of a call that works on the CPU, or waits for the device."""

        def once(_: int) -> float:
            start = time.perf_counter()
            call()
            self.wait()
            return time.perf_counter() - start

        return self._median(once, self.pick(repeats, 1), patience)

    def wait(self) -> None:
        """Wait until the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def mark(self) -> Mark:
        """Return this moment on the device."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start: Mark, end: Mark) -> float:
        """Return the seconds from one moment, which has passed, to another."""
        seconds: float = end - start if isinstance(start, float) else start.elapsed_time(end) / 1e3
        return seconds

    def _median(self, once: Callable[[int], float], repeats: int, patience: float) -> float:
        found, end = [], time.perf_counter() + patience
        for k in range(repeats):
            found.append(once(k))
            if time.perf_counter() > end:
                break
        return statistics.median(found)

    def _once(self, call: Call, busy: float = 0.0) -> float:
        """Return the seconds of one call, on a device that has been busy for so long before."""
        self.wait()
        if busy:
            torch.cuda._sleep(int(busy * CYCLES))
        start = self.mark()
        call()
        end = self.mark()
        self.wait()
        return self.between(start, end)

    def _seconds_to_call(self, call: Call) -> float:
        """Return how long the call keeps the host."""
        self.wait()
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
