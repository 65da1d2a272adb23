"""A few examples that stand in for a data set, and their file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from PIL import Image
from torch import Tensor

from fastrebasin.checkpoints import atomic_output, save_checkpoint
from fastrebasin.data import Batch, Examples

__all__ = ["ReducedSet"]


class ReducedSet(Examples):
    """Examples, their labels, and where they come from; `data=` arguments take it as it is.

    Attributes:
        images: (n, ...), of whatever shape the model takes.
        labels: int64 (n,).
        provenance: what made the set, of which data, with which settings.
        extras: more tensors (n, ...) that belong to the examples: of a coreset "indices" into the
            data, int64, "scores", float64, and "weights", float64.

    Example:
        >>> reduced = ReducedSet(torch.zeros(2, 4, 4), torch.tensor([0, 1]), {"method": "zeros"})
        >>> len(reduced), reduced.take(torch.tensor([1]))[1]
        (2, tensor([1]))
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        provenance: Mapping[str, str],
        extras: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.images, self.labels = images, labels
        self.provenance, self.extras = dict(provenance), dict(extras or {})
        sizes = {"labels": labels, **self.extras}
        wrong = [f"{name} {len(each)}" for name, each in sizes.items() if len(each) != len(images)]
        if wrong:
            raise ValueError(f"there must be one for each of {len(images)} images, got {wrong}")

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Tensor) -> Batch:
        """Return the examples at `indices`."""
        return self.images[indices], self.labels[indices]

    def save(self, path: str | Path) -> None:
        """Write one `.safetensors` file, whole or not at all, with the provenance in its header.

        Raises:
            ValueError: `path` doesn't end in `.safetensors`.
        """
        if Path(path).suffix != ".safetensors":
            raise ValueError(f"a reduced set is kept in a .safetensors file, got {path}")
        save_checkpoint(
            {"images": self.images, "labels": self.labels, **self.extras}, path, self.provenance
        )

    @classmethod
    def load(cls, path: str | Path) -> ReducedSet:
        """Read what `save` wrote, onto the CPU.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged or holds no such set.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no such file of a reduced set: {path}")
        try:
            with safetensors.safe_open(path, "pt") as file:
                header = dict(file.metadata() or {})
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
        if not {"images", "labels"} <= tensors.keys():
            raise ValueError(f"{path} holds no reduced set, but {sorted(tensors)}")
        images, labels = tensors.pop("images"), tensors.pop("labels")
        header.pop("format", None)
        return cls(images, labels, header, tensors)

    def picture(self) -> Image.Image:
        """Return all images on a grid, a row for each class, each stretched from black to white.

        Raises:
            ValueError: the examples are no images: (n, h, w), (n, 1, h, w) or (n, 3, h, w).
        """
        images = self.images.detach().cpu().float()
        images = images[:, None] if images.ndim == 3 else images
        if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
            raise ValueError(f"images must be (n, 1 or 3, h, w), got {tuple(self.images.shape)}")
        low, high = (f(images, (1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
        levels = (images - low) / (high - low).clamp(min=1e-12) * 255
        _, counts = self.labels.unique(return_counts=True)
        rows, (height, width) = len(counts), images.shape[2:]
        across = min(int(counts.max()), 64)
        down = [math.ceil(int(count) / across) for count in counts]
        canvas = torch.zeros(images.shape[1], sum(down) * (height + 1), across * (width + 1))
        order, position = self.labels.argsort(stable=True), 0
        for row in range(rows):
            for k in range(int(counts[row])):
                top = (sum(down[:row]) + k // across) * (height + 1)
                left = (k % across) * (width + 1)
                canvas[:, top : top + height, left : left + width] = levels[order[position]]
                position += 1
        pixels = canvas.round().to(torch.uint8).permute(1, 2, 0)
        return Image.fromarray(pixels.squeeze(-1).numpy())

    def save_picture(self, path: str | Path) -> None:
        """Write the picture as PNG, whole or not at all.

        Raises:
            ValueError: as `picture`.
        """
        drawn = self.picture()
        with atomic_output(Path(path)) as temporary:
            drawn.save(temporary, format="PNG")
