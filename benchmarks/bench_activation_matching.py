"""Time activation matching of all layers in one pass beside a pass for every layer, as published.

The published way is restated plainly: for each group of units, both networks run over all images
again, sums of products are added up, and SciPy solves the assignment. A kinder form of it stops
each run behind the last layer that it looks at. All read the same inputs of convolutions. Before
times count, permutations must be the same, and our correlations those of two passes in float64.

    python benchmarks/bench_activation_matching.py --images 400 --out result.json
    pytest benchmarks/bench_activation_matching.py -o addopts=

On one thread, by the thread's CPU time. Networks are random, with statistics of BatchNorm fitted to
the images, which are random, of the shape of CIFAR-10's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scipy
import torch
from provenance import provenance
from torch import Tensor, nn

import fastrebasin
from fastrebasin import PermutationSpec, architectures
from fastrebasin.experiments.models import resnet20, vgg11
from fastrebasin.matching.activations import _Pair
from fastrebasin.permutation import Permutation

BATCH = 100
CHECKED = 32  # images for the float64 oracle, which holds all activations at once
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Pair:
    """Two networks, their spec, and images."""

    name: str
    a: nn.Module
    b: nn.Module
    spec: PermutationSpec
    images: Tensor

    def batches(self) -> list[Tensor]:
        """Return the images in batches."""
        return list(torch.split(self.images, BATCH))

    def layers(self, group: str) -> list[str]:
        """Return the layers that read a group; a shortcut reads what stands beside it."""
        axes = self.spec.groups[group]
        readers = [name.removesuffix(".weight") for name, axis in axes if axis == 1]
        return [name for name in readers if "shortcut" not in name]


class Stop(Exception):  # noqa: N818 - a signal, no error
    """The last layer of interest has been reached."""


def pairs(width: int, images: int) -> dict[str, Callable[[], Pair]]:
    """Return what makes each pair of networks."""
    return {
        "VGG11": lambda: pair("VGG11", lambda: vgg11(1 / width), architectures.vgg(), images),
        "ResNet20x4": lambda: pair(
            "ResNet20x4", lambda: resnet20(max(1, 4 // width)), architectures.resnet(), images
        ),
    }


def pair(name: str, build: Callable[[], nn.Module], spec: PermutationSpec, images: int) -> Pair:
    """Return two random networks in which every unit is alive."""
    torch.manual_seed(0)
    x = torch.randn(images, 3, 32, 32)
    return Pair(name, alive(build(), x[:100]), alive(build(), x[:100]), spec, x)


def alive(model: nn.Module, x: Tensor) -> nn.Module:
    """Return a network with scales and shifts as training makes them."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return fastrebasin.reset_batch_norm(model, (x, torch.zeros(len(x))))


def ours(pair: Pair) -> Permutation:
    """Match all layers in one pass."""
    labels = torch.zeros(len(pair.images))
    return fastrebasin.activation_matching(
        pair.spec, pair.a, pair.b, (pair.images, labels), batch_size=BATCH
    ).permutation


def published(pair: Pair, *, stop: bool = False) -> Permutation:
    """Match one layer after another, each in a pass of its own."""
    found = {}
    for group in pair.spec.groups:
        layers = pair.layers(group)
        sums: dict[str, Any] = {}
        for x in pair.batches():
            a, b = (inputs(model, layers, x, stop) for model in (pair.a, pair.b))
            for layer in layers:
                add(sums.setdefault(layer, [0] * 6), flat(a[layer]), flat(b[layer]))
        mean = torch.stack([correlation(*sums[layer]) for layer in layers]).mean(0)
        columns = scipy.optimize.linear_sum_assignment(mean.numpy(), maximize=True)[1]
        found[group] = torch.as_tensor(columns)
    return found


