"""Matching of nested groups: a root such as the heads, and everything inside each of its units.

For every pair of root units, one of A and one of B, the best permutations inside the pair are
found; the root units are then assigned by these optima. A root with nothing inside it is the same
with empty pairs, and comes here when it is on two axes of one block, such as recurrent weights: its
cost isn't linear then, so it is linearised at the current permutation, and a new permutation counts
only if the inner product itself grows.

Ainsworth et al., ICLR 2023, algorithm 1, for the assignment; the nesting is our own.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple

import torch

from fastrebasin import nesting
from fastrebasin.assignment import Assignment
from fastrebasin.matching.blocks import Blocks
from fastrebasin.matching.labelled import Label, Labelled, contract, pick
from fastrebasin.matching.pairs import Outer, Pairs, Part, Solutions, summed
from fastrebasin.matching.readings import Number
from fastrebasin.matching.solving import solve
from fastrebasin.permutation import Permutation

__all__ = ["Family"]

_NUMBERS = 2**24  # of pairs' costs at a time: 64 MiB in float32


@dataclass(frozen=True)
class _Cluster:
    """The axes of one block that belong to one axis of the root."""

    block: int
    root: int
    still: tuple[int, ...]  # with the root's, all that belong to it
    axes: Mapping[int, str]  # those of groups that are solved inside pairs of root units
    parents: Mapping[int, Mapping[str, int]]
    alone: bool  # whether no other axis of the block belongs to the family

    def keys(self) -> dict[int, Hashable]:
        """Return what to call each axis: its group, where that isn't on two of them."""
        groups = list(self.axes.values())
        return {axis: g if groups.count(g) == 1 else axis for axis, g in self.axes.items()}


class _Scored(NamedTuple):
    """Permutations of a family's groups, the inner product there, and its rounding."""

    groups: Permutation
    value: torch.Tensor
    rounding: torch.Tensor


