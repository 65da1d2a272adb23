"""More images out of a few: random warps and mixtures, without labels.

A network's answers to warped images are as good a target as those to the images themselves, when
another network shall compute the same. Affine maps and smooth displacements (Simard, Steinkraus
and Platt, ICDAR 2003) keep images plausible; a mixture of two (Zhang et al., "mixup", ICLR 2018)
lies between what one class looks like and another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from fastrebasin.data import Batch, Examples

__all__ = ["Augment", "Augmented", "augmented", "deform", "warp"]

Augment: TypeAlias = "int | Callable[[Tensor, torch.Generator], Tensor] | str | None"
"""How many copies of every image, a function that makes one of a batch, "auto", or None."""

_COPIES = 100  # of each image, at most
_IMAGES = 20_000  # of one source with their copies, unless it has more by itself
_TURN, _ZOOM, _SHEAR, _SHIFT = 0.4, 0.25, 0.25, 0.15  # radians, log scale, slope, of half a side
_KNOTS, _BEND = 5, 0.1  # displacements on a grid of so many knots, of so much of half a side


def warp(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return a warped copy of every image; every third is mixed with another of the batch.

    Args:
        images: (n, channels, height, width), floating point, on any device.
        generator: of all random choices, on the CPU.

    Returns:
        Images of the same shape, dtype and device.

    Example:
        >>> warp(torch.rand(6, 3, 8, 8), torch.Generator().manual_seed(0)).shape
        torch.Size([6, 3, 8, 8])

    Source: Simard, Steinkraus and Platt, ICDAR 2003; Zhang et al., ICLR 2018.
    """
    count = len(images)
    warped = deform(images, generator)
    third = torch.arange(0, count, 3)
    partner = torch.randperm(count, generator=generator)[: len(third)]
    share = torch.rand(len(third), 1, 1, 1, generator=generator).to(images)
    warped[third] = torch.lerp(warped[third], warped[partner], share)
    return warped


def deform(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return a copy of every image, turned, zoomed, sheared, shifted and bent; differentiable.

    Args:
        images: (n, channels, height, width), floating point, on any device.
        generator: of all random choices, on the CPU.

    Returns:
        Images of the same shape, dtype and device.

    Example:
        >>> deform(torch.ones(2, 3, 8, 8), torch.Generator().manual_seed(0)).mean().item()
        1.0

    Source: Simard, Steinkraus and Platt, ICDAR 2003.
    """
    count, _, height, width = images.shape
    grid = functional.affine_grid(_affine(count, generator), [count, 1, height, width], False)
    knots = _BEND * torch.randn(count, 2, _KNOTS, _KNOTS, generator=generator)
    bend = _between_knots(height) @ knots @ _between_knots(width).T
    grid = (grid + bend.permute(0, 2, 3, 1)).to(images)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


class Augmented(Examples):
    """A source of examples and of copies of them: first all as they are, then copy after copy.

    Any selection of examples is augmented alike whenever it is taken.
    """

    def __init__(
        self,
        source: Examples,
        copies: int,
        function: Callable[[Tensor, torch.Generator], Tensor],
        seed: int,
    ) -> None:
        self.source, self.copies = source, copies
        self._function, self._seed = function, seed

    def __len__(self) -> int:
        return len(self.source) * (1 + self.copies)

    def take(self, indices: Tensor) -> Batch:
        """Return the examples at `indices` as one batch; copies have their originals' labels."""
        count = len(self.source)
        x, y = self.source.take(indices % count)
        copied = indices >= count
        if copied.any():
            generator = torch.Generator().manual_seed(self._seed + int(indices[copied][0]))
            x = x.clone()
            x[copied] = self._function(x[copied], generator)
        return x, y


def augmented(source: Examples, augment: Augment, seed: int) -> Examples:
    """Return a source with copies of its examples.

    Args:
        source: of examples.
        augment: how many copies of each example (images only), or a function of a batch and a
            generator, for as many copies as "auto" makes; "auto" is up to 100 warped copies of
            images (channels, height, width), 20,000 in all, and none of anything else.
        seed: of all random choices.

    Raises:
        ValueError: `augment` is negative or an unknown word, or examples aren't images.
    """
    if isinstance(augment, str) and augment != "auto":
        raise ValueError(f'augment must be a number, a function, "auto" or None, got {augment!r}')
    if augment is None or augment == 0:
        return source
    copies = max(0, min(_COPIES, _IMAGES // len(source) - 1))
    if callable(augment):
        return Augmented(source, copies, augment, seed)
    x, _ = source.take(torch.arange(1))
    images = x.ndim == 4 and x.is_floating_point()
    if augment == "auto":
        return Augmented(source, copies, warp, seed) if images and copies else source
    if not isinstance(augment, int) or augment < 0:
        raise ValueError(f"augment must not be negative, got {augment!r}")
    if not images:
        raise ValueError(
            f"augment={augment} needs images (n, channels, height, width), got "
            f"{tuple(x.shape)} and {x.dtype}; give a function"
        )
    return Augmented(source, augment, warp, seed)


def _between_knots(size: int) -> Tensor:
    """Return the matrix (size, knots) of cubic interpolation between evenly spaced knots."""
    knots = torch.eye(_KNOTS)[:, None, :, None]
    smooth = functional.interpolate(knots, (size, 1), mode="bicubic", align_corners=True)
    return smooth[:, 0, :, 0].T


def _affine(count: int, generator: torch.Generator) -> Tensor:
    """Return random affine maps of the plane: turns, zooms, shears and shifts."""
    turn, zoom, shear = (
        size * (2 * torch.rand(count, generator=generator) - 1) for size in (_TURN, _ZOOM, _SHEAR)
    )
    shift = _SHIFT * (2 * torch.rand(count, 2, 1, generator=generator) - 1)
    cos, sin = turn.cos(), turn.sin()
    rotation = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    slope = torch.eye(2).repeat(count, 1, 1)
    slope[:, 0, 1] = shear
    return torch.cat([zoom.exp()[:, None, None] * (rotation @ slope), shift], 2)
