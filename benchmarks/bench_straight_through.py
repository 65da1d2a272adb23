"""Time steps of straight-through matching beside the published loop, and beside the model itself.

    python benchmarks/bench_straight_through.py --out result.json

"mlp": three layers of 512 units, trained on MNIST (scikit-learn's digits without --data-dir) and on
the same images rotated, batches of 500. "resnet": ResNet20 at 4 times the width, random, batches of
250 random images of CIFAR-10's shape; the published loop runs the data set, `--images`, through the
merged model in every step, to reset BatchNorm statistics that the step doesn't read. The loss of
the first step must be the published one's before any time counts; later, sums of float32 may decide
otherwise. Both are timed in turn, `--rounds` times, as a shared machine's speed changes from minute
to minute; medians are of all rounds' steps.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import published
import torch
from provenance import provenance
from torch import Tensor, nn

import fastrebasin
from fastrebasin import PermutationSpec, architectures
from fastrebasin.data import mixture, sources
from fastrebasin.experiments.models import MLP, resnet20
from fastrebasin.experiments.pairs import load_pair
from fastrebasin.experiments.training import train
from fastrebasin.matching import straight_through
from fastrebasin.matching.descent import WeightMatcher
from fastrebasin.matching.midpoint import Midpoint

Data = tuple[Tensor, Tensor]
Models = tuple[nn.Module, nn.Module, Data]
WARM = 5  # steps that don't count


def trained_mlps(data_dir: Path | None) -> Models:
    """Return two networks trained on digits and on the same digits rotated, and half of each."""
    pair = load_pair("rotated", data_dir)
    models = [
        train(pair.recipe.factory, source.train, epochs=5, seed=seed, progress=False)
        for seed, source in enumerate((pair.a, pair.b))
    ]
    x, y = (torch.cat(parts) for parts in zip(pair.a.train, pair.b.train, strict=True))
    some = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:10_000]
    return models[0], models[1], (x[some], y[some])


def resnets(images: int) -> Models:
    """Return two random networks, and images with random labels."""
    torch.manual_seed(0)
    data = torch.randn(images, 3, 32, 32), torch.randint(10, (images,))
    return resnet20(4), resnet20(4), data


@contextmanager
def stopwatch(owner: type, name: str, spans: list[tuple[float, float]]) -> Iterator[None]:
    """Note when each call of a method begins and ends."""
    method: Callable[..., Any] = getattr(owner, name)

    def timed(*args: Any) -> Any:
        start = time.perf_counter()
        result = method(*args)
        spans.append((start, time.perf_counter()))
        return result

    with mock.patch.object(owner, name, timed):
        yield


def ours(
    spec: PermutationSpec, models: Models, batch_size: int, epochs: int, lr: float
) -> tuple[list[float], dict[str, list[float]]]:
    """Return the losses, and the wall seconds of every step and of its parts."""
    a, b, data = models
    matching: list[tuple[float, float]] = []
    model: list[tuple[float, float]] = []
    moving: list[tuple[float, float]] = []
    with (
        stopwatch(WeightMatcher, "match", matching),
        stopwatch(Midpoint, "move_to", moving),
        stopwatch(straight_through._StraightThrough, "loss_and_gradient", model),
    ):
        found = fastrebasin.straight_through_matching(
            spec, a, b, data, epochs=epochs, lr=lr, batch_size=batch_size, progress=False
        )
    starts = [start for start, _ in matching]
    return list(found.losses), {
        "step": [later - start for start, later in itertools.pairwise(starts)],
        "matching": [end - start for start, end in matching],
        "moving": [end - start for start, end in moving[1:]],  # the first is the identity
        "model": [end - start for start, end in model],
    }


def bench(
    name: str,
    models: Models,
    batch_size: int,
    epochs: int,
    published_steps: int,
    lr: float,
    reset_on: int = 0,
    rounds: int = 1,
) -> dict[str, Any]:
    """Take the same steps with both in turn, check that they agree, and print a line."""
    spec = architectures.mlp(3) if name == "mlp" else architectures.resnet()
    a, b, data = models
    generator = torch.Generator().manual_seed(0)  # as ours draws them
    epoch = (mixture(sources(data), batch_size, generator) for _ in range(epochs))
    batches = list(itertools.islice(itertools.chain.from_iterable(epoch), published_steps))
    everything = [data[0][:batch_size]] * (reset_on // batch_size)
    timed = []
    for _ in range(rounds):
        losses, seconds = ours(spec, models, batch_size, epochs, lr)
        expected, theirs = published.straight_through(
            spec, a, b, batches, lr=lr, seed=0, bookkeeping=True, reset_on=everything
        )
        apart = abs(losses[0] - expected[0]) / expected[0]
        if apart > 1e-4:  # later steps may part where sums of float32 decide between near equals
            raise SystemExit(f"{name}: the first losses are {losses[0]} and {expected[0]}")
        warm = min(WARM, len(theirs) // 2)
        timed.append({k: v[warm:] for k, v in (seconds | {"published": theirs}).items()})
    every = {part: [s for times in timed for s in times[part]] for part in timed[0]}
    median = {part: statistics.median(values) for part, values in every.items()}
    row = {
        "what": name,
        "reset on images": reset_on,
        "losses": {"ours": losses[: len(expected)], "published": expected},
        "seconds": every,
        "matching over model": median["matching"] / median["model"],
        "published over ours": median["published"] / median["step"],
        "of each round": [
            statistics.median(times["published"]) / statistics.median(times["step"])
            for times in timed
        ],
    }
    print_row(row, median)
    return row


def print_row(row: dict[str, Any], median: dict[str, float]) -> None:
    """Print what was measured of one pair."""
    images, (losses, expected) = row["reset on images"], row["losses"].values()
    print(
        f"{row['what']}: step {1e3 * median['step']:.1f} ms, of which matching "
        f"{1e3 * median['matching']:.1f} = {row['matching over model']:.2f} of forward and "
        f"backward, moving B {1e3 * median['moving']:.1f}; published takes "
        f"x{row['published over ours']:.1f} "
        f"({', '.join(f'{ratio:.1f}' for ratio in row['of each round'])})"
        f"{f', with {images} images to reset on' * (images > 0)}; "
        f"mean loss of {len(expected)} steps {statistics.mean(losses):.4f}, published "
        f"{statistics.mean(expected):.4f}",
        flush=True,
    )


def main() -> None:
    """Measure, print, and write all numbers as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--what", nargs="+", choices=["mlp", "resnet"], default=["mlp", "resnet"])
    add("--data-dir", type=Path, default=os.environ.get("FASTREBASIN_DATA"))
    add("--images", type=int, default=50_000, help="to reset statistics on")
    add("--published-steps", type=int, default=40, help="of the MLPs")
    add("--rounds", type=int, default=5, help="of the MLPs")
    add("--out", type=Path, help="write all numbers as JSON")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"argument --rounds: must be positive, got {options.rounds}")
    record = provenance()
    if "mlp" in options.what:
        models, steps = trained_mlps(options.data_dir), options.published_steps
        record["mlp"] = bench("mlp", models, 500, 4, steps, 0.1, rounds=options.rounds)
    if "resnet" in options.what:
        record["resnet"] = bench("resnet", resnets(750), 250, 1, 1, 0.1, options.images)
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")


def test_a_step_is_faster_than_published(benchmark: Any) -> None:
    """Time a few steps of small networks by pytest-benchmark."""
    torch.manual_seed(0)
    models = MLP(20, (30, 30)), MLP(20, (30, 30)), (torch.randn(200, 20), torch.randint(10, (200,)))
    found, _ = benchmark(lambda: ours(architectures.mlp(2), models, 100, 3, 0.1))
    assert len(found) == 6


if __name__ == "__main__":
    main()
