"""Nested assignment: blocks are paired, and the units of each pair of blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fastrebasin import _native
from fastrebasin.assignment import solve_assignment, solve_batch

__all__ = ["NestedAssignment", "solve_nested_assignment"]


@dataclass(frozen=True)
class NestedAssignment:
    """An optimal pairing of blocks and, inside each pair, of units.

    Attributes:
        blocks: int64 vector of length h: the block of B that each block of A is paired with.
        inner: int64, shape (h, r): unit k of A's block i is paired with unit `inner[i, k]` of B's
            block `blocks[i]`.
        permutation: the same as one int64 vector of length h * r over all units:
            `permutation[i * r + k] = blocks[i] * c + inner[i, k]`.
        objective: sum of the pairs' costs, in float64.
        gap: bound on how far the objective can be from the optimum, in float64; zero, or what
            rounding makes of it.

    Arrays are torch tensors if the cost was one.
    """

    blocks: Any
    inner: Any
    permutation: Any
    objective: Any
    gap: Any


def solve_nested_assignment(
    cost: npt.ArrayLike | torch.Tensor, *, maximize: bool = False
) -> NestedAssignment:
    """Pair blocks, such as attention heads, and the units inside them, at the best total cost.

    Args:
        cost: shape (h, h, r, c) with r <= c: `cost[i, j]` is the cost matrix of the units of A's
            block i and B's block j, as for `solve_assignment`; r and c are equal, unless units of
            B may be left over. Every pair of blocks must have a complete assignment.
        maximize: find the largest instead of the smallest sum.

    Returns:
        The pairing of blocks and units, its objective and gap. The h * h inner problems are solved
        as one batch, the outer one on their optima.

    Raises:
        ValueError: another shape, or a pair of blocks that `solve_assignment` would refuse.
        TypeError: a dtype that float64 can't hold.

    Example:
        >>> cost = -torch.eye(6).reshape(3, 2, 3, 2).transpose(1, 2).flip(1)
        >>> found = solve_nested_assignment(cost)
        >>> found.blocks.tolist(), found.permutation.tolist()
        ([2, 1, 0], [4, 5, 2, 3, 0, 1])

    Source: Ainsworth et al., ICLR 2023, for the assignment; its nesting is our own.
    """
    is_tensor = isinstance(cost, torch.Tensor)
    array = _native.as_array(cost, "cost") if isinstance(cost, torch.Tensor) else np.asarray(cost)
    if array.ndim != 4 or array.shape[0] != array.shape[1] or array.shape[2] > array.shape[3]:
        raise ValueError(f"cost must have shape (h, h, r, c) with r <= c, got {array.shape}")
    h, _, r, c = array.shape
    units = solve_batch(
        array.reshape(h * h, r, c), maximize, lambda index: f"cost[{index // h}, {index % h}]: "
    )
    outer = solve_assignment(units.objective.reshape(h, h), maximize=maximize)
    blocks = outer.col_ind
    inner = units.col_ind.reshape(h, h, r)[np.arange(h), blocks]
    permutation = (blocks[:, None] * c + inner).reshape(h * r)
    gap = outer.gap + units.gap.reshape(h, h).max(axis=1, initial=0.0).sum()
    fields = (blocks, inner, permutation, outer.objective, gap)
    return NestedAssignment(*(torch.as_tensor(f) if is_tensor else f for f in fields))
