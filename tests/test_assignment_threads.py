"""Threads: concurrent calls, forks, and Ctrl-C while a batch is solved."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fastrebasin import Assignment, linear_sum_assignment, solve_assignment


def solve(batch: npt.NDArray[np.float64]) -> Assignment:
    return solve_assignment(batch)


def test_concurrent_calls_give_what_they_give_alone() -> None:
    rng = np.random.default_rng(0)
    costs: list[Any] = [rng.normal(size=(n, m)).astype(dtype)
                        for n, m in ((5, 5), (40, 30), (70, 70), (340, 350))
                        for dtype in (np.float32, np.float64) for _ in range(4)]  # fmt: skip
    batches = [rng.normal(size=(12, 60, 60)) for _ in range(4)]
    alone = [linear_sum_assignment(cost)[1] for cost in costs]
    alone_batches = [solve(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            found = pool.map(lambda cost: linear_sum_assignment(cost)[1], costs)
            found_batches = pool.map(solve, batches)
            for one, many in zip(alone, found, strict=True):
                assert np.array_equal(one, many)
            for first, second in zip(alone_batches, found_batches, strict=True):
                assert np.array_equal(first.col_ind, second.col_ind)
                assert np.array_equal(first.col_duals, second.col_duals)


_FORKED = """
import os, sys, warnings, numpy as np, torch
from fastrebasin import solve_assignment
torch.set_num_threads(3)
batch = np.random.default_rng(0).normal(size=(30, 60, 60))
expected = solve_assignment(batch).col_ind  # with threads, before the fork
child = os.fork()
if child == 0:
    same = np.array_equal(solve_assignment(batch).col_ind, expected)
    os._exit(0 if same else 1)
status = os.waitpid(child, 0)[1]
assert np.array_equal(solve_assignment(batch).col_ind, expected)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_process_solves() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORKED],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


_INTERRUPTED = """
import signal, time, numpy as np, torch
from fastrebasin import linear_sum_assignment, solve_assignment
hard = np.outer(np.arange(4000.0), np.arange(4000.0))  # any of these is minutes of work
many = np.broadcast_to(hard[:300, :300], (100000, 300, 300))
work = {
    "batch": lambda: solve_assignment(many),
    "list": lambda: solve_assignment([hard, hard, hard]),
    "last of a list": lambda: solve_assignment([np.eye(3), hard]),
    "transposed": lambda: linear_sum_assignment(hard.T, maximize=True),
}
signal.signal(signal.SIGALRM, signal.default_int_handler)
for threads in (1, 3):
    torch.set_num_threads(threads)
    for name, solve in work.items():
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        start = time.perf_counter()
        try:
            solve()
        except KeyboardInterrupt:
            seconds = time.perf_counter() - start
            well = solve_assignment(-np.eye(3)[None]).col_ind.tolist() == [[0, 1, 2]]
            print(name, threads, seconds if well else "broken", sep=",")
"""


def test_ctrl_c_stops_a_batch_and_leaves_nothing_behind() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    lines = [line.split(",") for line in run.stdout.splitlines()]
    assert len(lines) == 8, run.stderr
    for name, threads, seconds in lines:
        assert float(seconds) < 10, (name, threads)
