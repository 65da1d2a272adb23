"""What a few images per class teach a fresh network: drawn at random, or condensed from all.

    python benchmarks/condensed.py --data-dir /folder/with/MNIST --out result.json

The paper's MLP of 3 x 512 units, condensed for as it is, by matching gradients; and with --convnet
the ConvNet of the literature on condensation, on 10 images per class of MNIST, by matching
gradients or mean features under augmentation, which its training has, too. Test accuracy after 300
epochs on the images is a mean over three initial weights; seconds are those of making the images.
Gradients at 10 per class are matched in one step of the images for every fresh network, which isn't
trained; the published loops take ten, and train it between them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from torch import Tensor, nn

from fastrebasin.data import Batch
from fastrebasin.experiments.condensed import train_on
from fastrebasin.experiments.data_sets import DataSet, idx_folder
from fastrebasin.experiments.models import convnet, mnist_mlp
from fastrebasin.experiments.training import Transform
from fastrebasin.reduction import (
    DifferentiableAugmentation,
    ReducedSet,
    distribution_matching,
    gradient_matching,
    select_coreset,
)

ITERATIONS = {1: 30, 10: 100}  # of matching gradients, by images per class
AUGMENT = DifferentiableAugmentation("color_crop_cutout_scale_rotate")  # for the ConvNet
BATCH = 64  # of real images of a class, likewise
Make = Callable[[Batch], ReducedSet]
Rows = list[dict[str, Any]]


def drawn(per_class: int, train: Batch) -> ReducedSet:
    """Return images drawn at random."""
    return select_coreset(train, "random", per_class=per_class, progress=False)


def condensed(per_class: int, train: Batch) -> ReducedSet:
    """Return images for the MLP, condensed by matching gradients."""
    return gradient_matching(
        mnist_mlp, train, per_class=per_class, iterations=ITERATIONS[per_class], outer_loops=1,
        lr=0.1 * per_class,
    )  # fmt: skip


def siamese(train: Batch) -> ReducedSet:
    """Return images for the ConvNet, condensed by matching gradients under augmentation (DSA)."""
    return gradient_matching(
        small_convnet, train, per_class=10, iterations=60, outer_loops=1, lr=1.0, init="real",
        batch_size=BATCH, augment=AUGMENT,
    )  # fmt: skip


def means(train: Batch) -> ReducedSet:
    """Return images for the ConvNet, condensed by matching mean features (DM)."""
    return distribution_matching(
        small_convnet, train, per_class=10, iterations=150, batch_size=BATCH, augment=AUGMENT
    )


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images transformed as they were for condensation, each in its own way."""
    return AUGMENT(images, AUGMENT.draw(generator, len(images)))


def small_convnet() -> nn.Module:
    """Return the ConvNet for MNIST."""
    return convnet(1, size=28)


def measure(
    name: str, kind: str, make: Make, data: DataSet, factory: Callable[[], nn.Module],
    transform: Transform | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Make images, train on them, and print and return what came of it."""
    start = time.perf_counter()
    few = make(data.train)
    seconds = time.perf_counter() - start
    found = [train_on(few, data, factory, transform=transform, seed=seed) for seed in range(3)]
    accuracy, per_class = statistics.mean(found), len(few) // 10
    print(f"{name:13} {per_class:3} {kind:18} {seconds:6.0f} s  {100 * accuracy:.1f} %", flush=True)
    return {"data": name, "per class": per_class, "images": kind, "seconds": seconds,
            "accuracy": accuracy, "each": found}  # fmt: skip


def mlps(folder: Path) -> Rows:
    """Measure what images teach MLPs."""
    rows = []
    for name in ("MNIST", "FashionMNIST"):
        data = idx_folder(folder, name)
        for per_class in ITERATIONS:
            rows.append(measure(name, "random", partial(drawn, per_class), data, mnist_mlp))
            rows.append(measure(name, "condensed", partial(condensed, per_class), data, mnist_mlp))
    return rows


def convnets(folder: Path) -> Rows:
    """Measure what images teach ConvNets."""
    data = idx_folder(folder, "MNIST")
    kinds: Mapping[str, Make] = {
        "random": partial(drawn, 10), "gradients (DSA)": siamese, "means (DM)": means
    }  # fmt: skip
    return [
        measure("MNIST", kind, make, data, small_convnet, augmented) for kind, make in kinds.items()
    ]


def main() -> None:
    """Measure all, print it, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--convnet", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = convnets(options.data_dir) if options.convnet else mlps(options.data_dir)
    if options.out:
        options.out.write_text(json.dumps(provenance() | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
