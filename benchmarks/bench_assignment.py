"""Time exact assignment solvers on matrices of trained networks and on synthetic ones.

All solvers run in one process, in turns, on one thread, by the thread's CPU time; medians. An
answer is checked by duality in float64 before its time counts. Ratios are SciPy's time over ours:
above one, ours is faster. A "read" is the fastest plain pass over the matrix in NumPy.

    python benchmarks/bench_assignment.py --sizes 512 1024 --kinds digits uniform --out result.json

Peers are timed if they are installed (`pip install lapx lapjv`; the latter builds from source).
MNIST is read from FASTREBASIN_DATA or --data-dir, torchvision's layout.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
import timeit
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from assignment_matrices import KINDS, Case, cases, low_rank
from assignment_solvers import (
    Columns,
    Judge,
    Matrix,
    Solver,
    Timer,
    fastest_read,
    installed_peers,
    our_solver,
    scipy_solver,
    warm_solver,
)
from provenance import provenance

import fastrebasin

Row = dict[str, Any]
BATCHES = [(208, 300), (144, 64)]
SMALL = range(2, 9)
FASTER = 1 / 1.2  # a peer's time over ours from which on we say that it is faster


def shown(seconds: float | str) -> str:
    """Return a time in milliseconds, or why there is none."""
    return seconds if isinstance(seconds, str) else f"{1e3 * seconds:.3g} ms"


def ratio(of: float | str | None, over: float | str | None) -> float | None:
    """Return the quotient of two times; None where one is missing."""
    return of / over if isinstance(of, float) and isinstance(over, float) else None


def warm_name(noise: float) -> str:
    """Return the name of our solver when it starts from the result before this much noise."""
    return f"ours, warm after {100 * noise:g} % noise"


def measure_case(case: Case, timer: Timer, peers: dict[str, Solver], noises: list[float]) -> Row:
    """Time all solvers on one matrix and print a line."""
    solvers: dict[str, Solver] = {"ours": our_solver, "scipy": scipy_solver}
    solvers |= {warm_name(noise): warm_solver(case.cost, noise) for noise in noises}
    times = timer.measure(case.name, case.cost, solvers | peers)
    read, seconds = fastest_read(case.cost, timer.repeats)
    reads = ratio(times["ours"], seconds)
    n = len(case.cost)
    ours, theirs = times["ours"], times["scipy"]
    print(f"n={n}  {case.name}: ours {shown(ours)}", end="")
    print(f" = {reads:.1f} reads ({read})" if reads else "", end="")
    print(f", scipy {shown(theirs)}")
    for name, value in times.items():
        if name not in ("scipy", "ours"):
            quotient = ratio(theirs, value)
            versus = f"  scipy x{quotient:.2f}" if quotient else ""
            print(f"    {name}: {shown(value)}{versus}", flush=True)
    return {"n": n, "matrix": case.name, "trained": case.trained, "seconds": times, "reads": reads}


def geometric_mean(values: list[float | None]) -> str:
    """Return the mean of the ratios that there are, or a dash."""
    known = [value for value in values if value is not None]
    return f"x{statistics.geometric_mean(known):.2f}" if known else "-"


def worst(rows: list[Row], rivals: Callable[[Row], list[Any]]) -> str:
    """Return the smallest ratio of the best rival's time to ours, and on which matrix."""
    found = []
    for row in rows:
        times = [time for time in rivals(row) if isinstance(time, float)]
        quotient = ratio(min(times), row["seconds"]["ours"]) if times else None
        if quotient is not None:
            found.append((quotient, row["matrix"]))
    return "-" if not found else "x{:.2f} ({})".format(*min(found))


def remarks(row: Row) -> list[str]:
    """Return who was wrong, or faster than we, on one matrix."""
    lines = []
    for solver, value in row["seconds"].items():
        quotient = ratio(value, row["seconds"]["ours"])
        enough = 1.0 if solver == "scipy" else FASTER
        if isinstance(value, str) and value.startswith("WRONG"):
            lines.append(f"{solver} on {row['matrix']}: {value}")
        elif not solver.startswith("ours") and quotient is not None and quotient < enough:
            lines.append(f"{solver} on {row['matrix']}: x{quotient:.2f}")
    return lines


def table(title: str, sizes: list[int], lines: dict[str, list[str]]) -> None:
    """Print rows by name and a column for each size."""
    width = max(len(name) for name in lines)
    print(f"\n{title}\n{'n'.rjust(width)}" + "".join(f"{n:>10}" for n in sizes))
    for name, cells in lines.items():
        print(name.rjust(width) + "".join(f"{cell:>10}" for cell in cells))


def summarise(rows: list[Row], peers: dict[str, Solver], noises: list[float]) -> None:
    """Print means over trained networks for each size, the worst cases and wrong answers."""
    by_size: dict[int, list[Row]] = {}
    for row in rows:
        by_size.setdefault(row["n"], []).append(row)
    trained = {n: [row for row in here if row["trained"]] for n, here in by_size.items()}
    lines = {
        name: [
            geometric_mean([ratio(r["seconds"]["scipy"], r["seconds"][name]) for r in here])
            for here in trained.values()
        ]
        for name in ["ours", *map(warm_name, noises), *peers]
    }
    lines["reads by ours"] = [
        geometric_mean([row["reads"] for row in here]).lstrip("x") for here in trained.values()
    ]
    table("scipy (cold) / solver, geometric mean over trained networks", list(by_size), lines)
    print("\nworst over all matrices")
    for n, here in by_size.items():
        print(f"n={n}: scipy / ours {worst(here, lambda row: [row['seconds']['scipy']])}", end="")
        rivals = worst(here, lambda row: [row["seconds"][name] for name in peers])
        print(f"; best peer / ours {rivals}")
        print("".join(f"    {line}\n" for row in here for line in remarks(row)), end="")
    print()


