"""Repair the statistics of a merged model's BatchNorm layers.

Averaging weights shrinks the variance of hidden units; the statistics that A and B stored no
longer fit. Resetting them on data is what REPAIR (Jordan et al., ICLR 2023) comes to for networks
with BatchNorm; Yamada et al., ACML 2024, section 3.3, use it so.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from fastrebasin.data import Data, mixture, sources

__all__ = ["has_batch_norm", "reset_batch_norm"]

_BatchNorm = nn.modules.batchnorm._BatchNorm


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a module of the model keeps running statistics of its batches."""
    return bool(_tracking(model))


def reset_batch_norm(
    model: nn.Module, data: Data, *, batch_size: int = 500, seed: int = 0
) -> nn.Module:
    """Return a copy of the model whose BatchNorm statistics are averages over `data`.

    Args:
        model: any module; not changed. Without BatchNorm the copy equals it.
        data: one source, or a pair that is drawn half and half; batches go to the model's device.
        batch_size: examples per forward pass; statistics are averaged over batches.
        seed: of the shuffling.

    Returns:
        A new model in eval mode.

    Raises:
        ValueError: `data` is empty, or `batch_size` is not positive.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(3))
        >>> x = torch.randn(100, 3) + 7
        >>> repaired = reset_batch_norm(model, (x, torch.zeros(100)))
        >>> torch.allclose(repaired[0].running_mean, x.mean(0))
        True

    Source: Jordan et al., ICLR 2023; Yamada et al., ACML 2024, section 3.3.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    repaired = copy.deepcopy(model).eval()
    layers = _tracking(repaired)
    if not layers:
        return repaired
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # cumulative average
        layer.train()
    device = next(repaired.parameters(), torch.empty(0)).device
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        for x, _ in mixture(sources(data), batch_size, generator):
            repaired(x.to(device))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    return repaired.eval()


def _tracking(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
