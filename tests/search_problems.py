"""Small problems for searches on data, and what their results are compared by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fastrebasin import Matching, PermutationSpec, architectures, straight_through_matching
from fastrebasin.experiments.models import MLP

__all__ = ["Problem", "assert_same", "problem", "search"]

Problem = tuple[PermutationSpec, nn.Module, nn.Module, object]


def problem(count: int = 60) -> Problem:
    """Return untrained networks and a pair of sources of unequal sizes."""
    torch.manual_seed(1)
    a, b = MLP(6, (16, 16), 3), MLP(6, (16, 16), 3)
    x = torch.randn(count, 6)
    y = x[:, :3].argmax(1)
    return architectures.mlp(2), a, b, ((x[:40], y[:40]), (x[40:], y[40:]))


def search(
    given: Problem | None = None,
    method: Callable[..., Matching] = straight_through_matching,
    **options: Any,
) -> Matching:
    """Search in a few short steps: four epochs of four, where `given` has 60 examples."""
    options = {"epochs": 4, "batch_size": 16, "lr": 0.5, "progress": False} | options
    return method(*(given or problem()), **options)


def assert_same(first: Matching, second: Matching) -> None:
    """Compare two results bit for bit."""
    assert first.losses == second.losses
    assert (first.objective, first.sweeps) == (second.objective, second.sweeps)
    assert all(torch.equal(p, second.permutation[g]) for g, p in first.permutation.items())
