"""Sums of task vectors: what several models learned since they left one base.

- Task arithmetic: Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023.
- TIES: Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", NeurIPS 2023. We
  trim each tensor by itself, not the model as a whole, so that tensors stream; ties in magnitude
  are all kept, so that the result doesn't depend on the order of units.
- DARE: Yu et al., "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a
  Free Lunch", ICML 2024.

One tensor of each model is held in wide precision at a time. BatchNorm's running statistics are no
task vectors, as a sum of them might have negative variances: they are averaged.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fastrebasin.checkpoints import check_finite, misfits
from fastrebasin.spec import is_running_statistic

__all__ = ["dare", "task_arithmetic", "ties"]

Params = Mapping[str, Tensor]


def task_arithmetic(
    base: Params,
    models: Sequence[Params],
    *,
    weights: Sequence[float] | None = None,
    scale: float = 1.0,
) -> dict[str, Tensor]:
    """Return base + scale * the weighted sum of (model - base).

    Args:
        base: the state dict that all models were trained from.
        models: one state dict or more, of the base's names and shapes, on its devices.
        weights: of each model; by default equal ones of sum 1, so that `scale=1` gives the mean of
            the models. A negative weight forgets what its model learned.
        scale: of the sum.

    Returns:
        New tensors of the base's dtypes. Running statistics of BatchNorm are the models' mean, and
        integer tensors are the base's.

    Raises:
        ValueError: a model doesn't fit the base, weights aren't finite, or an option is out of
            range; everything wrong is named.

    Example:
        >>> base, a, b = ({"w": torch.tensor([x])} for x in (1.0, 2.0, 4.0))
        >>> task_arithmetic(base, [a, b], weights=[1, -1])
        {'w': tensor([-1.])}

    Source: Ilharco et al., ICLR 2023.
    """
    shares = _shares(models, weights)
    _check(base, models, _not_finite(scale=scale, weights=math.fsum(shares)))

    def combine(base: Tensor, tasks: list[Tensor]) -> Tensor:
        return base + scale * _weighted(tasks, shares)

    return _merge(base, models, combine)


def ties(
    base: Params, models: Sequence[Params], *, density: float = 0.2, scale: float = 1.0
) -> dict[str, Tensor]:
    """Trim the task vectors, elect a sign for every weight, and average those that agree with it.

    Args:
        base: the state dict that all models were trained from.
        models: one state dict or more, of the base's names and shapes, on its devices.
        density: share of each tensor's entries that is kept, those of the largest magnitude; in
            (0, 1].
        scale: of the merged task vector.

    Returns:
        New tensors of the base's dtypes. Where the trimmed task vectors cancel, the base's value is
        kept. Running statistics of BatchNorm are the models' mean, and integer tensors are the
        base's.

    Raises:
        ValueError: a model doesn't fit the base, weights aren't finite, or an option is out of
            range; everything wrong is named.

    Example:
        >>> base = {"w": torch.zeros(3)}
        >>> a, b = {"w": torch.tensor([3.0, 2, 0.1])}, {"w": torch.tensor([1.0, -3, 0.2])}
        >>> ties(base, [a, b], density=0.67)
        {'w': tensor([ 2., -3.,  0.])}

    Source: Yadav et al., NeurIPS 2023, algorithm 1.
    """
    problems = [] if 0 < density <= 1 else [f"density must be in (0, 1], got {density}"]
    _check(base, models, problems + _not_finite(scale=scale))

    def combine(base: Tensor, tasks: list[Tensor]) -> Tensor:
        trimmed = [_trimmed(task, density) for task in tasks]
        sign = functools.reduce(torch.add, trimmed).sign()
        agreeing = [task * (task.sign() == sign) for task in trimmed]
        count = torch.stack([task != 0 for task in agreeing]).sum(0).clamp(min=1)
        return base + scale * functools.reduce(torch.add, agreeing) / count

    return _merge(base, models, combine)


def dare(
    base: Params,
    models: Sequence[Params],
    *,
    drop: float = 0.9,
    weights: Sequence[float] | None = None,
    scale: float = 1.0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Drop entries of the task vectors at random, scale up what is left, and sum it.

    Args:
        base: the state dict that all models were trained from.
        models: one state dict or more, of the base's names and shapes, on its devices.
        drop: probability that an entry is dropped, in [0, 1); the others are divided by 1 - drop,
            which keeps the expectation.
        weights, scale: as of `task_arithmetic`.
        seed: of what is dropped; the same on every device.

    Returns:
        New tensors of the base's dtypes. Running statistics of BatchNorm are the models' mean, and
        integer tensors are the base's.

    Raises:
        ValueError: a model doesn't fit the base, weights aren't finite, or an option is out of
            range; everything wrong is named.

    Example:
        >>> base, a = {"w": torch.zeros(6)}, {"w": torch.ones(6)}
        >>> sorted(set(dare(base, [a], drop=0.75)["w"].tolist()))
        [0.0, 4.0]

    Source: Yu et al., ICML 2024, section 3.
    """
    shares = _shares(models, weights)
    problems = [] if 0 <= drop < 1 else [f"drop must be in [0, 1), got {drop}"]
    _check(base, models, problems + _not_finite(scale=scale, weights=math.fsum(shares)))
    generator = torch.Generator().manual_seed(seed)

    def combine(base: Tensor, tasks: list[Tensor]) -> Tensor:
        kept = [(torch.rand(task.shape, generator=generator) >= drop).to(task) for task in tasks]
        thinned = [task * mask / (1 - drop) for task, mask in zip(tasks, kept, strict=True)]
        return base + scale * _weighted(thinned, shares)

    return _merge(base, models, combine)


