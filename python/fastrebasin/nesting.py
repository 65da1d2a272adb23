"""Groups inside groups: the units of each attention head, the channels of each normalised set.

A group that lies within others has a permutation of its own for every combination of their units.
It is stored as one flat vector over all of them, the parents' combination being the outer index:
unit `k` of A's head `h` pairs with unit `perm[h * n + k] % n` of B's head `perm[h * n + k] // n`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import torch

from fastrebasin import _native

__all__ = [
    "Within", "axis_of", "by_depth", "combine", "extents", "gather", "parents_of",
    "parents_pairing",
]  # fmt: skip

Within: TypeAlias = Mapping[str, tuple[str, ...]]
"""The groups that a group lies within, outermost first; groups that aren't named lie in none."""


def parents_of(group: str, within: Within) -> tuple[str, ...]:
    """Return the groups that `group` lies within, outermost first."""
    return within.get(group, ())


def by_depth(groups: Iterable[str], within: Within) -> list[str]:
    """Return the groups in an order in which parents come first."""
    return sorted(groups, key=lambda group: len(parents_of(group, within)))


def extents(sizes: Mapping[str, int], within: Within) -> dict[str, int]:
    """Return how many units each group has for one combination of its parents' units.

    Example:
        >>> extents({"head": 12, "query": 768}, {"query": ("head",)})
        {'head': 12, 'query': 64}
    """
    found: dict[str, int] = {}
    for group in by_depth(sizes, within):
        found[group] = sizes[group] // math.prod(found[p] for p in parents_of(group, within))
    return found


def combine(
    inner: Mapping[str, torch.Tensor], own: Mapping[str, int], within: Within
) -> dict[str, torch.Tensor]:
    """Return flat permutations, given each group's own for every combination of A's parents.

    Args:
        inner: for each group, indices of shape (combinations of its parents, its own units), or a
            vector where it has no parents.
        own: the `extents` of the groups.
        within: the parents of each group.

    Example:
        >>> inner = {"head": torch.tensor([1, 0]), "unit": torch.tensor([[0, 1], [1, 0]])}
        >>> combine(inner, {"head": 2, "unit": 2}, {"unit": ("head",)})["unit"]
        tensor([2, 3, 1, 0])
    """
    flat: dict[str, torch.Tensor] = {}
    for group in by_depth(inner, within):
        outer = parents_pairing(group, flat, own, within)
        flat[group] = (outer[:, None] * own[group] + inner[group]).flatten()
    return flat


def parents_pairing(
    group: str, flat: Mapping[str, torch.Tensor], own: Mapping[str, int], within: Within
) -> torch.Tensor:
    """Return B's combination of parents' units for each of A's, as flat indices."""
    parents = parents_of(group, within)
    shape = [own[parent] for parent in parents]
    device = flat[parents[0]].device if parents else None
    combinations = torch.arange(math.prod(shape), device=device).reshape(shape)
    return gather(combinations, parents, flat, within).flatten()


def gather(
    block: torch.Tensor,
    groups: Sequence[str | None],
    flat: Mapping[str, torch.Tensor],
    within: Within,
) -> torch.Tensor:
    """Return a block of B in A's order: each axis gathered by its group's flat permutation.

    Args:
        block: a tensor whose every axis is one group or fixed. A group's parents must be among
            its axes.
        groups: the group of each axis, or None.
        flat: one flat index vector for each group.
        within: the parents of each group.
    """
    moving = [(axis, group) for axis, group in enumerate(groups) if group is not None]
    for axis, group in sorted(moving, key=lambda pair: len(parents_of(pair[1], within))):
        own = block.shape[axis]
        indices = flat[group].to(block.device)
        parents = [axis_of(parent, groups, axis) for parent in parents_of(group, within)]
        if not parents:
            block = _select(block, axis, indices)
            continue
        # The parents are in A's order already, and so are the rows of the flat vector. Whole rows
        # are selected, which is many times faster than to gather entries.
        dims, front = [*parents, axis], list(range(len(parents) + 1))
        rows = block.movedim(dims, front)
        combinations = torch.arange(len(indices) // own, device=block.device)
        indices = (combinations[:, None] * own + (indices % own).reshape(-1, own)).flatten()
        moved = rows.flatten(0, len(parents)).index_select(0, indices)
        block = moved.unflatten(0, rows.shape[: len(dims)]).movedim(front, dims)
    return block


def _select(block: torch.Tensor, axis: int, indices: torch.Tensor) -> torch.Tensor:
    """Return `index_select`, which is many times slower where what it takes is small."""
    if axis == 1 and block.ndim > 2 and block.is_contiguous():
        return _native.gather_kernels(block, 0, indices)
    if block.ndim < 3 or axis < block.ndim - 1:
        return block.index_select(axis, indices)
    return block.flatten(0, -2).index_select(1, indices).reshape(block.shape)


def axis_of(parent: str, groups: Sequence[str | None], child: int) -> int:
    """Return the axis of a parent: the nearest before its child, or else the first behind it."""
    found = [axis for axis, group in enumerate(groups) if group == parent]
    if not found:
        raise ValueError(
            f"group {groups[child]!r} lies within {parent!r}, which is on no axis beside it"
        )
    before = [axis for axis in found if axis < child]
    return before[-1] if before else found[0]
