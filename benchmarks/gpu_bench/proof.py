"""Optimality of assignments, by duality in float64 and on the costs' device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gpu_bench.adapters import Solved

__all__ = ["excess", "objective", "tolerance", "worst"]

ROWS = 1024  # widened at a time


def objective(cost: Tensor, columns: Tensor) -> Tensor:
    """Return the float64 sums of costs (batch, n, n) at the column of each row (batch, n)."""
    columns = columns.clamp(0, cost.shape[2] - 1)  # of a row left over, too
    return cost.gather(2, columns[..., None]).double().sum((1, 2))


def excess(cost: Tensor, solved: Solved) -> Tensor:
    """Return, of shape (batch), by how much each sum may miss its optimum; inf for no permutation.

    Weak duality: whatever the column duals v are, the sum over rows of min(cost - v), plus the sum
    of v, is a sum that no assignment is below. So there is no need to trust a solver.
    """
    n, v = cost.shape[1], solved.col_duals[:, None]
    order = torch.arange(n, device=cost.device)
    is_permutation = (solved.col4row.sort(1).values == order).all(1)
    minima = [(rows.double() - v).amin(2) for rows in cost.split(ROWS, 1)]
    bound = torch.cat(minima, 1).sum(1) + v.sum((1, 2))
    found = objective(cost, solved.col4row) - bound
    return torch.where(is_permutation, found, torch.inf)


def tolerance(cost: Tensor) -> Tensor:
    """Return, of shape (batch), what rounding in float64 makes of an excess of zero."""
    return 1e-11 * cost.shape[1] * cost.abs().amax((1, 2)).double()


def worst(
    costs: Sequence[Tensor], solved: Sequence[Solved], expected: Sequence[Tensor] = ()
) -> float:
    """Return, in tolerances, how far any sum is from its optimum, or from what is expected."""
    found = []
    for k, (cost, each) in enumerate(zip(costs, solved, strict=True)):
        off = excess(cost, each).abs()
        if expected:
            off = torch.maximum(off, (objective(cost, each.col4row) - expected[k]).abs())
        found.append((off / tolerance(cost)).max().item())
    return max(found)
