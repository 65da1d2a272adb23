"""Whether a classifier's confidence is its accuracy: reliability tables and calibration errors.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 2, after Naeini et al.,
AAAI 2015: examples go to bins of equal width by the probability of the predicted class. The
mixture's table is our own: each data set weighs the same, whatever its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastrebasin.data import Data, Examples
from fastrebasin.evaluation.predictions import (
    check_batch_size,
    device_of,
    eval_mode,
    log_probabilities,
    resident_sources,
)

__all__ = ["Bin", "Calibration", "Reliability", "calibration"]


@dataclass(frozen=True)
class Bin:
    """Examples of alike confidence.

    Attributes:
        count: how many examples there are.
        share: of all examples; for a mixture each data set weighs the same.
        confidence: mean probability of the predicted class; zero in an empty bin.
        accuracy: fraction that was predicted right; zero in an empty bin.
    """

    count: int
    share: float
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Reliability:
    """Bins of equal width, from confidence 0 to 1; a bin holds its upper edge."""

    bins: tuple[Bin, ...]

    @property
    def error(self) -> float:
        """The expected calibration error: the mean of |accuracy - confidence| over examples."""
        return sum(b.share * abs(b.accuracy - b.confidence) for b in self.bins)


@dataclass(frozen=True)
class Calibration:
    """One reliability table for each data set."""

    sets: tuple[Reliability, ...]

    @property
    def mixture(self) -> Reliability:
        """The table of all data sets together, each with the same weight."""
        return Reliability(tuple(map(_together, *(table.bins for table in self.sets))))


def calibration(
    model: nn.Module, data: Data, *, bins: int = 15, batch_size: int = 1000
) -> Calibration:
    """Compare a classifier's confidence with its accuracy, on each data set and their mixture.

    Args:
        model: returns logits or log-probabilities (batch, classes); run in eval mode, not changed.
        data: one source or several; batches go to the model's device.
        bins: how many, of equal width.
        batch_size: examples per forward pass.

    Returns:
        A reliability table for each data set; `.mixture.error` is the expected calibration error.

    Raises:
        ValueError: `data` is empty, an option is less than one, or outputs aren't finite.

    Example:
        >>> x, y = torch.eye(2) * 100, torch.tensor([0, 0])
        >>> round(calibration(nn.Identity(), (x, y)).mixture.error, 6)
        0.5

    Source: Guo et al., ICML 2017, section 2.
    """
    problems = check_batch_size(batch_size)
    if bins < 1:
        problems.append(f"bins must be at least 1, got {bins}")
    if problems:
        raise ValueError("; ".join(problems))
    parts = resident_sources(data, model)
    with eval_mode(model):
        return Calibration(tuple(_reliability(model, part, bins, batch_size) for part in parts))


def _reliability(model: nn.Module, source: Examples, bins: int, batch_size: int) -> Reliability:
    sums = torch.zeros(3, bins, dtype=torch.float64, device=device_of(model))
    for log_probs, y in log_probabilities(model, source, batch_size):
        best, predicted = log_probs.max(1)
        if not torch.isfinite(best).all():
            raise ValueError("the model's outputs on data must be finite")
        confidence = best.exp()
        number = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
        what = torch.stack([torch.ones_like(confidence), confidence, (predicted == y).double()])
        sums.index_add_(1, number, what)
    return Reliability(tuple(_bin(column, len(source)) for column in sums.T.cpu()))


def _bin(sums: Tensor, total: int) -> Bin:
    count, confidence, right = sums.tolist()
    return Bin(int(count), count / total, confidence / max(1, count), right / max(1, count))


def _together(*same: Bin) -> Bin:
    """Return the same bin of several data sets as one."""
    share = sum(b.share for b in same)

    def mean(values: Sequence[float]) -> float:
        weighted = sum(b.share * value for b, value in zip(same, values, strict=True))
        return weighted / share if share else 0.0

    return Bin(
        sum(b.count for b in same),
        share / len(same),
        mean([b.confidence for b in same]),
        mean([b.accuracy for b in same]),
    )
