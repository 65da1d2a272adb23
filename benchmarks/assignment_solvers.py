"""Assignment solvers behind one signature, checked answers and fair times."""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import multiprocessing
import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.optimize

import fastrebasin

Matrix = npt.NDArray[Any]
Columns = npt.NDArray[np.int64]
Solver = Callable[[Matrix], Columns]  # the column of each row that minimises the sum

# Where a package's function has the columns in what it returns. lapx installs itself as `lap`.
PEERS: dict[tuple[str, str, str], tuple[dict[str, bool], int]] = {
    ("lapx", "lap", "lapjv"): ({"return_cost": False}, 0),
    ("lapx", "lap", "lapjvx"): ({"return_cost": False}, 1),
    ("lapx", "lap", "lapjvc"): ({"return_cost": False}, 1),
    ("lapx", "lap", "lapjvs"): ({"return_cost": False}, 1),
    ("lapx", "lap", "lapjvr"): ({"return_cost": False}, 1),
    ("lapx", "lap", "lapjvh"): ({"return_cost": False}, 1),
    ("lapjv", "lapjv", "lapjv"): ({}, 0),
}


def scipy_solver(cost: Matrix) -> Columns:
    """Solve with SciPy."""
    return np.asarray(scipy.optimize.linear_sum_assignment(cost)[1])


def our_solver(cost: Matrix) -> Columns:
    """Solve with fastrebasin, cold."""
    return fastrebasin.linear_sum_assignment(cost)[1]


def warm_solver(cost: Matrix, noise: float) -> Solver:
    """Return fastrebasin's solver started from the result before so much noise came."""
    rng = np.random.default_rng(0)
    change = np.float32(noise * cost.std()) * rng.standard_normal(cost.shape, np.float32)
    former = fastrebasin.solve_assignment(cost + change)
    return lambda c: np.asarray(fastrebasin.solve_assignment(c, warm_start=former).col_ind)


def _adapt(function: Callable[..., Any], options: dict[str, bool], position: int) -> Solver:
    return lambda cost: np.asarray(function(cost, **options)[position], dtype=np.int64)


def installed_peers() -> tuple[dict[str, Solver], dict[str, str]]:
    """Return the peers that are installed by name, and the versions of their packages."""
    solvers: dict[str, Solver] = {}
    versions: dict[str, str] = {}
    for (package, module, name), (options, position) in PEERS.items():
        try:
            versions[package] = importlib.metadata.version(package)
            function = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            versions.setdefault(package, "not installed")
            continue
        solvers[f"{package}.{name}"] = _adapt(function, options, position)
    return solvers, versions


