"""What every matching method returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fastrebasin.assignment import Assignment
from fastrebasin.permutation import Permutation

__all__ = ["Matching"]


@dataclass(frozen=True)
class Matching:
    """A permutation of B's units, and how it was found.

    Attributes:
        permutation: int64 vector for each group, on the CPU; applying it moves B onto A.
        objective: inner product of A's parameters with B's permuted ones (float64 sum); larger is
            closer.
        sweeps: passes over all groups, summed over all steps of the method.
        losses: the loss at each step, for methods that use data; empty otherwise.
        objectives: the objective after each sweep, for weight matching; empty otherwise.
        assignments: the last assignment of each group that was solved by itself, on the weights'
            device; its duals start the next matching of similar weights.
    """

    permutation: Permutation
    objective: float
    sweeps: int
    losses: tuple[float, ...] = ()
    objectives: tuple[float, ...] = ()
    assignments: Mapping[str, Assignment] = field(default_factory=dict, repr=False)
