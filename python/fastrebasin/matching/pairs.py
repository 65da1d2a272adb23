"""The best permutations inside every pair of units, one of A and one of B, all pairs at once.

Groups directly inside a unit are solved one after the other. What lies deeper is solved in the same
way for every pair of units that it lies within, and its optima are the costs of those pairs.

Groups beside each other in one unit may share a tensor: a key-value head's query heads and their
queries. They are solved in turn until the pair's value stays. The first of them sees only the
tensors that the others don't permute; a given start is tried too. The same holds for a group on two
axes of one tensor. Such pairs reach a local optimum, all others the best.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fastrebasin import nesting
from fastrebasin.matching.labelled import Label, Labelled, contract, identity, pick
from fastrebasin.matching.readings import Readings
from fastrebasin.matching.solving import solve_stack

__all__ = ["Outer", "Pairs", "Part", "Solutions", "summed"]

_ROUNDS = 10

Outer = dict[Label, int]
"""The labels over which all pairs run, with their lengths: ("a", group) and ("b", group)."""

Solutions = dict[str, Labelled]
"""For each group B's unit for each of A's: over the outer labels, its parents and itself."""


@dataclass(frozen=True)
class Part:
    """One block's axes of a family: factors to multiply, and which axes are still to be paired.

    A's axis is labelled ("a", axis) and B's ("b", axis) until B is in A's order along it; then both
    are ("a", axis). While all pairs of units are compared the group's name stands for the axis.
    """

    factors: tuple[Labelled, ...]
    axes: Mapping[Any, str]  # the group of each axis that is to be paired
    parents: Mapping[Any, Mapping[str, Any]]  # of each such axis: parent -> its axis

    def opened(self, axis: Hashable, path: Sequence[str]) -> Part:
        """Return the part with all pairs of units compared along an axis."""
        group = self.axes[axis]
        names: dict[Label, Label] = {(side, axis): (side, group) for side in "ab"}
        names |= {
            ("a", where): ("a", parent)
            for parent, where in self.parents[axis].items()
            if parent not in path
        }
        return self._without(axis, tuple(factor.renamed(names) for factor in self.factors))

    def paired(self, axis: Hashable, solution: Labelled, path: Sequence[str]) -> Part:
        """Return the part with B in A's order along an axis."""
        names: dict[Label, Label] = {("a", self.axes[axis]): ("a", axis)}
        names |= {
            ("a", parent): ("a", where)
            for parent, where in self.parents[axis].items()
            if parent not in path
        }
        index, along = solution.renamed(names), ("b", axis)
        factors = [
            pick(factor, along, index, ("a", axis)) if along in factor.labels else factor
            for factor in self.factors
        ]
        return self._without(axis, tuple(factors))

    def _without(self, axis: Hashable, factors: tuple[Labelled, ...]) -> Part:
        axes = {other: group for other, group in self.axes.items() if other != axis}
        return Part(factors, axes, self.parents)


