"""Weight matching: align units by their weights alone.

Ainsworth, Hayase and Srinivasa, "Git Re-Basin", ICLR 2023, algorithm 1; Yamada et al., ACML 2024,
section 3. Coordinate descent: with all other groups held, the best permutation of one group is a
linear assignment. We differ from the published loops in bookkeeping, not in decisions: a group
whose neighbours haven't moved since its last solve is skipped, terms that depend on no permutation
are multiplied once, each assignment starts from the group's last one, gains are summed in float64
by gathering, and an assignment is replaced only by one that is better than rounding could make it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from fastrebasin.assignment import Assignment, solve_assignment
from fastrebasin.checkpoints import check_same_shapes
from fastrebasin.matching.result import Matching
from fastrebasin.permutation import (
    Permutation,
    check_permutation,
    identity_permutation,
    permute_units,
)
from fastrebasin.spec import PermutationSpec, is_running_statistic

__all__ = ["weight_matching"]

_MAX_SWEEPS = 1000


def weight_matching(
    spec: PermutationSpec,
    params_a: Mapping[str, torch.Tensor],
    params_b: Mapping[str, torch.Tensor],
    *,
    init: Mapping[str, object] | None = None,
    seed: int = 0,
    max_sweeps: int = _MAX_SWEEPS,
) -> Matching:
    """Align B's units with A's so that the inner product of their weights is (locally) largest.

    Args:
        spec: which axes share a permutation.
        params_a, params_b: state dicts of equal shapes; float32 or wider is computed in its own
            dtype, narrower in float32, sums in float64. BatchNorm statistics take no part.
        init: where to start; the identity by default.
        seed: of the order in which groups are visited, drawn anew for each sweep.
        max_sweeps: stop after so many passes over all groups even if some would still move.

    Returns:
        The permutation that moves B onto A, its objective, and the number of sweeps. The last
        sweep only confirms that no group moves.

    Raises:
        ValueError: shapes of A, B and the spec don't fit together, `init` doesn't fit, or weights
            are not finite.

    Example:
        >>> from fastrebasin import PermutationSpec, apply_permutation
        >>> spec = PermutationSpec.from_axes({"w1": ("P0", None), "w2": (None, "P0")})
        >>> a = {"w1": torch.randn(8, 4), "w2": torch.randn(2, 8)}
        >>> b = apply_permutation(spec, spec.bind(a).random_permutation(seed=1), a)
        >>> found = weight_matching(spec, a, b).permutation
        >>> torch.equal(apply_permutation(spec, found, b)["w1"], a["w1"])
        True

    Source: Ainsworth et al., ICLR 2023, algorithm 1; Yamada et al., ACML 2024, section 3.
    """
    matcher = WeightMatcher(spec, params_a, params_b)
    start = identity_permutation(matcher.sizes) if init is None else init
    permutation, sweeps = matcher.match(
        check_permutation(start, matcher.sizes),
        torch.Generator().manual_seed(seed),
        max_sweeps,
    )
    return Matching(permutation, matcher.objective(permutation), sweeps)


@dataclass(frozen=True)
class _Term:
    """One axis of one tensor that a group permutes: a summand of the group's assignment cost."""

    tensor: str
    axis: int
    others: tuple[tuple[int, str], ...]  # the tensor's other permuted axes and their groups