def scipy_loop(costs: Matrix) -> list[Columns]:
    """Solve a batch with SciPy, one by one."""
    return [scipy_solver(cost) for cost in costs]


def our_batch(costs: Matrix, threads: int) -> list[Columns]:
    """Solve a batch with fastrebasin, on so many threads."""
    torch.set_num_threads(threads)
    found = fastrebasin.solve_assignment(costs)
    torch.set_num_threads(1)
    return list(found.col_ind)


def measure_batches(repeats: int) -> list[Row]:
    """Time batches by the wall, on one and two threads, beside a loop over SciPy."""
    solvers: dict[str, Callable[[Matrix], list[Columns]]] = {
        "scipy loop": scipy_loop,
        "ours, 1 thread": partial(our_batch, threads=1),
        "ours, 2 threads": partial(our_batch, threads=2),
    }
    rows = []
    for count, n in BATCHES:
        rng = np.random.default_rng(n)
        costs = np.stack([low_rank(rng, n, 0.2, 0.2) for _ in range(count)])
        judges = [Judge(cost) for cost in costs]
        times: dict[str, list[float]] = {name: [] for name in solvers}
        for _ in range(repeats):
            for name, solve in solvers.items():
                start = time.perf_counter()
                columns = solve(costs)
                seconds = time.perf_counter() - start
                right = all(j.accepts(c) for j, c in zip(judges, columns, strict=True))
                times[name].append(seconds if right else math.nan)
        medians = {name: statistics.median(values) for name, values in times.items()}
        scipy_time = medians["scipy loop"]
        line = ", ".join(
            f"{name} {1e3 * t:.2f} ms (x{scipy_time / t:.2f})" for name, t in medians.items()
        )
        print(f"batch {count} x {n} x {n}, wall time: {line}", flush=True)
        rows.append({"batch": count, "n": n, "wall_seconds": medians})
    return rows


def measure_small(peers: dict[str, Solver], repeats: int) -> list[Row]:
    """Time calls on matrices of a few rows, where the way in costs more than the search."""
    rows = []
    for n in SMALL:
        cost = np.random.default_rng(n).random((n, n))
        judge = Judge(cost)
        times: dict[str, list[float]] = {}
        solvers: dict[str, Solver] = {"scipy": scipy_solver, "ours": our_solver} | peers
        for _ in range(max(7, repeats)):
            for name, solve in solvers.items():
                seconds = timeit.timeit(partial(solve, cost), number=1000) / 1000
                right = judge.accepts(solve(cost))
                times.setdefault(name, []).append(seconds if right else math.nan)
        line = ", ".join(
            f"{name} {1e6 * min(t):.2f}/{1e6 * statistics.median(t):.2f}"
            for name, t in times.items()
        )
        print(f"n={n}, microseconds for a call, least/median: {line}", flush=True)
        rows.append({"n": n, "seconds": {name: statistics.median(t) for name, t in times.items()}})
    return rows


def arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sizes", type=int, nargs="*", default=[8, 64, 128, 256, 512, 1024])
    add("--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="KIND", help=", ".join(KINDS))
    add("--repeats", type=int, default=5)
    add("--noise", type=float, nargs="*", default=[0.01], help="of warm starts, in deviations")
    add("--peers", nargs="*", help="only these, such as lapx.lapjvr; none for SciPy alone")
    add("--patience", type=float, default=30, help="seconds that a solver may take, by its last")
    add("--largest-for-peers", type=int, default=8192, help="size to try solvers unmet at")
    add("--limit", type=float, default=math.inf, help="kill rivals after so many times our time")
    add("--limit-from", type=int, default=1024, help="size from which on they are")
    add("--sections", nargs="+", choices=["single", "batch", "small"],
        default=["single", "batch", "small"])  # fmt: skip
    add("--data-dir", type=Path, default=os.environ.get("FASTREBASIN_DATA"))
    add("--out", type=Path, help="write all numbers as JSON")
    return parser.parse_args()


def main() -> None:
    """Measure, print a line for each matrix and a summary, and write all numbers as JSON."""
    options = arguments()
    torch.set_num_threads(1)
    peers, versions = installed_peers()
    if options.peers is not None:
        peers = {name: solve for name, solve in peers.items() if name in options.peers}
    versions |= {"scipy": scipy.__version__, "numpy": np.__version__, "torch": torch.__version__}
    print("  ".join(f"{name} {version}" for name, version in versions.items()))
    if "mnist" in options.kinds and options.data_dir is None:
        print("mnist: skipped, neither --data-dir nor FASTREBASIN_DATA names a folder")
    timer = Timer(
        options.repeats,
        options.patience,
        options.largest_for_peers,
        options.limit,
        options.limit_from,
    )
    record: dict[str, Any] = provenance()
    record["versions"] |= versions
    if "single" in options.sections:
        record["rows"] = [
            measure_case(case, timer, peers, options.noise)
            for n in sorted(options.sizes)
            for case in cases(n, options.kinds, options.data_dir)
        ]
        summarise(record["rows"], peers, options.noise)
    if "batch" in options.sections:
        record["batches"] = measure_batches(options.repeats)
    if "small" in options.sections:
        record["small"] = measure_small(peers, options.repeats)
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
