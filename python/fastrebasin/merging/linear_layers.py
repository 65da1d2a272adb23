"""The layers of a network that are linear in their parameters, and what enters and leaves them.

Fully connected layers and convolutions of any number of dimensions and groups. BatchNorm right
behind a layer belongs to it: at rest it is linear, too.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastrebasin._calls import tensors_in
from fastrebasin.merging.regression import Fit
from fastrebasin.normalization.layers import owners_of_weights, watched

__all__ = [
    "LinearLayer",
    "folded_weight",
    "inputs_of",
    "linear_layers",
    "outputs_of",
    "passing",
    "unit_axis",
    "write",
]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BatchNorm = nn.modules.batchnorm._BatchNorm
_TOLERANCE = 1e-2  # far above rounding, even of narrow numbers; far below what folding changes


@dataclass(frozen=True)
class LinearLayer:
    """A layer by its module's name, and by that of the BatchNorm behind it, if any.

    Attributes:
        name: of the fully connected layer or convolution.
        norm: of the BatchNorm that alone reads it.
        calls: how often the network runs it.
        intercept: whether its outputs have one.
    """

    name: str
    norm: str | None
    calls: int
    intercept: bool

    @property
    def weight(self) -> str:
        """The name of the layer's weight in a state dict."""
        return _join(self.name, "weight")

    @property
    def bias(self) -> str:
        """The name of the layer's bias in a state dict."""
        return _join(self.name, "bias")

    @property
    def last(self) -> str:
        """The module whose output is the layer's."""
        return self.norm or self.name


def linear_layers(model: nn.Module, x: Tensor) -> list[LinearLayer]:
    """Return the layers in the order in which a network in eval mode first runs them.

    Left out are those whose weights other modules share, or that compute them from others.
    """
    calls: dict[str, int] = {}
    made_by: dict[int, str] = {}  # outputs, by their address
    alive: list[Tensor] = []  # so that no other gets it
    norms: dict[str, str] = {}
    kinds = (nn.Linear, *_CONVOLUTIONS, _BatchNorm)
    modules = {name: m for name, m in model.named_modules() if isinstance(m, kinds)}

    def see(name: str, inputs: Tensor, output: Tensor) -> None:
        module = modules[name]
        if not isinstance(module, _BatchNorm):
            calls[name] = calls.get(name, 0) + 1
            made_by[id(output)] = name
            alive.append(output)
        elif id(inputs) in made_by and module.affine and module.track_running_stats:
            norms[made_by[id(inputs)]] = name

    with watched(model, modules, see):
        model(x)
    owners = owners_of_weights(model)
    found = []
    for name, count in calls.items():
        if name not in owners:
            continue
        norm = norms.get(name) if count == 1 else None
        if norm is not None and not _can_be_folded(model, name, norm, x):
            norm = None
        bias = modules[name].bias
        found.append(LinearLayer(name, norm, count, norm is not None or bias is not None))
    return found


class _Reached(Exception):  # noqa: N818 - no error
    """The layer to observe has run: what comes behind needn't."""


def passing(
    model: nn.Module, name: str, calls: int, x: Tensor, *, side: Literal["input", "output"]
) -> list[Tensor]:
    """Return what goes into a module or comes out, each of the times that it runs."""
    seen: list[Tensor] = []

    def see(_: str, inputs: Tensor, output: Tensor) -> None:
        value = inputs if side == "input" else output
        seen.append(value if calls == 1 else value.clone())  # what comes behind may work in place
        if len(seen) == calls:
            raise _Reached

    with contextlib.suppress(_Reached), watched(model, [name], see):
        model(x)
    return seen


