"""Coresets: indices of a few examples of each class.

Random selection is what Yamada et al., ACML 2024, tables 2 and 3 use.
"""

from __future__ import annotations

import torch

__all__ = ["random_coreset"]


def random_coreset(labels: torch.Tensor, per_class: int, *, seed: int = 0) -> torch.Tensor:
    """Draw `per_class` examples of every class, uniformly and without replacement.

    Args:
        labels: integer tensor of shape (n,), on any device.
        per_class: examples of each class that occurs in `labels`.
        seed: the same seed draws the same examples.

    Returns:
        int64 indices on the CPU, grouped by class in ascending order.

    Raises:
        ValueError: `labels` isn't a vector of integers, `per_class` is negative, or classes have
            too few examples (all of them are named).

    Example:
        >>> labels = torch.tensor([0, 1, 0, 1, 0])
        >>> labels[random_coreset(labels, per_class=2)].tolist()
        [0, 0, 1, 1]

    Source: Yamada et al., ACML 2024, section 3.6.
    """
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(
            "labels must be a vector of integers, "
            f"got shape {tuple(labels.shape)} and {labels.dtype}"
        )
    if per_class < 0:
        raise ValueError(f"per_class must not be negative, got {per_class}")
    labels = labels.cpu()
    classes, counts = labels.unique(return_counts=True)
    scarce = {int(c): int(n) for c, n in zip(classes, counts, strict=True) if n < per_class}
    if scarce:
        raise ValueError(f"per_class is {per_class}, but these classes have fewer: {scarce}")
    generator = torch.Generator().manual_seed(seed)
    chosen = [torch.empty(0, dtype=torch.int64)]
    for label in classes:
        members = torch.nonzero(labels == label).flatten()
        chosen.append(members[torch.randperm(len(members), generator=generator)[:per_class]])
    return torch.cat(chosen)
