"""Time facility location beside plain greedy on the whole matrix of similarities, and apricot.

    python benchmarks/bench_coreset.py --out result.json
    pytest benchmarks/bench_coreset.py -o addopts=

By the wall, on as many threads as OMP_NUM_THREADS says; least of all repeats. Before a time counts,
the sum of similarities that the chosen reach, computed in float64, must be that of plain greedy.
Plain greedy, in NumPy, holds all pairs and tries every example in every step. The peer is timed if
it is installed (`pip install apricot-select`).
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from provenance import provenance

from fastrebasin.reduction import select_coreset
from fastrebasin.reduction.coreset import FacilityLocation

Features = NDArray[np.float32]
Indices = NDArray[np.int64]
TOLERANCE = 1e-6
KINDS = ("normal", "clusters")


def features(kind: str, n: int, d: int) -> Features:
    """Return random features: directionless, or of twenty clusters behind a ReLU."""
    rng = np.random.default_rng(0)
    if kind == "normal":
        return rng.standard_normal((n, d), dtype=np.float32)
    centres, owner = rng.standard_normal((20, 32)), rng.integers(20, size=n)
    hidden = centres[owner] + 0.5 * rng.standard_normal((n, 32))
    return np.maximum(hidden @ rng.standard_normal((32, d)), 0).astype(np.float32)


def unit(x: Features) -> Features:
    """Return rows of length 1."""
    rows: Features = x / np.linalg.norm(x, axis=1, keepdims=True)
    return rows


def ours(x: Features, count: int) -> Indices:
    """Choose with fastrebasin."""
    data = torch.from_numpy(x), torch.zeros(len(x), dtype=torch.int64)
    coreset = select_coreset(data, FacilityLocation(), per_class=count, progress=False)
    return coreset.extras["indices"].numpy()


def plain(x: Features, count: int) -> Indices:
    """Choose greedily on the whole matrix."""
    u = unit(x)
    matrix = 0.5 + 0.5 * (u @ u.T)
    best, chosen = np.zeros(len(x), np.float32), np.zeros(count, np.int64)
    free = np.ones(len(x), bool)
    for k in range(count):
        gains = np.array([np.maximum(row - best, 0).sum(dtype=np.float64) for row in matrix])
        chosen[k] = np.where(free, gains, -np.inf).argmax()
        free[chosen[k]] = False
        best = np.maximum(best, matrix[chosen[k]])
    return chosen


def apricot(x: Features, count: int) -> Indices:
    """Choose with apricot, on the whole matrix."""
    u = unit(x)
    selector = importlib.import_module("apricot").FacilityLocationSelection(
        count, metric="precomputed", optimizer="lazy"
    )
    ranking: Indices = selector.fit(0.5 + 0.5 * (u @ u.T).astype(np.float64)).ranking
    return ranking


def reached(x: Features, chosen: Indices) -> float:
    """Return the similarity of all with their most similar chosen one, summed in float64."""
    wide = x.astype(np.float64)
    u = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return float((0.5 + 0.5 * (u @ u[chosen].T)).max(1).sum())


def timed(choose: Callable[[Features, int], Indices], x: Features, count: int) -> tuple[Any, ...]:
    """Return the wall seconds, and what was chosen."""
    start = time.perf_counter()
    chosen = choose(x, count)
    return time.perf_counter() - start, chosen


def measure(kind: str, n: int, d: int, count: int, repeats: int) -> dict[str, Any]:
    """Check and time one problem, and print a line for everybody."""
    x = features(kind, n, d)
    ways = {"ours": ours, "plain greedy": plain}
    if find_spec("apricot"):
        ways["apricot"] = apricot
    ours(x[:100], 5)  # warms up
    times: dict[str, list[float]] = {name: [] for name in ways}
    values: dict[str, float] = {}
    for _, (name, choose) in itertools.product(range(repeats), ways.items()):
        seconds, chosen = timed(choose, x, count)
        times[name].append(seconds)
        values[name] = reached(x, chosen)
    off = abs(values["ours"] / values["plain greedy"] - 1)
    if off > TOLERANCE:
        raise SystemExit(f"{kind}: what is reached is off by {off:.1e}")
    least = {name: min(each) for name, each in times.items()}
    print(f"{kind}, {count} of {n} x {d}: as good as plain greedy to {off:.0e}")
    for name, seconds in least.items():
        print(f"    {name}: {seconds:.2f} s, x{seconds / least['ours']:.2f}", flush=True)
    return {"kind": kind, "n": n, "d": d, "count": count, "seconds": times, "reached": values}


def main() -> None:
    """Measure, print, and write all numbers as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=1024)
    parser.add_argument("--counts", type=int, nargs="+", default=[100])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write all numbers as JSON")
    options = parser.parse_args()
    record = provenance()
    if find_spec("apricot"):
        record["versions"]["apricot-select"] = version("apricot-select")
    record["rows"] = [
        measure(kind, options.examples, options.features, count, options.repeats)
        for kind, count in itertools.product(options.kinds, options.counts)
    ]
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")


def test_facility_location(benchmark: Any) -> None:
    """Time it by pytest-benchmark, on a smaller problem."""
    x = features("clusters", 2000, 256)
    benchmark.extra_info["plain greedy"], expected = timed(plain, x, 50)
    found = benchmark(ours, x, 50)
    assert abs(reached(x, found) / reached(x, expected) - 1) < TOLERANCE


if __name__ == "__main__":
    main()
