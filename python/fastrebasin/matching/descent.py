"""Coordinate descent over the groups of a spec: the loop of weight matching.

Ainsworth, Hayase and Srinivasa, "Git Re-Basin", ICLR 2023, algorithm 1. With all other groups
held, the best permutation of one group is a linear assignment. We differ from the published loops
in what is computed, not in what is decided: a group whose neighbours haven't moved since its last
solve is skipped, of a cost matrix only what changed is multiplied, each assignment starts from the
group's last one, gains are summed in float64 by gathering, and an assignment is replaced only by
one that is better than rounding could make it. Groups that share no tensor don't see each other
move, so those that come one after the other may be solved as one batch. On a device the host learns
only after a sweep which groups have moved: in between, those that may have are taken to have.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Literal, TypeAlias

import torch

from fastrebasin import nesting
from fastrebasin._precision import full_precision
from fastrebasin.assignment import Assignment
from fastrebasin.checkpoints import check_finite, check_same_shapes
from fastrebasin.matching.blocks import Blocks
from fastrebasin.matching.families import Family
from fastrebasin.matching.flat import Flat
from fastrebasin.matching.readings import Number, Readings, common_device
from fastrebasin.matching.signatures import match_signatures
from fastrebasin.matching.solving import assignment_on, solve
from fastrebasin.permutation import Permutation, identity_permutation, permutation_on
from fastrebasin.spec import PermutationSpec, is_running_statistic

__all__ = ["Order", "WeightMatcher"]

Order: TypeAlias = Literal["colour", "serial"]


class WeightMatcher:
    """Weight matching of B to a changing A: what depends on the spec and on B alone is kept.

    Permutations come and go on the parameters' device.
    """

    def __init__(
        self,
        spec: PermutationSpec,
        params_a: Mapping[str, torch.Tensor],
        params_b: Mapping[str, torch.Tensor],
        readings: Readings | None = None,
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
        device = common_device([*self._a.values(), *self._b.values()])
        self._readings = readings or Readings(device)
        self._blocks = Blocks(spec, self._names, self._a, self._b, self._readings)
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
                found = former.get(unit.groups[0])
                unit.former = found and assignment_on(found, self._readings.device)

    def anchored(self) -> Permutation:
        """Return a start: each group by what is known, those of whose units most is known first.

        Where nothing is known, signatures are a beginning.
        """
        permutation, known = self._here(identity_permutation(self.sizes)), set[str]()
        pending = list(self._units)
        while pending:
            evidence = [unit.evidence(known) for unit in pending]
            unit = pending.pop(evidence.index(max(evidence)))
            with full_precision(self._readings.device):
                if max(evidence) > 0:
                    permutation |= unit.anchor(permutation, known)
                elif len(unit.groups) == 1:
                    group, blocks = unit.groups[0], self._blocks
                    permutation |= match_signatures(blocks, group, permutation, known)
            known |= set(unit.groups)
        return permutation

    def sweeps(
        self, start: Permutation, generator: torch.Generator, order: Order = "colour"
    ) -> Iterator[tuple[Permutation, float]]:
        """Yield the permutation after each sweep and what the sweep gained, until none moves.

        A sweep visits the groups in random order. What is found doesn't depend on `order`.
        """
        permutation = self._here(start)
        stale = set(range(len(self._units)))  # whose cost has changed since their last solve
        while stale:
            visits = torch.randperm(len(self._units), generator=generator).tolist()
            batches = _colours(visits, self._stale_with) if order == "colour" else zip(visits)
            with full_precision(self._readings.device):
                gains, found = self._sweep(batches, stale, permutation)
            total, kept = 0.0, dict[str, torch.Tensor]()
            for k, gain in zip(gains, self._readings.now(gains.values()), strict=True):
                groups = self._units[k].groups
                stale.discard(k)
                if gain > 0:
                    total += gain
                    stale |= self._stale_with[k]
                    permutation |= {group: found[group] for group in groups}
                else:
                    kept |= {group: permutation[group] for group in groups}
            for unit in self._units:
                unit.settle(kept)
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
        here, told = self._here(permutation), set[int]()
        total: Number = 0.0
        flat = [unit for unit in self._units if isinstance(unit, Flat)]
        for unit in sorted(flat, key=Flat.size, reverse=True):
            if not told & unit.blocks and (value := unit.value(here)) is not None:
                told |= unit.blocks
                total = value + total
        return self._readings.now([total + self._blocks.inner_product(here, told)])[0]

    def _sweep(
        self, batches: Iterable[Sequence[int]], stale: AbstractSet[int], start: Permutation
    ) -> tuple[dict[int, Number], Permutation]:
        """Visit the stale units, and those that may have become so; return gains and result."""
        permutation, gains = dict(start), dict[int, Number]()
        suspects = set(stale)
        for batch in batches:
            here = [k for k in batch if k in suspects]
            if not here:
                continue
            for k, (found, gain) in zip(here, self._improve(here, permutation), strict=True):
                permutation |= found
                gains[k] = gain
                if self._readings.known(gain) != 0:
                    suspects |= self._stale_with[k]
        return gains, permutation

    def _improve(
        self, units: Sequence[int], permutation: Permutation
    ) -> list[tuple[Permutation, Number]]:
        """Improve groups that share no tensor, flat ones as one batch; return what each gains."""
        found: dict[int, tuple[Permutation, Number]] = {}
        flat: list[tuple[int, Flat, torch.Tensor]] = []
        for k in units:
            unit = self._units[k]
            if isinstance(unit, Family):
                found[k] = unit.improve(permutation)
            elif (cost := unit.cost(permutation)) is not None:
                flat.append((k, unit, cost))
            else:
                found[k] = {}, 0.0
        costs, former = [cost for *_, cost in flat], [unit.former for _, unit, _ in flat]
        solved = solve(costs, former, self._readings)
        for (k, unit, _), assignment in zip(flat, solved, strict=True):
            found[k] = unit.accept(assignment, permutation)
        return [found[k] for k in units]

    def _here(self, permutation: Permutation) -> Permutation:
        return permutation_on(permutation, self._readings.device)

    def _read(self, params: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: params[name].detach().to(self._dtype) for name in self._names}


def _unit(root: str, blocks: Blocks) -> Flat | Family:
    """Return what matches a root with all that is inside it."""
    family = Family(root, blocks)
    twice = any(groups.count(root) > 1 for groups in blocks.groups)
    return family if twice or len(family.groups) > 1 else Flat(root, blocks)


def _stale_with(units: Sequence[Flat | Family]) -> list[set[int]]:
    """Return for each unit those that have to be visited again when it has moved."""
    return [
        {k for k, other in enumerate(units) if k != own and unit.neighbours() & set(other.groups)}
        | ({own} if not unit.settles else set())
        for own, unit in enumerate(units)
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
