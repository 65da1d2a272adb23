"""What a few images per class teach a fresh network: drawn at random, or condensed from all.

    python benchmarks/condensed.py --data-dir /folder/with/MNIST --out result.json

The network is the paper's MLP of 3 x 512 units, condensed for as it is. Its test accuracy after 300
epochs on the images is a mean over three initial weights; seconds are those of making the images.
Condensation at 10 per class takes one step of the images in every fresh network, which isn't
trained; the published loops take ten, and train it between them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from provenance import provenance

from fastrebasin.experiments.condensed import train_on
from fastrebasin.experiments.data_sets import idx_folder
from fastrebasin.experiments.models import mnist_mlp
from fastrebasin.reduction import ReducedSet, gradient_matching, select_coreset

ITERATIONS = {1: 30, 10: 100}  # by images per class


def make(kind: str, train: object, per_class: int) -> ReducedSet:
    """Return images drawn at random, or condensed."""
    if kind == "random":
        return select_coreset(train, "random", per_class=per_class, progress=False)
    return gradient_matching(
        mnist_mlp, train, per_class=per_class, iterations=ITERATIONS[per_class], outer_loops=1,
        lr=0.1 * per_class,
    )  # fmt: skip


def main() -> None:
    """Measure all, print it, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    for name in ("MNIST", "FashionMNIST"):
        data = idx_folder(options.data_dir, name)
        for per_class in ITERATIONS:
            for kind in ("random", "condensed"):
                start = time.perf_counter()
                few = make(kind, data.train, per_class)
                seconds = time.perf_counter() - start
                found = [train_on(few, data, mnist_mlp, seed=seed) for seed in range(3)]
                rows.append(
                    {
                        "data": name, "per class": per_class, "images": kind, "seconds": seconds,
                        "accuracy": statistics.mean(found), "each": found,
                    }
                )  # fmt: skip
                print(f"{name:13} {per_class:3} {kind:10} {seconds:6.0f} s  "
                      f"{100 * statistics.mean(found):.1f} %", flush=True)  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps(provenance() | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
