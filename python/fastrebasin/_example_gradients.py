"""Gradients of a classifier's loss, one for each example."""

from __future__ import annotations

import copy
import functools

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import log_softmax, nll_loss

__all__ = ["example_gradients", "widened"]


def widened(model: nn.Module) -> nn.Module:
    """Return a copy in eval mode whose numbers are wide enough for squares of gradients."""
    dtypes = (parameter.dtype for parameter in model.parameters())
    return (
        copy.deepcopy(model).eval().to(functools.reduce(torch.promote_types, dtypes, torch.float32))
    )


def example_gradients(
    model: nn.Module, params: dict[str, Tensor], x: Tensor, y: Tensor
) -> dict[str, Tensor]:
    """Return the gradients of each example's log-loss in `params`, examples first.

    Args:
        model: returns logits or log-probabilities (batch, classes). If `torch.func` can't map it
            over examples, each runs by itself.
        params: the model's parameters by name, detached.
        x: (n, ...), on the model's device.
        y: classes, int64 (n,).
    """

    def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        logits = functional_call(model, params, (x[None],))
        # Idempotent: right for logits and for log-probabilities.
        return nll_loss(log_softmax(logits, dim=1), y[None])

    try:
        found: dict[str, Tensor] = vmap(grad(loss), in_dims=(None, 0, 0))(params, x, y)
    except RuntimeError:  # what can't be mapped, such as branches that depend on values
        single = [grad(loss)(params, *example) for example in zip(x, y, strict=True)]
        found = {name: torch.stack([each[name] for each in single]) for name in params}
    return found