class Family:
    """A root group and all groups inside it, which are matched as one.

    Attributes:
        settles: whether one visit finds the best that there is with all others held, or at least
            nothing better once more.
    """

    def __init__(self, root: str, blocks: Blocks) -> None:
        self._blocks, self._within, self._own = blocks, blocks.within, blocks.own
        self._root = root
        inside = [g for g in self._own if root in nesting.parents_of(g, self._within)]
        self.groups = [root, *nesting.by_depth(inside, self._within)]
        # A single unit with nothing inside has one permutation, as in depthwise convolutions.
        parents = {p for g in inside for p in nesting.parents_of(g, self._within)}
        homes = {
            group: self._home(group)
            for group in self.groups
            if self._own[group] > 1 or group in {root, *parents}
        }
        self._inside = [group for group in homes if group != root]
        self._pairs = Pairs(homes, self._own, self._within, blocks.readings)
        self._clusters = [
            cluster for block in range(len(blocks.groups)) for cluster in self._clusters_in(block)
        ]
        self._touched = sorted({cluster.block for cluster in self._clusters})
        # Whether a guess is the best there is with all others held.
        self._is_exact = all(
            c.alone and not self._pairs.is_coupled(Part((), c.axes, c.parents))
            for c in self._clusters
        )
        # Elsewhere than on the host a visit is one step, and the next sweep's is the next.
        self.settles = self._is_exact or blocks.readings.at_once
        self._former: Assignment | None = None  # the last solution of the root's problem

    def settle(self, kept: Permutation) -> None:
        """Learn which groups have turned out not to have moved: it makes no difference here."""

    def neighbours(self) -> set[str]:
        """Return the other groups on the family's blocks."""
        groups = {group for block in self._touched for group in self._blocks.groups[block]}
        return {group for group in groups if group is not None} - set(self.groups)

    def improve(self, permutation: Permutation) -> tuple[Permutation, Number]:
        """Return better permutations of the family's groups and what they gain: these, or zero."""
        if not self._touched:
            return {}, 0.0
        best = self._score({group: permutation[group] for group in self.groups}, permutation)
        total: Number = 0.0
        while True:
            guess = self._best_guess({**permutation, **best.groups})
            gain = guess.value - best.value
            is_better = gain > torch.maximum(best.rounding, guess.rounding)
            best = _chosen(is_better, guess, best)
            total = total + gain * is_better
            if self._is_exact or not self._blocks.readings.known(gain * is_better):
                return best.groups, total

    def _best_guess(self, permutation: Permutation) -> _Scored:
        """Return the best permutations, linear at the current one."""
        alone = [cluster for cluster in self._clusters if cluster.alone]
        # Linearised costs mislead far from the optimum: there, leave them out.
        choices = [self._clusters, alone] if len(alone) < len(self._clusters) else [alone]
        first, *others = [
            self._score(self._guess(permutation, clusters), permutation)
            for clusters in choices
            if clusters
        ]
        for other in others:
            first = _chosen(other.value > first.value, other, first)
        return first

    def _score(self, groups: Permutation, permutation: Permutation) -> _Scored:
        """Return permutations of the family's groups with their value, all others held."""
        return _Scored(groups, *self._blocks.value(self._touched, {**permutation, **groups}))

    def evidence(self, known: AbstractSet[str]) -> float:
        """Return how many numbers for each unit lie in blocks that only `known` groups move."""
        found = sum(self._blocks.b[cluster.block].numel() for cluster in self._seen(known))
        return found / sum(self._blocks.sizes[group] for group in self.groups)

    def anchor(self, permutation: Permutation, known: AbstractSet[str]) -> Permutation:
        """Return the best permutations by the blocks that only `known` groups move besides."""
        return self._guess(permutation, self._seen(known))

    def _seen(self, known: AbstractSet[str]) -> list[_Cluster]:
        return [
            cluster
            for cluster in self._clusters
            if cluster.alone
            and self._blocks.varies(cluster.block)
            and {g for g in self._blocks.groups[cluster.block] if g} <= {*known, *self.groups}
        ]

    def _home(self, group: str) -> tuple[str, ...]:
        """Return the groups in whose pairs of units `group` is solved, outermost first."""
        parents = [p for p in nesting.parents_of(group, self._within) if p in self.groups]
        if not parents:
            return ()
        last = nesting.by_depth(parents, self._within)[-1]
        return (*self._home(last), last)

    def _clusters_in(self, block: int) -> Iterator[_Cluster]:
        groups = self._blocks.groups[block]
        members = {axis: g for axis, g in enumerate(groups) if g is not None and g in self.groups}
        parents = {
            axis: {p: nesting.axis_of(p, groups, axis) for p in nesting.parents_of(g, self._within)}
            for axis, g in members.items()
        }
        for root in (axis for axis, g in members.items() if g == self._root):
            still = [root, *(x for x in members if parents[x].get(self._root) == root)]
            axes = {x: members[x] for x in still if members[x] in self._inside}
            alone = len(still) == len(members)
            above = {axis: parents[axis] for axis in axes}
            yield _Cluster(block, root, tuple(still), axes, above, alone)

    def _guess(self, permutation: Permutation, clusters: Sequence[_Cluster]) -> Permutation:
        """Return the best permutations by some blocks, linear at the current permutation."""
        moved = [self._blocks.moved(c.block, c.still, permutation) for c in clusters]
        size = self._own[self._root]
        rows, columns = self._chunks(clusters)
        tiles = [
            [
                self._tile(clusters, moved, range(i, min(i + rows, size)),
                           range(j, min(j + columns, size)), permutation)
                for j in range(0, size, columns)
            ]
            for i in range(0, size, rows)
        ]  # fmt: skip
        values = torch.cat([torch.cat([tile[0] for tile in line], 1) for line in tiles])
        (self._former,) = solve([values], [self._former], self._blocks.readings)
        flat = {**permutation, self._root: self._former.col_ind}
        for group in self.groups[1:]:
            if group not in self._inside:
                flat[group] = nesting.parents_pairing(group, flat, self._own, self._within)
                continue
            found = torch.cat([torch.cat([t[1][group].tensor for t in ln], 1) for ln in tiles])
            flat[group] = self._flat(group, Labelled(found, tiles[0][0][1][group].labels), flat)
        return {group: flat[group] for group in self.groups}

    def _chunks(self, clusters: Sequence[_Cluster]) -> tuple[int, int]:
        """Return how many units of A and of B to compare at a time, for the memory it takes."""
        size, most = self._own[self._root], 1
        for cluster in clusters:
            inner = math.prod(self._own[group] for group in cluster.axes.values())
            block = self._blocks.b[cluster.block].numel() // size
            most = max(most, inner**2 if _is_small(inner, block // inner) else block)
        columns = max(1, min(size, _NUMBERS // most))
        return max(1, min(size, _NUMBERS // (most * columns))), columns

    def _tile(
        self,
        clusters: Sequence[_Cluster],
        moved: Sequence[torch.Tensor],
        rows: range,
        columns: range,
        permutation: Permutation,
    ) -> tuple[torch.Tensor, Solutions]:
        """Return the values and solutions of the pairs of some units of A and of B."""
        outer: Outer = {("a", self._root): len(rows), ("b", self._root): len(columns)}
        parts = [
            self._part(cluster, b, rows, columns)
            for cluster, b in zip(clusters, moved, strict=True)
        ]
        start = {
            group: self._current(group, permutation, rows, len(columns)) for group in self._inside
        }
        return self._pairs.best((self._root,), outer, summed(parts), start)

    def _part(self, cluster: _Cluster, b: torch.Tensor, rows: range, columns: range) -> Part:
        """Return A's and B's side of a cluster, or their product where that is smaller."""
        keys = cluster.keys()
        held_parents = {
            where: parent
            for parents in cluster.parents.values()
            for parent, where in parents.items()
            if where not in keys and where != cluster.root
        }
        names: dict[int, Hashable] = {cluster.root: self._root, **keys, **held_parents}
        on_a: list[Label] = [("a", names.get(axis, axis)) for axis in range(b.ndim)]
        on_b = [("b" if axis in keys or axis == cluster.root else "a", label)
                for axis, (_, label) in enumerate(on_a)]  # fmt: skip
        a = self._blocks.a[cluster.block].narrow(cluster.root, rows.start, len(rows))
        b = b.narrow(cluster.root, columns.start, len(columns))
        factors: tuple[Labelled, ...] = (Labelled(a, tuple(on_a)), Labelled(b, tuple(on_b)))
        axes = {keys[axis]: group for axis, group in cluster.axes.items()}
        parents = {
            keys[axis]: {parent: names[where] for parent, where in above.items()}
            for axis, above in cluster.parents.items()
        }
        inner = math.prod(a.shape[axis] for axis in keys)
        if _is_small(inner, a.numel() // (len(rows) * inner)):
            order = sorted(axes, key=str)
            labels = [(side, name) for name in (self._root, *order) for side in "ab"]
            labels += [("a", parent) for parent in sorted(set(held_parents.values()))]
            factors = (contract(factors, labels),)
        return Part(factors, axes, parents)

    def _current(self, group: str, permutation: Permutation, rows: range, columns: int) -> Labelled:
        """Return the current permutation inside A's units, whatever unit of B they meet."""
        parents, own = nesting.parents_of(group, self._within), self._own[group]
        shape = [self._own[parent] for parent in parents]
        inner = Labelled(
            (permutation[group] % own).reshape(*shape, own),
            tuple(("a", name) for name in (*parents, group)),
        )
        labels = [("a", self._root), *(label for label in inner.labels if label[1] != self._root)]
        tensor = inner.ordered(labels).narrow(0, rows.start, len(rows)).unsqueeze(1)
        tensor = tensor.expand(-1, columns, *tensor.shape[2:])
        return Labelled(tensor, (labels[0], ("b", self._root), *labels[1:]))

    def _flat(self, group: str, solution: Labelled, flat: Permutation) -> torch.Tensor:
        """Return a group's flat permutation, given its solution for every pair of root units."""
        root = Labelled(flat[self._root], (("a", self._root),))
        inner = pick(solution, ("b", self._root), root, ("a", self._root))
        parents, own = nesting.parents_of(group, self._within), self._own[group]
        ordered = inner.ordered([("a", name) for name in (*parents, group)])
        outer = nesting.parents_pairing(group, flat, self._own, self._within)
        return (outer[:, None] * own + ordered.reshape(-1, own)).flatten()


def _chosen(one: torch.Tensor, first: _Scored, second: _Scored) -> _Scored:
    """Return the first where the condition holds, else the second."""
    return _Scored(
        {g: order.where(one, second.groups[g]) for g, order in first.groups.items()},
        first.value.where(one, second.value),
        first.rounding.where(one, second.rounding),
    )


def _is_small(inner: int, summed: int) -> bool:
    """Tell whether to sum products of all pairs of entries at once, or anew for each solution."""
    return inner <= 4 * summed
