"""Reset the statistics of a merged model's BatchNorm layers.

Averaging weights shrinks the variance of hidden units; the statistics that A and B stored no
longer fit. Resetting them on data is what REPAIR (Jordan et al., ICLR 2023) comes to for networks
with BatchNorm; Yamada et al., ACML 2024, section 3.3, use it so. We differ from the usual reset,
a pass in training mode with cumulative averages, in that every example counts the same, whatever
the size of its batch, and that the variance is that of all examples, not a mean over batches.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastrebasin.data import Data
from fastrebasin.normalization.layers import on_input
from fastrebasin.normalization.moments import ChannelMoments, check_budget, inputs

__all__ = ["batch_norm_layers", "has_batch_norm", "reset_batch_norm", "resetting"]

_BatchNorm = nn.modules.batchnorm._BatchNorm


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a module of the model keeps running statistics of its batches."""
    return bool(batch_norm_layers(model))


def reset_batch_norm(
    model: nn.Module,
    data: Data,
    *,
    batch_size: int = 500,
    max_batches: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> nn.Module:
    """Return a copy of the model whose BatchNorm statistics are those of `data`.

    Args:
        model: any module; not changed. Without BatchNorm the copy equals it. Layers that never
            run keep their statistics. SyncBatchNorm works on any device, and looks at this
            process's batches alone.
        data: one source, or several that are drawn evenly; batches go to the model's device.
        batch_size: examples per forward pass, each of which normalises with its own statistics.
        max_batches: look at no more than so many; all by default.
        seed: of the shuffling.
        progress: show a bar on a terminal.

    Returns:
        A new model in eval mode.

    Raises:
        ValueError: `data` is empty, `batch_size` or `max_batches` is not positive, or a batch holds
            a single value of a channel, which has no variance.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(3))
        >>> x = torch.randn(100, 3) + 7
        >>> repaired = reset_batch_norm(model, (x, torch.zeros(100)))
        >>> torch.allclose(repaired[0].running_mean, x.mean(0))
        True

    Source: Jordan et al., ICLR 2023; Yamada et al., ACML 2024, section 3.3.
    """
    if problems := check_budget(batch_size, max_batches):
        raise ValueError("; ".join(problems))
    repaired = copy.deepcopy(model).eval()
    if not has_batch_norm(repaired):
        return repaired
    with torch.no_grad(), resetting(repaired):
        for x in inputs(
            repaired, data, batch_size, max_batches, seed=seed, label="reset", progress=progress
        ):
            repaired(x)
    return repaired


@contextlib.contextmanager
def resetting(model: nn.Module) -> Iterator[None]:
    """Set the model's running statistics to those of what its BatchNorm layers see in the block.

    Inside the block these layers normalise with the statistics of each batch.
    """
    layers = batch_norm_layers(model)
    before = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    moments = [ChannelMoments() for _ in layers]
    hooks = [
        on_input(layer, _observer(found)) for layer, found in zip(layers, moments, strict=True)
    ]
    for layer in layers:
        layer.train()
        layer.momentum = 0.0  # the layer's own averages stay as they are
        layer.num_batches_tracked = torch.tensor(0, device=layer.running_mean.device)
        if type(layer).forward is nn.SyncBatchNorm.forward:
            # It talks to other processes, and refuses the CPU.
            layer.forward = functools.partial(_BatchNorm.forward, layer)
    try:
        yield
    finally:
        for hook, layer, (momentum, tracked), found in zip(
            hooks, layers, before, moments, strict=True
        ):
            hook.remove()
            vars(layer).pop("forward", None)
            layer.eval()
            layer.momentum = momentum
            if not found.count:
                layer.num_batches_tracked = tracked
                continue
            with torch.no_grad():
                layer.running_mean.copy_(found.mean)
                layer.running_var.copy_(found.scatter / (found.count - 1))


def _observer(moments: ChannelMoments) -> Callable[[Tensor], None]:
    return lambda x: moments.merge(ChannelMoments.of(x, axis=1))


def batch_norm_layers(model: nn.Module) -> list[Any]:
    """Return the layers that keep running statistics; torch's types say that any may lack them.

    Example:
        >>> len(batch_norm_layers(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))))
        1
    """
    return [
        m
        for m in model.modules()
        if isinstance(m, _BatchNorm) and m.track_running_stats and m.running_mean is not None
    ]
