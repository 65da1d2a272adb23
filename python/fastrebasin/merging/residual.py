"""Residual sums: what a layer gives is added to what a network has computed before."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastrebasin._calls import tensors_in
from fastrebasin.normalization.layers import watched

__all__ = ["ResidualSum", "residual_sum"]

_ADDITIONS = torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor


class ResidualSum(NamedTuple):
    """A layer's part in a sum.

    Attributes:
        input: what enters the layer.
        output: what leaves it.
        stream: what that is added to.
    """

    input: Tensor
    output: Tensor
    stream: Tensor


def residual_sum(model: nn.Module, first: str, last: str, x: Tensor) -> ResidualSum | None:
    """Run a model until what a layer gives is added to what was there before the layer ran.

    Args:
        model: in eval mode.
        first, last: the modules whose input and output are the layer's; they run once.
        x: examples.

    Returns:
        None if the output is used in another way first, changed in place, or added to what was made
        after it: then it is for that to make up for the layer.
    """
    inputs: list[Tensor] = []
    sums = _Sums()

    def see(name: str, given: Tensor, output: Tensor) -> None:
        if name == first:
            inputs.append(given.clone())  # what comes behind may work in place
        if name == last:
            sums.wait_for(output)

    with contextlib.suppress(_Added), watched(model, dict.fromkeys((first, last)), see), sums:
        model(x)
    if sums.stream is None:
        return None
    assert sums.awaited is not None
    return ResidualSum(inputs[0], sums.awaited, sums.stream)


class _Added(Exception):  # noqa: N818 - no error
    """The sum that was waited for has come: what is behind needn't."""


class _Sums(TorchDispatchMode):
    """Waits for the sum of a tensor and one that was made before it.

    Attributes:
        awaited: the tensor, once it was made.
        stream: the other one, once the two are added.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.awaited: Tensor | None = None
        self.stream: Tensor | None = None
        self._version = -1
        self._later: list[Tensor] = []  # made after the tensor; held, so that identity tells

    def wait_for(self, tensor: Tensor) -> None:
        """Look out for what this tensor, as it is now, is added to."""
        self.awaited, self._version = tensor, tensor._version

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        if self.awaited is None:
            return func(*args, **(kwargs or {}))
        if func in _ADDITIONS and not kwargs and any(arg is self.awaited for arg in args):
            self._add(*args)
        result = func(*args, **(kwargs or {}))
        self._later += tensors_in(result)
        return result

    def _add(self, left: object, right: object) -> None:
        mine, other = (left, right) if left is self.awaited else (right, left)
        assert isinstance(mine, Tensor)
        known = isinstance(other, Tensor) and other.shape == mine.shape and other is not mine
        if known and mine._version == self._version:
            assert isinstance(other, Tensor)
            if not any(other is tensor for tensor in self._later):
                self.stream = other.clone()
                raise _Added
