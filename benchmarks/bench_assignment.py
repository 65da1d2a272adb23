"""Time exact assignment solvers on matrices of trained networks and on synthetic ones.

All solvers run in one process, in turns, on one thread; each answer is checked against SciPy's
objective in float64 before its time counts. Ratios are SciPy's median over the solver's.

    python benchmarks/bench_assignment.py --sizes 512 1024 --kinds trained --out result.json

Peers are timed if they are installed (`pip install lapx lapjv`).
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.optimize
import torch

import fastrebasin
from fastrebasin.experiments.data_sets import digits
from fastrebasin.experiments.models import MLP
from fastrebasin.experiments.training import train

Matrix = npt.NDArray[np.float32]
Columns = npt.NDArray[np.int64]
Solver = Callable[[Matrix], Columns]  # the column of each row that minimises the sum


def trained(n: int) -> Iterator[tuple[str, Matrix]]:
    """Yield costs of matching two networks of width n, after one epoch and after fifteen."""
    data = digits()
    x = data.train[0].flatten(1)
    for epochs in (1, 15):
        a, b = (
            train(lambda: MLP(64, (n, n)), data.train, epochs=epochs, batch_size=200, seed=seed)
            for seed in (0, 1)
        )
        for layer in (0, 1):
            name = f"layer {layer + 1}, {epochs} epochs"
            yield f"correlation, {name}", -correlation(*(activations(m, x, layer) for m in (a, b)))
            yield f"weights, {name}", -weight_products(a, b, layer)


def activations(model: torch.nn.Module, x: torch.Tensor, layer: int) -> torch.Tensor:
    """Return the units of a hidden layer on the images, (images, units)."""
    with torch.no_grad():
        for i in range(layer + 1):
            x = torch.relu(model.get_submodule(f"layer{i}")(x))
    return x


def correlation(a: torch.Tensor, b: torch.Tensor) -> Matrix:
    """Return the correlations of A's units with B's; dead units correlate with nothing."""
    centred = [t - t.mean(0) for t in (a, b)]
    unit = [t / t.norm(dim=0).clamp_min(1e-9) for t in centred]
    return np.asarray((unit[0].T @ unit[1]).numpy(), dtype=np.float32)


def weight_products(a: torch.nn.Module, b: torch.nn.Module, layer: int) -> Matrix:
    """Return the first cost of weight matching, from the identity."""
    pa, pb = a.state_dict(), b.state_dict()
    here, after = f"layer{layer}", f"layer{layer + 1}.weight"
    product = pa[f"{here}.weight"] @ pb[f"{here}.weight"].T + pa[after].T @ pb[after]
    biases = torch.outer(pa[f"{here}.bias"], pb[f"{here}.bias"])
    return np.asarray((product + biases).numpy(), dtype=np.float32)


def synthetic(n: int) -> Iterator[tuple[str, Matrix]]:
    """Yield the kinds on which solvers differ most."""
    rng = np.random.default_rng(n)
    yield "low rank", (rng.normal(size=(n, 64)) @ rng.normal(size=(64, n))).astype(np.float32)
    uniform = rng.random((n, n)).astype(np.float32)
    yield "uniform", uniform
    yield "planted", uniform - 2 * np.eye(n, dtype=np.float32)[rng.permutation(n)]
    yield "integer ties", rng.integers(0, 100, (n, n)).astype(np.float32)
    yield "rank 1", np.outer(rng.random(n), rng.random(n)).astype(np.float32)
    points = rng.random((2, n, 1, 2))
    gaps = points[0] - points[1].swapaxes(0, 1)
    yield "2-D distances", np.sqrt((gaps**2).sum(-1)).astype(np.float32)


def solvers(cost: Matrix) -> dict[str, Solver]:
    """Return the solvers by name: SciPy's, ours, and what peers are installed."""
    noise = np.random.default_rng(0).normal(size=cost.shape).astype(np.float32)
    former = fastrebasin.solve_assignment(cost + np.float32(0.01 * cost.std()) * noise)
    found: dict[str, Solver] = {
        "scipy": lambda c: scipy.optimize.linear_sum_assignment(c)[1],
        "ours": lambda c: fastrebasin.linear_sum_assignment(c)[1],
        "ours, warm after 1 % noise": lambda c: (
            fastrebasin.solve_assignment(c, warm_start=former).col_ind
        ),
    }
    for module_name, names in {"lapx": ("lapjv", "lapjvx", "lapjvc", "lapjvs", "lapjvr")}.items():
        try:
            module: Any = importlib.import_module(module_name)
        except ImportError:
            continue
        for name in names:
            if hasattr(module, name):
                found[f"{module_name}.{name}"] = peer(getattr(module, name))
    return found


def peer(function: Callable[..., Any]) -> Solver:
    """Adapt a peer's result: the last integer vectors hold the columns."""

    def solve(cost: Matrix) -> Columns:
        result = [part for part in function(cost) if isinstance(part, np.ndarray)]
        first, second = result[0], result[1]
        ascending = np.array_equal(first, np.arange(len(first)))
        return np.asarray(second if ascending else first, dtype=np.int64)

    return solve


def measure(cost: Matrix, repeats: int) -> dict[str, float]:
    """Return each solver's median time in milliseconds; nan where an answer is not optimal."""
    exact = cost.astype(np.float64)
    candidates = solvers(cost)
    times: dict[str, list[float]] = {name: [] for name in candidates}
    best = None
    for _ in range(repeats):
        for name, solve in candidates.items():
            start = time.thread_time()
            columns = solve(cost)
            times[name].append(1e3 * (time.thread_time() - start))
            objective = exact[np.arange(len(columns)), columns].sum()
            best = objective if best is None else best  # SciPy comes first
            if abs(objective - best) > 1e-9 * np.abs(exact).max() * len(exact):
                times[name].append(float("nan"))
    return {name: statistics.median(values) for name, values in times.items()}


def commit() -> str:
    """Return the commit that is measured."""
    here = Path(__file__).parent
    run = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    return run.stdout.strip() or "unknown"


def main() -> None:
    """Measure, print a line for each matrix, and write all numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 512, 1024])
    parser.add_argument("--kinds", choices=["trained", "synthetic", "all"], default="all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    kinds = [trained, synthetic] if arguments.kinds == "all" else [globals()[arguments.kinds]]
    rows = []
    for n in arguments.sizes:
        ratios: list[float] = []
        for kind in kinds:
            for name, matrix in kind(n):
                medians = measure(np.ascontiguousarray(matrix), arguments.repeats)
                rows.append({"n": n, "matrix": name, "milliseconds": medians})
                speed = {s: medians["scipy"] / t for s, t in medians.items() if s != "scipy"}
                line = "  ".join(f"{solver} x{ratio:.1f}" for solver, ratio in speed.items())
                print(f"n={n}  {name}: scipy {medians['scipy']:.2f} ms  {line}", flush=True)
                if kind is trained:
                    ratios.append(speed["ours"])
        if ratios:
            mean = statistics.geometric_mean(ratios)
            print(f"n={n}: geometric mean over trained networks x{mean:.1f}")
    if arguments.out:
        machine = {"platform": platform.platform(), "cores": os.cpu_count()}
        date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        record = {"date": date, "commit": commit(), "machine": machine, "rows": rows}
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
