"""Rules that look at gradients of the last layer: GLISTER, CRAIG and GradMatch.

Each source approximates per-example gradients by those of the last layer, as is done here; class by
class. Without a model the last layer is an untrained one on the flattened examples. How we differ
is said by each class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastrebasin._progress import bar
from fastrebasin.reduction.coreset.candidates import Candidates
from fastrebasin.reduction.coreset.greedy import facility_location, first_largest
from fastrebasin.reduction.coreset.pursuit import matching_pursuit
from fastrebasin.reduction.coreset.selector import ByClass, Chosen
from fastrebasin.reduction.coreset.similarity import Nearness
from fastrebasin.reduction.coreset.vectors import last_layer

__all__ = ["Craig", "Glister", "GradMatch"]


@dataclass(frozen=True, kw_only=True)
class Glister(ByClass):
    """Choose what lowers the loss on the class most, if the last layer is trained on it.

    Scores are the gains: an example's gradient times the mean gradient of the class, which is its
    own validation set, after a step of `lr` on each example chosen before. A step on the last layer
    moves the logits of all in proportion to their features' products, exactly.

    The published code of DeepCore means to do this step, but its name of an argument is misspelled,
    and the step is never done. All gains are computed again here, not lazily: they may rise.

    Args:
        lr: length of the step on a chosen example.

    Raises:
        ValueError: `lr` is out of range.

    Example:
        >>> from fastrebasin.reduction import select_coreset
        >>> x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 1.5]])
        >>> data = x, torch.zeros(4, dtype=torch.int64)
        >>> select_coreset(data, Glister(lr=0.5), per_class=2).extras["indices"].tolist()
        [1, 3]

    Source: Killamsetty et al., "GLISTER: generalization based data subset selection for efficient
    and robust learning" (AAAI 2021).
    """

    lr: float = 0.01

    def __post_init__(self) -> None:
        _check_not_negative("lr", self.lr)

    def choose(self, candidates: Candidates, members: Tensor, count: int) -> Chosen:
        """Choose among the members of one class."""
        layer = last_layer(candidates, members)
        inputs, errors, logits = layer.inputs, layer.errors(), layer.logits.clone()
        free = torch.ones(len(inputs), dtype=torch.bool, device=inputs.device)
        chosen, scores = torch.zeros(count, dtype=torch.int64), inputs.new_zeros(count)
        for k in bar(range(count), "glister", progress=candidates.progress):
            gradient = layer.errors(logits).T @ inputs / len(inputs)
            gains = (errors @ gradient * inputs).sum(1)
            index = first_largest(gains, free, 1e-12 * float(gains.abs().max()))
            chosen[k], scores[k], free[index] = index, gains[index], False
            logits -= self.lr * (inputs @ inputs[index])[:, None] * errors[index]
        return Chosen(chosen, scores)


@dataclass(frozen=True, kw_only=True)
class Craig(ByClass):
    """Choose gradients near to which all of the class are: facility location on their distances.

    Scores are the gains, which never rise: how much nearer all gradients of the class came to the
    chosen ones, in sum; that of the first is counted from the largest distance of two. Weights are
    how many examples each stands for: those it is nearest to, the first chosen of equals.

    The source chooses until a bound on the error is met; here it is as many as asked for.

    Args:
        memory: bytes for distances that are kept, and a quarter as many for earlier states. A
            class's whole matrix is in memory only if it fits; the choice is the same.

    Raises:
        ValueError: `memory` is negative.

    Example:
        >>> from fastrebasin.reduction import select_coreset
        >>> data = torch.tensor([[0.0], [1.0], [2.0], [8.0]]), torch.zeros(4, dtype=torch.int64)
        >>> coreset = select_coreset(data, Craig(), per_class=2)
        >>> coreset.extras["indices"].tolist(), coreset.extras["weights"].tolist()
        ([1, 3], [3.0, 1.0])

    Source: Mirzasoleiman, Bilmes & Leskovec, "Coresets for data-efficient training of machine
    learning models" (ICML 2020).
    """

    memory: int = 2**29

    def __post_init__(self) -> None:
        _check_not_negative("memory", self.memory)

    def choose(self, candidates: Candidates, members: Tensor, count: int) -> Chosen:
        """Choose among the members of one class."""
        near = Nearness(last_layer(candidates, members).gradients())
        chosen, gains = facility_location(
            near, count, memory=self.memory, progress=candidates.progress
        )
        return Chosen(chosen, gains, _nearest_counts(near, chosen.to(near.device)))


@dataclass(frozen=True, kw_only=True)
class GradMatch(ByClass):
    """Choose and weigh gradients whose sum is near that of the class: matching pursuit.

    Scores are the products of each example's gradient with what the sum of those chosen before left
    of the class's. Weights aren't negative, and 0 where an example doesn't help. When nothing is
    left, those still asked for follow in the order of their scores.

    The ridge is in units of the class's mean squared gradient here, so that it means the same
    however well a model is trained.

    Args:
        regularisation: penalty on squared weights.

    Raises:
        ValueError: `regularisation` is out of range.

    Example:
        >>> from fastrebasin.reduction import select_coreset
        >>> data = torch.tensor([[0.0], [1.0], [2.0], [9.0]]), torch.zeros(4, dtype=torch.int64)
        >>> coreset = select_coreset(data, GradMatch(regularisation=0), per_class=2)
        >>> coreset.extras["indices"].tolist(), coreset.extras["weights"].round(decimals=3).tolist()
        ([3, 0], [1.333, 2.667])

    Source: Killamsetty et al., "GRAD-MATCH: gradient matching based data subset selection for
    efficient deep model training" (ICML 2021).
    """

    regularisation: float = 0.01

    def __post_init__(self) -> None:
        _check_not_negative("regularisation", self.regularisation)

    def choose(self, candidates: Candidates, members: Tensor, count: int) -> Chosen:
        """Choose among the members of one class."""
        gradients = last_layer(candidates, members).gradients()
        found = matching_pursuit(
            gradients, count, self.regularisation, progress=candidates.progress
        )
        return Chosen(*found)


def _nearest_counts(near: Nearness, chosen: Tensor) -> Tensor:
    """Return how many examples are nearest to each chosen one."""
    counts = torch.zeros(len(chosen), dtype=torch.int64, device=near.device)
    if len(chosen):
        for rows in torch.arange(len(near), device=near.device).split(1000):
            nearest = near.distances(rows, chosen).argmin(1)
            counts += nearest.bincount(minlength=len(chosen))
    return counts


def _check_not_negative(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be finite and not negative, got {value}")
