"""Partial merging: units of A and B that make unlike work of what is read of them stay apart.

After Stoica et al., "ZipIt!", ICLR 2024, and Nasery et al., "PLeaS", CVPR 2025, who keep apart what
correlates least, or find widths by a commercial solver. We keep apart what merging would cost most
in the layers behind, as weights tell it: no data is needed. All layers get wider by the same share;
with data, least squares settles the weights (`least_squares`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastrebasin._calls import ExampleInputs, example_of
from fastrebasin.augmentation import Augment
from fastrebasin.checkpoints import check_same_shapes
from fastrebasin.data import Data
from fastrebasin.layout import Layout, blocks
from fastrebasin.merging.least_squares import least_squares
from fastrebasin.merging.widening import Widening, widenable
from fastrebasin.merging.widths import roles
from fastrebasin.spec import PermutationSpec, is_running_statistic
from fastrebasin.tracing import trace

__all__ = ["merging_costs", "partial_merge", "width_problems"]


def partial_merge(
    model_a: nn.Module,
    model_b: nn.Module,
    data: Data | None = None,
    *,
    width: float = 1.25,
    spec: PermutationSpec | None = None,
    example_inputs: ExampleInputs | None = None,
    outputs: Callable[[Any], object] | None = None,
    augment: Augment = "auto",
    seed: int = 0,
    progress: bool = True,
) -> nn.Module:
    """Merge two aligned models, but keep some units of both apart: a wider model.

    Of each group of units, those pairs stay apart of which merging would cost most (see
    `merging_costs`). Groups that reach layers with statistics across units (LayerNorm), attention
    heads and other layers that can't be widened are merged as a whole, as a trial run finds out.

    Args:
        model_a, model_b: modules of one architecture on one device, B's units in A's order; not
            changed.
        data: examples for the regression of `least_squares`, a pair (of A's data, of B's); without,
            weights are averaged.
        width: how many times as many units the merged model has, from 1 (all are merged) to 2 (all
            stay apart; without data, the mean of the models' outputs before any softmax).
        spec: which axes share a permutation; traced by default.
        example_inputs: what `forward` takes; the first examples of `data` by default.
        outputs: what counts of the model's output.
        augment: copies of images in `data`; see `least_squares`.
        seed: of the trial run and of the copies.
        progress: show a bar on a terminal.

    Returns:
        A new model in eval mode, of A's classes; `fit_widths` gives another such model its
        parameters.

    Raises:
        ValueError: the models don't fit each other, weights or activations aren't finite, there is
            neither `example_inputs` nor `data`, or an option is out of range.

    Example:
        >>> a, b = (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)) for _ in range(2))
        >>> partial_merge(a, b, example_inputs=torch.randn(5, 4), width=1.5)
        Sequential(
          (0): Linear(in_features=4, out_features=12, bias=True)
          (1): ReLU()
          (2): Linear(in_features=12, out_features=2, bias=True)
        )

    Source: Stoica et al., ICLR 2024, and Nasery et al., CVPR 2025, as the head of this file says.
    """
    if problems := width_problems(width):
        raise ValueError("; ".join(problems))
    params_a, params_b = model_a.state_dict(), model_b.state_dict()
    check_same_shapes(params_a, params_b)
    example = example_of(example_inputs, data, model_a)
    if spec is None:
        spec = trace(model_a, example, outputs=outputs)
    spec = spec.bind(params_a)
    groups = widenable(spec, model_a, example, outputs=outputs, seed=seed) if width > 1 else []
    costs = merging_costs(spec, groups, model_a, model_b)
    apart = {
        group: cost.topk(round((width - 1) * len(cost))).indices.sort().values
        for group, cost in costs.items()
    }
    widening = Widening.of(spec, model_a, apart)
    if data is None:
        return widening.network(model_a, model_b)
    return least_squares(
        model_a, model_b, data, augment=augment, widening=widening, seed=seed, progress=progress
    )


def width_problems(width: float) -> list[str]:
    """Return what is wrong with a width, in words."""
    return [] if 1 <= width <= 2 else [f"width must be from 1 to 2, got {width}"]


def merging_costs(
    spec: PermutationSpec, groups: Iterable[str], model_a: nn.Module, model_b: nn.Module
) -> dict[str, Tensor]:
    """Return how much merging each unit of A with B's in the same place would change, by weights.

    That is how far the weights that make the two units lie apart, times how large those are that
    read them, both as sums of squares.

    Args:
        spec: bound to the models' parameters.
        groups: such as `widenable` returns.
        model_a, model_b: modules of one architecture, B's units in A's order.

    Returns:
        Float64 vectors of shape (units,), on the CPU, by group.
    """
    role = roles(model_a)
    models = [model.state_dict() for model in (model_a, model_b)]
    found = {}
    for group in groups:
        between, read = (torch.zeros(spec.sizes[group], dtype=torch.float64) for _ in range(2))
        for name, axis in spec.groups[group]:
            if is_running_statistic(name):
                continue
            slices = zip(
                *(_slices(spec, params, name, axis, group) for params in models), strict=True
            )
            for a, b in slices:
                if role[name, axis]:
                    between += (a - b).square().sum(1).cpu()
                else:
                    read += (a.square() + b.square()).sum(1).cpu()
        found[group] = between * read
    return found


def _slices(
    spec: PermutationSpec, params: Mapping[str, Tensor], name: str, axis: int, group: str
) -> Iterator[Tensor]:
    """Yield what a tensor has for each unit of a group on an axis: matrices, units first."""
    tensor = params[name].detach().double()
    layouts: list[Layout | None] = [None] * tensor.ndim
    layouts[axis] = spec.layouts(name, tensor.ndim)[axis]
    for block, owners in blocks(tensor, layouts, spec.extents):
        for place in (k for k, owner in enumerate(owners) if owner == group):
            yield block.movedim(place, 0).reshape(block.shape[place], -1)
