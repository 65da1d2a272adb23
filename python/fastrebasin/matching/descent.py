"""Coordinate descent over the groups of a spec: the loop of weight matching.

Ainsworth, Hayase and Srinivasa, "Git Re-Basin", ICLR 2023, algorithm 1. With all other groups
held, the best permutation of one group is a linear assignment. We differ from the published loops
in what is computed, not in what is decided: a group whose neighbours haven't moved since its last
solve is skipped, of a cost matrix only what changed is multiplied, each assignment starts from the
group's last one, gains are summed in float64 by gathering, and an assignment is replaced only by
one that is better than rounding could make it. Groups that share no tensor don't see each other
move, so those that come one after the other may be solved as one batch.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

import torch

from fastrebasin import nesting
from fastrebasin.assignment import Assignment, solve_assignment
from fastrebasin.checkpoints import check_finite, check_same_shapes
from fastrebasin.matching.blocks import Blocks
from fastrebasin.matching.families import Family
from fastrebasin.matching.flat import Flat
from fastrebasin.matching.signatures import match_signatures
from fastrebasin.permutation import Permutation, identity_permutation
from fastrebasin.spec import PermutationSpec, is_running_statistic

__all__ = ["Order", "WeightMatcher"]

Order: TypeAlias = Literal["colour", "serial"]


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
        check_finite({"A": params_a, "B": params_b}, self._names)
        dtypes = {params[name].dtype for params in (params_a, params_b) for name in self._names}
        self._dtype = functools.reduce(torch.promote_types, dtypes, torch.float32)
        self._a, self._b = self._read(params_a), self._read(params_b)
        self._blocks = Blocks(spec, self._names, self._a, self._b)
        roots = [group for group in spec.groups if not nesting.parents_of(group, spec.within)]
        self._units = [_unit(root, self._blocks) for root in roots]
        self._stale_with = _stale_with(self._units)

    def set_target(self, params_a: Mapping[str, torch.Tensor]) -> None:
        """Replace A by parameters of the same names and shapes."""
        self._a = self._read(params_a)
        self._blocks.set_target(self._a)

    @property
    def assignments(self) -> dict[str, Assignment]:
        """The last assignment of each flat group; those that are set start the next ones."""
        flat = (unit for unit in self._units if isinstance(unit, Flat))
        return {unit.groups[0]: unit.former for unit in flat if unit.former is not None}

    @assignments.setter
    def assignments(self, former: Mapping[str, Assignment]) -> None:
        for unit in self._units:
            if isinstance(unit, Flat):
                unit.former = former.get(unit.groups[0])

    def anchored(self) -> Permutation:
        """Return a start: each group by what is known, those of whose units most is known first.

        Where nothing is known, signatures are a beginning.
        """
        permutation, known = identity_permutation(self.sizes), set[str]()
        pending = list(self._units)
        while pending:
            evidence = [unit.evidence(known) for unit in pending]
            unit = pending.pop(evidence.index(max(evidence)))
            if max(evidence) > 0:
                permutation |= unit.anchor(permutation, known)
            elif len(unit.groups) == 1:
                permutation |= match_signatures(self._blocks, unit.groups[0], permutation, known)
            known |= set(unit.groups)
        return permutation

    def sweeps(
        self, start: Permutation, generator: torch.Generator, order: Order = "colour"
    ) -> Iterator[tuple[Permutation, float]]:
        """Yield the permutation after each sweep and what the sweep gained, until none moves.

        A sweep visits the groups in random order. What is found doesn't depend on `order`.
        """
        permutation = dict(start)
        stale = set(range(len(self._units)))  # whose cost may have changed since their last solve
        while stale:
            total = 0.0
            visits = torch.randperm(len(self._units), generator=generator).tolist()
            for batch in _colours(visits, self._stale_with) if order == "colour" else zip(visits):
                here = [k for k in batch if k in stale]
                if not here:
                    continue
                stale -= set(here)
                for k, (better, gain) in zip(here, self._improve(here, permutation), strict=True):
                    if better:
                        permutation |= better
                        stale |= self._stale_with[k]
                        total += gain
            yield dict(permutation), total

    def match(
        self, start: Permutation, generator: torch.Generator, max_sweeps: int
    ) -> tuple[Permutation, int]:
        """Sweep over the groups until none moves; return how often."""
        history = [p for p, _ in itertools.islice(self.sweeps(start, generator), max_sweeps)]
        return (history[-1] if history else dict(start)), len(history)

    def objective(self, permutation: Permutation) -> float:
        """Return the inner product of A with the permuted B over all matched parameters.

        Of groups that share no block, the costs that are kept tell it; the rest is multiplied.
        """
        told, total = set[int](), 0.0
        flat = [unit for unit in self._units if isinstance(unit, Flat)]
        for unit in sorted(flat, key=Flat.size, reverse=True):
            if not told & unit.blocks and (value := unit.value(permutation)) is not None:
                told |= unit.blocks
                total += value
        return total + self._blocks.inner_product(permutation, told)

    def _improve(
        self, units: Sequence[int], permutation: Permutation
    ) -> list[tuple[Permutation, float]]:
        """Return better permutations of groups that share no tensor, flat ones as one batch."""
        found: dict[int, tuple[Permutation, float]] = {}
        flat: list[tuple[int, Flat, torch.Tensor]] = []
        for k in units:
            unit = self._units[k]
            if isinstance(unit, Family):
                found[k] = unit.improve(permutation)
            elif (cost := unit.cost(permutation)) is not None:
                flat.append((k, unit, cost))
            else:
                found[k] = {}, 0.0
        solved = solve_assignment(
            [cost for *_, cost in flat],
            maximize=True,
            warm_start=[unit.former for _, unit, _ in flat],
        )
        for (k, unit, _), assignment in zip(flat, solved, strict=True):
            found[k] = unit.accept(assignment, permutation)
        return [found[k] for k in units]

    def _read(self, params: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: params[name].detach().to(self._dtype) for name in self._names}


def _unit(root: str, blocks: Blocks) -> Flat | Family:
    """Return what matches a root with all that is inside it."""
    family = Family(root, blocks)
    twice = any(groups.count(root) > 1 for groups in blocks.groups)
    return family if twice or len(family.groups) > 1 else Flat(root, blocks)


def _stale_with(units: Sequence[Flat | Family]) -> list[set[int]]:
    """Return for each unit the others whose costs change when it moves."""
    return [
        {
            k
            for k, other in enumerate(units)
            if other is not unit and unit.neighbours() & set(other.groups)
        }
        for unit in units
    ]


def _colours(visits: Sequence[int], neighbours: Sequence[set[int]]) -> list[list[int]]:
    """Cut an order of visits into batches with the same result: each visit after its neighbours'.

    Jones and Plassmann, SIAM J. Scientific Computing 14, 654-669 (1993), doi:10.1137/0914041:
    random priorities colour a graph.
    """
    colours: dict[int, int] = {}
    for k in visits:
        colours[k] = 1 + max((colours[j] for j in neighbours[k] if j in colours), default=-1)
    return [
        [k for k in visits if colours[k] == colour]
        for colour in range(max(colours.values(), default=-1) + 1)
    ]