class Pairs:
    """Solves inside the pairs of a family's units."""

    def __init__(
        self,
        homes: Mapping[str, tuple[str, ...]],
        own: Mapping[str, int],
        within: nesting.Within,
        readings: Readings,
    ) -> None:
        """Take for each group the groups whose pairs it is solved in, outermost first."""
        self._homes, self._own, self._within = homes, own, within
        self._readings = readings

    def best(
        self, path: tuple[str, ...], outer: Outer, parts: Sequence[Part], start: Solutions
    ) -> tuple[torch.Tensor, Solutions]:
        """Return the value of every pair and the permutations inside it.

        Args:
            path: the groups whose units are paired, outermost first.
            outer: the labels of the pairs.
            parts: what to maximise the sum of.
            start: solutions to try too, where a pair has no exact solution; or nothing.
        """
        inside = [group for group, home in self._homes.items() if home == path]
        value, solutions = self._climb(path, outer, parts, inside, {})
        if start and any(map(self.is_coupled, parts)):
            other = self._climb(path, outer, parts, inside, start)
            value, solutions = _better((value, solutions), other)
        return value, solutions

    def is_coupled(self, part: Part) -> bool:
        """Tell whether two axes of a part lie beside each other."""
        return any(
            not self._is_below(part, one, other) and not self._is_below(part, other, one)
            for one, other in itertools.combinations(part.axes, 2)
        )

    def _climb(
        self,
        path: tuple[str, ...],
        outer: Outer,
        parts: Sequence[Part],
        inside: list[str],
        start: Solutions,
    ) -> tuple[torch.Tensor, Solutions]:
        solutions = dict(start)
        best = (self._value(path, outer, parts, solutions), solutions) if start else None
        for _ in range(_ROUNDS if any(map(self.is_coupled, parts)) else 1):
            pending = list(inside)
            while pending:
                # A group that only tensors of unsolved others permute has to wait for them.
                usable = {g: self._seen(g, path, parts, solutions) for g in pending}
                group = next((g for g in pending if usable[g]), pending[0])
                pending.remove(group)
                solutions |= self._solve(group, path, outer, usable[group])
            found = (self._value(path, outer, parts, solutions), solutions)
            former, best = best, found if best is None else _better(best, found)
            if former is not None and self._readings.same(former[0], best[0]):
                break
            solutions = dict(best[1])
        assert best is not None
        return best

    def _seen(
        self, group: str, path: tuple[str, ...], parts: Sequence[Part], solutions: Solutions
    ) -> list[Part]:
        """Return the parts that a group permutes, B in A's order along the axes beside its own."""
        found = []
        for part in parts:
            for axis in (axis for axis, g in part.axes.items() if g == group):
                beside = {
                    other: g
                    for other, g in part.axes.items()
                    if other != axis and not self._is_below(part, other, axis)
                }
                if all(g in solutions for g in beside.values()):
                    seen = self._paired(part, beside, path, solutions)
                    found.append(seen.opened(axis, path))
        return found

    def _is_below(self, part: Part, axis: Hashable, other: Hashable) -> bool:
        """Tell whether an axis is solved inside the pairs of another's units."""
        group = part.axes[other]
        return group in self._homes[part.axes[axis]] and part.parents[axis][group] == other

    def _paired(
        self, part: Part, axes: Mapping[Hashable, str], path: Sequence[str], solutions: Solutions
    ) -> Part:
        depth = {axis: len(nesting.parents_of(group, self._within)) for axis, group in axes.items()}
        for axis in sorted(axes, key=lambda axis: depth[axis]):
            part = part.paired(axis, solutions[axes[axis]], path)
        return part

    def _solve(
        self, group: str, path: tuple[str, ...], outer: Outer, parts: list[Part]
    ) -> Solutions:
        """Return the best permutation of a group, and of all that lies within it."""
        family = [g for g, home in self._homes.items() if g == group or group in home]
        if not parts:
            return {g: self._identity(g, path, outer) for g in family}
        pairs = {**outer, **self._beside(group, path)}
        pairs |= {(side, group): self._own[group] for side in "ab"}
        values, deeper = self.best((*path, group), pairs, parts, {})
        size = self._own[group]
        assigned = solve_stack(values.reshape(-1, size, size), self._readings)
        labels = [label for label in pairs if label != ("b", group)]
        solution = Labelled(assigned.reshape(values.shape[:-1]), tuple(labels))
        found = {
            g: pick(inner, ("b", group), solution, ("a", group)) for g, inner in deeper.items()
        }
        return {group: solution} | {
            g: Labelled(inner.ordered(labels), tuple(labels))
            for g, inner in found.items()
            for labels in [(*outer, *self._beside(g, path), ("a", g))]
        }

    def _beside(self, group: str, path: Sequence[str]) -> Outer:
        """Return the labels of A's units that `group` lies within, without those of the path."""
        parents = nesting.parents_of(group, self._within)
        return {("a", parent): self._own[parent] for parent in parents if parent not in path}

    def _identity(self, group: str, path: Sequence[str], outer: Outer) -> Labelled:
        labels = {**outer, **self._beside(group, path)}
        return identity(labels, ("a", group), self._own[group], self._readings.device)

    def _value(
        self, path: Sequence[str], outer: Outer, parts: Sequence[Part], solutions: Solutions
    ) -> torch.Tensor:
        """Return the sum of the parts for every pair."""
        total: torch.Tensor | None = None
        for part in parts:
            paired = self._paired(part, part.axes, path, solutions)
            value = contract(paired.factors, tuple(outer)).tensor
            total = value if total is None else total + value
        assert total is not None
        return total


def summed(parts: Sequence[Part]) -> list[Part]:
    """Add up the parts that run over the same pairs of entries."""
    sums: dict[tuple[Label, ...], Part] = {}
    rest: list[Part] = []
    for part in parts:
        if len(part.factors) > 1 or any(key != group for key, group in part.axes.items()):
            rest.append(part)
            continue
        (factor,) = part.factors
        if factor.labels in sums:
            former = sums[factor.labels].factors[0].tensor
            factor = Labelled(former + factor.tensor, factor.labels)
        sums[factor.labels] = Part((factor,), part.axes, part.parents)
    return [*sums.values(), *rest]


def _better(
    one: tuple[torch.Tensor, Solutions], other: tuple[torch.Tensor, Solutions]
) -> tuple[torch.Tensor, Solutions]:
    """Return for every pair the solutions of larger value, the first ones if equal."""
    better = other[0] > one[0]
    solutions = {
        group: Labelled(
            torch.where(
                better.reshape(*better.shape, *[1] * (kept.tensor.ndim - better.ndim)),
                other[1][group].ordered(kept.labels),
                kept.tensor,
            ),
            kept.labels,
        )
        for group, kept in one[1].items()
    }
    return torch.where(better, other[0], one[0]), solutions
