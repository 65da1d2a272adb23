"""Points on the way from A to B, tensor by tensor: on the straight line, or on the sphere.

The sphere: Shoemake, "Animating Rotation with Quaternion Curves", SIGGRAPH 1985, for any number of
dimensions. Every tensor turns by its own angle; the angle is taken from the distances of the two
directions, which loses no digits where they are almost the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fastrebasin.checkpoints import check_finite, check_same_shapes
from fastrebasin.spec import is_running_statistic

__all__ = ["interpolate", "slerp"]

# Below this sine the arc is a straight line up to rounding, or, between opposite directions, any
# of many.
_PARALLEL = 1e-6


def interpolate(
    params_a: Mapping[str, Tensor], params_b: Mapping[str, Tensor], weight: float = 0.5
) -> dict[str, Tensor]:
    """Return (1 - weight) A + weight B, tensor by tensor; integer tensors are A's.

    Args:
        params_a, params_b: state dicts of equal names and shapes, on equal devices.
        weight: share of B; outside [0, 1] it extrapolates.

    Returns:
        New tensors of A's dtypes.

    Raises:
        ValueError: names or shapes differ, or weights aren't finite; all of them are named.

    Example:
        >>> interpolate({"w": torch.zeros(2)}, {"w": torch.ones(2)}, 0.25)
        {'w': tensor([0.2500, 0.2500])}
    """
    check_same_shapes(params_a, params_b)
    check_finite({"A": params_a, "B": params_b})
    return {
        name: torch.lerp(a.detach(), params_b[name].detach().to(a.dtype), weight)
        if a.is_floating_point()
        else a.clone()
        for name, a in params_a.items()
    }


def slerp(
    params_a: Mapping[str, Tensor], params_b: Mapping[str, Tensor], weight: float = 0.5
) -> dict[str, Tensor]:
    """Turn each tensor of A towards B's by a share of the angle between the two.

    Their norms go over into each other too: the midpoint of unit vectors is a unit vector, where
    that of a straight line would be shorter. Tensors that are zero, parallel or opposite, and
    BatchNorm's running statistics, which are no directions, are interpolated on the straight line.

    Args:
        params_a, params_b: state dicts of equal names and shapes, on equal devices.
        weight: share of B; outside [0, 1] it turns further.

    Returns:
        New tensors of A's dtypes, turned in float64; integer tensors are A's.

    Raises:
        ValueError: names or shapes differ, or weights aren't finite; all of them are named.

    Example:
        >>> a, b = {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 1.0])}
        >>> slerp(a, b)
        {'w': tensor([0.7071, 0.7071])}

    Source: Shoemake, SIGGRAPH 1985.
    """
    check_same_shapes(params_a, params_b)
    check_finite({"A": params_a, "B": params_b})
    straight = {
        name: tensor
        for name, tensor in params_a.items()
        if is_running_statistic(name) or not tensor.is_floating_point()
    }
    found = interpolate(straight, {name: params_b[name] for name in straight}, weight)
    for name, a in params_a.items():
        if name not in found:
            found[name] = _turned(a.detach(), params_b[name].detach(), weight)
    return {name: found[name] for name in params_a}


def _turned(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Return what lies on the arc from a to b."""
    x, y = a.double(), b.double()
    lengths = x.norm().item(), y.norm().item()
    if not all(lengths):
        return torch.lerp(x, y, weight).to(a.dtype)
    u, v = x / lengths[0], y / lengths[1]
    angle = 2 * math.atan2((u - v).norm().item(), (u + v).norm().item())
    if math.sin(angle) < _PARALLEL:
        return torch.lerp(x, y, weight).to(a.dtype)
    share_a, share_b = math.sin((1 - weight) * angle), math.sin(weight * angle)
    return ((share_a * x + share_b * y) / math.sin(angle)).to(a.dtype)