class WeightMatcher:
    """Weight matching of B to a changing A: what depends on the spec and on B alone is kept."""

    def __init__(
        self,
        spec: PermutationSpec,
        params_a: Mapping[str, torch.Tensor],
        params_b: Mapping[str, torch.Tensor],
    ) -> None:
        spec = spec.bind(params_a)
        self.spec, self.sizes = spec, spec.sizes
        check_same_shapes(params_a, params_b)
        self._names = [
            name
            for name, tensor in params_a.items()
            if tensor.is_floating_point() and not is_running_statistic(name)
        ]
        _check_finite({"A": params_a, "B": params_b}, self._names)
        self._axes = {
            name: spec.axes.get(name, (None,) * params_a[name].ndim) for name in self._names
        }
        self._terms = {group: self._terms_of(group, axes) for group, axes in spec.groups.items()}
        self._neighbours = {
            group: {other for term in terms for _, other in term.others}
            for group, terms in self._terms.items()
        }
        self._former: dict[str, Assignment] = {}  # the last solution of each group's problem
        self._b = {name: _wide(params_b[name]) for name in self._names}
        self.set_target(params_a)

    def set_target(self, params_a: Mapping[str, torch.Tensor]) -> None:
        """Replace A by parameters of the same names and shapes."""
        self._a = {name: _wide(params_a[name]) for name in self._names}
        self._fixed_cost = {
            group: self._cost([term for term in terms if not term.others], {})
            for group, terms in self._terms.items()
        }

    def match(
        self, start: Permutation, generator: torch.Generator, max_sweeps: int
    ) -> tuple[Permutation, int]:
        """Sweep over the groups in random order until none moves; return how often."""
        permutation = dict(start)
        groups = list(self._terms)
        stale = set(groups)  # groups whose cost may have changed since they were last solved
        sweeps = 0
        while stale and sweeps < max_sweeps:
            sweeps += 1
            for index in torch.randperm(len(groups), generator=generator).tolist():
                group = groups[index]
                if group not in stale:
                    continue
                stale.discard(group)
                better = self._improve(group, permutation)
                if better is not None:
                    permutation[group] = better
                    stale |= self._neighbours[group]
        return permutation, sweeps

    def objective(self, permutation: Permutation) -> float:
        """Return the inner product of A with the permuted B over all matched parameters."""
        total = 0.0
        for name in self._names:
            moved = permute_units(self._b[name], self.spec, name, permutation)
            total += torch.sum(self._a[name] * moved, dtype=torch.float64).item()
        return total

    def _terms_of(self, group: str, axes: tuple[tuple[str, int], ...]) -> list[_Term]:
        terms = []
        for name, axis in axes:
            if name not in self._names:
                continue
            others = tuple(
                (other_axis, other)
                for other_axis, other in enumerate(self._axes[name])
                if other is not None and other_axis != axis
            )
            if any(other == group for _, other in others):
                raise ValueError(
                    f"group {group!r} permutes two axes of {name}, which weight matching "
                    "doesn't support: its cost would not be linear"
                )
            terms.append(_Term(name, axis, others))
        return terms

    def _cost(self, terms: list[_Term], permutation: Permutation) -> torch.Tensor | None:
        """Sum U V^T over `terms`: entry (i, j) is how well unit i of A fits unit j of B."""
        cost: torch.Tensor | None = None
        for term in terms:
            b = self._b[term.tensor]
            for axis, other in term.others:
                b = b.index_select(axis, permutation[other].to(b.device))
            u = self._a[term.tensor].movedim(term.axis, 0).flatten(1 if b.ndim > 1 else 0)
            v = b.movedim(term.axis, 0).flatten(1 if b.ndim > 1 else 0)
            product = torch.outer(u, v) if b.ndim == 1 else u @ v.T
            cost = product if cost is None else cost.add_(product)
        return cost

    def _improve(self, group: str, permutation: Permutation) -> torch.Tensor | None:
        """Return a better permutation of `group` with all others held, or None."""
        moving = self._cost([term for term in self._terms[group] if term.others], permutation)
        parts = [part for part in (self._fixed_cost[group], moving) if part is not None]
        if not parts:
            return None  # only statistics carry this group: nothing to match
        cost = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        found = solve_assignment(cost, maximize=True, warm_start=self._former.get(group))
        self._former[group] = found
        best = found.col_ind
        rows = torch.arange(len(best), device=cost.device)
        old = cost[rows, permutation[group].to(cost.device)].double()
        new = cost[rows, best].double()
        # Sums of products are off by about an ulp of their size: less is no gain, and keeping the
        # old assignment then makes the descent end.
        rounding = torch.finfo(cost.dtype).eps * new.abs().sum().item()
        return best.cpu() if (new.sum() - old.sum()).item() > rounding else None


def _check_finite(models: Mapping[str, Mapping[str, torch.Tensor]], names: list[str]) -> None:
    broken = [
        f"{name} of {label}"
        for label, params in models.items()
        for name in names
        if not torch.isfinite(params[name]).all()
    ]
    if broken:
        raise ValueError("weights must be finite, but these are not: " + ", ".join(broken))


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
