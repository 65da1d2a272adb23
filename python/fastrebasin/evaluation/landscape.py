"""Loss and accuracy on the plane through three networks.

Garipov et al., "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs", NeurIPS 2018,
appendix A.1: two axes at right angles, the first from A to B. We never form them: a point of the
plane is a weighted sum of the three networks, and the weights follow from three inner products in
float64, so that at A, B and C the networks themselves are evaluated.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastrebasin._progress import bar
from fastrebasin.checkpoints import check_finite, check_fit, misfits
from fastrebasin.data import Data
from fastrebasin.evaluation.geometry import counted, step_products
from fastrebasin.evaluation.predictions import resident_sources
from fastrebasin.evaluation.scores import Evaluation, evaluate_sources

__all__ = ["Corner", "Landscape", "landscape"]

# How many roundings C must lie off the line, as a share of its distance from A: the rounded mean of
# A and B still lies on it.
_ROUNDINGS = 8


@dataclass(frozen=True)
class Corner:
    """One of the three networks: where it lies on the plane, and how good it is."""

    x: float
    y: float
    evaluation: Evaluation


@dataclass(frozen=True)
class Landscape:
    """Evaluations on a grid of points.

    Attributes:
        x: coordinates of the columns, in the norm of weights; A lies at x = 0, B on the same row.
        y: coordinates of the rows.
        grid: one evaluation for each row and column: `grid[row][column]` is at x[column], y[row].
        corners: A, B and C.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    grid: tuple[tuple[Evaluation, ...], ...]
    corners: tuple[Corner, Corner, Corner]


def landscape(
    model: nn.Module,
    params_a: Mapping[str, Tensor],
    params_b: Mapping[str, Tensor],
    params_c: Mapping[str, Tensor],
    data: Data,
    *,
    points: int = 15,
    margin: float = 0.25,
    normalize: Callable[[nn.Module], nn.Module] | None = None,
    progress: bool = True,
) -> Landscape:
    """Evaluate networks on the plane through A, B and C.

    Args:
        model: of the architecture of all three; a copy of it carries the parameters.
        params_a, params_b, params_c: state dicts of equal names and shapes. Their running
            statistics are combined like weights, without a say in distances.
        data: one source or several.
        points: how many along each axis: this number squared is evaluated.
        margin: how far the grid reaches beyond the three, as a share of their spread.
        normalize: applied to the model at every point, for instance a BatchNorm reset.
        progress: show a bar on a terminal.

    Returns:
        The grid, and the three networks with their coordinates.

    Raises:
        ValueError: the three lie on one line, don't fit together or the model, or aren't finite, or
            an option is out of range.

    Example:
        >>> models = [nn.Linear(2, 2) for _ in range(3)]
        >>> a, b, c = (model.state_dict() for model in models)
        >>> data = (torch.eye(2), torch.tensor([0, 1]))
        >>> found = landscape(models[0], a, b, c, data, points=3)
        >>> len(found.grid), found.corners[0].x, found.corners[0].y
        (3, 0.0, 0.0)

    Source: Garipov et al., NeurIPS 2018, appendix A.1.
    """
    networks = (params_a, params_b, params_c)
    _check(model, networks, points, margin)
    b_x, c_x, c_y = _coordinates(*networks)
    x_axis, y_axis = _axis((0.0, b_x, c_x), points, margin), _axis((0.0, c_y), points, margin)
    carrier, parts = copy.deepcopy(model), resident_sources(data, model)

    def at(x: float, y: float) -> Evaluation:
        share_c = y / c_y
        share_b = (x - share_c * c_x) / b_x
        carrier.load_state_dict(_combine(networks, (1 - share_b - share_c, share_b, share_c)))
        return evaluate_sources(normalize(carrier) if normalize else carrier, parts)

    corners = tuple(Corner(x, y, at(x, y)) for x, y in ((0.0, 0.0), (b_x, 0.0), (c_x, c_y)))
    places = [(x, y) for y in y_axis for x in x_axis]
    found = [at(x, y) for x, y in bar(places, "landscape", progress=progress)]
    grid = tuple(tuple(found[row * points : (row + 1) * points]) for row in range(points))
    return Landscape(x_axis, y_axis, grid, (corners[0], corners[1], corners[2]))


def _coordinates(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], c: Mapping[str, Tensor]
) -> tuple[float, float, float]:
    """Return B's x, C's x and C's y, with A at the origin."""
    products = step_products(a, [b, c])
    b_b, b_c, c_c = products[0, 0].item(), products[0, 1].item(), products[1, 1].item()
    off = c_c - b_c**2 / b_b if b_b else 0.0
    eps = max(torch.finfo(params[name].dtype).eps for params in (a, b, c) for name in counted(a))
    if not off > (_ROUNDINGS * eps) ** 2 * c_c:
        raise ValueError("params_a, params_b and params_c must not lie on one line")
    return math.sqrt(b_b), b_c / math.sqrt(b_b), math.sqrt(off)


def _axis(held: Sequence[float], points: int, margin: float) -> tuple[float, ...]:
    low, high = min(held), max(held)
    reach = margin * (high - low)
    axis = torch.linspace(low - reach, high + reach, points, dtype=torch.float64)
    return tuple(axis.tolist())


def _combine(
    networks: Sequence[Mapping[str, Tensor]], shares: tuple[float, float, float]
) -> dict[str, Tensor]:
    """Return the weighted sum of three state dicts, with A's integers; variances stay positive."""
    found = {}
    for name, a in networks[0].items():
        if not a.is_floating_point():
            found[name] = a
            continue
        wide = torch.promote_types(a.dtype, torch.float32)
        total = torch.zeros_like(a, dtype=wide)
        for params, share in zip(networks, shares, strict=True):
            total.add_(params[name].detach().to(total), alpha=share)
        low = 0.0 if name.endswith("running_var") else None
        found[name] = (total if low is None else total.clamp(min=low)).to(a.dtype)
    return found


def _check(
    model: nn.Module, networks: Sequence[Mapping[str, Tensor]], points: int, margin: float
) -> None:
    problems = []
    if points < 2:
        problems.append(f"points must be at least 2, got {points}")
    if not 0 <= margin < math.inf:
        problems.append(f"margin must be finite and not negative, got {margin}")
    if problems:
        raise ValueError("; ".join(problems))
    a, b, c = networks
    if problems := misfits(a, b) + misfits(a, c, ("A", "C")):
        raise ValueError("the networks don't fit together: " + "; ".join(problems))
    check_fit(a, model, "params_a")
    check_finite({"A": a, "B": b, "C": c})
