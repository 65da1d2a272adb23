"""REPAIR: give a merged model's channels the means and deviations that they have in A and B.

Jordan, Sedghi, Saukh, Entezari and Neyshabur, "REPAIR: REnormalizing Permuted Activations for
Interpolation Repair", ICLR 2023. Averaging two units that are not perfectly correlated shrinks
their variance, layer after layer. Each channel of a linear layer or convolution is rescaled so
that, over the data, its mean and standard deviation are those of A and B, interpolated.

We differ in three ways. The correction is folded into weights and biases, so that the result is a
plain model of the same architecture. A layer whose output goes straight into a BatchNorm is left to
the reset of that BatchNorm, which comes to the same. And where the paper estimates the merged
layer's statistics without running the merged model, it takes the mean of A's and B's outputs in its
place, unit by unit; we put A's and B's inputs through the merged layer, which takes their second
moments through its weights, and is nearer to what the merged layer will see.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from fastrebasin.checkpoints import check_finite, misfits
from fastrebasin.data import Data
from fastrebasin.normalization.batch_norm import reset_batch_norm, resetting
from fastrebasin.normalization.layers import (
    TRANSPOSED,
    Layers,
    See,
    channel_axis,
    layers_to_correct,
    watched,
)
from fastrebasin.normalization.moments import ChannelMoments, check_budget, inputs

__all__ = ["repair"]

_Params: TypeAlias = Mapping[str, Tensor]
_Moments: TypeAlias = dict[str, ChannelMoments]


def repair(
    model: nn.Module,
    model_a: nn.Module | _Params,
    model_b: nn.Module | _Params,
    data: Data,
    *,
    weight: float = 0.5,
    mode: str = "forward",
    batch_size: int = 500,
    max_batches: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> nn.Module:
    """Return a copy of a merged model whose hidden channels vary as those of A and B do.

    The last layer to run, whose outputs are the answer, is left as it is; so are layers that run
    more than once, or share their weights, or compute them. A layer without a bias is only scaled.
    Channels that never vary, in the merged model or in A and B, are left alone.

    Args:
        model: what A and B were merged to; not changed.
        model_a, model_b: modules or state dicts of the same architecture, B aligned with A.
        data: one source, or several that are drawn evenly; batches go to the model's device.
            All three models see the same examples: of two data sets the mixture, as the merged
            model will.
        weight: share of B's statistics, in [0, 1]; that of its weights in the merge.
        mode: "forward" measures each layer of the merged model after those before it were
            corrected, in one pass, in which every batch is corrected by its own statistics, as in
            BatchNorm: take batches of a hundred examples or more. "closed-form" measures what the
            merged layers make of A's and B's inputs, and doesn't run the merged model but for a
            BatchNorm reset.
        batch_size: examples per forward pass.
        max_batches: look at no more than so many; all by default.
        seed: of the shuffling.
        progress: show bars on a terminal.

    Returns:
        A new model of the same architecture, in eval mode.

    Raises:
        ValueError: an option is out of range, `data` is empty, the models don't fit together, or
            weights or activations aren't finite.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> shrunk = copy.deepcopy(model)
        >>> shrunk[0].weight.data *= 0.5
        >>> data = torch.randn(100, 3), torch.zeros(100)
        >>> repaired = repair(shrunk, model, model, data)
        >>> torch.allclose(repaired[0].weight, model[0].weight, atol=1e-4)
        True

    Source: Jordan et al., ICLR 2023, sections 3 and 4.
    """
    params_a, params_b = _params(model_a), _params(model_b)
    _check(model, params_a, params_b, weight, mode, check_budget(batch_size, max_batches))
    merged, a, b = (copy.deepcopy(model).eval() for _ in range(3))
    a.load_state_dict(params_a)
    b.load_state_dict(params_b)
    layers = layers_to_correct(
        merged, inputs(merged, data, 8, 1, seed=seed, label="", progress=False)
    )
    stream = functools.partial(
        inputs, merged, data, batch_size, max_batches, seed=seed, label="repair", progress=progress
    )
    if layers and mode == "closed-form":
        _fold(layers, *_of_ends(((a, 1 - weight), (b, weight)), layers, stream(), estimate=True))
    elif layers:
        _, targets = _of_ends(((a, 1 - weight), (b, weight)), layers, stream())
        with resetting(merged):
            found = _correct(merged, layers, targets, stream())
        _fold(layers, found, targets)
        return merged
    return reset_batch_norm(
        merged, data, batch_size=batch_size, max_batches=max_batches, seed=seed, progress=progress
    )


class _Target(NamedTuple):
    """What a layer's channels should be like: float64 of shape (channels,)."""

    mean: Tensor
    deviation: Tensor


