"""Correctness on the device: the project's own tests there, and NVIDIA's sanitizers."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

__all__ = ["Check", "sanitizers", "tests"]

ROOT = Path(__file__).parents[2]
TOOLS = ("memcheck", "racecheck")
FOUND = 9  # exit status of the sanitizer for what it is looking for


@dataclass(frozen=True)
class Check:
    """Whether something holds; None where that couldn't be found out."""

    name: str
    passed: bool | None
    found: str
    seconds: float = 0.0


def tests(folder: Path, limit: float) -> Check:
    """Run all tests that have a variant for the device; `tests.txt` and `tests.xml` tell more."""
    report = folder / "tests.xml"
    report.unlink(missing_ok=True)
    command = [
        sys.executable, "-m", "pytest", "-k", "cuda", "-q", "-p", "no:cacheprovider",
        f"--junitxml={report}",
    ]  # fmt: skip
    status, output, seconds = _run(command, folder / "tests.txt", limit)
    if not report.is_file():
        reason = f"stopped after {limit:.0f} s" if status is None else f"exit status {status}"
        return Check("tests", False, f"{reason}: {_last_line(output)}", seconds)
    suite = next(ElementTree.parse(report).iter("testsuite"))
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    failed = counts["failures"] + counts["errors"]
    names = [
        str(case.get("name"))
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    found = f"{passed} passed, {failed} failed, {counts['skipped']} skipped, in {seconds:.0f} s"
    return Check("tests", passed > 0 and not failed, "; ".join([found, *names[:20]]), seconds)


def sanitizers(folder: Path, limit: float) -> Iterator[Check]:
    """Run all kernels on small problems under each sanitizer, where there are any."""
    tool = _sanitizer()
    for name in TOOLS:
        if tool is None:
            yield Check(name, None, "compute-sanitizer not found")
            continue
        command = [
            tool, "--tool", name, "--error-exitcode", str(FOUND),
            sys.executable, "-m", "gpu_bench.small_problems",
        ]  # fmt: skip
        # Memory of its own for each tensor, so that accesses beyond it are seen.
        status, output, seconds = _run(
            command, folder / f"{name}.txt", limit,
            folder=ROOT / "benchmarks", PYTORCH_NO_CUDA_MEMORY_CACHING="1",
        )  # fmt: skip
        yield Check(name, *_verdict(status, output, limit), seconds)


def _sanitizer() -> str | None:
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    places = [str(Path(home) / "bin") for home in homes if home]
    return shutil.which("compute-sanitizer", path=os.pathsep.join([os.environ["PATH"], *places]))


def _verdict(status: int | None, output: str, limit: float) -> tuple[bool | None, str]:
    """Return whether a sanitizer is content, and what it said."""
    summary = re.findall(r"[A-Z]+ SUMMARY: .*", output)
    if status is None:
        return None, f"stopped after {limit:.0f} s"
    if "not supported" in output and status != FOUND:
        return None, "the sanitizer doesn't support this device"
    if not summary:
        return False, f"exit status {status}: {_last_line(output)}"
    return status == 0, summary[-1]


def _run(
    command: list[str], log: Path, limit: float, *, folder: Path = ROOT, **variables: str
) -> tuple[int | None, str, float]:
    """Return the exit status, None for a command that was stopped, its output, and its seconds."""
    start = time.perf_counter()
    with log.open("w") as out:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | variables, stdout=out, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            status: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(ProcessLookupError):  # what it started ends with it
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return status, log.read_text(errors="replace"), time.perf_counter() - start


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no output")
