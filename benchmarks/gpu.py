"""Prove and measure everything on a GPU: one command, one JSON file and one table.

    python benchmarks/gpu.py --out DIR

First the project's own tests that have a variant for CUDA, and all kernels under NVIDIA's
sanitizers; then the benchmarks, each of which compares its result with float64 before it times. A
time is a median by CUDA's events, warm, of inputs that are read from memory: several are used in
turn where one would stay in the cache. Ceilings are measured at the start. What fails is a line
that says why; a benchmark that takes too long is stopped. `gpu.json` and `gpu.md` are written anew
after every line. The exit status is 1 if anything failed or was wrong, and 2 without a GPU; a
target that isn't met is no failure.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from gpu_bench import checks
from gpu_bench.catalogue import BENCHMARKS, Benchmark
from gpu_bench.ceilings import ceilings
from gpu_bench.context import Context
from gpu_bench.record import Record
from gpu_bench.row import Row
from gpu_bench.worker import Failure, Worker
from provenance import provenance

from fastrebasin import _native
from fastrebasin.cli.machine import built_for, driver

# Of the time: for the tests, and for each sanitizer.
TESTS, SANITIZERS = 0.3, 0.15


def about(device: str, commit: str | None) -> dict[str, Any]:
    """Return what the numbers are of."""
    record = provenance()
    record["commit"] = commit or record["commit"]
    record["versions"] |= {"CUDA of torch": torch.version.cuda, "kernels": built_for()}
    record["device"] = {"name": record["machine"]["cpu"]}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        record["device"] = {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory": f"{properties.total_memory / 2**30:.0f} GiB",
            "driver": driver(),
        }
    return record


def run(options: argparse.Namespace, record: Record) -> None:
    """Add everything to the record, until the time is over."""
    end = time.monotonic() + 60 * options.minutes
    if options.tests:
        record.add(checks.tests(options.out, 60 * options.minutes * TESTS))
        for check in checks.sanitizers(options.out, 60 * options.minutes * SANITIZERS):
            record.add(check)
    chosen = {name: BENCHMARKS[name] for name in options.only}
    with Worker() as worker:
        for name, benchmark in {"ceilings": Benchmark(ceilings, 60), **chosen}.items():
            left = end - time.monotonic()
            if left <= 0:
                record.add(Row(name, error="not started: the time is over"))
                continue
            context = Context(
                torch.device(options.device), options.quick, options.data_dir, record.ceilings
            )
            try:
                for row in worker.run(benchmark.run, context, limit=min(benchmark.limit, left)):
                    record.add(row)
            except Failure as failure:
                record.add(Row(name, error=str(failure)))


def arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for all that is written")
    add("--only", nargs="*", choices=BENCHMARKS, metavar="NAME", default=list(BENCHMARKS),
        help="benchmarks, or none: " + ", ".join(BENCHMARKS))  # fmt: skip
    add("--minutes", type=float, default=8.0)
    add("--tests", action=argparse.BooleanOptionalAction, default=True, help="and sanitizers")
    add("--device", choices=["cuda", "cpu"], default="cuda", help="cpu only shows that it runs")
    add("--quick", action="store_true", help="at sizes that only show that it runs")
    add("--data-dir", type=Path, default=os.environ.get("FASTREBASIN_DATA"), help="with MNIST")
    add("--commit", help="of the sources, where git can't tell")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, f"{parser.prog}: torch {torch.__version__} finds no CUDA device\n")
    if options.device == "cuda" and not _native.cuda_built():
        parser.exit(2, f"{parser.prog}: this build of fastrebasin has no CUDA kernels\n")
    return options


def main() -> int:
    """Run everything, and return the exit status."""
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    record = Record(options.out, about(options.device, options.commit))
    run(options, record)
    record.complete = True
    record.write()
    print(record.markdown())
    for what, lines in (("failed", record.failures), ("missed", record.missed)):
        print(f"{len(lines)} {what}", *lines, sep="\n  ")
    return 1 if record.failures else 0


if __name__ == "__main__":
    sys.exit(main())
