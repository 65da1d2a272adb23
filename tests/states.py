"""State dicts side by side."""

from __future__ import annotations

import torch
from torch import nn


def equal(model: nn.Module, other: nn.Module, tolerance: float = 0.0) -> bool:
    state = other.state_dict()
    return all(
        torch.allclose(tensor.double(), state[name].double(), rtol=tolerance, atol=tolerance)
        for name, tensor in model.state_dict().items()
    )
