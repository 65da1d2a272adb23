"""Transforms of images with gradients, the same for real and synthetic ones.

Source: Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021,
section 3 and its released settings. Each call applies one strategy, picked by chance, as the
released code does. We differ in that images that aren't square keep their aspect when turned, and
that all chances come from a generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["DifferentiableAugmentation", "Drawn"]


class Drawn(NamedTuple):
    """The strategy of one call, and its chances, float64 (3, 1 or n) in [0, 1)."""

    strategy: str
    chances: Tensor


@dataclass(frozen=True)
class DifferentiableAugmentation:
    """One of several random transforms of a batch of images, differentiable in the images.

    What is drawn once may be applied to several batches: Siamese augmentation.

    Attributes:
        strategies: names joined by "_", of color, crop, cutout, flip, scale and rotate; all by
            default. For digits the authors leave out the flip.
        brightness: up to so much is added to or taken from every pixel.
        saturation: channels' distances from their mean change by a factor in 1 +- so much.
        contrast: pixels' distances from the image's mean, likewise.
        crop: shift by whole pixels, up to so large a share of a side; zeros come in.
        cutout: a square whose side is so large a share of the image's becomes zero.
        flip: chance of the mirror image.
        scale: zoom of each side, between this and its inverse.
        rotate: degrees, to either side.

    Raises:
        ValueError: a strategy has no such name, or strengths are out of range; names all.

    Example:
        >>> augment = DifferentiableAugmentation("color_crop_cutout_scale_rotate")
        >>> drawn = augment.draw(torch.Generator().manual_seed(0))
        >>> real, synthetic = torch.rand(256, 1, 28, 28), torch.randn(10, 1, 28, 28)
        >>> [augment(images, drawn).shape[0] for images in (real, synthetic)]
        [256, 10]

    Source: Zhao and Bilen, ICML 2021.
    """

    strategies: str = "color_crop_cutout_flip_scale_rotate"
    brightness: float = 0.5
    saturation: float = 1.0
    contrast: float = 0.5
    crop: float = 0.125
    cutout: float = 0.5
    flip: float = 0.5
    scale: float = 1.2
    rotate: float = 15.0

    def __post_init__(self) -> None:
        unknown = [name for name in self.strategies.split("_") if name not in _STRATEGIES]
        problems = [
            f"augment must join names of {', '.join(_STRATEGIES)} by _, got {name!r}"
            for name in unknown
        ]
        bounds = {"brightness": math.inf, "saturation": math.inf, "contrast": math.inf,
                  "rotate": math.inf, "crop": 1, "cutout": 1, "flip": 1}  # fmt: skip
        for name, bound in bounds.items():
            value = getattr(self, name)
            if not 0 <= value <= bound:
                problems.append(f"{name} must be in [0, {bound}], got {value}")
        if not 1 <= self.scale < math.inf:
            problems.append(f"scale must be at least 1, got {self.scale}")
        if problems:
            raise ValueError("; ".join(problems))

    def draw(self, generator: torch.Generator, count: int = 1) -> Drawn:
        """Draw a strategy, and chances of its own for each of `count` images; 1 serves any number.

        Args:
            generator: on the CPU.
            count: how many images, or 1 for the same transform of all.
        """
        names = self.strategies.split("_")
        name = names[int(torch.randint(len(names), (), generator=generator))]
        return Drawn(name, torch.rand(3, count, generator=generator, dtype=torch.float64))

    def __call__(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Return transformed images of the same shape, dtype and device.

        Args:
            images: floating point, (n, channels, height, width) or (n, height, width).
            drawn: of 1 image or of n.

        Raises:
            ValueError: the examples are no images, or were drawn for another number.
        """
        if images.ndim not in (3, 4) or not images.is_floating_point():
            raise ValueError(
                "augment needs images (n, channels, height, width) or (n, height, width), got "
                f"{tuple(images.shape)} and {images.dtype}"
            )
        if drawn.chances.shape[1] not in (1, len(images)):
            raise ValueError(f"drawn for {drawn.chances.shape[1]} images, got {len(images)}")
        maps = images if images.ndim == 4 else images[:, None]
        chances = drawn.chances.to(images.device)
        return _STRATEGIES[drawn.strategy](maps, chances, self).reshape(images.shape)


def _color(x: Tensor, chances: Tensor, augment: DifferentiableAugmentation) -> Tensor:
    u = (2 * chances - 1).to(x)[:, :, None, None, None]
    x = x + augment.brightness * u[0]
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (1 + augment.saturation * u[1])
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (1 + augment.contrast * u[2])


def _crop(x: Tensor, chances: Tensor, augment: DifferentiableAugmentation) -> Tensor:
    for axis, u in zip((2, 3), chances, strict=False):
        size = x.shape[axis]
        most = math.floor(augment.crop * size + 0.5)
        first = (u * (2 * most + 1)).floor().long() - most
        source = first[:, None] + torch.arange(size, device=x.device)
        inside = _along(axis, (source >= 0) & (source < size))
        index = _along(axis, source.clamp(0, size - 1)).expand_as(x)
        x = x.gather(axis, index) * inside
    return x


def _cutout(x: Tensor, chances: Tensor, augment: DifferentiableAugmentation) -> Tensor:
    hole = torch.ones((), dtype=torch.bool, device=x.device)
    for axis, u in zip((2, 3), chances, strict=False):
        size = x.shape[axis]
        side = math.floor(augment.cutout * size + 0.5)
        first = (u * (size + 1)).floor().long() - side // 2
        pixels = torch.arange(size, device=x.device) - first[:, None]
        hole = hole & _along(axis, (pixels >= 0) & (pixels < side))
    return x * ~hole


def _flip(x: Tensor, chances: Tensor, augment: DifferentiableAugmentation) -> Tensor:
    return torch.where((chances[0] < augment.flip)[:, None, None, None], x.flip(3), x)


def _scale(x: Tensor, chances: Tensor, augment: DifferentiableAugmentation) -> Tensor:
    low, high = 1 / augment.scale, augment.scale
    across, down = low + (high - low) * chances[:2]
    zero = torch.zeros_like(across)
    return _affine(x, [[across, zero], [zero, down]])


def _rotate(x: Tensor, chances: Tensor, augment: DifferentiableAugmentation) -> Tensor:
    angle = math.radians(augment.rotate) * (2 * chances[0] - 1)
    aspect = x.shape[2] / x.shape[3]  # the grid goes from -1 to 1 along both sides
    cos, sin = angle.cos(), angle.sin()
    return _affine(x, [[cos, -sin * aspect], [sin / aspect, cos]])


def _affine(x: Tensor, rows: list[list[Tensor]]) -> Tensor:
    """Return x at the positions that a linear map of the plane takes each pixel to."""
    matrix = torch.stack([torch.stack([*row, torch.zeros_like(row[0])], 1) for row in rows], 1)
    grid = functional.affine_grid(matrix, [len(matrix), 1, *x.shape[2:]], align_corners=False)
    grid = grid.to(x).expand(len(x), -1, -1, -1)
    return functional.grid_sample(x, grid, padding_mode="zeros", align_corners=False)


def _along(axis: int, lines: Tensor) -> Tensor:
    """Give (count, size) the axes of images, the second one at `axis`."""
    return lines[:, None, :, None] if axis == 2 else lines[:, None, None, :]


_STRATEGIES: Mapping[str, Callable[[Tensor, Tensor, DifferentiableAugmentation], Tensor]] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}
