"""Trace a permutation spec from a model's own graph."""

from __future__ import annotations

import math
import warnings

from torch import nn

from fastrebasin._calls import ExampleInputs, arguments
from fastrebasin.spec import PermutationSpec, is_running_statistic
from fastrebasin.tracing.graph import capture
from fastrebasin.tracing.groups import Groups
from fastrebasin.tracing.interpretation import interpret

__all__ = ["trace"]


def trace(model: nn.Module, example_inputs: ExampleInputs) -> PermutationSpec:
    args, kwargs = arguments(example_inputs)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    movable = {*parameters, *(n for n, _ in model.named_buffers() if is_running_statistic(n))}
    found = interpret(capture(model, args, kwargs), movable.__contains__)
    groups = Groups(found.tensors, found.values)
    names = {id(parameters[name]): name for name in found.tensors if name in parameters}
    axes = {}
    for name in model.state_dict():
        twin = names.get(id(parameters[name])) if name in parameters else name
        if twin in found.tensors:
            axes[name] = groups.layouts(found.tensors[twin])
    if found.unknown:
        warnings.warn(str(found.unknown))
    sizes = {
        name: extent * math.prod(groups.extents[p] for p in groups.within.get(name, ()))
        for name, extent in groups.extents.items()
    }
    return PermutationSpec.from_axes(axes, model.state_dict(), within=groups.within, sizes=sizes)
