"""Steps that several experiments take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from fastrebasin.experiments.data_sets import DataSet
from fastrebasin.reduction import select_coreset

__all__ = ["coreset", "timed"]


def coreset(data: DataSet, per_class: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return so many training images of each class, drawn at random, and their labels."""
    chosen = select_coreset(data.train, "random", per_class=per_class, seed=seed, progress=False)
    return chosen.images, chosen.labels


@contextmanager
def timed(seconds: dict[str, float], label: str) -> Iterator[None]:
    """Note the wall seconds that a block takes."""
    start = time.perf_counter()
    yield
    seconds[label] = time.perf_counter() - start
