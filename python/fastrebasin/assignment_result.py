"""What is found of an assignment problem, and what another one may start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Assignment", "check_axes", "check_start"]


@dataclass(frozen=True)
class Assignment:
    """An optimal assignment and its proof.

    Attributes:
        row_ind, col_ind: int64 vectors of length min(n, m), `row_ind` ascending.
        row_duals, col_duals: float64 vectors of length n and m; up to rounding, their sums never
            exceed the costs (never fall below them when maximising), and equal them on the pairs.
        objective: sum of the pairs' costs, in float64.
        gap: bound on how far the objective can be from the optimum, in float64, computed from
            `col_duals` alone; zero, or what rounding makes of it.

    Arrays are torch tensors if the cost was one. A batch has a leading axis on all of them.
    """

    row_ind: Any
    col_ind: Any
    row_duals: Any
    col_duals: Any
    objective: Any
    gap: Any


def check_start(start: object, shape: tuple[int, ...], argument: str) -> Assignment:
    """Return a former result that costs of shape (..., n, m) can start from.

    Raises:
        TypeError: `start` is no `Assignment`.
        ValueError: it is of a problem of another shape.
    """
    if not isinstance(start, Assignment):
        raise TypeError(f"{argument} must be an Assignment, got {type(start).__name__}")
    found = (*start.row_duals.shape, *start.col_duals.shape[-1:])
    pairs = (*shape[:-2], min(shape[-2:]))
    if found != shape or tuple(start.col_ind.shape) != pairs:
        raise ValueError(f"{argument} must be of a problem of shape {shape}, got {found}")
    return start


def check_axes(ndim: int, ndims: tuple[int, ...], argument: str) -> None:
    """Raise a `ValueError` unless costs have one of these numbers of axes: 2, or 3 for a batch."""
    if ndim not in ndims:
        wanted = "a matrix or a batch of them" if 3 in ndims else "a matrix"
        raise ValueError(f"{argument} must be {wanted}, got {ndim} axes")
