"""Trace a permutation spec from a model's own graph."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from fastrebasin._calls import ExampleInputs, arguments
from fastrebasin.spec import PermutationSpec, is_running_statistic
from fastrebasin.tracing.graph import capture
from fastrebasin.tracing.groups import Groups
from fastrebasin.tracing.interpretation import interpret

__all__ = ["TracingWarning", "trace"]


class TracingWarning(UserWarning):
    """Part of a model stays fixed because tracing has no rule for an operation."""


def trace(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    outputs: Callable[[Any], object] | None = None,
    buffers: bool = False,
    verify: bool = True,
) -> PermutationSpec:
    """Find which hidden units of a model may change places, from the graph of its forward pass.

    Every operation of the graph (`torch.export`'s, in core ATen operators, or `torch.fx`'s where
    export fails) says which axes move together; inputs and outputs stay where they are. An
    operation without a rule fixes the axes that it touches, and is named in the spec's `notes` and
    in a warning.

    Args:
        model: any module, on any device; traced in eval mode, not changed.
        example_inputs: a tensor, a tuple of arguments of `forward`, or a dict of its keyword
            arguments. Nothing is computed with them to trace, but shapes count, and so do values
            to verify.
        outputs: what to keep of the model's output, such as `lambda out: out.logits`; hidden
            states that a model also returns would have to stay where they are.
        buffers: let floating-point buffers of the state dict move like parameters: right for
            tables that are added, such as sines of positions; wrong for the angles of rotary
            embeddings, which no average keeps. BatchNorm statistics always move.
        verify: prove the spec with random permutations in float64, by `PermutationSpec.verify`.

    Returns:
        The spec, bound to the model's sizes; its groups are P0, P1, ... in the order of the state
        dict.

    Raises:
        TypeError: `model` is not a module.
        ValueError: the model can't be traced, or gives outputs that prove nothing; says what to
            do.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
        >>> trace(model, torch.randn(2, 1, 8, 8)).axes["2.weight"]
        (None, 'P0*36')

    Source: Ainsworth et al., ICLR 2023, for the symmetries; finding them is our own.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch module, got {type(model).__name__}")
    args, kwargs = arguments(example_inputs)
    movable = _movable(model, buffers)
    found = interpret(capture(model, args, kwargs, outputs), movable)
    groups = Groups(found.tensors, found.values)
    axes = {
        name: groups.layouts(found.tensors[first])
        for name, first in movable.items()
        if first in found.tensors and found.tensors[first].axes
    }
    sizes = {
        name: extent * math.prod(groups.extents[p] for p in groups.within.get(name, ()))
        for name, extent in groups.extents.items()
    }
    spec = PermutationSpec.from_axes(
        axes,
        model.state_dict(),
        within=groups.within,
        sizes=sizes,
        notes=_notes(found.unknown),
    )
    for note in spec.notes:
        warnings.warn(note, TracingWarning, stacklevel=2)
    if verify:
        spec.verify(model, example_inputs, outputs=outputs)
    return spec


def _movable(model: nn.Module, buffers: bool) -> dict[str, str]:
    """Return the state-dict entries that may move, with the first name of the same tensor."""
    named = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    parameters = {id(parameter) for parameter in model.parameters()}
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    for name in model.state_dict():
        tensor = named.get(name)
        if isinstance(tensor, torch.Tensor) and (
            id(tensor) in parameters
            or is_running_statistic(name)
            or (buffers and tensor.is_floating_point())
        ):
            found[name] = first.setdefault(id(tensor), name)
    return found


def _notes(unknown: Mapping[str, Sequence[str]]) -> list[str]:
    return [
        f"no rule for {name}, so all axes that it touches stay fixed; called at {'; '.join(places)}"
        for name, places in unknown.items()
    ]
