"""Points on the way from A to B, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fastrebasin.checkpoints import check_same_shapes

__all__ = ["interpolate"]


def interpolate(
    params_a: Mapping[str, torch.Tensor], params_b: Mapping[str, torch.Tensor], weight: float = 0.5
) -> dict[str, torch.Tensor]:
    """Return (1 - weight) A + weight B, tensor by tensor; integer tensors are A's.

    Args:
        params_a, params_b: state dicts of equal names and shapes, on equal devices.
        weight: share of B; outside [0, 1] it extrapolates.

    Returns:
        New tensors of A's dtypes.

    Raises:
        ValueError: names or shapes differ; all of them are named.

    Example:
        >>> interpolate({"w": torch.zeros(2)}, {"w": torch.ones(2)}, 0.25)
        {'w': tensor([0.2500, 0.2500])}
    """
    check_same_shapes(params_a, params_b)
    return {
        name: torch.lerp(a.detach(), params_b[name].detach().to(a.dtype), weight)
        if a.is_floating_point()
        else a.clone()
        for name, a in params_a.items()
    }
