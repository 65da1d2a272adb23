"""Weight matching: align units by their weights alone.

Ainsworth, Hayase and Srinivasa, "Git Re-Basin", ICLR 2023, algorithm 1; Yamada et al., ACML 2024,
section 3. Coordinate descent: with all other groups held, the best permutation of one group is a
linear assignment. We differ from the published loops in bookkeeping, not in decisions: a group
whose neighbours haven't moved since its last solve is skipped, terms that depend on no permutation
are multiplied once, each assignment starts from the group's last one, gains are summed in float64
by gathering, and an assignment is replaced only by one that is better than rounding could make it.

Our own are the groups inside groups and those on two axes of one tensor (see `families`), and a
start that grows from the fixed axes: scrambled networks whose groups all meet in one, such as a
transformer's stream, leave the descent from the identity in poor optima.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Literal

import torch

from fastrebasin import nesting
from fastrebasin.assignment import Assignment, solve_assignment
from fastrebasin.checkpoints import check_same_shapes
from fastrebasin.matching.costs import Blocks, Term
from fastrebasin.matching.families import Family
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
    init: Mapping[str, object] | Literal["anchored", "identity"] | None = None,
    seed: int = 0,
    max_sweeps: int = _MAX_SWEEPS,
) -> Matching:
    """Align B's units with A's so that the inner product of their weights is (locally) largest.

    Args:
        spec: which axes share a permutation.
        params_a, params_b: state dicts of equal shapes; float32 or wider is computed in its own
            dtype, narrower in float32, sums in float64. BatchNorm statistics take no part.
        init: where to start: "anchored", the default, where each group is first matched by the
            blocks that only fixed axes and groups matched before touch besides, the group of which
            most is known first; "identity", as published; or a permutation.
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
    permutation, sweeps = matcher.match(
        _start(matcher, init),
        torch.Generator().manual_seed(seed),
        max_sweeps,
    )
    return Matching(permutation, matcher.objective(permutation), sweeps)


class WeightMatcher:
    """Weight matching of B to a changing A: what depends on the spec and on B alone is kept."""

    def __init__(
        self,
        spec: PermutationSpec,
        params_a: Mapping[str, torch.Tensor],
        params_b: Mapping[str, torch.Tensor],
    ) -> None:
        self.spec = spec = spec.bind(params_a)
        self.sizes = spec.sizes
        check_same_shapes(params_a, params_b)
        self._names = [
            name
            for name, tensor in params_a.items()
            if tensor.is_floating_point() and not is_running_statistic(name)
        ]
        _check_finite({"A": params_a, "B": params_b}, self._names)
        self._a = {name: _wide(params_a[name]) for name in self._names}
        self._b = {name: _wide(params_b[name]) for name in self._names}
        self._blocks = Blocks(spec, self._names, self._a, self._b)
        roots = [group for group in spec.groups if not nesting.parents_of(group, spec.within)]
        self._units = [_unit(root, self._blocks) for root in roots]
        self._stale_with = _stale_with(self._units)

    def set_target(self, params_a: Mapping[str, torch.Tensor]) -> None:
        """Replace A by parameters of the same names and shapes."""
        self._a = {name: _wide(params_a[name]) for name in self._names}
        self._blocks.set_target(self._a)

    def anchored(self) -> Permutation:
        """Return a start: each group by what is known, those of whose units most is known first."""
        permutation, known = identity_permutation(self.sizes), set[str]()
        pending = list(self._units)
        while pending:
            evidence = [unit.evidence(known) for unit in pending]
            unit = pending.pop(evidence.index(max(evidence)))
            if max(evidence) > 0:
                permutation |= unit.anchor(permutation, known)
            known |= set(unit.groups)
        return permutation

    def match(
        self, start: Permutation, generator: torch.Generator, max_sweeps: int
    ) -> tuple[Permutation, int]:
        """Sweep over the groups in random order until none moves; return how often."""
        permutation = dict(start)
        stale = set(range(len(self._units)))  # whose cost may have changed since their last solve
        sweeps = 0
        while stale and sweeps < max_sweeps:
            sweeps += 1
            for index in torch.randperm(len(self._units), generator=generator).tolist():
                if index not in stale:
                    continue
                stale.discard(index)
                better = self._units[index].improve(permutation)
                if better is not None:
                    permutation |= better
                    stale |= self._stale_with[index]
        return permutation, sweeps

    def objective(self, permutation: Permutation) -> float:
        """Return the inner product of A with the permuted B over all matched parameters."""
        total = 0.0
        for name in self._names:
            moved = permute_units(self._b[name], self.spec, name, permutation)
            total += torch.sum(self._a[name] * moved, dtype=torch.float64).item()
        return total


