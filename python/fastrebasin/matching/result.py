"""What every matching method returns."""

from __future__ import annotations

from dataclasses import dataclass

from fastrebasin.permutation import Permutation

__all__ = ["Matching"]


@dataclass(frozen=True)
class Matching:
    """A permutation of B's units, and how it was found.

    Attributes:
        permutation: int64 vector for each group; applying it moves B onto A.
        objective: inner product of A's parameters with B's permuted ones (float64 sum); larger is
            closer.
        sweeps: passes over all groups, summed over all steps of the method.
        losses: the loss at each step, for methods that use data; empty otherwise.
    """

    permutation: Permutation
    objective: float
    sweeps: int
    losses: tuple[float, ...] = ()
