"""Matching of one flat group: with all others held, its best permutation is an assignment.

Ainsworth et al., ICLR 2023, algorithm 1, a step of it. The cost matrix is kept from solve to
solve and only what changed is multiplied; the duals of one solve start the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import torch

from fastrebasin.assignment import Assignment
from fastrebasin.matching.blocks import Blocks, Term
from fastrebasin.matching.products import add_change, add_products
from fastrebasin.matching.readings import Number
from fastrebasin.matching.solving import solve
from fastrebasin.permutation import Permutation

__all__ = ["Flat"]


class Flat:
    """A group that lies in no other, has none inside, and is on no block twice.

    Attributes:
        former: the group's last assignment, from whose duals the next one starts.
        settles: whether one visit finds the best that there is with all others held.
    """

    settles = True

    def __init__(self, group: str, blocks: Blocks) -> None:
        self.groups = [group]
        self.former: Assignment | None = None
        self._group, self._blocks = group, blocks
        self._terms = blocks.terms_of(group)
        self._cost: torch.Tensor | None = None
        self._target = -1  # of which target the cost is
        self._added: dict[Term, Permutation] = {}  # to the cost: how the others lay at that time

    def neighbours(self) -> set[str]:
        """Return the groups on the other axes of the group's blocks."""
        return {other for term in self._terms for other in self._blocks.others(term)}

    def evidence(self, known: AbstractSet[str]) -> float:
        """Return how many numbers for each unit lie in blocks that only `known` groups move."""
        found = sum(self._blocks.b[term.block].numel() for term in self._seen(known))
        return found / self._blocks.sizes[self._group]

    def anchor(self, permutation: Permutation, known: AbstractSet[str]) -> Permutation:
        """Return the best permutation by the blocks that only `known` groups move besides."""
        terms = self._seen(known)
        if not terms:
            return {self._group: permutation[self._group]}
        (found,) = solve([self._updated(terms, permutation)], [None], self._blocks.readings)
        return {self._group: found.col_ind}

    def cost(self, permutation: Permutation) -> torch.Tensor | None:
        """Return how well each unit of A fits each of B, or None if only statistics carry them."""
        return self._updated(self._terms, permutation) if self._terms else None

    def _updated(self, terms: Sequence[Term], permutation: Permutation) -> torch.Tensor:
        """Return the cost with these terms, and maybe others, at a permutation of the others."""
        anew = self._target != self._blocks.target
        if self._cost is None:
            self._cost = self._empty()
        if anew:
            self._target, self._added = self._blocks.target, {}
        for term, before in self._added.items():
            add_change(self._cost, self._blocks, term, before, permutation)
        new = [term for term in terms if term not in self._added]
        add_products(self._cost, self._blocks, new, permutation, anew=anew)
        self._added = {
            term: {group: permutation[group] for group in self._blocks.others(term)}
            for term in (*self._added, *new)
        }
        return self._cost

    def accept(self, found: Assignment, permutation: Permutation) -> tuple[Permutation, Number]:
        """Return the better permutation of the group and what it gains: the new one, or zero."""
        self.former = found
        cost, best, old = self._cost, found.col_ind, permutation[self._group]
        assert cost is not None
        if self._blocks.readings.same(best, old):
            return {}, 0.0
        before, now = _of_pairs(cost, old), _of_pairs(cost, best)
        gain = now.sum() - before.sum()
        # Sums of products are off by about an ulp of their size: less is no gain, and keeping the
        # old assignment then makes the descent end.
        is_better = gain > torch.finfo(cost.dtype).eps * now.abs().sum()
        return {self._group: best.where(is_better, old)}, gain * is_better

    def settle(self, kept: Permutation) -> None:
        """Learn which groups have turned out not to have moved when they were last solved."""
        for lay in self._added.values():
            lay.update({group: order for group, order in kept.items() if group in lay})

    def size(self) -> int:
        """Return how many numbers lie in the group's blocks."""
        return sum(self._blocks.b[block].numel() for block in self.blocks)

    @property
    def blocks(self) -> set[int]:
        """The blocks that the group is on."""
        return {term.block for term in self._terms}

    def value(self, permutation: Permutation) -> torch.Tensor | None:
        """Return the inner product over the group's blocks, if the cost that is kept tells it."""
        if self._cost is None or self._target != self._blocks.target:
            return None
        if self._added.keys() != set(self._terms) or any(
            not self._blocks.readings.same(order, permutation[group])
            for others in self._added.values()
            for group, order in others.items()
        ):
            return None
        return _of_pairs(self._cost, permutation[self._group]).sum()

    def _seen(self, known: AbstractSet[str]) -> list[Term]:
        return [
            term
            for term in self._terms
            if self._blocks.others(term) <= known and self._blocks.varies(term.block)
        ]

    def _empty(self) -> torch.Tensor:
        size = self._blocks.sizes[self._group]
        return self._blocks.b[self._terms[0].block].new_empty(size, size)


def _of_pairs(cost: torch.Tensor, partners: torch.Tensor) -> torch.Tensor:
    """Return the entry of each row at its partner, in float64."""
    return cost.gather(1, partners[:, None]).double()
