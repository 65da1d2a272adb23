"""Assignment on a CUDA device; elsewhere its doors, with the CPU's solver in the kernels' place."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from assignment_oracle import STRUCTURES, assert_certified, rounding, with_forbidden_edges
from torch import Tensor

from fastrebasin import Assignment, _native, linear_sum_assignment, solve_assignment
from fastrebasin.device_assignment import as_device_stack, solve_on_device, solve_stacks

SHAPES = [(1, 1), (1, 7), (7, 1), (33, 33), (64, 65), (150, 40), (40, 150), (200, 200)]
LARGE = [(400, 400), (513, 700)]


def by_the_cpu(
    stacks: Sequence[Tensor], _: Sequence[Any], maximize: bool
) -> list[_native.DeviceSolutions]:
    found = []
    for stack in stacks:
        parts: list[list[Any]] = [[], [], [], [], []]
        for cost in stack:
            try:
                one = solve_assignment(cost.numpy(), maximize=maximize)
                row = (one.col_ind, one.row_duals, one.col_duals, one.gap, 0)
            except ValueError as error:
                n, m = cost.shape
                code = 2 if "infeasible" in str(error) else 1
                row = (np.full(n, -1), np.zeros(n), np.zeros(m), 0.0, code)
            for part, value in zip(parts, row, strict=True):
                part.append(torch.as_tensor(value))
        batch, n, m = stack.shape
        shapes = ((batch, n), (batch, n), (batch, m), (batch,), (batch,))
        dtypes = (torch.int64, *[torch.float64] * 3, torch.int32)
        found.append(
            _native.DeviceSolutions(
                *(
                    torch.stack(part).to(dtype) if batch else torch.zeros(shape, dtype=dtype)
                    for part, shape, dtype in zip(parts, shapes, dtypes, strict=True)
                )
            )
        )
    return found


@pytest.fixture(autouse=True)
def _stand_in(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if device == "cpu":
        monkeypatch.setattr(_native, "solve_device_assignments", by_the_cpu)


def solve(cost: Tensor, maximize: bool, start: Assignment | None = None) -> Assignment:
    stack = as_device_stack(cost, start, "cost", "warm_start", (2, 3))
    return solve_stacks([stack], maximize, lambda k: f"matrix {k}: ")[0]


def on_cpu(found: Assignment) -> Assignment:
    fields = (getattr(found, field.name) for field in dataclasses.fields(Assignment))
    return Assignment(*(field.cpu().numpy() for field in fields))


def assert_right(cost: np.ndarray[Any, Any], found: Assignment, maximize: bool) -> None:
    """Check the proof; the sum of the pairs may have been taken in another order."""
    host = on_cpu(found)
    exact = cost.astype(np.float64)[host.row_ind, host.col_ind].sum()
    assert host.objective == pytest.approx(exact, rel=1e-12, abs=rounding(cost))
    tolerance = 20 * rounding(cost)
    assert_certified(cost, dataclasses.replace(host, objective=exact), maximize, tolerance)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("maximize", [False, True])
def test_answers_prove_themselves(structure: str, dtype: type, maximize: bool, device: str) -> None:
    rng = np.random.default_rng(0)
    for shape in SHAPES if device == "cpu" else SHAPES + LARGE:
        cost: Any = STRUCTURES[structure](rng, *shape).astype(dtype)
        forbidden = [] if shape in LARGE else [with_forbidden_edges(cost, rng, maximize, 0.5)]
        for each in (cost, *forbidden):
            found = solve(torch.from_numpy(each).to(device), maximize)
            assert found.col_ind.device.type == device
            assert_right(each, found, maximize)


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e30])
def test_scales_at_the_ends_of_float32(scale: float, device: str) -> None:
    rng = np.random.default_rng(0)
    cost = (rng.normal(size=(100, 120)) * scale).astype(np.float32)
    assert_right(cost, solve(torch.from_numpy(cost).to(device), False), False)


@pytest.mark.parametrize("shape", [(90, 90), (40, 60)])
def test_a_warm_start_gives_the_optimum_of_the_new_matrix(
    shape: tuple[int, int], device: str
) -> None:
    rng = np.random.default_rng(0)
    cost = (rng.normal(size=(shape[0], 9)) @ rng.normal(size=(9, shape[1]))).astype(np.float32)
    former = solve(torch.from_numpy(cost).to(device), True)
    for noise in (0.0, 0.01, 1.0):
        new = (cost + noise * rng.normal(size=shape)).astype(np.float32)
        found = solve(torch.from_numpy(new).to(device), True, former)
        assert_right(new, found, True)
    host = on_cpu(former)
    wild = dataclasses.replace(
        host, col_ind=host.col_ind * 0 + 77, col_duals=np.full(shape[1], np.nan)
    )
    assert_right(cost, solve(torch.from_numpy(cost).to(device), True, wild), True)


def test_a_batch_is_its_matrices_one_by_one(device: str) -> None:
    costs = torch.randn(6, 50, 70).to(device)
    many = solve(costs, False)
    for k, cost in enumerate(costs):
        one = solve(cost, False)
        for field in dataclasses.fields(Assignment):
            assert torch.equal(getattr(one, field.name), getattr(many, field.name)[k]), field.name


def test_any_strides_and_dtypes(device: str) -> None:
    cost = (torch.randn(30, 45) * 10).to(device)
    expected = solve(cost, False).objective
    wide = torch.zeros(30, 90, device=device)
    wide[:, ::2] = cost
    for same in (wide[:, ::2], cost.T.contiguous().T, -torch._neg_view(cost), cost[None][0]):
        assert solve(same, False).objective == expected
    for dtype in (torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.uint8, torch.bool):
        narrow = cost.abs().to(dtype)
        assert_right(narrow.double().cpu().numpy(), solve(narrow, True), True)
    assert torch.equal(solve(cost.requires_grad_(), False).objective, expected)


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (4, 0), (2, 0, 3), (0, 3, 3)])
def test_empty_problems(shape: tuple[int, ...], device: str) -> None:
    found = solve(torch.zeros(shape, device=device), False)
    assert found.col_ind.numel() == 0
    assert not found.gap.any()


def test_equal_costs_give_the_identity(device: str) -> None:
    for n, m in ((40, 40), (30, 50), (50, 30)):
        found = solve(torch.full((n, m), 0.3, device=device), False)
        assert found.row_ind.tolist() == found.col_ind.tolist() == list(range(min(n, m)))


def test_impossible_problems_are_named(device: str) -> None:
    costs = torch.rand(3, 20, 20)
    costs[1, 3] = torch.inf
    with pytest.raises(ValueError, match="matrix 1: cost matrix is infeasible"):
        solve(costs.to(device), False)
    costs[1, 2, 5] = torch.nan
    with pytest.raises(ValueError, match="matrix 1: matrix contains invalid numeric entries"):
        solve(costs.to(device), False)
    # Two rows that only one column allows.
    costs = torch.rand(20, 20)
    costs[:2, 1:] = torch.inf
    with pytest.raises(ValueError, match="matrix 0: cost matrix is infeasible"):
        solve(costs.to(device), False)


def test_bad_arguments_are_refused(device: str) -> None:
    cost = torch.rand(3, 3, device=device)
    with pytest.raises(ValueError, match="cost must be a matrix or a batch of them, got 1 axes"):
        solve(cost[0], False)
    with pytest.raises(ValueError, match=r"warm_start must be of a problem of shape \(2, 2\)"):
        solve(cost[:2, :2], False, solve(cost, False))
    with pytest.raises(TypeError, match=r"cost must be a dense real tensor, got torch\.complex64"):
        solve(cost.to(torch.complex64), False)
    with pytest.raises(ValueError, match="must hold integers below"):
        solve(torch.full((2, 2), 2**60, device=device), False)
    with pytest.raises(ValueError, match="at most 65535 rows or columns"):
        solve(torch.zeros(1, 1, device=device).expand(65536, 65536), False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device found")
class TestOnDevice:
    """What only a device can show."""

    @pytest.fixture
    def device(self) -> str:
        return "cuda"

    def test_public_doors(self) -> None:
        cost = torch.rand(60, 40, device="cuda")
        rows, cols = linear_sum_assignment(cost)
        expected = linear_sum_assignment(cost.cpu())
        assert rows.is_cuda
        assert [rows.tolist(), cols.tolist()] == [part.tolist() for part in expected]
        first, second = solve_assignment([cost, cost.T.double()], maximize=True)
        assert first.objective == pytest.approx(second.objective.item(), rel=1e-6)
        with pytest.raises(ValueError, match=r"got 1 matrices on the CPU and 1 on cuda:0"):
            solve_assignment([cost, cost.cpu()])

    @pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
    def test_nothing_waits_and_a_graph_captures_it(self) -> None:
        costs = [torch.rand(3, 100, 100, device="cuda"), torch.rand(1, 40, 60, device="cuda")]
        solve_on_device(costs, [None, None], False)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            solve_on_device(costs, [None, None], False)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = solve_on_device(costs, [None, None], False)
        for cost in costs:
            cost.uniform_()
        graph.replay()
        for cost, solution in zip(costs, found, strict=True):
            for k, each in enumerate(cost):
                cols = solution.col4row[k].cpu()
                assert cols.tolist() == linear_sum_assignment(each.cpu())[1].tolist()

    def test_the_same_answer_every_time(self) -> None:
        cost = torch.randn(2000, 64, device="cuda") @ torch.randn(64, 2000, device="cuda")
        cost[::5] = 0
        cost[:, ::4] = 0
        first = solve_assignment(cost.round(decimals=1))
        for _ in range(5):
            again = solve_assignment(cost.round(decimals=1))
            for field in dataclasses.fields(Assignment):
                assert torch.equal(getattr(first, field.name), getattr(again, field.name))
