"""The layers of a model whose output channels can be rescaled, and how to watch them run."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

__all__ = [
    "TRANSPOSED",
    "Layers",
    "See",
    "channel_axis",
    "layers_to_correct",
    "on_input",
    "owners_of_weights",
    "watched",
]

Layers: TypeAlias = Mapping[str, nn.Module]
See: TypeAlias = Callable[[str, Tensor, Tensor], "Tensor | None"]
"""Take a layer's name, input and output, and return another output, or None to leave it."""

TRANSPOSED = nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d
_LAYERS = nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED


def layers_to_correct(model: nn.Module, stream: Iterable[Tensor]) -> Layers:
    """Return the layers to correct, in the order in which they run."""
    calls: list[str] = []
    outputs: dict[int, tuple[str, Tensor, int]] = {}  # held, so that no other tensor gets the id
    normalized: set[str] = set()

    def see(name: str, _: Tensor, output: Tensor) -> None:
        calls.append(name)
        outputs[id(output)] = name, output, output._version

    def see_norm(x: Tensor) -> None:
        name, _, version = outputs.get(id(x), ("", x, -1))
        if x._version == version:  # nothing worked in place between the two
            normalized.add(name)

    layers = {name: m for name, m in model.named_modules() if isinstance(m, _LAYERS)}
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    handles = [on_input(norm, see_norm) for norm in norms]
    with watched(model, layers, see):
        for x in stream:
            model(x)
    for handle in handles:
        handle.remove()
    owners = owners_of_weights(model)
    return {
        name: layers[name]
        for name in calls[:-1]
        if name not in normalized and calls.count(name) == 1 and name in owners
    }


def owners_of_weights(model: nn.Module) -> set[str]:
    """Return the modules whose weight and bias are theirs alone, and not computed from others."""
    uses = collections.Counter(id(p) for m in model.modules() for p in m._parameters.values())
    return {
        name
        for name, module in model.named_modules()
        if module._parameters.get("weight") is not None
        and "bias" in module._parameters
        and all(uses[id(p)] == 1 for p in module._parameters.values() if p is not None)
    }


@contextlib.contextmanager
def watched(model: nn.Module, names: Iterable[str], see: See) -> Iterator[None]:
    """Call `see` whenever one of the layers runs in the block, without gradients."""

    def hook_of(name: str) -> Callable[..., Tensor | None]:
        return lambda _, args, kwargs, output: see(name, _first(args, kwargs), output)

    handles = [
        model.get_submodule(name).register_forward_hook(hook_of(name), with_kwargs=True)
        for name in names
    ]
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()


def on_input(layer: nn.Module, see: Callable[[Tensor], None]) -> RemovableHandle:
    """Call `see` with the input of a layer whenever it runs, until the handle is removed."""
    return layer.register_forward_pre_hook(
        lambda _, args, kwargs: see(_first(args, kwargs)), with_kwargs=True
    )


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    found: Tensor = next(iter((*args, *kwargs.values())))
    return found


def channel_axis(layer: nn.Module) -> int:
    """Return the axis of a layer's output channels, counted from the last."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return 1 - weight.ndim
