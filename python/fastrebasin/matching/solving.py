"""Assignments of the largest sum, solved where the costs lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from fastrebasin.assignment import Assignment, solve_assignment
from fastrebasin.device_assignment import DeviceSolutions, DeviceStack, solve_on_device
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
    stacks = [
        DeviceStack(
            cost[None],
            None if start is None else (start.col_ind[None], start.col_duals[None]),
            False,
        )
        for cost, start in zip(costs, former, strict=True)
    ]
    found = _on_device(stacks, readings)
    return [stack.assignment(solution) for stack, solution in zip(stacks, found, strict=True)]


def solve_stack(costs: Tensor, readings: Readings) -> Tensor:
    """Return the partners of rows, (batch, n), for costs of shape (batch, n, n); see `solve`."""
    if readings.at_once:
        partners: Tensor = solve_assignment(costs, maximize=True).col_ind
        return partners
    (found,) = _on_device([DeviceStack(costs, None, is_batch=True)], readings)
    return found.col4row


def assignment_on(found: Assignment, device: torch.device) -> Assignment:
    """Return an assignment on a device."""
    fields = (getattr(found, field.name) for field in dataclasses.fields(found))
    return Assignment(*(torch.as_tensor(value, device=device) for value in fields))


def _on_device(stacks: Sequence[DeviceStack], readings: Readings) -> list[DeviceSolutions]:
    """Return solutions, with some partner even where there is none, until that is reported."""
    if not stacks:
        return []
    found = solve_on_device(
        [stack.costs for stack in stacks], [stack.former for stack in stacks], maximize=True
    )
    readings.later([torch.cat([solution.status for solution in found]).amax()], _check)
    return [solution._replace(col4row=solution.col4row.clamp(min=0)) for solution in found]


def _check(status: float) -> None:
    if status:
        raise ValueError("cost matrices must be finite, but one of them is not")
