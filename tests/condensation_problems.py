"""Small data sets and networks to condense, in a few short steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastrebasin import ReducedSet
from fastrebasin.experiments.models import MLP
from fastrebasin.reduction import distribution_matching, gradient_matching

__all__ = ["METHODS", "blobs", "condense", "normalising", "small"]

METHODS: list[Callable[..., ReducedSet]] = [gradient_matching, distribution_matching]


def blobs(count: int = 90, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return noisy images (n, 1, 6, 6) of three patterns."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(5))
    labels = torch.arange(count) % 3
    return patterns[labels] + 0.3 * torch.randn(count, 1, 6, 6, generator=generator), labels


def small() -> nn.Module:
    return MLP(36, (16,), 3)


def normalising() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(),
        nn.Linear(64, 3),
    )  # fmt: skip


def condense(
    method: Callable[..., ReducedSet] = gradient_matching,
    factory: Callable[[], nn.Module] = small,
    data: object = None,
    **options: Any,
) -> ReducedSet:
    options = {"per_class": 2, "iterations": 4, "batch_size": 16, "progress": False} | options
    if method is gradient_matching:
        options = {"outer_loops": 2, "inner_epochs": 2} | options
    return method(factory, blobs() if data is None else data, **options)
