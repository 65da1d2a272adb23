"""Assignments of the largest sum, solved where the costs lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from fastrebasin.assignment import Assignment, solve_assignment
from fastrebasin.device_assignment import DeviceSolutions, solve_on_device
from fastrebasin.matching.readings import Readings

__all__ = ["assignment_on", "solve", "solve_stack"]


def solve(
    costs: Sequence[Tensor], former: Sequence[Assignment | None], readings: Readings
) -> list[Assignment]:
    """Solve matrices of shape (n, n), all at once; former assignments only save time.

    Where reading isn't free, a cost that has no optimum is reported when numbers are read.

    Raises:
        ValueError: a cost isn't finite.
    """
    if readings.at_once:
        return solve_assignment(list(costs), maximize=True, warm_start=list(former))
    warm = [
        None if start is None else (start.col_ind[None], start.col_duals[None]) for start in former
    ]
    found = _on_device([cost[None] for cost in costs], warm, readings)
    return [_assignment(cost, solutions) for cost, solutions in zip(costs, found, strict=True)]


def solve_stack(costs: Tensor, readings: Readings) -> Tensor:
    """Return the partners of rows, (batch, n), for costs of shape (batch, n, n); see `solve`."""
    if readings.at_once:
        partners: Tensor = solve_assignment(costs, maximize=True).col_ind
        return partners
    (found,) = _on_device([costs], [None], readings)
    return _partners(found)


def assignment_on(found: Assignment, device: torch.device) -> Assignment:
    """Return an assignment on a device."""
    fields = (getattr(found, field.name) for field in dataclasses.fields(found))
    return Assignment(*(torch.as_tensor(value, device=device) for value in fields))


def _on_device(
    stacks: Sequence[Tensor], warm: Sequence[tuple[Tensor, Tensor] | None], readings: Readings
) -> list[DeviceSolutions]:
    if not stacks:
        return []
    # Wider costs are rounded: the caller compares what it finds in their own dtype.
    found = solve_on_device([stack.float() for stack in stacks], warm, maximize=True)
    readings.later([torch.cat([solutions.status for solutions in found]).amax()], _check)
    return found


def _check(status: float) -> None:
    if status:
        raise ValueError("cost matrices must be finite, but one of them is not")


def _partners(found: DeviceSolutions) -> Tensor:
    """Return each row's partner: an index even of what has no solution, until that is reported."""
    return found.col4row.clamp(min=0)


def _assignment(cost: Tensor, found: DeviceSolutions) -> Assignment:
    partners = _partners(found)[0]
    return Assignment(
        row_ind=torch.arange(len(cost), device=cost.device),
        col_ind=partners,
        row_duals=found.row_duals[0],
        col_duals=found.col_duals[0],
        objective=cost.gather(1, partners[:, None]).sum(dtype=torch.float64),
        gap=found.gap[0],
    )
