"""Call any module: its arguments from example inputs, the tensors of whatever it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import nn

from fastrebasin._errors import first_line
from fastrebasin.data import Data, sources

__all__ = ["ExampleInputs", "arguments", "call", "example_of", "tensors_in"]

ExampleInputs: TypeAlias = "torch.Tensor | tuple[object, ...] | list[object] | Mapping[str, object]"
"""A tensor, positional arguments of `forward`, or its keyword arguments."""


def arguments(inputs: ExampleInputs) -> tuple[tuple[object, ...], dict[str, object]]:
    """Return example inputs as positional and keyword arguments."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs), {}
    return (inputs,), {}


def call(
    model: nn.Module,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    outputs: Callable[[Any], object] | None,
) -> object:
    """Run a model and return what `outputs` keeps of its output.

    Raises:
        ValueError: the model or `outputs` fails; says which, and how.
    """
    try:
        output = model(*args, **kwargs)
    except Exception as error:
        raise ValueError(f"the model can't run on example_inputs: {first_line(error)}") from error
    try:
        return output if outputs is None else outputs(output)
    except Exception as error:
        raise ValueError(
            f"outputs fails on what the model returns, a {type(output).__name__}: "
            f"{first_line(error)}"
        ) from error


def example_of(
    example_inputs: ExampleInputs | None, data: Data | None, model: nn.Module
) -> ExampleInputs:
    """Return inputs to trace and verify with; those from `data` go to the model's device."""
    if example_inputs is not None:
        return example_inputs
    if data is None:
        raise ValueError("the spec can't be verified: give example_inputs or data")
    first = sources(data)[0]
    x, _ = first.take(torch.arange(min(8, len(first))))
    return x.to(next(model.parameters(), x).device)


def tensors_in(value: object) -> Iterator[torch.Tensor]:
    """Yield the tensors of a value, however it nests tuples, lists, dicts and objects."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif hasattr(value, "__dict__"):
        yield from tensors_in(vars(value))
