"""How a model's scores change on the way from A to B."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fastrebasin._progress import bar
from fastrebasin.data import Data
from fastrebasin.evaluation.scores import Evaluation, evaluate
from fastrebasin.merging import interpolate

__all__ = ["interpolation_curve"]


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
