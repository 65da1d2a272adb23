"""The benchmark of a GPU: that all of it runs, and that it can tell right from wrong and slow."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import scipy.optimize
import torch
from gpu_bench import checks, crossings, proof
from gpu_bench.adapters import Solved, solve
from gpu_bench.catalogue import BENCHMARKS
from gpu_bench.context import Context
from gpu_bench.record import Record
from gpu_bench.row import Row, at_least, at_most
from gpu_bench.worker import Failure, Worker
from torch.profiler import ProfilerActivity

ROOT = Path(__file__).parents[1]
ABOUT = {"device": {"name": "a device"}, "versions": {}, "commit": "0", "date": "today"}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "benchmarks/gpu.py", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # threads wait for each other on a busy machine
    )  # fmt: skip


@pytest.mark.slow
def test_everything_runs_at_small_sizes(tmp_path: Path) -> None:
    found = run("--out", tmp_path, "--device", "cpu", "--quick", "--no-tests")
    assert found.returncode == 0, found.stdout + found.stderr
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert record["complete"]
    assert len(record["ceilings"]) == 4
    rows = {row["name"]: row for row in record["rows"]}
    assert not [row for row in rows.values() if row["error"] or row["wrong"]]
    assert len(rows) >= 4 + len(BENCHMARKS)
    table = (tmp_path / "gpu.md").read_text()
    assert all(f"| {name} |" in table for name in rows)
    moments = next(row for name, row in rows.items() if name.startswith("cross-moments"))
    share = moments["flop"] / moments["device_seconds"] / record["ceilings"]["TF32 product"]
    assert moments["shares"]["TF32 product / 3"] == pytest.approx(3 * share)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_machine_without_a_gpu_is_told_apart_from_a_failure(tmp_path: Path) -> None:
    found = run("--out", tmp_path / "none")
    assert found.returncode == 2
    assert "no CUDA device" in found.stderr
    assert not (tmp_path / "none").exists()


def counts_then_fails(count: int) -> Iterator[int]:
    yield from range(count)
    raise ValueError("enough")


def dies() -> Iterator[int]:
    yield 1
    os._exit(7)


def hangs() -> Iterator[int]:
    yield 1
    time.sleep(600)


@pytest.mark.slow
def test_a_worker_hands_out_what_came_before_a_failure_and_goes_on() -> None:
    with Worker() as worker:
        for job, arguments, before, reason in (
            (counts_then_fails, (3,), [0, 1, 2], "ValueError: enough"),
            (dies, (), [1], "its process died"),
            (hangs, (), [1], "stopped after 1 s"),
        ):
            came: list[int] = []
            limit = 1 if job is hangs else 60
            with pytest.raises(Failure, match=reason):
                came.extend(worker.run(job, *arguments, limit=limit))
            assert came == before
            assert list(worker.run(range, 2, limit=60)) == [0, 1]


def test_targets_hold_up_to_their_bound() -> None:
    assert at_least("x", 3.0, 3.0).holds
    assert at_most("x", 3.0, 3.0).holds
    assert at_least("x", 2.9, 3.0).holds is False
    assert at_most("x", 3.1, 3.0).holds is False
    assert at_least("x", None, 3.0).holds is None


def test_a_record_names_what_failed_and_what_was_missed(tmp_path: Path) -> None:
    record = Record(tmp_path, ABOUT)
    record.add(Row("late", error="stopped"))
    record.add(Row("late", 2.0, targets=(at_most("s", 2.0, 1.0),), peers={"other": 6.0}))
    record.add(Row("off", 1.0, checked="off by 3", wrong=True))
    record.add(checks.Check("tests", False, "1 failed"))
    record.add(checks.Check("memcheck", None, "not found"))
    assert record.failures == ["tests: 1 failed", "off: off by 3"]
    assert len(record.missed) == 1
    text = (tmp_path / "gpu.md").read_text()
    assert "| late | 2 s |" in text
    assert "other 6 s (x3)" in text
    assert "**WRONG: off by 3**" in text
    assert json.loads((tmp_path / "gpu.json").read_text())["complete"] is False


def test_only_an_optimum_is_proved() -> None:
    costs = torch.randn(3, 6, 6)
    best = torch.stack(
        [torch.from_numpy(scipy.optimize.linear_sum_assignment(cost)[1]) for cost in costs]
    )
    solved = solve([costs])[0]
    assert torch.equal(solved.col4row, best)
    assert proof.worst([costs], [solved], [proof.objective(costs, best)]) <= 1.0
    for duals in (solved.col_duals, torch.randn(3, 6, dtype=torch.float64)):
        for order in itertools.islice(itertools.permutations(range(6)), 0, 720, 7):
            columns = torch.tensor(order).expand(3, 6)
            off = proof.excess(costs, Solved(columns, duals, solved.gap))
            lost = proof.objective(costs, columns) - proof.objective(costs, best)
            assert (off >= lost - proof.tolerance(costs)).all()
    twice = solved.col4row.clone()
    twice[1, 0] = twice[1, 1]
    assert proof.worst([costs], [solved._replace(col4row=twice)]) == torch.inf
    assert proof.worst([costs], [solved], [proof.objective(costs, best) + 1e-6]) > 1.0


def test_crossings_are_read_from_a_trace() -> None:
    def event(name: str, **args: int) -> dict[str, object]:
        return {"ph": "X", "name": name, "args": args}

    events = [
        event("Memcpy DtoH (Device -> Pageable)", bytes=8),
        event("Memcpy DtoH (Device -> Pinned)", bytes=1 << 20),
        event("Memcpy HtoD (Pageable -> Device)", bytes=1 << 20),
        event("Memcpy DtoD (Device -> Device)", bytes=1 << 20),
        event("cudaStreamSynchronize"),
        event("cudaMemcpyAsync"),
        {"ph": "i", "name": "cudaStreamSynchronize"},
    ]
    found = crossings.read_trace({"traceEvents": events}, waits=3)
    assert found == crossings.Crossings(waits=3, runtime_waits=1, copies=2, large=1)
    assert found.less(found) == crossings.Crossings(0, 0, 0, 0)


def test_a_trace_holds_what_was_called() -> None:
    seen = crossings.trace(lambda: torch.zeros(3).add_(1), ProfilerActivity.CPU)
    assert any(event.get("name") == "aten::add_" for event in seen["traceEvents"])


class Device:
    """Stands in for a CUDA device: a clock, and what it was told."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, list[str]()

    def sleep(self, cycles: int) -> None:
        self.calls.append("busy")
        self.now += cycles / 2e9

    def work(self, name: str, seconds: float) -> None:
        self.calls.append(name)
        self.now += seconds


