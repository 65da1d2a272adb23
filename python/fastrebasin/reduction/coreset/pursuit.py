"""Orthogonal matching pursuit of a sum of vectors, with weights that aren't negative.

Pati, Rezaiifar & Krishnaprasad (Asilomar 1993); the fit is that of Lawson & Hanson, "Solving least
squares problems" (1974), chapter 23, on the normal equations, started from the fit before. Only
inner products are needed, so that the vectors themselves may be products that are never formed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastrebasin._progress import bar
from fastrebasin.reduction.coreset.greedy import first_largest
from fastrebasin.reduction.coreset.vectors import Vectors

__all__ = ["matching_pursuit", "nonnegative_fit"]

_EXHAUSTED = 1e-10  # what is left of a correlation when there is nothing left but rounding
_SOLVABLE = 1e-13  # of the mean squared norm, lest equal vectors make equations singular


def matching_pursuit(
    vectors: Vectors, count: int, regularisation: float = 0.0, *, progress: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose vectors whose weighted sum is near the sum of all.

    Each in turn is the one most correlated with the residual; then all weights are fitted anew, to
    minimise |sum of all - sum_i w_i v_i|^2 + ridge |w|^2 with w >= 0. When no correlation is
    positive any more, no other vector helps: those still asked for follow by correlation, with
    weight 0.

    Args:
        vectors: n, float64.
        count: how many to choose, at most n.
        regularisation: the ridge, in units of the mean squared norm.
        progress: show a bar on a terminal.

    Returns:
        Indices in the order of choice, int64 (count,); the residual's inner product with each when
        it was chosen, float64 (count,); and the weights, float64 (count,), on the CPU.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 3.0]])
        >>> chosen, scores, weights = matching_pursuit(Vectors(rows.double()), 3)
        >>> chosen.tolist(), scores.tolist(), [round(w, 6) for w in weights.tolist()]
        ([2, 1, 0], [18.0, 6.0, 0.0], [2.0, 1.5, 0.0])
    """
    n, device = len(vectors), vectors.right.device
    total = vectors.against(torch.ones(n))
    correlation, free = total.clone(), torch.ones(n, dtype=torch.bool, device=device)
    ridge = max(regularisation, _SOLVABLE) * float(vectors.squares().mean())
    rounding = _EXHAUSTED * float(total.abs().max())
    chosen, scores = torch.zeros(0, dtype=torch.int64, device=device), total.new_zeros(0)
    gram, weights = torch.zeros(0, 0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    for _ in bar(range(count), "matching pursuit", progress=progress):
        index = first_largest(correlation, free, rounding)
        if correlation[index] <= rounding:
            break
        free[index] = False
        chosen = torch.cat([chosen, chosen.new_tensor([index])])
        scores = torch.cat([scores, correlation[index, None]])
        gram = _bordered(gram, vectors.products(chosen[-1:], chosen)[0].cpu(), ridge)
        start = torch.cat([weights, weights.new_zeros(1)])
        weights = nonnegative_fit(gram, total[chosen].cpu(), start)
        used = total.new_zeros(n)
        used[chosen] = weights.to(device)
        correlation = total - vectors.against(used)
    correlation = correlation.where(correlation.abs() > rounding, 0)
    order = correlation.where(free, -torch.inf).argsort(descending=True, stable=True)
    rest = order[: count - len(chosen)]
    return (
        torch.cat([chosen, rest]).cpu(),
        torch.cat([scores, correlation[rest]]).cpu(),
        torch.cat([weights, weights.new_zeros(len(rest))]),
    )


def nonnegative_fit(gram: Tensor, target: Tensor, start: Tensor) -> Tensor:
    """Return the w >= 0 that minimises w' gram w - 2 w' target.

    Args:
        gram: (k, k), positive definite.
        target: (k,).
        start: (k,), not negative, and optimal where it is positive; zeros are.

    Example:
        >>> nonnegative_fit(torch.eye(2), torch.tensor([2.0, -1.0]), torch.zeros(2)).tolist()
        [2.0, 0.0]
    """
    w, positive = start.clone(), start > 0
    while True:
        slope = (target - gram @ w).where(~positive, -torch.inf)
        entering = int(slope.argmax())
        if slope[entering] <= _EXHAUSTED * target.abs().max():
            return w
        positive[entering] = True
        while True:
            free = positive.nonzero().flatten()
            goal = torch.zeros_like(w)
            goal[free] = torch.linalg.solve(gram[free][:, free], target[free])
            blocked = positive & (goal <= 0)
            if not blocked.any():
                break
            room = w[blocked] - goal[blocked]
            step = (w[blocked] / room.clamp(min=torch.finfo(w.dtype).tiny)).min()
            w = w + step * (goal - w)
            positive &= w > torch.finfo(w.dtype).eps * w.max()
            w[~positive] = 0
        w = goal
        if not positive[entering]:  # only by rounding
            return w


def _bordered(gram: Tensor, row: Tensor, ridge: float) -> Tensor:
    """Return the inner products of one vector more, with a ridge on the diagonal."""
    k = len(gram)
    larger = gram.new_zeros(k + 1, k + 1)
    larger[:k, :k], larger[k], larger[:, k] = gram, row, row
    larger[k, k] += ridge
    return larger
