"""A small report with awkward names, for the tests of reports and pages."""

from __future__ import annotations

import functools

import torch
from torch import nn

from fastrebasin import MergeResult, architectures, merge
from fastrebasin.evaluation import MergeReport, compare_models
from fastrebasin.experiments.models import MLP

X = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
DATA = ((X, X[:, :3].argmax(1)), (X[:40] + 1, X[:40, 3:].argmax(1)))
NAMES = ("<b>first</b>", 'second & "last"')
SPEC = architectures.mlp(2)
MERGES = ("weights [red]", "</text><script>alert(1)</script>")


@functools.cache
def models() -> tuple[nn.Module, nn.Module]:
    """Return two networks, always the same."""
    torch.manual_seed(1)
    return MLP(6, (12, 9), 3), MLP(6, (12, 9), 3)


@functools.cache
def merges() -> dict[str, MergeResult]:
    """Return two merges of them."""
    a, b = models()
    ways = zip(MERGES, ("weights", "activations"), strict=True)
    return {name: merge(a, b, DATA, align=align, spec=SPEC) for name, align in ways}


@functools.cache
def report() -> MergeReport:
    """Return the comparison of all."""
    return compare_models(
        *models(), DATA, merges(), spec=SPEC, data_names=NAMES, title="A & B <merged>", points=5,
        plane_points=4,
    )  # fmt: skip
