"""Random models: whatever tracing leaves free must leave the model's function alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from fastrebasin import trace

# Each step takes and gives (batch, 12), by whatever way; its module is made anew for each model.
Step = Callable[[nn.Module, Tensor], Tensor]
STEPS: dict[str, tuple[Step, Callable[[], nn.Module]]] = {}


def plain(name: str, function: Callable[[Tensor], Tensor]) -> None:
    """Add a step without parameters."""
    STEPS[name] = (lambda _, h: function(h), nn.Identity)


def layer(name: str, make: Callable[[], nn.Module], function: Step) -> None:
    """Add a step with parameters."""
    STEPS[name] = (function, make)


plain("relu", torch.relu)
plain("halves", lambda h: torch.cat(h.chunk(2, 1)[::-1], 1))
plain("gate", lambda h: torch.cat([h[:, :6] * h[:, 6:].sigmoid()] * 2, 1))
plain("thirds", lambda h: torch.stack(h.view(-1, 3, 4).unbind(1)[::-1], 1).flatten(1))
plain("shuffle", lambda h: h.view(-1, 3, 4).transpose(1, 2).flatten(1))
plain("softmax of parts", lambda h: h.view(-1, 4, 3).softmax(2).flatten(1))
plain("softmax over parts", lambda h: h.view(-1, 2, 6).softmax(1).flatten(1))
plain("norm of sets", lambda h: functional.group_norm(h, 3))
plain(
    "mean of parts",
    lambda h: (h.view(-1, 3, 4).mean(1, keepdim=True) + h.view(-1, 3, 4)).flatten(1),
)
plain("attention", lambda h: attention(h.view(-1, 3, 2, 2)))
plain("pad", lambda h: functional.pad(h[:, 2:9], (4, 1)))
plain("maximum", lambda h: h - h.max(1, keepdim=True).values)
plain("repeat", lambda h: h[:, :4].repeat(1, 3))
plain("interleave", lambda h: h[:, :4].repeat_interleave(3, 1))
plain("order", lambda h: h.cumsum(1))
plain("some", lambda h: h[:, [3, 1, 2, 0, 5, 4, 7, 6, 9, 8, 11, 10]])


def attention(h: Tensor) -> Tensor:
    """Mix three sets of two heads of two units by each other."""
    scores = torch.einsum("bnhd,bmhd->bhnm", h, h).softmax(-1)
    return torch.einsum("bhnm,bmhd->bnhd", scores, h).flatten(1)


def fused(module: nn.Module, h: Tensor) -> Tensor:
    """Take three parts for each of two heads from one layer."""
    q, k, v = module(h).view(-1, 3, 2, 6).permute(1, 0, 2, 3).unbind(0)
    mixed: Tensor = ((q * k).sum(-1, keepdim=True) * v).flatten(1)
    return mixed


layer("linear", lambda: nn.Linear(12, 12), lambda m, h: m(h))
layer("residual", lambda: nn.Linear(12, 12, bias=False), lambda m, h: h + m(h).tanh())
layer("layer norm", lambda: nn.LayerNorm(12), lambda m, h: m(h))
layer("shared by parts", lambda: nn.Linear(4, 4), lambda m, h: m(h.view(-1, 3, 4)).flatten(1))
layer("norm of parts", lambda: nn.LayerNorm(4), lambda m, h: m(h.view(-1, 3, 4)).flatten(1))
layer("grouped", lambda: nn.Conv1d(12, 12, 1, groups=3), lambda m, h: m(h[:, :, None])[:, :, 0])
layer("fused", lambda: nn.Linear(12, 36), fused)


class Chain(nn.Module):
    """A first layer, steps between, and a last layer."""

    def __init__(self, names: list[str], skip: int) -> None:
        super().__init__()
        self.steps = [STEPS[name][0] for name in names]
        self.layers = nn.ModuleList(STEPS[name][1]() for name in names)
        self.first, self.last = nn.Linear(5, 12), nn.Linear(24, 3)
        self.skip = min(skip, len(names))

    def forward(self, x: Tensor) -> Tensor:
        h = kept = self.first(x)
        for k, (function, module) in enumerate(zip(self.steps, self.layers, strict=True)):
            h = function(module, h)
            kept = h if k + 1 == self.skip else kept
        result: Tensor = self.last(torch.cat([h, kept], 1))
        return result


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    names=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=5),
    skip=st.integers(0, 4),
    seed=st.integers(0, 3),
)
def test_whatever_is_free_may_move(names: list[str], skip: int, seed: int) -> None:
    torch.manual_seed(seed)
    model = Chain(names, skip)
    spec = trace(model, torch.randn(4, 5))  # which proves it, or fails
    assert not spec.notes
