"""Means and variances of channels over batches, and the batches to take them from.

Parts are merged as Chan, Golub and LeVeque (1979) do: each about its own mean, in float64.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fastrebasin._progress import bar
from fastrebasin.data import Data, mixture, mixture_length, sources

__all__ = ["ChannelMoments", "check_budget", "inputs"]

# A channel whose values differ by fewer units in the last place of their mean is constant but for
# rounding.
_ROUNDING = 8


class ChannelMoments:
    """The mean and the variance of each channel, of all that was observed of it.

    Attributes:
        count: number of observations, each as often as its weight says.
        mean: float64 of shape (channels,).
        scatter: sums of squares about the means, of the same shape.
    """

    def __init__(self) -> None:
        self.count = self.eps = 0.0
        self.mean = self.scatter = torch.zeros((), dtype=torch.float64)

    @classmethod
    @torch.no_grad()
    def of(cls, x: Tensor, axis: int, weight: float = 1.0) -> ChannelMoments:
        """Return the moments of a tensor with its channels on one axis; others are observations."""
        found = cls()
        wide = x.movedim(axis, 0).flatten(1).to(torch.promote_types(x.dtype, torch.float32))
        if wide.shape[1]:
            found.count, found.eps = weight * wide.shape[1], torch.finfo(x.dtype).eps
            variance, mean = torch.var_mean(wide, 1, correction=0)
            found.mean, found.scatter = mean.double(), found.count * variance.double()
        return found

    def merge(self, other: ChannelMoments) -> None:
        """Add all that `other` observed."""
        if not other.count:
            return
        total = self.count + other.count
        step = other.mean - self.mean
        gap = self.count * other.count / total * step.square()
        self.scatter, self.mean = (
            self.scatter + other.scatter + gap,
            self.mean + other.count / total * step,
        )
        self.count, self.eps = total, max(self.eps, other.eps)

    def deviation(self) -> Tensor:
        """Return the standard deviations, zero for channels that are constant but for rounding."""
        found = (self.scatter / self.count).sqrt()
        return torch.where(found > _ROUNDING * self.eps * self.mean.abs(), found, 0.0)

    def is_finite(self) -> bool:
        """Whether nothing that was observed is infinite or NaN."""
        return bool(torch.isfinite(self.mean).all() and torch.isfinite(self.scatter).all())


def inputs(
    model: nn.Module,
    data: Data,
    batch_size: int,
    max_batches: int | None,
    *,
    seed: int,
    label: str,
    progress: bool,
) -> Iterator[Tensor]:
    """Yield shuffled batches of inputs on the model's device, drawn evenly from the sources."""
    parts = sources(data)
    device = next(model.parameters(), torch.empty(0)).device
    drawn = mixture(parts, batch_size, torch.Generator().manual_seed(seed))
    total = min(mixture_length(parts, batch_size), max_batches or mixture_length(parts, batch_size))
    stream = itertools.islice(drawn, total)
    for number, (x, _) in enumerate(
        bar(stream, label, progress=progress, total=total, unit="batch")
    ):
        if not (number and len(x) == 1 < batch_size):  # one left over has no variance
            yield x.to(device)


def check_budget(batch_size: int, max_batches: int | None) -> list[str]:
    """Name what is wrong with the number of examples to take statistics from."""
    problems = []
    if batch_size < 1:
        problems.append(f"batch_size must be at least 1, got {batch_size}")
    if max_batches is not None and max_batches < 1:
        problems.append(f"max_batches must be at least 1, got {max_batches}")
    return problems
