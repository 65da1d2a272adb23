"""What a row of the zoo is, and what its models share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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


def enliven(model: nn.Module) -> nn.Module:
    """Give every unit of a fresh model parameters of its own, and return the model.

    Scales of one, biases of zero and statistics of neither survive any permutation, right or
    wrong: a test on them could not fail.
    """
    for parameter in model.parameters():
        if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
            spread = max(0.4 * abs(float(parameter.detach().flatten()[0])), 0.1)
            parameter.data += spread * (2 * torch.rand_like(parameter) - 1)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.6, 1.4)
    return model


def real(*shape: int) -> Tensor:
    """Return the same normal numbers in every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def tokens(vocabulary: int, length: int) -> Tensor:
    """Return the same two rows of tokens in every call, none of them 0, 1 or 2."""
    return torch.randint(3, vocabulary, (2, length), generator=torch.Generator().manual_seed(7))
