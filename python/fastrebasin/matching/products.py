"""Sums of matrix products over the blocks that a group is on, and only of what changed in them.

Unit i of A fits unit j of B by the inner product of what lies beside them: U V^T, where U is A's
block with the group's axis first and V is B's, in A's order along all other axes. When some units
of another group have moved since, only their columns of V differ: their difference is multiplied
and added; that of all columns where reading which they are would wait for a device. Columns are
taken a slice at a time, so that no copy of a large block is ever made.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastrebasin import _native
from fastrebasin.matching.blocks import Blocks, Term, slices
from fastrebasin.permutation import Permutation

__all__ = ["add_change", "add_products"]

_NUMBERS = 2**20  # of each factor of a product at a time: 4 MiB in float32


def add_products(
    cost: torch.Tensor,
    blocks: Blocks,
    terms: Sequence[Term],
    permutation: Permutation,
    *,
    anew: bool = False,
) -> None:
    """Add U V^T of all terms of a group; `anew`, to zero in place of what `cost` holds."""
    vectors = [term for term in terms if blocks.b[term.block].ndim == 1]
    if vectors:  # side by side, they are one product
        u, v = (torch.stack([t[term.block] for term in vectors], 1) for t in (blocks.a, blocks.b))
        cost.addmm_(u, v.T, beta=0 if anew else 1)
    elif anew:
        cost.zero_()
    for term in terms:
        if blocks.b[term.block].ndim > 1:
            _add(cost, blocks, term, None, permutation)


def add_change(
    cost: torch.Tensor, blocks: Blocks, term: Term, before: Permutation, now: Permutation
) -> None:
    """Add what U V^T of a term has become more since other groups moved."""
    if any(not blocks.readings.same(before[g], now[g]) for g in blocks.others(term)):
        _add(cost, blocks, term, before, now)


def _add(
    cost: torch.Tensor,
    blocks: Blocks,
    term: Term,
    before: Permutation | None,
    now: Permutation,
) -> None:
    a, b, axis = blocks.a[term.block], blocks.b[term.block], term.axis
    other = _only_other(blocks, term)
    if other is None:
        v = blocks.moved(term.block, (axis,), now)
        if before is not None:
            v = v - blocks.moved(term.block, (axis,), before)
        cost.addmm_(_units_first(a, axis), _units_first(v, axis).T)
        return
    group = blocks.groups[term.block][other] or ""
    new, old = now[group], None if before is None else before[group]
    columns = None  # all of them
    if old is not None and blocks.readings.at_once:
        columns = (old != new).nonzero().flatten()
        new, old = new[columns], old[columns]
    rooms = _Rooms(a)
    if axis == 0:  # whole rows lie together
        u = _units_first(a, axis) if columns is None else rooms.take(0, a, axis, other, columns)
        for units in slices(len(b), b, _NUMBERS):
            v = rooms.change(b[units], axis, other, new, old)
            cost[:, units].addmm_(u, v.T)
    else:
        for some in slices(len(new), b.movedim(other, 0), _NUMBERS):
            u = rooms.take(0, a, axis, other, some if columns is None else columns[some])
            v = rooms.change(b, axis, other, new[some], None if old is None else old[some])
            cost.addmm_(u, v.T)


class _Rooms:
    """Takes entries of blocks, into the same memory again and again: new memory is slow."""

    def __init__(self, like: torch.Tensor) -> None:
        size = min(like.numel(), 2 * _NUMBERS) if like.ndim > 2 and like.is_cpu else 0
        self._rooms = [like.new_empty(size) for _ in range(3)]

    def take(
        self, room: int, block: torch.Tensor, units: int, axis: int, index: torch.Tensor | slice
    ) -> torch.Tensor:
        """Return a matrix of some entries of an axis: a row for each entry of the axis `units`.

        Of a matrix, a slice is a view.
        """
        is_convolution = block.ndim > 2 and {units, axis} == {0, 1} and block.is_contiguous()
        if isinstance(index, slice):
            if not is_convolution:
                return _units_first(block.movedim(axis, 0)[index].movedim(0, axis), units)
            index = torch.arange(block.shape[axis], device=block.device)[index]
        if is_convolution:
            kernels = _native.gather_kernels(block, units, index, self._rooms[room])
            return kernels.flatten(1)
        return _units_first(block.index_select(axis, index), units)

    def change(
        self,
        block: torch.Tensor,
        units: int,
        axis: int,
        new: torch.Tensor,
        old: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return some entries of an axis, less those that were in their places before, if any."""
        found = self.take(1, block, units, axis, new)
        return found if old is None else found.sub_(self.take(2, block, units, axis, old))


def _only_other(blocks: Blocks, term: Term) -> int | None:
    """Return the axis of the only other group on the block, if there is one and it lies in none."""
    groups = blocks.groups[term.block]
    others = [k for k, group in enumerate(groups) if group is not None and k != term.axis]
    alone = len(others) == 1 and not blocks.within.get(groups[others[0]] or "")
    return others[0] if alone else None


def _units_first(block: torch.Tensor, axis: int) -> torch.Tensor:
    return block.movedim(axis, 0).flatten(1)
