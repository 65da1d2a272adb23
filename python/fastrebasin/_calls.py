"""Call any module: its arguments from example inputs, the tensors of whatever it returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import torch

__all__ = ["ExampleInputs", "arguments", "tensors_in"]

ExampleInputs: TypeAlias = "torch.Tensor | tuple[object, ...] | list[object] | Mapping[str, object]"
"""A tensor, positional arguments of `forward`, or its keyword arguments."""


def arguments(inputs: ExampleInputs) -> tuple[tuple[object, ...], dict[str, object]]:
    """Return example inputs as positional and keyword arguments."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs), {}
    return (inputs,), {}


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
