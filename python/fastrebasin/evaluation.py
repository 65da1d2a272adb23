"""How good a model is on each data set and on their mixture; curves between two models.

Metrics of Yamada et al., ACML 2024, section 1.1: the mixture's accuracy and loss are the
unweighted means over the data sets, whatever their sizes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastrebasin._progress import bar
from fastrebasin.data import Data, Examples, batches, sources
from fastrebasin.merging import interpolate

__all__ = ["Ensemble", "Evaluation", "Score", "evaluate", "interpolation_curve"]


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
    """Measure a classifier on one data set, or on two and their mixture.

    Args:
        model: returns logits or log-probabilities (batch, classes); evaluated in eval mode, not
            changed.
        data: one source or a pair; batches go to the model's device.
        batch_size: examples per forward pass.

    Raises:
        ValueError: `data` is empty, or `batch_size` is not positive.

    Example:
        >>> x, y = torch.eye(2), torch.tensor([0, 1])
        >>> evaluate(nn.Identity(), ((x, y), (x, 1 - y))).mixture.accuracy
        0.5
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return Evaluation(tuple(_score(model, source, batch_size) for source in sources(data)))
    finally:
        for module, training in modes.items():
            module.training = training


def interpolation_curve(
    model: nn.Module,
    params_a: Mapping[str, Tensor],
    params_b: Mapping[str, Tensor],
    data: Data,
    *,
    points: int = 25,
    normalize: Callable[[nn.Module], nn.Module] | None = None,
    progress: bool = True,
) -> list[Evaluation]:
    """Evaluate (1 - l) A + l B at evenly spaced l from 0 to 1.

    Args:
        model: of the architecture of A and B; a copy of it carries the parameters.
        params_a, params_b: state dicts, B already aligned.
        data: one source or a pair.
        points: how many values of l.
        normalize: applied to the model at every l, for instance a BatchNorm reset.
        progress: show a bar on a terminal.

    Raises:
        ValueError: fewer than two points, or the state dicts don't fit.

    Example:
        >>> a, b = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> data = (torch.eye(2), torch.tensor([0, 1]))
        >>> curve = interpolation_curve(a, a.state_dict(), b.state_dict(), data, points=5)
        >>> len(curve), curve[0] == evaluate(a, data)
        (5, True)
    """
    if points < 2:
        raise ValueError(f"points must be at least 2, got {points}")
    carrier = copy.deepcopy(model)
    curve = []
    for weight in bar(torch.linspace(0, 1, points).tolist(), "curve", progress=progress):
        carrier.load_state_dict(interpolate(params_a, params_b, weight))
        curve.append(evaluate(normalize(carrier) if normalize else carrier, data))
    return curve


def _score(model: nn.Module, source: Examples, batch_size: int) -> Score:
    device = next(model.parameters(), torch.empty(0)).device
    correct, loss = 0, 0.0
    with torch.no_grad():
        for batch_x, batch_y in batches(source, batch_size):
            x, y = batch_x.to(device), batch_y.to(device)
            # Idempotent: right for logits and for log-probabilities.
            log_probs = functional.log_softmax(model(x).double(), dim=1)
            loss += functional.nll_loss(log_probs, y, reduction="sum").item()
            correct += int((log_probs.argmax(1) == y).sum())
    return Score(correct / len(source), loss / len(source))
