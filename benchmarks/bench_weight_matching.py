"""Time weight matching beside the published loop and beside its own matrix products.

    python benchmarks/bench_weight_matching.py --out result.json

Three sections. "resnet": ResNet20 at 16 times the width, from cold: ours, the matrix products that
ours made alone, and the published loop, in turns; and the memory that ours takes. "order": the
published decisions on MLPs in float64, one group after another or in batches. "residual": a
residual block without any fixed axis, planted, from the identity and from our start. Networks are
random; an answer is checked before its time counts: no group by itself can do better.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import published
import torch
from provenance import provenance
from torch.utils._python_dispatch import TorchDispatchMode

import fastrebasin
from fastrebasin import PermutationSpec, architectures
from fastrebasin.experiments.models import MLP, resnet20

Params = dict[str, torch.Tensor]


class Products(TorchDispatchMode):
    """Note the shapes of all matrix products, to time them alone."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: list[tuple[int, int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.addmm_.default:
            u, v = args[1:3]
            self.shapes.append((*u.shape, v.shape[1]))
        return func(*args, **(kwargs or {}))

    def run(self) -> None:
        """Multiply matrices of these shapes, which come from memory, as weights do."""
        at = 0
        for n, k, m in self.shapes:
            at = at if at + (n + m) * k <= len(self.memory) else 0
            u = self.memory[at : at + n * k].view(n, k)
            v = self.memory[at + n * k : at + (n + m) * k].view(m, k)
            self.result[: n * m].view(n, m).addmm_(u, v.T)
            at += (n + m) * k

    def gigaflop(self) -> float:
        """Return how much is multiplied and added."""
        return sum(2 * n * k * m for n, k, m in self.shapes) / 1e9

    def prepare(self) -> None:
        """Fill more memory than any cache holds."""
        self.memory = torch.randn(max(2**26, *((n + m) * k for n, k, m in self.shapes)))
        self.result = torch.empty(max(n * m for n, _, m in self.shapes))


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return wall seconds and the result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def resnet_pair(width: int) -> tuple[PermutationSpec, Params, Params]:
    """Return two random networks' parameters."""
    torch.manual_seed(0)
    a, b = (resnet20(width).state_dict() for _ in range(2))
    return architectures.resnet().bind(a), a, b


def check_is_optimal(
    spec: PermutationSpec, a: Params, b: Params, permutation: dict[str, torch.Tensor]
) -> None:
    """Stop unless one more sweep of the published loop leaves the objective as it is."""
    generator = torch.Generator().manual_seed(0)
    after, _ = published.weight_matching(spec, a, b, permutation, generator, max_sweeps=1)
    before, now = (published.distance(spec, a, b, p) for p in (permutation, after))
    if now < before * (1 - 1e-6):
        raise SystemExit(f"one more sweep brings the networks from {before} to {now}")


def bench_resnet(width: int, repeats: int, *, bookkeeping: bool) -> dict[str, Any]:
    """Time ours, its products, and the published loop."""
    spec, a, b = resnet_pair(width)
    identity = fastrebasin.identity_permutation(spec.sizes)
    with Products() as products:
        found = fastrebasin.weight_matching(spec, a, b)
    products.prepare()
    check_is_optimal(spec, a, b, found.permutation)
    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: fastrebasin.weight_matching(spec, a, b),
        "its products": products.run,
        "from the identity": lambda: fastrebasin.weight_matching(spec, a, b, init="identity"),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            times[name].append(timed(run)[0])
    seconds, (theirs, sweeps) = timed(
        lambda: published.weight_matching(
            spec, a, b, identity, torch.Generator().manual_seed(0), bookkeeping=bookkeeping
        )
    )
    median = {name: statistics.median(values) for name, values in times.items()}
    distances = [published.distance(spec, a, b, p) for p in (found.permutation, theirs)]
    row = {
        "width": width,
        "bookkeeping": bookkeeping,
        "seconds": times | {"published": [seconds]},
        "gigaflop": products.gigaflop(),
        "sweeps": {"ours": found.sweeps, "published": sweeps},
        "distance": dict(zip(("ours", "published"), distances, strict=True)),
        "over products": median["ours"] / median["its products"],
        "published over ours": seconds / median["ours"],
        "memory over a model": memory(width),
    }
    print_row(row, median)
    return row


