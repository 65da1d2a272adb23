"""RegMean: of each linear layer, what answers most like both models' layers on their own inputs.

Jin et al., "Dataless Knowledge Fusion by Merging Weights of Language Models", ICLR 2023, section
3.2: W = (G_A + G_B)^-1 (G_A W_A + G_B W_B), with Gram matrices G of the models' inputs of the
layer, whose entries off the diagonal are scaled down. Other parameters are averaged.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastrebasin._progress import bar
from fastrebasin.checkpoints import check_finite
from fastrebasin.data import Data, Examples, batches, sources_of_two
from fastrebasin.merging.interpolation import interpolate
from fastrebasin.merging.linear_layers import LinearLayer, inputs_of, linear_layers, passing
from fastrebasin.statistics import Moments

__all__ = ["regmean"]


def regmean(
    model_a: nn.Module,
    model_b: nn.Module,
    data: Data,
    *,
    shrink: float = 0.9,
    batch_size: int = 500,
    progress: bool = True,
) -> nn.Module:
    """Merge two aligned models by the regression of each linear layer on the models' own inputs.

    Args:
        model_a, model_b: modules of one architecture on one device, B's units in A's order; called
            with x alone, in eval mode; not changed.
        data: a pair (of A's data, of B's), of which each weighs half; of a single source both
            models see all. Labels aren't used.
        shrink: factor of the Gram matrices off their diagonals, from 0 to 1.
        batch_size: examples per forward pass; batches go to the models' device.
        progress: show a bar on a terminal.

    Returns:
        A new model in eval mode.

    Raises:
        ValueError: the models don't fit each other, weights or activations aren't finite, or an
            option is out of range.

    Example:
        >>> from fastrebasin.experiments.models import MLP
        >>> a, x = MLP(4, (8,), 2), torch.randn(50, 4)
        >>> merged = regmean(a, a, (x, torch.zeros(50)))
        >>> torch.allclose(merged(x), a(x), atol=1e-4)
        True

    Source: Jin et al., ICLR 2023, section 3.2.
    """
    check_finite({"A": model_a.state_dict(), "B": model_b.state_dict()})
    if not 0 <= shrink <= 1 or batch_size < 1:
        raise ValueError(
            f"shrink must be from 0 to 1 and batch_size at least 1, got {shrink} and {batch_size}"
        )
    merged = copy.deepcopy(model_a).eval()
    merged.load_state_dict(interpolate(model_a.state_dict(), model_b.state_dict()))
    models = [copy.deepcopy(model).eval() for model in (model_a, model_b)]
    parts = sources_of_two(data)
    device = next(merged.parameters()).device
    layers = linear_layers(models[0], parts[0].take(torch.arange(1))[0].to(device))
    for layer in bar(layers, "RegMean", progress=progress, unit="layer"):
        observed = [
            _observe(model, layer, part, batch_size, device)
            for model, part in zip(models, parts, strict=True)
        ]
        rows = [_solve(group, shrink) for group in zip(*observed, strict=True)]
        target = merged.state_dict()[layer.weight]
        target.copy_(torch.cat(rows).view_as(target))
    return merged


def _observe(
    model: nn.Module, layer: LinearLayer, part: Examples, batch_size: int, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Return a layer's weights, and the Gram matrix of its inputs, for each of its groups."""
    module = model.get_submodule(layer.name)
    weights = model.get_parameter(layer.weight).detach().double().flatten(1)
    moments = [Moments() for _ in range(getattr(module, "groups", 1))]
    for x, _ in batches(part, batch_size):
        for seen in passing(model, layer.name, layer.calls, x.to(device), side="input"):
            for each, inputs in zip(moments, inputs_of(module, seen), strict=True):
                each.update(inputs, axis=0)
    grams = [each.gram() for each in moments]
    if not all(torch.isfinite(gram).all() for gram in grams):
        raise ValueError(f"activations at {layer.name!r} must be finite")
    return list(zip(weights.chunk(len(grams)), grams, strict=True))


def _solve(models: Sequence[tuple[Tensor, Tensor]], shrink: float) -> Tensor:
    """Return the weights (outputs, inputs); those of inputs that are always zero are averaged."""
    mean = torch.stack([weight for weight, _ in models]).mean(0)
    total, rest = torch.zeros_like(models[0][1]), torch.zeros_like(mean.T)
    for weight, gram in models:
        shrunk = shrink * gram + (1 - shrink) * gram.diagonal().diag()
        total += shrunk
        rest += shrunk @ (weight - mean).T
    ridge = 1e-10 * total.diagonal().mean() + torch.finfo(torch.float64).tiny
    total.diagonal().add_(ridge)
    return mean + torch.cholesky_solve(rest, torch.linalg.cholesky(total)).T
