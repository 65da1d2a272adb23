"""How good a model is on each data set and on their mixture.

Metrics of Yamada et al., ACML 2024, section 1.1: the mixture's accuracy and loss are the
unweighted means over the data sets, whatever their sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastrebasin.data import Data, Examples
from fastrebasin.evaluation.predictions import (
    check_batch_size,
    eval_mode,
    log_probabilities,
    resident_sources,
)

__all__ = ["Ensemble", "Evaluation", "Score", "evaluate", "evaluate_sources"]


@dataclass(frozen=True)
class Score:
    """Accuracy (a fraction) and mean negative log-likelihood (nats) on one data set."""

    accuracy: float
    loss: float


@dataclass(frozen=True)
class Evaluation:
    """One score for each data set."""

    sets: tuple[Score, ...]

    @property
    def mixture(self) -> Score:
        """The mean over the data sets, each with the same weight."""
        count = len(self.sets)
        return Score(
            sum(score.accuracy for score in self.sets) / count,
            sum(score.loss for score in self.sets) / count,
        )


class Ensemble(nn.Module):
    """Geometric mean of several classifiers' probabilities, renormalised; returns log-probs.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> ensemble = Ensemble([model, model], [0.5, 0.5])
        >>> x = torch.ones(1, 3)
        >>> torch.allclose(ensemble(x), model(x).log_softmax(dim=1))
        True
    """

    def __init__(self, models: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        if len(models) != len(weights) or not models:
            raise ValueError(
                f"models and weights must be equally many and not none, "
                f"got {len(models)} and {len(weights)}"
            )
        self.models = nn.ModuleList(models)
        self.weights = tuple(weights)

    def forward(self, x: Tensor) -> Tensor:
        """Return log-probabilities."""
        logits = [
            weight * functional.log_softmax(model(x), dim=1)
            for model, weight in zip(self.models, self.weights, strict=True)
        ]
        return functional.log_softmax(torch.stack(logits).sum(0), dim=1)


def evaluate(model: nn.Module, data: Data, *, batch_size: int = 1000) -> Evaluation:
    """Measure a classifier on one data set, or on several and their mixture.

    Args:
        model: returns logits or log-probabilities (batch, classes); evaluated in eval mode, not
            changed.
        data: one source or several; batches go to the model's device.
        batch_size: examples per forward pass.

    Raises:
        ValueError: `data` is empty, or `batch_size` is not positive.

    Example:
        >>> x, y = torch.eye(2), torch.tensor([0, 1])
        >>> evaluate(nn.Identity(), ((x, y), (x, 1 - y))).mixture.accuracy
        0.5
    """
    if problems := check_batch_size(batch_size):
        raise ValueError("; ".join(problems))
    return evaluate_sources(model, resident_sources(data, model), batch_size)


def evaluate_sources(
    model: nn.Module, parts: Sequence[Examples], batch_size: int = 1000
) -> Evaluation:
    """Evaluate on sources that were read before: nothing is checked."""
    with eval_mode(model):
        return Evaluation(tuple(_score(model, part, batch_size) for part in parts))


def _score(model: nn.Module, source: Examples, batch_size: int) -> Score:
    correct, loss = 0, 0.0
    for log_probs, y in log_probabilities(model, source, batch_size):
        loss += functional.nll_loss(log_probs, y, reduction="sum").item()
        correct += int((log_probs.argmax(1) == y).sum())
    return Score(correct / len(source), loss / len(source))