def print_row(row: dict[str, Any], median: dict[str, float]) -> None:
    """Print what was measured of one width."""
    distance, sweeps = row["distance"], row["sweeps"]
    print(
        f"ResNet20x{row['width']}: ours {median['ours']:.2f} s = {row['over products']:.2f} of its "
        f"products ({row['gigaflop']:.0f} GFLOP); from the identity "
        f"{median['from the identity']:.2f} s; published{' with bookkeeping' * row['bookkeeping']} "
        f"{row['seconds']['published'][0]:.1f} s, x{row['published over ours']:.1f}, in "
        f"{sweeps['published']} sweeps; distance ours {distance['ours']:.2f}, published "
        f"{distance['published']:.2f}; memory {row['memory over a model']:.2f} of a model",
        flush=True,
    )


def memory(width: int) -> float:
    """Return the most memory that matching takes, over a model's, in a process of its own."""
    command = [sys.executable, __file__, "--memory", str(width)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_memory(width: int) -> None:
    """Match once, and print what it took."""
    spec, a, b = resnet_pair(width)
    torch.randn(256, 256) @ torch.randn(256, 256)  # what a first product sets up is no part of it
    size = sum(tensor.numel() * tensor.element_size() for tensor in a.values())
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    fastrebasin.weight_matching(spec, a, b)
    print((resident("VmHWM") - before) / size)


def resident(what: str) -> int:
    """Return bytes of the process's memory, now or at most; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(what))


def bench_order(seeds: int) -> dict[str, Any]:
    """Compare decisions with the published loop's."""
    spec = architectures.mlp(3)
    same = {"serial": 0, "colour": 0}
    for seed in range(seeds):
        torch.manual_seed(seed)
        a, b = (MLP(64, (256,) * 3).double().state_dict() for _ in range(2))
        bound = spec.bind(a)
        identity = fastrebasin.identity_permutation(bound.sizes)
        expected, _ = published.weight_matching(
            bound, a, b, identity, torch.Generator().manual_seed(seed)
        )
        for order in same:
            found = fastrebasin.weight_matching(
                spec,
                a,
                b,
                init="identity",
                order=order,  # type: ignore[arg-type]
                seed=seed,
            ).permutation
            same[order] += all(torch.equal(found[g], expected[g]) for g in expected)
    print(f"order: decides as published, of {seeds} seeds: {same}", flush=True)
    return {"seeds": seeds, "as published": same}


def bench_residual(runs: int) -> dict[str, Any]:
    """Count how often a planted residual block of 30 and 50 units is recovered."""
    spec = PermutationSpec.from_axes({"up": ("H", "S"), "down": ("S", "H")})
    recovered = {"identity": 0, "anchored": 0}
    for seed in range(runs):
        torch.manual_seed(seed)
        a = {"up": torch.randn(50, 30), "down": torch.randn(30, 50)}
        b = fastrebasin.apply_permutation(spec, spec.bind(a).random_permutation(seed), a)
        for init in recovered:
            found = fastrebasin.weight_matching(spec, a, b, init=init, seed=seed).permutation  # type: ignore[arg-type]
            moved = fastrebasin.apply_permutation(spec, found, b)
            recovered[init] += all(torch.equal(moved[name], a[name]) for name in a)
    print(f"residual: recovered of {runs}: {recovered}", flush=True)
    return {"runs": runs, "recovered": recovered}


def main() -> None:
    """Measure, print, and write all numbers as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sections = ["resnet", "order", "residual"]
    parser.add_argument("--sections", nargs="+", choices=sections, default=sections)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bookkeeping", action="store_true", help="in the published loop")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="write all numbers as JSON")
    options = parser.parse_args()
    if options.memory:
        print_memory(options.memory)
        return
    record = provenance()
    if "resnet" in options.sections:
        record["resnet"] = bench_resnet(
            options.width, options.repeats, bookkeeping=options.bookkeeping
        )
    if "order" in options.sections:
        record["order"] = bench_order(20)
    if "residual" in options.sections:
        record["residual"] = bench_residual(100)
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")


def test_weight_matching_is_faster_than_published(benchmark: Any) -> None:
    """Time a narrow ResNet20 by pytest-benchmark, beside the published loop."""
    spec, a, b = resnet_pair(2)
    found = benchmark(lambda: fastrebasin.weight_matching(spec, a, b))
    check_is_optimal(spec, a, b, found.permutation)
    identity = fastrebasin.identity_permutation(spec.sizes)
    generator = torch.Generator().manual_seed(0)
    benchmark.extra_info["published"] = timed(
        lambda: published.weight_matching(spec, a, b, identity, generator)
    )[0]


if __name__ == "__main__":
    main()