@torch.no_grad()
def inputs(model: nn.Module, layers: Sequence[str], x: Tensor, stop: bool) -> dict[str, Tensor]:
    """Return what some layers read when a network runs."""
    seen: dict[str, Tensor] = {}

    def hook(layer: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def see(_: nn.Module, args: tuple[Tensor]) -> None:
            seen[layer] = args[0]
            if stop and len(seen) == len(layers):
                raise Stop

        return see

    handles = [model.get_submodule(n).register_forward_pre_hook(hook(n)) for n in layers]
    try:
        model(x)
    except Stop:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return seen


def flat(x: Tensor) -> Tensor:
    """Return (units, observations)."""
    return x.movedim(1, 0).flatten(1)


def add(sums: list[Any], a: Tensor, b: Tensor) -> None:
    """Add a batch to the sums of one layer: float32 products, float64 sums."""
    for k, term in enumerate((a.shape[1], a.sum(1), b.sum(1), a.square().sum(1),
                              b.square().sum(1), a @ b.T)):  # fmt: skip
        sums[k] = sums[k] + (term.double() if isinstance(term, Tensor) else term)


def correlation(count: int, a: Tensor, b: Tensor, aa: Tensor, bb: Tensor, ab: Tensor) -> Tensor:
    """Return correlations from sums."""
    a, b = a / count, b / count
    scale = torch.outer((aa / count - a**2).sqrt(), (bb / count - b**2).sqrt())
    return (ab / count - torch.outer(a, b)) / scale


def two_passes(a: Tensor, b: Tensor) -> Tensor:
    """Return correlations in float64, means first."""
    a, b = (x.double() - x.double().mean(1, keepdim=True) for x in (a, b))
    return a @ b.T / torch.outer(a.square().sum(1).sqrt(), b.square().sum(1).sqrt())


def largest_error(pair: Pair) -> float:
    """Return how far our correlations on some images are from two passes in float64."""
    spec, parts = pair.spec.bind(pair.a.state_dict()), pair.images[:CHECKED].split(8)
    both = _Pair(spec, pair.a, pair.b, "input", parts[0][:2])
    for part in parts:
        both.observe(part)
    found, worst = both.costs("correlation"), 0.0
    for group in spec.groups:
        layers = pair.layers(group)
        # In the same batches: convolutions round otherwise in others.
        a, b = ([inputs(model, layers, x, stop=False) for x in parts] for model in (pair.a, pair.b))
        expected = torch.stack(
            [
                two_passes(*(torch.cat([flat(seen[name]) for seen in each], 1) for each in (a, b)))
                for name in layers
            ]
        ).mean(0)
        worst = max(worst, (found[group,] - expected.to(found[group,])).abs().max().item())
    return worst


def timed(function: Callable[[], Permutation]) -> tuple[float, Permutation]:
    """Return the thread's CPU seconds, and the result."""
    start = time.thread_time()
    result = function()
    return time.thread_time() - start, result


def measure(pair: Pair, repeats: int) -> dict[str, Any]:
    """Check and time one pair of networks, and print a line."""
    error = largest_error(pair)
    if error > TOLERANCE:
        raise SystemExit(f"{pair.name}: correlations are off by {error:.1e}")
    ways: dict[str, Callable[[], Permutation]] = {
        "ours": lambda: ours(pair),
        "published": lambda: published(pair),
        "published, stopping": lambda: published(pair, stop=True),
    }
    ours(Pair(pair.name, pair.a, pair.b, pair.spec, pair.images[:BATCH]))  # warms up
    times: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, Permutation] = {}
    for _, (name, run) in itertools.product(range(repeats), ways.items()):
        seconds, answers[name] = timed(run)
        times[name].append(seconds)
    same = all(
        torch.equal(answers["ours"][group], answer[group])
        for answer in answers.values()
        for group in pair.spec.groups
    )
    if not same:
        raise SystemExit(f"{pair.name}: the permutations differ")
    least = {name: min(values) for name, values in times.items()}
    print(f"{pair.name}, {len(pair.images)} images: same permutations, correlations to {error:.0e}")
    for name, seconds in least.items():
        print(f"    {name}: {seconds:.2f} s, x{seconds / least['ours']:.2f}", flush=True)
    return {"pair": pair.name, "images": len(pair.images), "error": error, "cpu_seconds": times}


def main() -> None:
    """Measure, print, and write all numbers as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", nargs="+", default=list(pairs(1, 1)), choices=list(pairs(1, 1)))
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--narrower", type=int, default=1, help="divide widths by so much")
    parser.add_argument("--out", type=Path, help="write all numbers as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    made = pairs(options.narrower, options.images)
    record = provenance() | {
        "rows": [measure(made[name](), options.repeats) for name in options.pairs],
    }
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")


def test_one_pass_is_faster_than_one_for_each_layer(benchmark: Any) -> None:
    """Time the one pass by pytest-benchmark, on narrow networks."""
    made = pairs(8, 100)["VGG11"]()
    assert largest_error(made) <= TOLERANCE
    seconds, expected = timed(lambda: published(made))
    found = benchmark(ours, made)
    assert all(torch.equal(found[group], expected[group]) for group in expected)
    assert timed(lambda: ours(made))[0] < seconds


if __name__ == "__main__":
    main()
