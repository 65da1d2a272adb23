"""What weight matching compares: A's and B's parameters, cut into blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import torch

from fastrebasin import layout, nesting
from fastrebasin.matching.readings import Number, Readings
from fastrebasin.permutation import Permutation
from fastrebasin.spec import PermutationSpec

__all__ = ["Blocks", "Term", "slices"]

_NUMBERS = 2**18  # of a block to multiply at a time: 1 MiB in float32
_NUMBERS_ELSEWHERE = 2**26  # on a device: small pieces would leave most of it idle


@dataclass(frozen=True)
class Term:
    """One axis of one block that a group permutes: a summand of the group's assignment cost."""

    block: int
    axis: int


class Blocks:
    """Parameters cut into blocks whose every axis is one group or fixed, and those of A beside B.

    Attributes:
        groups: the group of each axis, or None, of every block.
        a, b: the blocks, views of the parameters.
        target: how often A was set.
        sizes: units of each group.
        own: units of each group for one combination of its parents' units.
        within: the parents of each group.
        readings: of the parameters' device.
    """

    def __init__(
        self,
        spec: PermutationSpec,
        names: Iterable[str],
        params_a: Mapping[str, torch.Tensor],
        params_b: Mapping[str, torch.Tensor],
        readings: Readings | None = None,
    ) -> None:
        self._spec = spec
        self._names = list(names)
        self.readings = Readings(torch.device("cpu")) if readings is None else readings
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
        self._varying: dict[int, bool] = {}

    def _cut(
        self, params: Mapping[str, torch.Tensor]
    ) -> list[tuple[torch.Tensor, tuple[str | None, ...]]]:
        return [
            (block, groups)
            for name in self._names
            for block, groups in layout.blocks(
                params[name], self._spec.layouts(name, params[name].ndim), self.own
            )
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

    def inner_product(self, permutation: Permutation, but: AbstractSet[int]) -> torch.Tensor:
        """Return the inner product of A and the permuted B over all blocks but some, in float64."""
        total = self._zero()
        for block in range(len(self.groups)):
            if block not in but:
                for a, b in self._pieces(block, permutation):
                    total += (a * b).sum(dtype=torch.float64)
        return total

    def value(
        self, blocks: Iterable[int], permutation: Permutation
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the inner product of A and the permuted B over some blocks, and its rounding."""
        value, rounding = self._zero(), self._zero()
        for k in blocks:
            for a, b in self._pieces(k, permutation):
                products = a * b
                value += products.sum(dtype=torch.float64)
                eps = torch.finfo(products.dtype).eps
                rounding += eps * products.abs_().sum(dtype=torch.float64)
        return value, rounding

    def _zero(self) -> torch.Tensor:
        return torch.zeros((), dtype=torch.float64, device=self.readings.device)

    def _pieces(
        self, block: int, permutation: Permutation
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield A's block and B's in A's order, some rows at a time if no others lie in them."""
        a, b, groups = self.a[block], self.b[block], self.groups[block]
        if b.ndim == 0 or any(group and self.within.get(group) for group in groups):
            yield a, self.moved(block, (), permutation)
            return
        first, *rest = groups
        order = torch.arange(len(b), device=b.device) if first is None else permutation[first]
        for some in slices(len(b), b, _NUMBERS):
            rows = b.index_select(0, order[some].to(b.device))
            yield a[some], nesting.gather(rows, [None, *rest], permutation, {})

    def varies(self, block: int) -> bool:
        """Tell whether a block can tell units from each other: it isn't constant."""
        if block not in self._varying:
            asked = [block] if self.readings.at_once else list(range(len(self.b)))
            sides = (side[k] for k in asked for side in (self.a, self.b))
            found = self.readings.now(self._varies(side) for side in sides)
            self._varying |= {
                k: bool(a and b) for k, a, b in zip(asked, found[::2], found[1::2], strict=True)
            }
        return self._varying[block]

    def _varies(self, tensor: torch.Tensor) -> Number:
        if tensor.numel() == 0:
            return 0.0
        first, some = tensor[(0,) * tensor.ndim], tensor[:1]  # which nearly always will do
        if self.readings.known((some != first).any()):
            return 1.0
        return (tensor != first).any()


def slices(count: int, block: torch.Tensor, numbers: int) -> Iterator[slice]:
    """Cut `count` entries of a block's first axis into slices of so many numbers.

    On a device other than the CPU, where all that small slices save is memory, of more.
    """
    most = numbers if block.is_cpu else _NUMBERS_ELSEWHERE
    step = max(1, most * len(block) // max(1, block.numel()))
    return (slice(start, start + step) for start in range(0, count, step))
