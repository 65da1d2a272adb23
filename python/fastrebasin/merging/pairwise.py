"""Merge two models: align B with A, combine the weights, repair the statistics."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fastrebasin._calls import ExampleInputs, example_of
from fastrebasin.augmentation import Augment, augmented
from fastrebasin.data import Data, sources
from fastrebasin.matching import (
    Matching,
    activation_matching,
    sinkhorn_matching,
    straight_through_matching,
    weight_matching,
)
from fastrebasin.merging.combination import COMBINATIONS, Aligned, Structure
from fastrebasin.merging.partial import width_problems
from fastrebasin.normalization import has_batch_norm, repair, reset_batch_norm
from fastrebasin.permutation import Permutation, apply_permutation
from fastrebasin.spec import PermutationSpec
from fastrebasin.tracing import trace

__all__ = ["MergeResult", "merge"]

_MATCH_BY_DATA: Mapping[str, Callable[..., Matching]] = {
    "activations": activation_matching,
    "straight-through": straight_through_matching,
    "sinkhorn": sinkhorn_matching,
}
_NORMALIZE = ("none", "reset", "repair", "auto")


@dataclass(frozen=True)
class MergeResult:
    """A merged model and how it came about.

    Attributes:
        model: the merged model, in eval mode.
        params: its state dict.
        permutation: what moved B onto A; empty for `align="none"`.
        report: the options, the share of parameters in tensors that a permutation moves, the
            deviation that verification of the spec found, the alignment's objective, seconds
            spent, and of a partial merge its width and how many times A's parameters it has.
    """

    model: nn.Module
    params: dict[str, torch.Tensor]
    permutation: Permutation
    report: dict[str, object] = field(default_factory=dict)


def merge(
    model_a: nn.Module,
    model_b: nn.Module,
    data: Data | None = None,
    *,
    align: str = "weights",
    combine: str = "mean",
    normalize: str = "auto",
    augment: Augment = "auto",
    width: float = 1.25,
    base: Mapping[str, torch.Tensor] | None = None,
    spec: PermutationSpec | None = None,
    example_inputs: ExampleInputs | None = None,
    outputs: Callable[[Any], object] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> MergeResult:
    """Merge two models of one architecture into one: align B's units with A's, then combine.

    Args:
        model_a, model_b: trained modules on one device; not changed.
        data: labelled examples, or a pair (A's, B's) drawn half and half. Needed by any `align`
            but "none" and "weights", by "fisher", "regmean", "least-squares" and "distillation",
            and by `normalize="reset"` or "repair".
        align: "weights", "activations", "straight-through", "sinkhorn" or "none".
        combine: "mean"; "slerp"; "fisher" (weighted by Fisher information); "regmean";
            "least-squares" (of the models' answers, layer by layer); "distillation" (least squares,
            then trained to answer as both do); "partial" (units that differ most stay apart, in
            wider layers; with data, least squares follows); or, for models from one `base`,
            "task-arithmetic", "ties" or "dare".
        normalize: "none", "reset" (BatchNorm statistics on `data`), "repair" (statistics of all
            layers), or "auto": reset where there is BatchNorm and data, unless `combine` sees to
            it, as "least-squares", "distillation" and "partial" do. A wider model than A isn't
            repaired.
        augment: copies of images in `data` for `align="activations"` and for "least-squares",
            "distillation" and "partial"; see `least_squares`.
        width: of "partial", in widths of A: from 1 (all units are merged) to 2 (none is).
        base: state dict of what both models were trained from.
        spec: which axes share a permutation; traced from the model by default. Either way it is
            verified on `example_inputs` before it is used.
        example_inputs: what `forward` takes (a tensor, a tuple, or a dict of keyword arguments);
            the first examples of `data` by default.
        outputs: what counts of the model's output, such as `lambda out: out.logits`.
        seed: of every random choice.
        progress: show bars on a terminal.

    Returns:
        The merged model, its parameters, the permutation and a report.

    Raises:
        ValueError: an option is unknown or needs data, the model can't be traced, the spec is
            wrong, or the models don't fit together.

    Example:
        >>> from fastrebasin.experiments.models import MLP
        >>> a, b = MLP(4, (8, 8), 2), MLP(4, (8, 8), 2)
        >>> result = merge(a, b, example_inputs=torch.randn(2, 4))
        >>> sorted(result.permutation), result.model(torch.randn(1, 4)).shape
        (['P0', 'P1'], torch.Size([1, 2]))

    Source: Yamada et al., ACML 2024; each way to combine names its own.
    """
    _check_options(align, combine, normalize, data, base, width, model_a)
    start = time.perf_counter()
    model_b = copy.deepcopy(model_b).eval()
    report: dict[str, object] = {"align": align, "combine": combine, "seed": seed}
    permutation: Permutation = {}
    way = COMBINATIONS[combine]
    structure: Structure | None = None
    if align != "none" or way.wider:
        example = example_of(example_inputs, data, model_a)
        structure = Structure(
            _proved(spec, model_a, example, outputs, seed, report), example, outputs
        )
    if structure is not None and align != "none":
        shown = data
        if align == "activations":
            shown = tuple(augmented(part, augment, seed) for part in sources(data))
        spec = structure.spec
        matching = _match(align, spec, model_a, model_b, shown, seed=seed, progress=progress)
        permutation = matching.permutation
        model_b.load_state_dict(apply_permutation(spec, permutation, model_b.state_dict()))
        report |= {"objective": matching.objective, "sweeps": matching.sweeps}
    pair = Aligned(
        copy.deepcopy(model_a).eval(), model_b, data, base or {}, augment, seed, progress,
        structure, width,
    )  # fmt: skip
    merged = way.make(pair)
    if normalize == "auto":
        reset = data is not None and has_batch_norm(merged) and not way.settled
        normalize = "reset" if reset else "none"
    if normalize == "reset":
        merged = reset_batch_norm(merged, data, seed=seed, progress=progress)
    elif normalize == "repair":
        merged = repair(merged, pair.model_a, model_b, data, seed=seed, progress=progress)
    report |= {"normalize": normalize, "seconds": time.perf_counter() - start}
    if way.wider:
        report |= {"width": width, "parameters": _parameters(merged) / _parameters(model_a)}
    params = {name: tensor.clone() for name, tensor in merged.state_dict().items()}
    return MergeResult(merged, params, permutation, report)


def _proved(
    spec: PermutationSpec | None,
    model: nn.Module,
    example: ExampleInputs,
    outputs: Callable[[Any], object] | None,
    seed: int,
    report: dict[str, object],
) -> PermutationSpec:
    """Return a spec with sizes, traced if none is given, and report on it."""
    if spec is None:
        spec = trace(model, example, outputs=outputs, verify=False)
    spec = spec.bind(model.state_dict())
    report["share_that_moves"] = spec.share(model.state_dict())
    report["spec_deviation"] = spec.verify(model, example, outputs=outputs, seed=seed)
    return spec


def _match(
    align: str,
    spec: PermutationSpec,
    model_a: nn.Module,
    model_b: nn.Module,
    data: Data,
    *,
    seed: int,
    progress: bool,
) -> Matching:
    if align == "weights":
        return weight_matching(spec, model_a.state_dict(), model_b.state_dict(), seed=seed)
    match = _MATCH_BY_DATA[align]
    return match(spec, model_a, model_b, data, seed=seed, progress=progress)


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _check_options(
    align: str,
    combine: str,
    normalize: str,
    data: Data | None,
    base: Mapping[str, torch.Tensor] | None,
    width: float,
    model: nn.Module,
) -> None:
    problems = []
    choices: dict[str, tuple[str, Collection[str]]] = {
        "align": (align, ("none", "weights", *_MATCH_BY_DATA)),
        "combine": (combine, COMBINATIONS.keys()),
        "normalize": (normalize, _NORMALIZE),
    }
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            problems.append(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    if data is None and align in _MATCH_BY_DATA:
        problems.append(f'align="{align}" needs data')
    problems += width_problems(width)
    for need, given in (("data", data), ("base", base)):
        if given is None and combine in COMBINATIONS and COMBINATIONS[combine].needs == need:
            problems.append(f'combine="{combine}" needs {need}')
    if normalize == "repair" and combine in COMBINATIONS and COMBINATIONS[combine].wider:
        problems.append(f'normalize="repair" needs a merge as wide as A, got combine="{combine}"')
    if data is None and (normalize == "repair" or (normalize == "reset" and has_batch_norm(model))):
        problems.append(f'normalize="{normalize}" needs data')
    if problems:
        raise ValueError("; ".join(problems))