def inputs_of(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Return what a layer's weights are multiplied with: for each of its groups, units first."""
    if isinstance(layer, nn.Linear):
        return [x.movedim(-1, 0)]
    assert isinstance(layer, _CONVOLUTIONS)
    padding = layer._reversed_padding_repeated_twice
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = functional.pad(x, padding, mode=mode)
    steps = zip(x.shape[2:], layer.kernel_size, layer.stride, layer.dilation, strict=True)
    places = [
        [slice(k * gap, size - (kernel - 1 - k) * gap, stride) for k in range(kernel)]
        for size, kernel, stride, gap in steps
    ]
    everything = [[slice(None)]] * 2
    shifted = [x[at] for at in itertools.product(*everything, *places)]
    columns = torch.stack(shifted, 2).flatten(1, 2)  # (n, channels * offsets, ...)
    return list(columns.movedim(1, 0).chunk(layer.groups))


def outputs_of(layer: nn.Module, z: Tensor) -> list[Tensor]:
    """Return what leaves a layer, for each of its groups, units first."""
    return list(z.movedim(unit_axis(layer), 0).chunk(getattr(layer, "groups", 1)))


def unit_axis(layer: nn.Module) -> int:
    """Return the axis of the units in what leaves a layer."""
    return -1 if isinstance(layer, nn.Linear) else 1


def folded_weight(model: nn.Module, layer: LinearLayer) -> Tensor:
    """Return a layer's weight, times what BatchNorm multiplies by in eval mode, in float64."""
    weight = model.get_parameter(layer.weight).detach().double()
    if layer.norm is None:
        return weight
    scale = _AtRest(model, layer.norm).scale
    return scale.view(-1, *[1] * (weight.ndim - 1)) * weight


def write(model: nn.Module, layer: LinearLayer, fits: Sequence[Fit]) -> None:
    """Write a layer's weights and intercepts, from a fit for each of its groups.

    BatchNorm behind it gets statistics that the fits predict, so that it does the same in training.
    """
    weight, shift, mean, variance = (
        torch.cat([getattr(fit, part) for fit in fits])
        for part in ("weight", "shift", "mean", "variance")
    )
    state = model.state_dict()
    new = {layer.weight: weight.view_as(state[layer.weight])}
    if layer.norm is not None:
        values = {
            "running_mean": mean,
            "running_var": variance,
            "weight": (variance + _AtRest(model, layer.norm).eps).sqrt(),
            "bias": shift + mean,
        }
        new |= {f"{layer.norm}.{part}": value for part, value in values.items()}
        shift = torch.zeros_like(shift)
    if layer.bias in state:
        new[layer.bias] = shift
    for name, value in new.items():
        state[name].copy_(value)


class _AtRest:
    """BatchNorm in eval mode: scale * (x - mean) + bias, in float64."""

    def __init__(self, model: nn.Module, name: str) -> None:
        norm = model.get_submodule(name)
        assert isinstance(norm, _BatchNorm)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self.eps = norm.eps
        self.mean, self.bias = norm.running_mean.double(), norm.bias.detach().double()
        self.scale = (norm.running_var.double() + norm.eps).rsqrt() * norm.weight.detach().double()


def _can_be_folded(model: nn.Module, name: str, norm: str, x: Tensor) -> bool:
    """Tell whether a layer may do what BatchNorm behind it does: nothing else reads the layer."""
    folded = copy.deepcopy(model)
    layer, at_rest = LinearLayer(name, norm, 1, intercept=True), _AtRest(folded, norm)
    bias = folded.state_dict().get(layer.bias, torch.zeros(()))
    shift = at_rest.bias + at_rest.scale * (bias.double() - at_rest.mean)
    weight, ones = folded_weight(folded, layer).flatten(1), torch.ones_like(shift)
    write(folded, layer, [Fit(weight, shift, torch.zeros_like(shift), ones, 0.0)])
    with torch.no_grad():
        before, after = (list(tensors_in(each(x))) for each in (model, folded))
    return all(
        torch.allclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE * float(a.abs().max()))
        for a, b in zip(before, after, strict=True)
    )


def _join(module: str, part: str) -> str:
    return f"{module}.{part}" if module else part