class _Flat:
    """A group that lies in no other, has none inside, and is on no block twice."""

    def __init__(self, group: str, blocks: Blocks) -> None:
        self.groups = [group]
        self._group, self._blocks = group, blocks
        terms = blocks.terms_of(group)
        self._moving = [term for term in terms if blocks.others(term)]
        self._alone = [term for term in terms if not blocks.others(term)]
        self._fixed: tuple[int, torch.Tensor | None] | None = None  # of which target, what cost
        self._former: Assignment | None = None  # the last solution

    def neighbours(self) -> set[str]:
        """Return the groups on the other axes of the group's blocks."""
        return {other for term in self._moving for other in self._blocks.others(term)}

    def evidence(self, known: AbstractSet[str]) -> float:
        """Return how many numbers for each unit lie in blocks that only `known` groups move."""
        found = sum(self._blocks.b[term.block].numel() for term in self._seen(known))
        return found / self._blocks.sizes[self._group]

    def anchor(self, permutation: Permutation, known: AbstractSet[str]) -> Permutation:
        """Return the best permutation by the blocks that only `known` groups move besides."""
        cost = self._blocks.cost(self._seen(known), permutation)
        if cost is None:
            return {self._group: permutation[self._group]}
        return {self._group: solve_assignment(cost, maximize=True).col_ind.cpu()}

    def _seen(self, known: AbstractSet[str]) -> list[Term]:
        terms = [*self._alone, *self._moving]
        return [
            term
            for term in terms
            if self._blocks.others(term) <= known and self._blocks.varies(term.block)
        ]

    def improve(self, permutation: Permutation) -> Permutation | None:
        """Return a better permutation of the group with all others held, or None."""
        if self._fixed is None or self._fixed[0] != self._blocks.target:
            self._fixed = (self._blocks.target, self._blocks.cost(self._alone, {}))
        moving = self._blocks.cost(self._moving, permutation)
        parts = [part for part in (self._fixed[1], moving) if part is not None]
        if not parts:
            return None  # only statistics carry this group: nothing to match
        cost = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        self._former = solve_assignment(cost, maximize=True, warm_start=self._former)
        best = self._former.col_ind
        rows = torch.arange(len(best), device=cost.device)
        old = cost[rows, permutation[self._group].to(cost.device)].double()
        new = cost[rows, best].double()
        # Sums of products are off by about an ulp of their size: less is no gain, and keeping the
        # old assignment then makes the descent end.
        rounding = torch.finfo(cost.dtype).eps * new.abs().sum().item()
        return {self._group: best.cpu()} if (new.sum() - old.sum()).item() > rounding else None


def _unit(root: str, blocks: Blocks) -> _Flat | Family:
    """Return what matches a root with all that is inside it."""
    family = Family(root, blocks)
    twice = any(groups.count(root) > 1 for groups in blocks.groups)
    return family if twice or len(family.groups) > 1 else _Flat(root, blocks)


def _stale_with(units: Sequence[_Flat | Family]) -> list[set[int]]:
    """Return for each unit the others whose costs change when it moves."""
    return [
        {
            k
            for k, other in enumerate(units)
            if other is not unit and unit.neighbours() & set(other.groups)
        }
        for unit in units
    ]


def _start(matcher: WeightMatcher, init: Mapping[str, object] | str | None) -> Permutation:
    if init == "identity":
        return identity_permutation(matcher.sizes)
    if init is None or init == "anchored":
        return matcher.anchored()
    if not isinstance(init, Mapping):
        raise ValueError(f'init must be "identity", "anchored" or a permutation, got {init!r}')
    return check_permutation(init, matcher.sizes, matcher.spec.within)


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