def test_times_are_of_the_calls_alone_and_inputs_take_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = Device()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.time = device.now

        def elapsed_time(self, end: Event) -> float:
            return 1e3 * (end.time - self.time)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", device.sleep)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    properties = SimpleNamespace(L2_cache_size=100)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    context = Context(torch.device("cuda"))
    times = context.times([lambda: device.work("a", 0.25), lambda: device.work("b", 0.25)])
    assert times == pytest.approx((0.25, 0.25))
    assert device.calls[:4] == ["a", "b", "a", "b"]
    assert "busy" in device.calls
    assert [context.copies(nbytes) for nbytes in (50, 150, 200, 1000)] == [5, 3, 1, 1]


@pytest.mark.parametrize(
    ("says", "status", "passed"),
    [
        ("ERROR SUMMARY: 0 errors", 0, True),
        ("ERROR SUMMARY: 2 errors", 9, False),
        ("Error: Device not supported", 1, None),
        ("Traceback: no module", 1, False),
    ],
)
def test_a_sanitizers_verdict_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, status: int, passed: bool | None
) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = list(checks.sanitizers(tmp_path, limit=30.0))
    assert [check.name for check in found] == ["memcheck", "racecheck"]
    assert all(check.passed is passed for check in found)
    assert all(says in check.found or passed is None for check in found)


def test_the_problems_for_sanitizers_are_solved() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "gpu_bench.small_problems", "--device", "cpu"],
        cwd=ROOT / "benchmarks", capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("right") == 2
