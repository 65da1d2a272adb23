"""Proof by example that a permutation spec preserves a model's function.

Permuting hidden units consistently cannot change what a network computes. So we permute every
group of a float64 copy at once and compare outputs: a spec that forgets an axis, or ties axes that
don't belong together, fails.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from fastrebasin.permutation import apply_permutation, identity_permutation

if TYPE_CHECKING:
    from fastrebasin.spec import PermutationSpec

# Rounding of a deep network in float64 stays below this; a wrong spec is off by whole units.
_TOLERANCE = 1e-8


def verify(spec: PermutationSpec, model: nn.Module, example_inputs: object, *, seed: int) -> float:
    """See `PermutationSpec.verify`."""
    generator = torch.Generator().manual_seed(seed)
    twin = copy.deepcopy(model).double().eval()
    _scramble(twin, generator)
    params = {name: tensor.clone() for name, tensor in twin.state_dict().items()}
    sizes = spec.bind(params).sizes
    arguments = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    inputs = tuple(_as_double(argument) for argument in arguments)
    try:
        expected = _outputs(twin, params, inputs)
    except Exception as error:
        raise ValueError(f"the model can't run on example_inputs: {error}") from error
    _check_informative(expected)

    cycles = {group: _cycle(size, generator) for group, size in sizes.items()}

    def deviation(groups: Iterable[str]) -> float:
        moved = {**identity_permutation(sizes), **{group: cycles[group] for group in groups}}
        return _deviation(expected, _outputs(twin, apply_permutation(spec, moved, params), inputs))

    worst = deviation(sizes)
    if worst <= _TOLERANCE:
        return worst
    culprits = {group: alone for group in sizes if (alone := deviation([group])) > _TOLERANCE}
    axes = spec.groups
    details = "; ".join(
        f"permuting {group!r} changes the outputs by {alone:.1e} relative to the largest "
        f"(its axes: {', '.join(f'{name}[{axis}]' for name, axis in axes[group])})"
        for group, alone in culprits.items()
    )
    raise ValueError(
        "the spec does not preserve the model's function: "
        + (details or f"permuting all groups at once changes the outputs by {worst:.1e}")
    )


def _scramble(model: nn.Module, generator: torch.Generator) -> None:
    """Make parameters and BatchNorm statistics random: fresh ones are constant and hide errors."""
    tensors: list[torch.Tensor] = list(model.parameters())
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            tensors += [t for t in (module.running_mean, module.running_var) if t is not None]
    with torch.no_grad():
        for tensor in tensors:
            factor = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.5
            # Never negative, because variances aren't; not zero, because fresh biases are.
            shift = 0.02 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.mul_(factor.to(tensor)).add_(shift.to(tensor))


def _cycle(size: int, generator: torch.Generator) -> torch.Tensor:
    """Return a random permutation that is one cycle: it moves every unit (if there are two)."""
    order = torch.randperm(size, generator=generator)
    cycle = torch.empty_like(order)
    cycle[order] = order.roll(1)
    return cycle


def _as_double(argument: object) -> object:
    if isinstance(argument, torch.Tensor) and argument.is_floating_point():
        return argument.double()
    return argument


def _outputs(
    model: nn.Module, params: Mapping[str, torch.Tensor], inputs: tuple[object, ...]
) -> list[torch.Tensor]:
    model.load_state_dict(params)
    with torch.no_grad():
        return [tensor.double() for tensor in _tensors(model(*inputs))]


def _tensors(value: object) -> Iterator[torch.Tensor]:
    """Yield the tensors of a model's output, however it nests tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)


def _check_informative(expected: list[torch.Tensor]) -> None:
    if not expected:
        raise ValueError("verify: the model returns no tensor to compare")
    if not all(torch.isfinite(t).all() for t in expected):
        raise ValueError("verify: the model's outputs on example_inputs are not finite")
    if all(t.numel() == 0 or t.min() == t.max() for t in expected):
        raise ValueError(
            "verify: all outputs on example_inputs are equal, which proves nothing; "
            "give inputs that the model answers differently"
        )


def _deviation(expected: list[torch.Tensor], found: list[torch.Tensor]) -> float:
    worst = 0.0
    for before, after in zip(expected, found, strict=True):
        if before.numel():
            scale = max(before.abs().max().item(), 1e-300)
            worst = max(worst, (before - after).abs().max().item() / scale)
    return worst
