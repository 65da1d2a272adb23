"""The ways to combine two aligned models, by name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from fastrebasin._calls import ExampleInputs
from fastrebasin.augmentation import Augment
from fastrebasin.data import Data, sources_of_two
from fastrebasin.merging.distillation import distil
from fastrebasin.merging.fisher import fisher_information, fisher_mean
from fastrebasin.merging.interpolation import interpolate, slerp
from fastrebasin.merging.least_squares import least_squares
from fastrebasin.merging.partial import partial_merge
from fastrebasin.merging.regmean import regmean
from fastrebasin.merging.task_vectors import dare, task_arithmetic, ties
from fastrebasin.spec import PermutationSpec

__all__ = ["COMBINATIONS", "Aligned", "Structure"]

Params = Mapping[str, torch.Tensor]


class Structure(NamedTuple):
    """How a model's units are laid out, and what shows it.

    Attributes:
        spec: bound to the model's parameters.
        example_inputs: what `forward` takes.
        outputs: what counts of the model's output; all by default.
    """

    spec: PermutationSpec
    example_inputs: ExampleInputs
    outputs: Callable[[Any], object] | None = None


@dataclass(frozen=True)
class Aligned:
    """Two models, B's units in A's order, and what may help to combine them.

    Attributes:
        model_a, model_b: in eval mode.
        data: of both, for the ways that need some.
        base: what both were trained from, for the ways that need it; else empty.
        augment: of images in `data`.
        seed: of random choices.
        progress: show bars on a terminal.
        structure: for the way that makes layers wider.
        width: that these get, in widths of A's.
    """

    model_a: nn.Module
    model_b: nn.Module
    data: Data | None
    base: Params
    augment: Augment
    seed: int
    progress: bool
    structure: Structure | None = None
    width: float = 1.0

    def average(self, way: Callable[[Params, Params], Params]) -> nn.Module:
        """Return a model whose parameters are a function of both models'."""
        merged = copy.deepcopy(self.model_a)
        merged.load_state_dict(way(self.model_a.state_dict(), self.model_b.state_dict()))
        return merged


class Combination(NamedTuple):
    """A way to combine.

    Attributes:
        make: the combined model.
        needs: "data" or "base", if it needs either.
        settled: statistics of BatchNorm fit the result already.
        wider: layers may be wider than the models', by `Aligned.structure` and `width`.
    """

    make: Callable[[Aligned], nn.Module]
    needs: str = ""
    settled: bool = False
    wider: bool = False


def _fisher(given: Aligned) -> nn.Module:
    pairs = zip((given.model_a, given.model_b), sources_of_two(given.data), strict=True)
    fisher_a, fisher_b = (
        fisher_information(model, part, seed=given.seed, progress=given.progress)
        for model, part in pairs
    )
    return given.average(lambda a, b: fisher_mean(a, b, fisher_a, fisher_b))


def _regmean(given: Aligned) -> nn.Module:
    return regmean(given.model_a, given.model_b, given.data, progress=given.progress)


def _least_squares(given: Aligned) -> nn.Module:
    return least_squares(
        given.model_a, given.model_b, given.data,
        augment=given.augment, seed=given.seed, progress=given.progress,
    )  # fmt: skip


def _distillation(given: Aligned) -> nn.Module:
    return distil(
        _least_squares(given), [given.model_a, given.model_b], given.data,
        augment=given.augment, seed=given.seed, progress=given.progress,
    )  # fmt: skip


def _partial(given: Aligned) -> nn.Module:
    assert given.structure is not None
    spec, example_inputs, outputs = given.structure
    return partial_merge(
        given.model_a, given.model_b, given.data, width=given.width, spec=spec,
        example_inputs=example_inputs, outputs=outputs,
        augment=given.augment, seed=given.seed, progress=given.progress,
    )  # fmt: skip


def _task_arithmetic(given: Aligned) -> nn.Module:
    return given.average(lambda a, b: task_arithmetic(given.base, [a, b]))


def _ties(given: Aligned) -> nn.Module:
    return given.average(lambda a, b: ties(given.base, [a, b]))


def _dare(given: Aligned) -> nn.Module:
    return given.average(lambda a, b: dare(given.base, [a, b], seed=given.seed))


COMBINATIONS: Mapping[str, Combination] = {
    "mean": Combination(lambda given: given.average(interpolate)),
    "slerp": Combination(lambda given: given.average(slerp)),
    "fisher": Combination(_fisher, "data"),
    "regmean": Combination(_regmean, "data"),
    "least-squares": Combination(_least_squares, "data", settled=True),
    "distillation": Combination(_distillation, "data", settled=True),
    "partial": Combination(_partial, settled=True, wider=True),
    "task-arithmetic": Combination(_task_arithmetic, "base"),
    "ties": Combination(_ties, "base"),
    "dare": Combination(_dare, "base"),
}
