"""Train the end models that are merged afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastrebasin._progress import bar
from fastrebasin.data import Data, mixture, mixture_length, sources

__all__ = ["Transform", "cycle", "jittered", "train"]


Transform: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]
"""Of a batch of images."""


def train(
    factory: Callable[[], nn.Module],
    data: Data,
    *,
    epochs: int,
    lr: float = 0.1,
    batch_size: int = 500,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    one_cycle: bool = False,
    drops: Sequence[int] = (),
    transform: Transform | None = None,
    bfloat16: bool = False,
    seed: int = 0,
    label: str = "train",
    progress: bool = True,
) -> nn.Module:
    """Train a fresh model by stochastic gradient descent.

    Args:
        factory: makes the model; called with torch's generator seeded, which is restored after.
        data: images and labels, or several such, drawn evenly.
        epochs, lr, batch_size, momentum, weight_decay: of the training; the paper has 100, 0.1,
            500, 0.9, 0 for MLPs.
        one_cycle: the rate rises to `lr` over a fifth of the steps and falls to 0, instead of being
            constant.
        drops: without it, epochs after which the rate is a tenth of what it was.
        transform: of each batch of images, such as `jittered`.
        bfloat16: run the network under autocast, which some CPUs do much faster.
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
    optimizer = torch.optim.SGD(
        model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay
    )
    parts = sources(data)
    length = mixture_length(parts, batch_size)
    steps = max(1, epochs * length)

    def rate(step: int) -> float:
        fallen = sum(step >= drop * length for drop in drops)
        return cycle(step, steps) if one_cycle else 0.1**fallen

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    for _ in bar(range(epochs), label, progress=progress, unit="epoch"):
        for x, y in mixture(parts, batch_size, generator):
            images = x if transform is None else transform(x, generator)
            optimizer.zero_grad()
            with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
                logits = model(images)
            functional.cross_entropy(logits.float(), y).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def cycle(step: int, steps: int) -> float:
    """Return the share of the highest rate at a step: up over the first fifth, then down to 0.

    Example:
        >>> [cycle(step, 10) for step in (0, 2, 6, 10)]
        [0.5, 1.0, 0.5, 0.0]
    """
    return min(5 * (step + 1) / steps, 1.25 * (steps - step) / steps, 1.0)


def jittered(images: Tensor, generator: torch.Generator, reach: int = 4) -> Tensor:
    """Move each of (n, c, h, w) images by up to `reach` pixels, zeros come in; mirror every second.

    Example:
        >>> jittered(torch.ones(2, 3, 8, 8), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 8, 8])
    """
    count, _, height, width = images.shape
    padded = functional.pad(images, (reach,) * 4)
    down, right = torch.randint(2 * reach + 1, (2, count, 1), generator=generator)
    rows = down + torch.arange(height)
    columns = right + torch.arange(width)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    each = torch.arange(count)[:, None, None]
    # Indices on both sides of a slice put the channels last.
    return padded[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
