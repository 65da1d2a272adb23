"""What a few images per class teach a fresh network."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from fastrebasin.data import Data
from fastrebasin.evaluation import evaluate
from fastrebasin.experiments.data_sets import DataSet
from fastrebasin.experiments.training import Transform, train

__all__ = ["train_on"]


def train_on(
    few: Data,
    data: DataSet,
    factory: Callable[[], nn.Module],
    *,
    epochs: int = 300,
    transform: Transform | None = None,
    seed: int = 0,
    progress: bool = True,
) -> float:
    """Return the test accuracy of a network trained on a few images from scratch.

    Args:
        few: the images, such as a `ReducedSet`.
        data: whose test images count.
        factory: makes the network.
        epochs: of the training; the rate is a tenth in their second half.
        transform: of each batch of the few images.
        seed: of initial weights and shuffling.
        progress: show a bar on a terminal.

    Source: the protocol of Zhao, Mopuri and Bilen, ICLR 2021: 300 epochs at 0.01, momentum 0.9,
    weight decay 5e-4, batches of 256.
    """
    network = train(
        factory, few, epochs=epochs, lr=0.01, batch_size=256, momentum=0.9, weight_decay=5e-4,
        drops=[epochs // 2], transform=transform, seed=seed, label="train on few",
        progress=progress,
    )  # fmt: skip
    return evaluate(network, data.test).mixture.accuracy
