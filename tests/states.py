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


def trained_batch_norm(model: nn.Module) -> nn.Module:
    """Give BatchNorm weights and statistics that matter."""
    for name, tensor in model.state_dict().items():
        if "bn" in name or "features" in name:
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.ndim == 1 and tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor), alpha=0.2)
    return model.eval()
