"""The operators on a CUDA device: without one, with a stand-in for its solver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from operator_cases import SHAPES, assert_same, by_scipy
from torch import Tensor

from fastrebasin import _native, operators
from fastrebasin._native import DeviceSolutions
from fastrebasin.operators import cross_moments, linear_assignment


def solved_elsewhere(
    stacks: Sequence[Tensor], warm: Sequence[Any], maximize: bool
) -> list[DeviceSolutions]:
    """Stand in for the kernels, on the CPU."""
    assert list(warm) == [None] * len(stacks)
    found = []
    for stack in stacks:
        col4row, status = zip(*(solution(cost, maximize) for cost in stack), strict=True)
        batch, n, m = stack.shape
        row_duals, col_duals, gap = map(stack.new_zeros, ((batch, n), (batch, m), (batch,)))
        found.append(
            DeviceSolutions(torch.stack(col4row), row_duals, col_duals, gap, torch.tensor(status))
        )
    return found


def solution(cost: Tensor, maximize: bool) -> tuple[Tensor, int]:
    """Return each row's column and a status; any columns where there is no solution."""
    try:
        return by_scipy(cost, maximize)[1], 0
    except ValueError:
        return torch.arange(len(cost)), 2


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "solve_device_assignments", solved_elsewhere)


@pytest.mark.usefixtures("replaced")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int64])
def test_pairs_of_the_devices_solver(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    cost = (1000 * torch.rand(shape)).to(dtype)
    found = operators._on_device(cost, maximize=True)
    assert_same(found, by_scipy(cost.double(), maximize=True))
    assert all(part.is_contiguous() for part in found)


def assert_missing_solutions_are_told(solve: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
    for shape in ((3, 4, 4), (3, 2, 4), (3, 4, 2)):
        costs = torch.rand(shape)
        costs[1, 0] = torch.nan
        costs[2] = torch.inf
        rows, cols = solve(costs)
        assert_same((rows[0], cols[0]), by_scipy(costs[0].to(rows.device)))
        assert (cols[1:] == -1).all()
        assert (rows[1:].diff() > 0).all()
        assert rows.shape == cols.shape == (3, min(shape[1:]))


@pytest.mark.usefixtures("replaced")
def test_a_device_tells_of_missing_solutions_by_negative_columns() -> None:
    assert_missing_solutions_are_told(operators._on_device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device found")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_nothing_waits_for_the_device() -> None:
    assert_missing_solutions_are_told(lambda costs: linear_assignment(costs.cuda()))
    cost = torch.rand(2, 40, 30, device="cuda")
    linear_assignment(cost)
    graph = torch.cuda.CUDAGraph()
    torch.cuda.set_sync_debug_mode("error")
    try:
        linear_assignment(cost), cross_moments(cost, cost)
        with torch.cuda.graph(graph):
            captured = linear_assignment(cost)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    cost.uniform_()
    graph.replay()
    assert_same(captured, by_scipy(cost))
