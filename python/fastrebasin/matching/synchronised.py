"""Align any number of models at once: permutations onto one common basis.

If every model has a permutation onto a common basis, the universe, the map from one model onto
another goes through it, and the maps around any cycle compose to the identity. What is maximised
is the sum over pairs of models of the inner products of their weights in the universe:

- "cycle-consistent": Crisostomi et al., "C2M3", NeurIPS 2024, arXiv:2405.17897. Frank-Wolfe over
  all permutations at once (see `frank_wolfe`). Its rounded result can still be improved, so we go
  on with the descent below, which never lowers the objective.
- "merge-many": Ainsworth et al., "Git Re-Basin", ICLR 2023, algorithm 3. Each model is matched with
  the mean of all others, in random order, until none moves: an ascent of the same objective, one
  model at a time. We move no model by what rounding could have made.
- "anchor": every model is matched with one of them, and no two others with each other.

Frank-Wolfe moves only flat groups; others, such as attention heads, wait for the descent. The
measured difference is in `tests/test_merge_many.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from fastrebasin._progress import bar
from fastrebasin.matching.descent import WeightMatcher
from fastrebasin.matching.frank_wolfe import frank_wolfe
from fastrebasin.permutation import (
    Permutation,
    compose,
    identity_permutation,
    invert,
    permute_units,
)
from fastrebasin.spec import PermutationSpec, is_running_statistic

__all__ = ["Synchronisation", "SynchronisedMatching", "synchronised_matching"]

Synchronisation: TypeAlias = Literal["cycle-consistent", "merge-many", "anchor"]

_MAX_SWEEPS = 1000
_STEPS = 200  # of Frank-Wolfe


@dataclass(frozen=True)
class SynchronisedMatching:
    """Permutations of several models onto one basis, and how they were found.

    Attributes:
        permutations: one for each model; applying it moves the model onto the common basis.
        objective: sum over pairs of models of the inner products of their parameters there (summed
            in float64); larger is closer.
        sweeps: passes over all models.
        objectives: the objective after each sweep.
    """

    permutations: tuple[Permutation, ...]
    objective: float
    sweeps: int
    objectives: tuple[float, ...] = ()

    def between(self, target: int, source: int) -> Permutation:
        """Return the permutation that moves model `source` onto model `target`.

        Around any cycle of models these compose to the identity, exactly.
        """
        return compose(self.permutations[source], invert(self.permutations[target]))


def synchronised_matching(
    spec: PermutationSpec,
    params: Sequence[Mapping[str, Tensor]],
    *,
    method: Synchronisation = "cycle-consistent",
    anchor: int = 0,
    seed: int = 0,
    max_sweeps: int = _MAX_SWEEPS,
    progress: bool = True,
) -> SynchronisedMatching:
    """Align the units of several models with each other by their weights.

    Args:
        spec: which axes share a permutation.
        params: state dicts of equal shapes on one device; float32 or wider is computed in its own
            dtype, narrower in float32, sums in float64. BatchNorm statistics take no part.
        method: "cycle-consistent", the best of the three by far on networks trained on different
            data; "merge-many"; or "anchor", the fastest.
        anchor: the model whose basis is the common one: its permutation is the identity.
        seed: of the order of models and groups.
        max_sweeps: stop after so many passes over all models even if some would still move.
        progress: show a bar on a terminal.

    Returns:
        A permutation for each model, the objective, and how it rose.

    Raises:
        ValueError: there is no model, models or spec don't fit together, an option is out of range,
            or weights are not finite; everything in one message.

    Example:
        >>> from fastrebasin import PermutationSpec, apply_permutation
        >>> spec = PermutationSpec.from_axes({"w1": ("P0", None), "w2": (None, "P0")})
        >>> a = {"w1": torch.randn(8, 4), "w2": torch.randn(2, 8)}
        >>> moves = [spec.bind(a).random_permutation(seed) for seed in range(3)]
        >>> models = [apply_permutation(spec, move, a) for move in moves]
        >>> found = synchronised_matching(spec, models)
        >>> aligned = apply_permutation(spec, found.permutations[2], models[2])
        >>> torch.equal(aligned["w1"], models[0]["w1"])
        True

    Source: Crisostomi et al., NeurIPS 2024; Ainsworth et al., ICLR 2023, algorithm 3.
    """
    check_models(params)
    _check_options(len(params), method, anchor, max_sweeps)
    spec = spec.bind(params[0])
    generator = torch.Generator().manual_seed(seed)
    universe = _Universe(spec, params)
    objectives: list[float] = []
    if method == "anchor":
        universe.align_with(anchor, generator, max_sweeps)
    elif len(params) > 1:
        if method == "cycle-consistent":
            universe.move(frank_wolfe(spec, universe.moved, steps=_STEPS, progress=progress))
        sweeps = itertools.islice(universe.sweeps(generator), max_sweeps)
        objectives = list(bar(sweeps, "align", progress=progress, unit="sweep"))
    onto_anchor = invert(universe.permutations[anchor])
    return SynchronisedMatching(
        tuple(compose(permutation, onto_anchor) for permutation in universe.permutations),
        universe.objective(),
        len(objectives),
        tuple(objectives),
    )


class _Universe:
    """All models where their permutations have moved them.

    Attributes:
        permutations: of each model.
        moved: the parameters of each model that are compared, moved by them.
    """

    def __init__(self, spec: PermutationSpec, params: Sequence[Mapping[str, Tensor]]) -> None:
        self._spec = spec
        names = [n for n, t in params[0].items() if _is_compared(n, t)]
        dtype = torch.float32
        for model in params:
            for name in names:
                dtype = torch.promote_types(dtype, model[name].dtype)
        self._params = [{n: model[n].detach().to(dtype) for n in names} for model in params]
        self.moved = list(self._params)
        self.permutations = [identity_permutation(spec.sizes) for _ in params]
        self._matchers = [WeightMatcher(spec, model, model) for model in self._params]

    def move(self, permutations: Sequence[Permutation]) -> None:
        """Move the models from where they began."""
        for k, permutation in enumerate(permutations):
            self._move(k, permutation)

    def align_with(self, anchor: int, generator: torch.Generator, max_sweeps: int) -> None:
        """Match every model with one of them."""
        for k, matcher in enumerate(self._matchers):
            if k != anchor:
                matcher.set_target(self._params[anchor])
                self._move(k, matcher.match(matcher.anchored(), generator, max_sweeps)[0])

    def sweeps(self, generator: torch.Generator) -> Iterator[float]:
        """Match each model with the sum of all others; yield the objective, until none moves."""
        still = 0  # how many models in a row haven't moved
        while still < len(self._matchers):
            for k in torch.randperm(len(self._matchers), generator=generator).tolist():
                matcher, before = self._matchers[k], self.permutations[k]
                others = [model for j, model in enumerate(self.moved) if j != k]
                matcher.set_target(
                    {name: torch.stack([m[name] for m in others]).sum(0) for name in others[0]}
                )
                found, _ = matcher.match(before, generator, _MAX_SWEEPS)
                still += 1
                if any(not torch.equal(order, before[group]) for group, order in found.items()):
                    self._move(k, found)
                    still = 0
            yield self.objective()

    def objective(self) -> float:
        """Return the sum over pairs of models of their inner products."""
        total = 0.0
        for name in self.moved[0]:
            models = [model[name].double() for model in self.moved]
            every = torch.stack(models).sum(0).square().sum()
            total += (every - sum(model.square().sum() for model in models)).item() / 2
        return total

    def _move(self, k: int, permutation: Permutation) -> None:
        self.permutations[k] = permutation
        self.moved[k] = {
            name: permute_units(tensor, self._spec, name, permutation)
            for name, tensor in self._params[k].items()
        }


def check_models(params: Sequence[Mapping[str, Tensor]]) -> None:
    """Check that there are models, of equal shapes on one device, with finite weights.

    Raises:
        ValueError: everything that is wrong, by the models' numbers and the tensors' names.
    """
    if not params:
        raise ValueError("there must be at least one model, got none")
    problems = []
    first = params[0]
    for k, model in enumerate(params):
        problems += [f"model {k} lacks {name}" for name in first if name not in model]
        problems += [
            f"model {k} has {name}, model 0 has not" for name in model if name not in first
        ]
        for name in (name for name in first if name in model):
            expected, found = first[name], model[name]
            if found.shape != expected.shape:
                problems.append(
                    f"{name} has shape {tuple(expected.shape)} in model 0 and "
                    f"{tuple(found.shape)} in model {k}"
                )
            if found.device != expected.device:
                problems.append(
                    f"{name} is on {expected.device} in model 0 and on {found.device} in model {k}"
                )
            if _is_compared(name, found) and not torch.isfinite(found).all():
                problems.append(f"{name} of model {k} is not finite")
    if problems:
        raise ValueError("the models don't fit together: " + "; ".join(problems))


def _is_compared(name: str, tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not is_running_statistic(name)


def _check_options(count: int, method: str, anchor: int, max_sweeps: int) -> None:
    problems = []
    if method not in get_args(Synchronisation):
        allowed = ", ".join(get_args(Synchronisation))
        problems.append(f"method must be one of {allowed}, got {method!r}")
    if not 0 <= anchor < count:
        problems.append(f"anchor must be the number of a model, 0 to {count - 1}, got {anchor}")
    if max_sweeps < 0:
        problems.append(f"max_sweeps must not be negative, got {max_sweeps}")
    if problems:
        raise ValueError("; ".join(problems))
