"""Sums of matrix products over the blocks that a group is on, and only of what changed in them.

Unit i of A fits unit j of B by the inner product of what lies beside them: U V^T, where U is A's
block with the group's axis first and V is B's, in A's order along all other axes. When some units
of another group have moved since, only their columns of V differ: their difference is multiplied
and added. Columns are taken a slice at a time, so that no copy of a large block is ever made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from fastrebasin.matching.blocks import Blocks, Term
from fastrebasin.permutation import Permutation

__all__ = ["add_changes", "add_products"]

_NUMBERS = 2**20  # of each factor of a product at a time: 4 MiB in float32


def add_products(
    cost: torch.Tensor, blocks: Blocks, terms: Sequence[Term], permutation: Permutation
) -> None:
    """Add U V^T of all terms of a group."""
    vectors = [term for term in terms if blocks.b[term.block].ndim == 1]
    if vectors:  # side by side, they are one product
        u, v = (torch.stack([t[term.block] for term in vectors], 1) for t in (blocks.a, blocks.b))
        cost.addmm_(u, v.T)
    for term in terms:
        if blocks.b[term.block].ndim > 1:
            for u, v in _factors(blocks, term, permutation):
                cost.addmm_(u, v.T)


def add_changes(
    cost: torch.Tensor,
    blocks: Blocks,
    terms: Sequence[Term],
    before: Permutation,
    now: Permutation,
) -> None:
    """Add what U V^T of all terms has become more since other groups moved."""
    for term in terms:
        moved = [g for g in blocks.others(term) if not torch.equal(before[g], now[g])]
        if moved:
            for u, v in _differences(blocks, term, before, now):
                cost.addmm_(u, v.T)


def _factors(
    blocks: Blocks, term: Term, permutation: Permutation
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield U and V of a term, some columns at a time."""
    a, other = blocks.a[term.block], _only_other(blocks, term)
    if other is None:
        v = blocks.moved(term.block, (term.axis,), permutation)
        yield _units_first(a, term.axis), _units_first(v, term.axis)
        return
    group = blocks.groups[term.block][other]
    assert group is not None
    order = permutation[group].to(a.device)
    for columns in _slices(a, other):
        yield (
            _take(a, term.axis, other, columns),
            _take(blocks.b[term.block], term.axis, other, order[columns]),
        )


def _differences(
    blocks: Blocks, term: Term, before: Permutation, now: Permutation
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield U and the change of V, for columns that changed."""
    a, b, other = blocks.a[term.block], blocks.b[term.block], _only_other(blocks, term)
    if other is None:
        v = blocks.moved(term.block, (term.axis,), now)
        v = v - blocks.moved(term.block, (term.axis,), before)
        yield _units_first(a, term.axis), _units_first(v, term.axis)
        return
    group = blocks.groups[term.block][other]
    assert group is not None
    old, new = before[group].to(a.device), now[group].to(a.device)
    changed = (old != new).nonzero().flatten()
    for columns in changed.split(_columns(a, other)):
        v = _take(b, term.axis, other, new[columns])
        v -= _take(b, term.axis, other, old[columns])
        yield _take(a, term.axis, other, columns), v


def _only_other(blocks: Blocks, term: Term) -> int | None:
    """Return the axis of the only other group on the block, if there is one and it lies in none."""
    groups = blocks.groups[term.block]
    others = [k for k, group in enumerate(groups) if group is not None and k != term.axis]
    alone = len(others) == 1 and not blocks.within.get(groups[others[0]] or "")
    return others[0] if alone else None


def _columns(block: torch.Tensor, axis: int) -> int:
    """Return how many entries of an axis to take at a time."""
    return max(1, _NUMBERS * block.shape[axis] // max(1, block.numel()))


def _slices(block: torch.Tensor, axis: int) -> Iterator[slice]:
    step = _columns(block, axis)
    for start in range(0, block.shape[axis], step):
        yield slice(start, min(start + step, block.shape[axis]))


def _take(block: torch.Tensor, units: int, axis: int, index: torch.Tensor | slice) -> torch.Tensor:
    """Return a matrix of some entries of an axis: a row for each entry of the axis `units`."""
    if isinstance(index, slice):
        if units < axis or block.ndim == 2:  # a view
            return _units_first(block.narrow(axis, index.start, index.stop - index.start), units)
        index = torch.arange(index.start, index.stop, device=block.device)
    if block.ndim == 2 or {units, axis} != {0, 1} or not block.is_contiguous():
        return _units_first(block.index_select(axis, index), units)
    # A convolution's weights: its kernels are taken whole, in the order that the product wants.
    # One pass instead of two.
    rows, columns = torch.arange(block.shape[units], device=block.device), block.shape[1]
    kernels = rows[:, None] * columns + index if units == 0 else rows[:, None] + index * columns
    return block.flatten(0, 1).flatten(1).index_select(0, kernels.flatten()).view(len(rows), -1)


def _units_first(block: torch.Tensor, axis: int) -> torch.Tensor:
    return block.movedim(axis, 0).flatten(1)
