"""Real images, class by class."""

from __future__ import annotations

import torch
from torch import Tensor

from fastrebasin.data import Data, held_tensors, on_device
from fastrebasin.reduction.coreset.candidates import Candidates

__all__ = ["RealImages"]


class RealImages:
    """Images of a data set that are taken when drawn; held are one index list for each class.

    Args:
        data: one source of labelled images, floating point, of any shape.
        progress: show a bar on a terminal while labels are read.

    Attributes:
        classes: the labels that occur, ascending.
        members: int64 indices into the data, for each class.
        shape: of one image.
        dtype: of the images.

    Raises:
        ValueError: there are several sources, labels aren't a vector of integers, or images aren't
            floating point.

    Example:
        >>> real = RealImages((torch.rand(5, 8, 8), torch.tensor([3, 0, 3, 0, 3])))
        >>> real.classes, real.draw(1, 2, torch.Generator().manual_seed(0)).shape
        ([0, 3], torch.Size([2, 8, 8]))
    """

    def __init__(self, data: Data, *, progress: bool = False) -> None:
        seen = Candidates(data, progress=progress)
        self._source = seen.source
        self.classes: list[int] = seen.labels.unique().tolist()
        self.members = [(seen.labels == label).nonzero().flatten() for label in self.classes]
        first, _ = self._source.take(torch.arange(1))
        self.shape, self.dtype = first.shape[1:], first.dtype
        if not first.is_floating_point():
            raise ValueError(f"data must be floating-point images, got {first.dtype}")

    def __len__(self) -> int:
        return len(self._source)

    @property
    def held(self) -> tuple[Tensor, ...]:
        """The tensors that the data are made of, if they are."""
        return held_tensors(self._source)

    def move_to(self, device: torch.device) -> None:
        """Draw on another device from now on, where the data are small beside what runs there."""
        self._source = on_device(self._source, device)

    def draw(self, k: int, count: int, generator: torch.Generator) -> Tensor:
        """Draw images of the class number `k` without replacement: `count`, or all if fewer.

        Raises:
            ValueError: an image isn't finite.
        """
        members = self.members[k]
        chosen = members[torch.randperm(len(members), generator=generator)[:count]]
        images, _ = self._source.take(chosen)
        broken = (~torch.isfinite(images)).flatten(1).any(1).cpu()
        if broken.any():
            raise ValueError(
                f"data must be finite, but image number {int(chosen[broken][0])}, of class "
                f"{self.classes[k]}, isn't"
            )
        return images