def _merge(
    base: Params, models: Sequence[Params], combine: Callable[[Tensor, list[Tensor]], Tensor]
) -> dict[str, Tensor]:
    """Apply `combine` to each tensor of the base and the models' distances from it."""
    merged: dict[str, Tensor] = {}
    for name, tensor in base.items():
        if not tensor.is_floating_point():
            merged[name] = tensor.clone()
            continue
        theirs = [model[name].detach() for model in models]
        dtypes = (held.dtype for held in (tensor, *theirs))
        dtype = functools.reduce(torch.promote_types, dtypes, torch.float32)
        wide = tensor.detach().to(dtype)
        if is_running_statistic(name):
            merged[name] = _weighted([t.to(dtype) for t in theirs], [1 / len(models)] * len(models))
        else:
            merged[name] = combine(wide, [other.to(dtype) - wide for other in theirs])
        merged[name] = merged[name].to(tensor.dtype)
    return merged


def _weighted(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    parts = (weight * tensor for tensor, weight in zip(tensors, weights, strict=True))
    return functools.reduce(torch.add, parts)


def _trimmed(task: Tensor, density: float) -> Tensor:
    """Return a task vector of which only the entries of the largest magnitude are left."""
    if not task.numel():
        return task
    magnitude = task.abs()
    kept = max(1, round(density * task.numel()))
    least = magnitude.flatten().kthvalue(task.numel() - kept + 1).values
    return task * (magnitude >= least)


def _shares(models: Sequence[Params], weights: Sequence[float] | None) -> list[float]:
    if weights is None:
        return [1 / max(1, len(models))] * len(models)
    if len(weights) != len(models):
        raise ValueError(f"weights must be one for each of {len(models)} models, got {weights}")
    return [float(weight) for weight in weights]


def _not_finite(**options: float) -> list[str]:
    return [
        f"{name} must be finite, got {value}"
        for name, value in options.items()
        if not math.isfinite(value)
    ]


def _check(base: Params, models: Sequence[Params], problems: list[str]) -> None:
    if not models:
        problems.append("models must hold at least one state dict, got none")
    for number, model in enumerate(models):
        problems += misfits(base, model, ("base", f"models[{number}]"))
    if problems:
        raise ValueError("; ".join(problems))
    check_finite({"base": base} | {f"models[{i}]": model for i, model in enumerate(models)})