def _of_ends(
    ends: Sequence[tuple[nn.Module, float]],
    layers: Layers,
    stream: Iterable[Tensor],
    *,
    estimate: bool = False,
) -> tuple[_Moments, dict[str, _Target]]:
    """Return what the merged layers make of the ends' inputs, if asked, and the targets."""
    expected, *own = ({name: ChannelMoments() for name in layers} for _ in range(1 + len(ends)))

    def observer(moments: _Moments, share: float) -> See:
        def see(name: str, x: Tensor, output: Tensor) -> None:
            moments[name].merge(ChannelMoments.of(output, channel_axis(layers[name])))
            if estimate and share:
                made = layers[name](x)
                expected[name].merge(ChannelMoments.of(made, channel_axis(layers[name]), share))

        return see

    for x in stream:
        for (end, share), moments in zip(ends, own, strict=True):
            with watched(end, layers, observer(moments, share)):
                end(x)
    for moments in own:
        _check_seen(moments)
    targets = {}
    for name in layers:
        parts = [(share, moments[name]) for (_, share), moments in zip(ends, own, strict=True)]
        targets[name] = _Target(
            torch.stack([share * moments.mean for share, moments in parts]).sum(0),
            torch.stack([share * moments.deviation() for share, moments in parts]).sum(0),
        )
    return expected, targets


def _correct(
    merged: nn.Module, layers: Layers, targets: Mapping[str, _Target], stream: Iterable[Tensor]
) -> _Moments:
    """Run the merged model, every layer corrected as it runs; return the moments before that."""
    found = {name: ChannelMoments() for name in layers}

    def see(name: str, _: Tensor, output: Tensor) -> Tensor:
        layer = layers[name]
        moments = ChannelMoments.of(output, channel_axis(layer))
        found[name].merge(moments)
        scale, shift = _correction(moments, targets[name], layer)
        shape = [-1] + [1] * (-1 - channel_axis(layer))
        dtype = torch.promote_types(output.dtype, torch.float32)
        scale, shift = (t.to(dtype).view(shape) for t in (scale, shift))
        return (output.to(dtype) * scale + shift).to(output.dtype)

    with watched(merged, layers, see):
        for x in stream:
            merged(x)
    return found


def _correction(
    moments: ChannelMoments, target: _Target, layer: nn.Module
) -> tuple[Tensor, Tensor]:
    """Return scale and shift of each channel; one and zero of those that don't vary."""
    deviation = moments.deviation()
    alive = (deviation > 0) & (target.deviation > 0)
    scale = torch.where(alive, target.deviation / deviation, 1.0)
    shift = torch.where(alive, target.mean - scale * moments.mean, 0.0)
    return scale, shift if layer.bias is not None else torch.zeros_like(shift)


def _fold(layers: Layers, moments: _Moments, targets: Mapping[str, _Target]) -> None:
    """Put each layer's correction into its weight and bias."""
    _check_seen(moments)
    with torch.no_grad():
        for name, layer in layers.items():
            scale, shift = _correction(moments[name], targets[name], layer)
            weight, bias = layer._parameters["weight"], layer._parameters["bias"]
            assert weight is not None
            if isinstance(layer, TRANSPOSED):  # (in, out of a group, ...)
                scales = scale.view(layer.groups, 1, -1).expand(-1, len(weight) // layer.groups, -1)
                scales = scales.flatten(0, 1)
            else:
                scales = scale[:, None]
            weight.copy_(weight.double() * scales.reshape(*scales.shape, *[1] * (weight.ndim - 2)))
            if bias is not None:
                bias.copy_(bias.double() * scale + shift)


def _params(model: nn.Module | _Params) -> _Params:
    return model.state_dict() if isinstance(model, nn.Module) else model


def _check(
    model: nn.Module,
    params_a: _Params,
    params_b: _Params,
    weight: float,
    mode: str,
    problems: list[str],
) -> None:
    if not 0 <= weight <= 1:
        problems.append(f"weight must be in [0, 1], got {weight}")
    if mode not in ("forward", "closed-form"):
        problems.append(f"mode must be forward or closed-form, got {mode!r}")
    own = model.state_dict()
    for label, params in (("model_a", params_a), ("model_b", params_b)):
        problems += misfits(own, params, ("model", label))
    if problems:
        raise ValueError("; ".join(problems))
    check_finite({"model": own, "model_a": params_a, "model_b": params_b})


def _check_seen(moments: _Moments) -> None:
    broken = [name for name, found in moments.items() if not found.is_finite()]
    if broken:
        raise ValueError("activations must be finite, but these aren't: " + ", ".join(broken))
