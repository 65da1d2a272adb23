"""Train the end models that are merged afterwards."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from fastrebasin._progress import bar
from fastrebasin.data import Data, mixture, sources

__all__ = ["train"]


def train(
    factory: Callable[[], nn.Module],
    data: Data,
    *,
    epochs: int,
    lr: float = 0.1,
    batch_size: int = 500,
    momentum: float = 0.9,
    seed: int = 0,
    label: str = "train",
    progress: bool = True,
) -> nn.Module:
    """Train a fresh model by stochastic gradient descent at a constant rate.

    Args:
        factory: makes the model; called with torch's generator seeded, which is restored after.
        data: images and labels, or several such, drawn evenly.
        epochs, lr, batch_size, momentum: of the training; the paper has 100, 0.1, 500, 0.9.
        seed: of initial weights and shuffling.
        label: of the progress bar.
        progress: show a bar on a terminal.

    Returns:
        The model after the last epoch, in eval mode.

    Source: Yamada et al., ACML 2024, appendix A.1.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = factory().train()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    parts = sources(data)
    for _ in bar(range(epochs), label, progress=progress, unit="epoch"):
        for x, y in mixture(parts, batch_size, generator):
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval()
