"""How far apart two aligned networks are, and how steep the loss is between them.

Yamada et al., ACML 2024, table 1 and equation 6. We differ from the published code in arithmetic
alone: sums are in float64, and a gradient is never kept for more than one batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from fastrebasin.checkpoints import check_finite, check_fit, check_same_shapes
from fastrebasin.data import Data, Examples, batches
from fastrebasin.evaluation.predictions import (
    check_batch_size,
    device_of,
    eval_mode,
    resident_sources,
)
from fastrebasin.spec import is_running_statistic

__all__ = ["counted", "distance", "sharpness", "step_products"]

# Entries that are widened to float64 at once.
_CHUNK = 2**22


def distance(params_a: Mapping[str, Tensor], params_b: Mapping[str, Tensor]) -> float:
    """Return the Euclidean norm of A - B divided by the number of its entries.

    Statistics of BatchNorm and integers don't count. Multiply by that number for the norm itself.

    Args:
        params_a, params_b: state dicts of equal names and shapes, B aligned or not.

    Raises:
        ValueError: names or shapes differ, nothing counts, or weights aren't finite; all of them
            are named.

    Example:
        >>> distance({"w": torch.zeros(4)}, {"w": torch.ones(4)})
        0.5

    Source: Yamada et al., ACML 2024, table 1.
    """
    check_same_shapes(params_a, params_b)
    check_finite({"A": params_a, "B": params_b})
    count = sum(params_a[name].numel() for name in counted(params_a))
    if not count:
        raise ValueError("params_a must hold floating-point parameters, got none")
    return math.sqrt(step_products(params_a, [params_b]).item()) / count


def sharpness(
    model: nn.Module,
    params_a: Mapping[str, Tensor],
    params_b: Mapping[str, Tensor],
    data: Data,
    *,
    batch_size: int = 1000,
) -> float:
    """Return how steeply the losses of A and B change towards each other, on average.

    1/2 [(w_B - w_A)' grad L_A(w_A) + (w_A - w_B)' grad L_B(w_B)], with L_A the mean loss on A's
    data and L_B that on B's.

    Args:
        model: of the architecture of A and B, returning logits or log-probabilities; run in eval
            mode, not changed.
        params_a, params_b: state dicts on the model's device, B already aligned.
        data: a pair, A's source and B's: training data as in the paper, since away from what a
            network was trained on a step towards the other may well lower its loss. Batches go to
            the model's device.
        batch_size: examples per forward and backward pass.

    Returns:
        Nats per unit step from one network to the other. Parameters count, BatchNorm's running
        statistics don't.

    Raises:
        ValueError: `data` isn't a pair, the state dicts don't fit, or weights aren't finite.

    Example:
        >>> model, x, y = nn.Linear(2, 2), torch.eye(2), torch.tensor([0, 1])
        >>> sharpness(model, model.state_dict(), model.state_dict(), ((x, y), (x, y)))
        0.0

    Source: Yamada et al., ACML 2024, equation 6.
    """
    check_same_shapes(params_a, params_b)
    check_finite({"A": params_a, "B": params_b})
    check_fit(params_a, model, "params_a")
    parts = resident_sources(data, model)
    problems = check_batch_size(batch_size)
    if len(parts) != 2:
        problems.append(f"data must be a pair, A's source and B's, got {len(parts)}")
    if problems:
        raise ValueError("; ".join(problems))
    with eval_mode(model):
        towards_b = _slope(model, params_a, params_b, parts[0], batch_size)
        towards_a = _slope(model, params_b, params_a, parts[1], batch_size)
    return (towards_b + towards_a) / 2


def _slope(
    model: nn.Module,
    start: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    source: Examples,
    batch_size: int,
) -> float:
    """Return the derivative of the mean loss at `start` towards `end`."""
    device = device_of(model)
    # By the model's own lists, in which a tied parameter is one.
    buffers = {name: start[name].detach() for name, _ in model.named_buffers() if name in start}
    moving = {
        name: start[name].detach().clone().requires_grad_() for name, _ in model.named_parameters()
    }
    slope = torch.zeros((), dtype=torch.float64, device=device)
    for x, y in batches(source, batch_size):
        output = functional_call(model, buffers | moving, (x.to(device),))
        loss = functional.nll_loss(
            functional.log_softmax(output.double(), dim=1), y.to(device), reduction="sum"
        )
        gradients = torch.autograd.grad(loss, list(moving.values()), allow_unused=True)
        for (name, at), gradient in zip(moving.items(), gradients, strict=True):
            if gradient is not None:
                step = end[name].detach().double() - at.detach().double()
                slope += (gradient.double() * step).sum()
    return slope.item() / len(source)


def step_products(origin: Mapping[str, Tensor], ends: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Return the inner products of the steps from one network to others.

    Statistics of BatchNorm and integers don't count.

    Args:
        origin: a state dict.
        ends: k others of the same names and shapes, on any devices.

    Returns:
        Float64 of shape (k, k), on the CPU.
    """
    products = torch.zeros(len(ends), len(ends), dtype=torch.float64)
    for name in counted(origin):
        tensors = [params[name].detach().flatten() for params in (origin, *ends)]
        for start, *others in zip(*(tensor.split(_CHUNK) for tensor in tensors), strict=True):
            wide = start.double()
            steps = torch.stack([other.to(wide.device).double() - wide for other in others])
            products += (steps @ steps.T).cpu()
    return products


def counted(params: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that are parameters: no statistics, no integers."""
    return [
        name
        for name, tensor in params.items()
        if tensor.is_floating_point() and not is_running_statistic(name)
    ]
