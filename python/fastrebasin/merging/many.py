"""Merge any number of models: align all of them with each other, then take the mean.

The mean of n models on a common basis, each with weight 1/n: Ainsworth et al., ICLR 2023,
algorithm 3, and Crisostomi et al., NeurIPS 2024. How they get there is in `matching.synchronised`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor, nn

from fastrebasin._calls import ExampleInputs, example_of
from fastrebasin.data import Data
from fastrebasin.matching.synchronised import (
    Synchronisation,
    check_models,
    synchronised_matching,
)
from fastrebasin.normalization import has_batch_norm, reset_batch_norm
from fastrebasin.permutation import Permutation, apply_permutation
from fastrebasin.spec import PermutationSpec
from fastrebasin.tracing import trace

__all__ = ["MergeManyResult", "merge_many"]


@dataclass(frozen=True)
class MergeManyResult:
    """A model merged from several, and how it came about.

    Attributes:
        model: the merged model, in eval mode.
        params: its state dict.
        permutations: one for each model; applying it moves the model onto the common basis, that
            of `models[anchor]`.
        report: the options, the share of parameters in tensors that a permutation moves, the
            deviation that verification of the spec found, the objective of the alignment, and
            seconds spent.
    """

    model: nn.Module
    params: dict[str, Tensor]
    permutations: tuple[Permutation, ...]
    report: dict[str, object] = field(default_factory=dict)


def merge_many(
    models: Sequence[nn.Module],
    data: Data | None = None,
    *,
    method: Synchronisation = "cycle-consistent",
    anchor: int = 0,
    normalize: str = "auto",
    spec: PermutationSpec | None = None,
    example_inputs: ExampleInputs | None = None,
    outputs: Callable[[Any], object] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> MergeManyResult:
    """Merge any number of models of one architecture into one: align all, then take the mean.

    Args:
        models: trained modules on one device; not changed.
        data: labelled examples, or several sources that are drawn evenly. Needed by
            `normalize="reset"`.
        method: "cycle-consistent", "merge-many" or "anchor"; see `synchronised_matching`.
        anchor: the model whose basis, dtypes and integer tensors the merged one has.
        normalize: "none", "reset" (BatchNorm statistics on `data`), or "auto": reset where there
            is BatchNorm and data.
        spec: which axes share a permutation; traced from the first model by default. Either way it
            is verified on `example_inputs` before it is used.
        example_inputs: what `forward` takes (a tensor, a tuple, or a dict of keyword arguments);
            the first examples of `data` by default.
        outputs: what counts of the model's output, such as `lambda out: out.logits`.
        seed: of every random choice.
        progress: show bars on a terminal.

    Returns:
        The merged model, its parameters, a permutation for each model and a report.

    Raises:
        ValueError: there is no model, an option is unknown or needs data, the model can't be
            traced, the spec is wrong, the models don't fit together or aren't finite.

    Example:
        >>> from fastrebasin.experiments.models import MLP
        >>> models = [MLP(4, (8, 8), 2) for _ in range(3)]
        >>> result = merge_many(models, example_inputs=torch.randn(2, 4))
        >>> len(result.permutations), result.model(torch.randn(1, 4)).shape
        (3, torch.Size([1, 2]))

    Source: Crisostomi et al., NeurIPS 2024; Ainsworth et al., ICLR 2023, algorithm 3.
    """
    start = time.perf_counter()
    states = [model.state_dict() for model in models]
    check_models(states)
    _check_options(len(models), method, anchor, normalize, data, models[0])
    example = example_of(example_inputs, data, models[0])
    if spec is None:
        spec = trace(models[0], example, outputs=outputs, verify=False)
    spec = spec.bind(states[0])
    deviation = spec.verify(models[0], example, outputs=outputs, seed=seed)
    matching = synchronised_matching(
        spec, states, method=method, anchor=anchor, seed=seed, progress=progress
    )
    merged = copy.deepcopy(models[anchor]).eval()
    merged.load_state_dict(_mean(spec, states, matching.permutations, anchor))
    reset = data is not None and normalize != "none" and has_batch_norm(merged)
    if reset:
        merged = reset_batch_norm(merged, data, seed=seed, progress=progress)
    report: dict[str, object] = {
        "method": method,
        "anchor": anchor,
        "seed": seed,
        "share_that_moves": spec.share(states[0]),
        "spec_deviation": deviation,
        "objective": matching.objective,
        "sweeps": matching.sweeps,
        "normalize": "reset" if reset else "none",
        "seconds": time.perf_counter() - start,
    }
    params = {name: tensor.clone() for name, tensor in merged.state_dict().items()}
    return MergeManyResult(merged, params, matching.permutations, report)


def _mean(
    spec: PermutationSpec,
    states: Sequence[Mapping[str, Tensor]],
    permutations: Sequence[Permutation],
    anchor: int,
) -> dict[str, Tensor]:
    """Return the mean of the models on the common basis, summed in float32 or wider."""
    total: dict[str, Tensor] = {}
    for state, permutation in zip(states, permutations, strict=True):
        for name, tensor in apply_permutation(spec, permutation, state).items():
            wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
            total[name] = total[name] + wide if name in total else wide
    return {
        name: (total[name] / len(states)).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor.clone()
        for name, tensor in states[anchor].items()
    }


def _check_options(
    count: int, method: str, anchor: int, normalize: str, data: Data | None, model: nn.Module
) -> None:
    problems = []
    choices = {
        "method": (method, get_args(Synchronisation)),
        "normalize": (normalize, ("none", "reset", "auto")),
    }
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            problems.append(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    if not 0 <= anchor < count:
        problems.append(f"anchor must be the number of a model, 0 to {count - 1}, got {anchor}")
    if data is None and normalize == "reset" and has_batch_norm(model):
        problems.append('normalize="reset" needs data')
    if problems:
        raise ValueError("; ".join(problems))
