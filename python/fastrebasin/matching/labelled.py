"""Sums of products of tensors whose axes are known by labels, and entries picked along them.

What `torch.einsum` calls subscripts are labels here: a side, "a" or "b", and an axis of that side.
Two networks' units are compared for all pairs at once, so a tensor may have the axes of both.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

__all__ = ["Label", "Labelled", "contract", "identity", "pick"]

Label = tuple[str, Hashable]


@dataclass(frozen=True)
class Labelled:
    """A tensor and the label of each of its axes."""

    tensor: torch.Tensor
    labels: tuple[Label, ...]

    def sizes(self) -> dict[Label, int]:
        """Return the length of each axis."""
        return dict(zip(self.labels, self.tensor.shape, strict=True))

    def renamed(self, names: Mapping[Label, Label]) -> Labelled:
        """Return the same tensor with other labels."""
        return Labelled(self.tensor, tuple(names.get(label, label) for label in self.labels))

    def ordered(self, labels: Sequence[Label]) -> torch.Tensor:
        """Return the tensor with its axes in the order of `labels`."""
        return self.tensor.permute([self.labels.index(label) for label in labels])


def contract(factors: Iterable[Labelled], labels: Sequence[Label]) -> Labelled:
    """Multiply tensors and sum over every label that isn't among `labels`."""
    numbers: dict[Label, int] = {}
    arguments: list[torch.Tensor | list[int]] = []
    for factor in factors:
        numbered = [numbers.setdefault(label, len(numbers)) for label in factor.labels]
        arguments += [factor.tensor, numbered]
    result = torch.einsum(*arguments, [numbers[label] for label in labels])
    return Labelled(result, tuple(labels))


def pick(source: Labelled, along: Label, index: Labelled, becomes: Label) -> Labelled:
    """Pick entries along one axis of `source`, at positions that depend on other labels.

    Args:
        source: any tensor.
        along: the label of the axis to pick along; it goes.
        index: positions, with `becomes` among its labels.
        becomes: what the axis is called afterwards. If `source` has that axis already, entries are
            picked for each of its positions: the diagonal of the two.
    """
    sizes = index.sizes()
    new = [label for label in index.labels if label not in source.labels and label != becomes]
    tensor = source.tensor.expand(*(sizes[label] for label in new), *source.tensor.shape)
    labels = [*new, *source.labels]
    on_diagonal = becomes in source.labels
    wanted = [becomes if label == along and not on_diagonal else label for label in labels]
    shape = [sizes.get(label, 1) for label in wanted]
    order = [label for label in wanted if label in sizes]
    positions = index.ordered(order).reshape(shape)
    axis = labels.index(along)
    picked = tensor.take_along_dim(positions, axis)
    if on_diagonal:
        del wanted[axis]
        picked = picked.squeeze(axis)
    return Labelled(picked, tuple(wanted))


def identity(labels: Mapping[Label, int], own: Label, size: int, device: torch.device) -> Labelled:
    """Return positions 0..size-1 along `own`, the same for all other labels."""
    shape = (*labels.values(), size)
    return Labelled(torch.arange(size, device=device).expand(shape), (*labels, own))
