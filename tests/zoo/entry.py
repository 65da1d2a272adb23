"""What a row of the zoo is, and what its models share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

Inputs = tuple[object, ...] | dict[str, object]


@dataclass(frozen=True)
class Entry:
    """A model, what to feed it, and how much of it permutations of hidden units move."""

    name: str  # the row of README's support table
    build: Callable[[], nn.Module]  # float32, in training mode; the caller sets the seed
    inputs: Callable[[], Inputs]  # for forward, a batch of 2; a dict holds keyword arguments
    movable: float  # smallest acceptable share: elements of tensors with a movable axis / all
    requires: str | None = None  # the optional package that has the model
    large: bool = False  # of many layers: seconds to trace


def lively(entry: Entry) -> Entry:
    """Return the entry with every unit of its fresh model given parameters of its own.

    Scales of one, biases of zero and the statistics of a batch normalisation that saw no batch
    are the same after any permutation, right or wrong: a test on them could not fail.
    """

    def build() -> nn.Module:
        model = entry.build()
        _enliven(model)
        return model

    return replace(entry, build=build)


def _enliven(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
            spread = max(0.4 * abs(float(parameter.detach().flatten()[0])), 0.1)
            parameter.data += spread * (2 * torch.rand_like(parameter) - 1)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.6, 1.4)


def scaled(model: nn.Module, gain: float) -> nn.Module:
    """Give convolutions normal weights of variance gain / fan-in, and return the model.

    By default a signal fades by a factor of 2.4 in each convolution with ReLU, until the output
    no longer depends on the input. A gain of 2 keeps it; beside shortcuts, which add up, 1 will do.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=math.sqrt(gain / fan_in))
    return model


def real(*shape: int) -> Tensor:
    """Return the same normal numbers in every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def tokens(vocabulary: int, length: int) -> Tensor:
    """Return the same two rows of tokens in every call, none of them 0, 1 or 2."""
    return torch.randint(3, vocabulary, (2, length), generator=torch.Generator().manual_seed(7))
