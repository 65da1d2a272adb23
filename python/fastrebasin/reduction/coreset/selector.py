"""What every rule of selection shares: how many of each class, and the loop over classes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastrebasin.reduction.coreset.candidates import Candidates

__all__ = ["ByClass", "Chosen", "Scored", "Selector", "class_counts", "for_each_class"]


@dataclass(frozen=True)
class Chosen:
    """Examples in the order in which they were chosen.

    Attributes:
        indices: int64 (k,).
        scores: (k,), what the rule gave each when it chose it: its own docstring says what.
        weights: (k,), how many examples each stands for, if the rule says so.
    """

    indices: Tensor
    scores: Tensor
    weights: Tensor | None = None


class Selector(ABC):
    """A rule that chooses so many examples of each class."""

    even: ClassVar[bool] = False
    """Whether a fraction of all examples is as many of every class, whatever their sizes."""

    looks: ClassVar[bool] = True
    """Whether it needs more than labels."""

    @abstractmethod
    def select(
        self, candidates: Candidates, counts: Mapping[int, int], generator: torch.Generator
    ) -> Chosen:
        """Choose among the candidates.

        Args:
            candidates: all examples, of all classes.
            counts: how many of each class; at most all, possibly none.
            generator: on the CPU.

        Returns:
            Indices into the candidates, grouped by class in the order of `counts`.
        """


class ByClass(Selector):
    """A rule that looks at one class at a time, and draws nothing."""

    def select(
        self,
        candidates: Candidates,
        counts: Mapping[int, int],
        generator: torch.Generator,  # noqa: ARG002
    ) -> Chosen:
        """Choose so many examples of each class."""

        def choose(members: Tensor, count: int) -> Chosen:
            return self.choose(candidates, members, count)

        return for_each_class(candidates.labels, counts, choose)

    @abstractmethod
    def choose(self, candidates: Candidates, members: Tensor, count: int) -> Chosen:
        """Choose `count` of one class.

        Args:
            candidates: all examples, of all classes.
            members: int64 indices of the class's, ascending, on the CPU.
            count: how many to choose; at most all, possibly none.

        Returns:
            Indices into `members`, in the order of choice.
        """


class Scored(Selector):
    """A rule that scores each example by itself, and takes the largest; ties by index."""

    def select(
        self, candidates: Candidates, counts: Mapping[int, int], generator: torch.Generator
    ) -> Chosen:
        """Choose so many examples of each class."""
        scores = self.scores(candidates, generator).cpu()

        def choose(members: Tensor, count: int) -> Chosen:
            values, order = scores[members].sort(descending=True, stable=True)
            return Chosen(order[:count], values[:count])

        return for_each_class(candidates.labels, counts, choose)

    @abstractmethod
    def scores(self, candidates: Candidates, generator: torch.Generator) -> Tensor:
        """Return the score of every candidate, (n,)."""


def for_each_class(
    labels: Tensor, counts: Mapping[int, int], choose: Callable[[Tensor, int], Chosen]
) -> Chosen:
    """Choose among the members of one class after the other; indices are into all examples."""
    indices, scores = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.float64)]
    weights = [torch.zeros(0, dtype=torch.float64)]
    for label, count in counts.items():
        members = torch.nonzero(labels == label).flatten()
        chosen = choose(members, count)
        indices.append(members[chosen.indices.cpu()])
        scores.append(chosen.scores.double().cpu())
        own = torch.ones(count) if chosen.weights is None else chosen.weights
        weights.append(own.double().cpu())
    return Chosen(torch.cat(indices), torch.cat(scores), torch.cat(weights))


def class_counts(
    labels: Tensor,
    *,
    per_class: int | None,
    fraction: float | None,
    classes: Collection[int] | None = None,
    even: bool = False,
) -> dict[int, int]:
    """Return how many examples of each class to choose, classes in ascending order.

    Args:
        labels: int64 (n,).
        per_class: so many of every class.
        fraction: or so large a part of all, rounded; each class gets its share, the largest
            remainders are rounded up.
        classes: labels that must occur; by default those that do.
        even: a fraction is as many of every class instead.

    Raises:
        ValueError: both or neither are given, one is out of range, a class is missing, or a class
            has fewer examples than asked for; everything wrong is named.

    Example:
        >>> class_counts(torch.tensor([0, 0, 0, 0, 1, 1]), per_class=None, fraction=0.5)
        {0: 2, 1: 1}
    """
    found, sizes = (t.tolist() for t in labels.unique(return_counts=True))
    problems = []
    if (per_class is None) == (fraction is None):
        problems.append(f"give per_class or fraction, got {per_class} and {fraction}")
    if per_class is not None and per_class < 0:
        problems.append(f"per_class must not be negative, got {per_class}")
    if fraction is not None and not 0 <= fraction <= 1:
        problems.append(f"fraction must be in [0, 1], got {fraction}")
    missing = sorted(set(classes or ()) - set(found))
    if missing:
        problems.append(f"these classes have no examples: {missing}")
    if problems:
        raise ValueError("; ".join(problems))
    if per_class is not None:
        counts = dict.fromkeys(found, per_class)
    else:
        assert fraction is not None
        shares = [len(labels) / max(1, len(found))] * len(found) if even else sizes
        total = math.floor(fraction * len(labels) + 0.5)
        counts = dict(zip(found, _rounded([fraction * s for s in shares], total), strict=True))
    scarce = {c: n for c, n in zip(found, sizes, strict=True) if n < counts[c]}
    if scarce:
        asked = f"per_class is {per_class}" if fraction is None else f"fraction is {fraction}"
        raise ValueError(f"{asked}, but these classes have fewer examples: {scarce}")
    return counts


def _rounded(shares: list[float], total: int) -> list[int]:
    """Return integers next to the shares whose sum is `total`: the largest remainders go up."""
    floors = [math.floor(share) for share in shares]
    order = sorted(range(len(shares)), key=lambda k: (floors[k] - shares[k], k))
    for k in order[: total - sum(floors)]:
        floors[k] += 1
    return floors
