"""Matrices for the operators, and SciPy's pairs as their oracle."""

from __future__ import annotations

import scipy.optimize
import torch
from torch import Tensor

SHAPES = [(4, 4), (3, 6), (6, 3), (1, 1), (3, 0), (2, 4, 4), (2, 3, 6), (2, 6, 3), (2, 3, 0)]


def by_scipy(cost: Tensor, maximize: bool = False) -> tuple[Tensor, Tensor]:
    """Return SciPy's pairs of a matrix, or of each matrix of a batch."""
    if cost.ndim == 3:
        found = [by_scipy(matrix, maximize) for matrix in cost]
        return torch.stack([rows for rows, _ in found]), torch.stack([cols for _, cols in found])
    pairs = scipy.optimize.linear_sum_assignment(cost.detach().cpu(), maximize)
    rows, cols = (torch.from_numpy(part).to(cost.device) for part in pairs)
    return rows, cols


def assert_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for part, other in zip(found, expected, strict=True):
        assert part.dtype == torch.int64
        assert part.device == other.device
        assert torch.equal(part, other)
