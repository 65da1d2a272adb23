"""Least squares on aligned networks: each layer answers as A does on A's data, as B on B's.

Layer by layer, first to last, the merged network's weights become the ridge regression that maps
its own inputs of the layer, from layers already merged, to what A's layer gives for A's examples
and B's for B's. RegMean (Jin et al., ICLR 2023) regresses every layer on the models' own inputs;
PLeaS (Nasery et al., CVPR 2025) trains each by gradient descent. We differ: inputs are the merged
network's, so that later layers make up for what earlier ones lose; the solution is exact, from
second moments in float64; the ridge draws to the average of both models, its strength found by
cross-validation over examples; and a few images serve many times, warped and mixed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from fastrebasin._progress import bar
from fastrebasin.augmentation import Augment, augmented
from fastrebasin.checkpoints import check_finite
from fastrebasin.data import Data, Examples, sources_of_two
from fastrebasin.merging.linear_layers import (
    LinearLayer,
    folded_weight,
    inputs_of,
    linear_layers,
    outputs_of,
    passing,
    unit_axis,
    write,
)
from fastrebasin.merging.regression import Regression
from fastrebasin.merging.widening import Widening

__all__ = ["least_squares"]

_FOLDS = 2  # of the examples, to choose the ridge by
_KEPT_BYTES = 2**30  # of augmented examples; more are made again for every layer


def least_squares(
    model_a: nn.Module,
    model_b: nn.Module,
    data: Data,
    *,
    ridge: float | None = None,
    augment: Augment = "auto",
    batch_size: int = 500,
    widening: Widening | None = None,
    seed: int = 0,
    progress: bool = True,
) -> nn.Module:
    """Merge two aligned models so that each layer answers as A's on A's data, as B's on B's.

    Fully connected layers and convolutions are solved for, with BatchNorm behind them; other
    parameters, and BatchNorm elsewhere, are averaged, and later layers make up for them. Labels
    aren't used.

    Args:
        model_a, model_b: modules of one architecture on one device, B's units in A's order; called
            with x alone, in eval mode; not changed.
        data: a pair (of A's data, of B's), of which each weighs half; of a single source both
            models see all. Batches go to the models' device.
        ridge: strength of the pull towards the average, in mean squares of a layer's inputs; chosen
            by two-fold cross-validation over the examples for each layer by default.
        augment: how many warped copies of each image (see `augmentation.warp`), or a function of a
            batch and a generator that makes copies; "auto" is up to 100 of images, 20,000 in all,
            and none of other inputs; None for none.
        batch_size: examples per forward pass.
        widening: which units of A and B stay apart, as `partial_merge` chooses them; each is to
            answer as its own model's does, whosever the examples are. None: all are merged.
        seed: of the copies.
        progress: show a bar on a terminal.

    Returns:
        A new model in eval mode.

    Raises:
        ValueError: the models don't fit each other, weights or activations aren't finite, or an
            option is out of range.

    Example:
        >>> from fastrebasin.experiments.models import MLP
        >>> a, x = MLP(4, (8,), 2), torch.randn(50, 4)
        >>> merged = least_squares(a, a, (x, torch.zeros(50)))
        >>> torch.allclose(merged(x), a(x), atol=1e-4)
        True

    Source: Jin et al., ICLR 2023, and Nasery et al., CVPR 2025, as the head of this file says.
    """
    _check(model_a, model_b, ridge, batch_size)
    teachers = [copy.deepcopy(model).eval() for model in (model_a, model_b)]
    widening = widening or Widening()
    merged = widening.network(*teachers)
    parts = sources_of_two(data)
    streams = [_Stream(part, augment, batch_size, seed) for part in parts]
    device = next(merged.parameters()).device
    layers = linear_layers(teachers[0], parts[0].take(torch.arange(1))[0].to(device))
    for layer in bar(layers, "least squares", progress=progress, unit="layer"):
        halves = [
            _observe(merged, _wanted(widening, teachers, layer, whose), layer, stream, device)
            for whose, stream in enumerate(streams)
        ]
        prior = widening.blend(layer.weight, *(folded_weight(each, layer) for each in teachers))
        _solve(merged, layer, halves, prior, ridge)
    return merged


class _Stream:
    """Batches of a source and its copies, each with the fold that its examples are in."""

    def __init__(self, source: Examples, augment: Augment, batch_size: int, seed: int) -> None:
        self._all = augmented(source, augment, seed)
        indices = torch.arange(len(self._all))
        self._chosen = [
            (fold, chosen)
            for fold in range(_FOLDS)
            for chosen in indices[indices % len(source) % _FOLDS == fold].split(batch_size)
        ]
        self._kept: list[Tensor] = []
        if source.take(torch.arange(1))[0].nbytes * len(self._all) <= _KEPT_BYTES:
            self._kept = [self._all.take(chosen)[0] for _, chosen in self._chosen]

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        for number, (fold, chosen) in enumerate(self._chosen):
            yield fold, self._kept[number] if self._kept else self._all.take(chosen)[0]


def _wanted(
    widening: Widening, teachers: Sequence[nn.Module], layer: LinearLayer, whose: int
) -> Callable[[Tensor], list[Tensor]]:
    """Return what tells, for examples of one of the models, what a layer is to give."""

    def outputs(x: Tensor, model: nn.Module) -> list[Tensor]:
        return passing(model, layer.last, layer.calls, x, side="output")

    def wanted(x: Tensor) -> list[Tensor]:
        if not widening.keeps_apart(layer.weight):
            return outputs(x, teachers[whose])
        dim = unit_axis(teachers[whose].get_submodule(layer.name))
        pairs = zip(*(outputs(x, model) for model in teachers), strict=True)
        return [widening.wanted(layer.weight, pair, whose, dim) for pair in pairs]

    return wanted


def _observe(
    merged: nn.Module,
    wanted: Callable[[Tensor], list[Tensor]],
    layer: LinearLayer,
    stream: _Stream,
    device: torch.device,
) -> list[Regression]:
    """Return the moments of a layer's inputs in a network against what the layer is to give."""
    module = merged.get_submodule(layer.name)
    found = [Regression(_FOLDS) for _ in range(getattr(module, "groups", 1))]
    for fold, batch in stream:
        x = batch.to(device)
        inputs = passing(merged, layer.name, layer.calls, x, side="input")
        for each_in, each_out in zip(inputs, wanted(x), strict=True):
            pairs = zip(inputs_of(module, each_in), outputs_of(module, each_out), strict=True)
            for regression, pair in zip(found, pairs, strict=True):
                regression.update(fold, *pair)
    if not all(regression.is_finite() for regression in found):
        raise ValueError(f"activations at {layer.name!r} must be finite")
    return found


def _solve(
    merged: nn.Module,
    layer: LinearLayer,
    halves: Sequence[Sequence[Regression]],
    prior: Tensor,
    ridge: float | None,
) -> None:
    """Replace a layer of the merged network by the regression on both models' answers."""
    fits = []
    priors = prior.flatten(1).chunk(len(halves[0]))
    for rows, first, second in zip(priors, *halves, strict=True):
        first.merge(second)
        fits.append(first.solve(rows, intercept=layer.intercept, strength=ridge))
    write(merged, layer, fits)


def _check(model_a: nn.Module, model_b: nn.Module, ridge: float | None, batch_size: int) -> None:
    check_finite({"A": model_a.state_dict(), "B": model_b.state_dict()})
    problems = []
    if ridge is not None and not 0 <= ridge < math.inf:
        problems.append(f"ridge must be finite and not negative, got {ridge}")
    if batch_size < 1:
        problems.append(f"batch_size must be at least 1, got {batch_size}")
    if problems:
        raise ValueError("; ".join(problems))