def lower_bound(cost: Matrix) -> float:
    """Return a sum that no assignment is below, from our duals but without trust in them.

    Weak duality: whatever the column duals v are, the sum over rows of min(cost - v), plus the sum
    of v, is a bound. In float64, some rows at a time.
    """
    v = fastrebasin.solve_assignment(cost).col_duals
    step = max(1, 2**22 // max(1, cost.shape[1]))
    minima = [
        (cost[i : i + step].astype(np.float64) - v).min(axis=1) for i in range(0, len(cost), step)
    ]
    return float(np.concatenate(minima).sum() + v.sum())


def cpu_seconds(function: Callable[[], Any], entries: int) -> tuple[float, Any]:
    """Return the thread's CPU time of a call and its result; on few entries, of many calls."""
    calls = max(1, 2**14 // max(1, entries))
    start = time.thread_time()
    for _ in range(calls):
        result = function()
    return (time.thread_time() - start) / calls, result


def cpu_seconds_within(
    limit: float, function: Callable[[], Any], entries: int
) -> tuple[float, Any] | None:
    """Return the same of a call in a forked child; None where it took more CPU time than that."""
    fork = multiprocessing.get_context("fork")
    receive, send = fork.Pipe(duplex=False)

    def work() -> None:
        signal.setitimer(signal.ITIMER_PROF, limit)  # whose signal ends the process
        send.send(cpu_seconds(function, entries))

    child = fork.Process(target=work)
    child.start()
    send.close()
    try:
        found: tuple[float, Any] = receive.recv()
    except EOFError:
        return None
    finally:
        child.join()
    return found


@dataclass
class Judge:
    """Decides whether an answer to one square problem is optimal, in float64.

    The bound is a proof, which SciPy's answer has to meet too: so what is accepted equals SciPy's
    objective, and where SciPy would take minutes there still is a check.
    """

    cost: Matrix
    best: float = field(init=False)
    tolerance: float = field(init=False)

    def __post_init__(self) -> None:
        self.best = lower_bound(self.cost)
        largest = max(abs(float(self.cost.min())), abs(float(self.cost.max())))
        self.tolerance = 1e-11 * largest * len(self.cost)

    def excess(self, columns: Columns) -> float:
        """Return by how much the columns' sum misses the optimum; infinity for no permutation."""
        n = len(self.cost)
        if not np.array_equal(np.sort(columns), np.arange(n)):
            return math.inf
        objective = self.cost[np.arange(n), columns].astype(np.float64).sum()
        return abs(float(objective) - self.best)

    def accepts(self, columns: Columns) -> bool:
        """Whether the columns are a permutation whose sum is the optimum, up to rounding."""
        return self.excess(columns) <= self.tolerance


@dataclass
class Timer:
    """Times solvers in turns, and skips what would take longer than one is willing to wait.

    Matrices of `limit_from` rows and more are given to rivals in child processes, which are killed
    after `limit` times our own time: nothing is skipped, and what takes hours takes seconds.
    """

    repeats: int
    patience: float  # seconds
    largest_for_peers: int
    limit: float = math.inf
    limit_from: int = 0
    _last: dict[tuple[str, str], tuple[int, float]] = field(default_factory=dict)

    def measure(
        self, name: str, cost: Matrix, solvers: dict[str, Solver]
    ) -> dict[str, float | str]:
        """Return each solver's median of the thread's CPU seconds, or why not."""
        judge = Judge(cost)
        found: dict[str, float | str] = {}
        times: dict[str, list[float]] = {}
        for solver in solvers:
            if self._is_too_slow(solver, name, len(cost)):
                found[solver] = "skipped"
            else:
                times[solver] = []
        for turn in range(self.repeats):
            for solver, taken in times.items():
                if turn and (solver in found or max(taken) > self.patience):
                    continue
                solve = partial(solvers[solver], cost)
                if self._is_limited(solver, len(cost)):
                    answer = cpu_seconds_within(self.limit * max(times["ours"]), solve, cost.size)
                else:
                    answer = cpu_seconds(solve, cost.size)
                if answer is None:
                    found[solver] = f"over {self.limit:g} times ours"
                    continue
                seconds, columns = answer
                taken.append(seconds)
                if not judge.accepts(columns):
                    found[solver] = f"WRONG by {judge.excess(columns):.1e}"
        for solver, values in times.items():
            if solver not in found:
                found[solver] = statistics.median(values)
                self._last[solver, name] = len(cost), max(values)
        return found

    def _is_limited(self, solver: str, n: int) -> bool:
        return self.limit < math.inf and n >= self.limit_from and not solver.startswith("ours")

    def _is_too_slow(self, solver: str, name: str, n: int) -> bool:
        """Whether the cube of the size, or the size itself, says not to start a solver."""
        if solver.startswith("ours") or self._is_limited(solver, n):
            return False
        if (solver, name) not in self._last:
            return n > self.largest_for_peers
        size, seconds = self._last[solver, name]
        return seconds * (n / size) ** 3 > self.patience


def fastest_read(cost: Matrix, repeats: int) -> tuple[str, float]:
    """Return the plain pass over the matrix that is fastest here, and its median seconds."""
    passes: dict[str, Callable[[], object]] = {"max": cost.max, "min": cost.min, "sum": cost.sum}
    medians = {
        name: statistics.median(cpu_seconds(read, cost.size)[0] for _ in range(max(5, repeats)))
        for name, read in passes.items()
    }
    best = min(medians, key=lambda name: medians[name])
    return best, medians[best]
