"""How a model's scores change on the way from A to B, and how high the barrier between them is.

Yamada et al., ACML 2024, sections 2.2 and 3, call the merged network's loss on the mixture the loss
barrier (their equation 5); Frankle et al., "Linear Mode Connectivity", ICML 2020, measure how far
the loss rises above the straight line between both ends. We give both.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fastrebasin._progress import bar
from fastrebasin.data import Data
from fastrebasin.evaluation.predictions import resident_sources
from fastrebasin.evaluation.scores import Evaluation, evaluate_sources
from fastrebasin.merging import interpolate

__all__ = ["barrier", "interpolation_curve", "midpoint_loss"]


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
        data: one source or several.
        points: how many values of l.
        normalize: applied to the model at every l, for instance a BatchNorm reset.
        progress: show a bar on a terminal.

    Returns:
        One evaluation for each l.

    Raises:
        ValueError: fewer than two points, or the state dicts don't fit.

    Example:
        >>> a, b = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> data = (torch.eye(2), torch.tensor([0, 1]))
        >>> curve = interpolation_curve(a, a.state_dict(), b.state_dict(), data, points=5)
        >>> from fastrebasin import evaluate
        >>> len(curve), curve[0] == evaluate(a, data)
        (5, True)
    """
    if points < 2:
        raise ValueError(f"points must be at least 2, got {points}")
    carrier, parts = copy.deepcopy(model), resident_sources(data, model)
    curve = []
    for weight in bar(torch.linspace(0, 1, points).tolist(), "curve", progress=progress):
        carrier.load_state_dict(interpolate(params_a, params_b, weight))
        curve.append(evaluate_sources(normalize(carrier) if normalize else carrier, parts))
    return curve


def barrier(curve: Sequence[Evaluation | float]) -> float:
    """Return the most by which the loss rises above the straight line between a curve's ends.

    Args:
        curve: evaluations, of which the mixture's loss counts, or losses, at evenly spaced l from
            0 to 1.

    Returns:
        Nats; zero where the loss never rises above the line, NaN where a loss is.

    Raises:
        ValueError: fewer than two points.

    Example:
        >>> barrier([1.0, 4.0, 2.0])
        2.5

    Source: Frankle et al., ICML 2020; Yamada et al., ACML 2024, equation 16.
    """
    losses = _losses(curve, 2)
    last = len(losses) - 1
    line = [((last - k) * losses[0] + k * losses[-1]) / last for k in range(last + 1)]
    rises = [loss - on_line for loss, on_line in zip(losses, line, strict=True)]
    # The ends lie on the line: the largest rise can't be negative but by rounding.
    return math.nan if any(map(math.isnan, rises)) else max(0.0, *rises)


def midpoint_loss(curve: Sequence[Evaluation | float]) -> float:
    """Return the mixture's loss halfway from A to B, the paper's loss barrier.

    On training data this is what Yamada et al. report: B's own loss doesn't depend on its
    permutation, so among alignments it differs from the rise above the line by a constant.

    Args:
        curve: evaluations, of which the mixture's loss counts, or losses, at evenly spaced l from
            0 to 1; an odd number of them, so that one is halfway.

    Raises:
        ValueError: the number of points is even, or less than three.

    Example:
        >>> midpoint_loss([1.0, 4.0, 2.0])
        4.0

    Source: Yamada et al., ACML 2024, equations 5 and 17.
    """
    losses = _losses(curve, 3)
    if len(losses) % 2 == 0:
        raise ValueError(f"curve must have an odd number of points, got {len(losses)}")
    return losses[len(losses) // 2]


def _losses(curve: Sequence[Evaluation | float], least: int) -> list[float]:
    if len(curve) < least:
        raise ValueError(f"curve must have at least {least} points, got {len(curve)}")
    return [p.mixture.loss if isinstance(p, Evaluation) else float(p) for p in curve]
