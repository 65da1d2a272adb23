"""What weight matching compares: the blocks of A's and B's parameters, and flat groups' costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from fastrebasin import layout, nesting
from fastrebasin.permutation import Permutation
from fastrebasin.spec import PermutationSpec

__all__ = ["Blocks", "Term"]


@dataclass(frozen=True)
class Term:
    """One axis of one block that a group permutes: a summand of the group's assignment cost."""

    block: int
    axis: int


class Blocks:
    """Parameters cut into blocks whose every axis is one group or fixed, and those of A beside B.

    Attributes:
        groups: the group of each axis, or None, of every block that some group permutes.
        a, b: the blocks, views of the parameters.
        target: how often A was set.
        sizes: units of each group.
        own: units of each group for one combination of its parents' units.
        within: the parents of each group.
    """

    def __init__(
        self,
        spec: PermutationSpec,
        names: Iterable[str],
        params_a: Mapping[str, torch.Tensor],
        params_b: Mapping[str, torch.Tensor],
    ) -> None:
        self._spec = spec
        self._names = [name for name in names if any(spec.axes.get(name, ()))]
        self.sizes = spec.sizes
        self.own, self.within = spec.extents, spec.within
        cut = self._cut(params_b)
        self.b = [block for block, _ in cut]
        self.groups = [groups for _, groups in cut]
        self.target = 0
        self.set_target(params_a)

    def set_target(self, params_a: Mapping[str, torch.Tensor]) -> None:
        """Replace A."""
        self.target += 1
        self.a = [block for block, _ in self._cut(params_a)]

    def _cut(
        self, params: Mapping[str, torch.Tensor]
    ) -> list[tuple[torch.Tensor, tuple[str | None, ...]]]:
        return [
            (block, groups)
            for name in self._names
            for block, groups in layout.blocks(
                params[name], self._spec.layouts(name, params[name].ndim), self.own
            )
            if any(groups)
        ]

    def terms_of(self, group: str) -> list[Term]:
        """Return the axes that a group permutes."""
        return [
            Term(block, axis)
            for block, groups in enumerate(self.groups)
            for axis, other in enumerate(groups)
            if other == group
        ]

    def others(self, term: Term) -> set[str]:
        """Return the groups on the other axes of a term's block."""
        groups = self.groups[term.block]
        return {g for axis, g in enumerate(groups) if g is not None and axis != term.axis}

    def moved(self, block: int, still: Sequence[int], permutation: Permutation) -> torch.Tensor:
        """Return a block of B in A's order, except along the axes that stay `still`."""
        groups = [None if k in still else group for k, group in enumerate(self.groups[block])]
        return nesting.gather(self.b[block], groups, permutation, self.within)

    def cost(self, terms: Sequence[Term], permutation: Permutation) -> torch.Tensor | None:
        """Sum U V^T over `terms`: entry (i, j) is how well unit i of A fits unit j of B."""
        cost: torch.Tensor | None = None
        for term in terms:
            a, b = self.a[term.block], self.moved(term.block, (term.axis,), permutation)
            if b.ndim == 1:
                product = torch.outer(a, b)
            else:
                u, v = (t.movedim(term.axis, 0).flatten(1) for t in (a, b))
                product = u @ v.T
            cost = product if cost is None else cost.add_(product)
        return cost

    def value(self, blocks: Iterable[int], permutation: Permutation) -> tuple[float, float]:
        """Return the inner product of A and the permuted B over some blocks, and its rounding."""
        value = rounding = 0.0
        for k in blocks:
            products = self.a[k] * self.moved(k, (), permutation)
            value += products.sum(dtype=torch.float64).item()
            eps = torch.finfo(products.dtype).eps
            rounding += eps * products.abs().sum(dtype=torch.float64).item()
        return value, rounding

    def varies(self, block: int) -> bool:
        """Tell whether a block can tell units from each other: it isn't constant."""
        return all(bool((t != t.flatten()[:1]).any()) for t in (self.a[block], self.b[block]))
