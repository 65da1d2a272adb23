"""The options that all condensations share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastrebasin.reduction.condensation.differentiable_augmentation import (
    DifferentiableAugmentation,
)

__all__ = ["Init", "Settings", "as_augmentation"]

Init = Literal["noise", "real"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options that all methods share, as they document them.

    Attributes:
        method: its name.
        options: those of the method alone.
    """

    method: str
    options: Mapping[str, object]
    per_class: int
    iterations: int
    init: Init
    lr: float
    momentum: float
    batch_size: int
    augment: DifferentiableAugmentation | None
    seed: int
    progress: bool
    checkpoint: str | Path | None
    checkpoint_every: int

    def check(self, **positive: float) -> None:
        """Raise a `ValueError` that names every option out of range, also of others given."""
        problems = [
            f"{name} must not be negative, got {getattr(self, name)}"
            for name in ("per_class", "iterations")
            if getattr(self, name) < 0
        ]
        for name in ("lr", "batch_size", "checkpoint_every"):
            positive[name] = getattr(self, name)
        problems += [
            f"{name} must be positive, got {value}"
            for name, value in positive.items()
            if not 0 < value < math.inf
        ]
        if not 0 <= self.momentum < 1:
            problems.append(f"momentum must be in [0, 1), got {self.momentum}")
        if self.init not in ("noise", "real"):
            problems.append(f'init must be "noise" or "real", got {self.init!r}')
        if self.checkpoint is not None and Path(self.checkpoint).suffix != ".safetensors":
            problems.append(f"checkpoint must end in .safetensors, got {self.checkpoint}")
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def described(self) -> dict[str, object]:
        """What the images depend on, besides data, network and the number of iterations."""
        names = ("per_class", "init", "lr", "momentum", "batch_size")
        return {
            **{name: getattr(self, name) for name in names},
            "augment": str(self.augment),
            **self.options,
        }


def as_augmentation(
    augment: DifferentiableAugmentation | str | None,
) -> DifferentiableAugmentation | None:
    """Return the augmentation that names of strategies stand for, at its published strengths."""
    return DifferentiableAugmentation(augment) if isinstance(augment, str) else augment
