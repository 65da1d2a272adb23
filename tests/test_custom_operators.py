"""Operators of compiled graphs: their rules, and the results and errors of plain functions."""

from __future__ import annotations

import pytest
import torch
from operator_cases import SHAPES, assert_same, by_scipy
from torch.library import opcheck

from fastrebasin import linear_sum_assignment, solve_assignment
from fastrebasin.operators import cross_moments, linear_assignment

EMPTY = [(0, 3), (0, 3, 3), (2, 0, 3)]


@pytest.mark.parametrize("shape", SHAPES + EMPTY, ids=str)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_the_assignment_keeps_the_rules_of_operators(
    shape: tuple[int, ...], requires_grad: bool, device: str
) -> None:
    cost = torch.rand(shape, device=device, requires_grad=requires_grad)
    opcheck(torch.ops.fastrebasin.linear_assignment, (cost,), {"maximize": True})
    found = linear_assignment(cost)
    assert not any(part.requires_grad for part in found)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("maximize", [False, True])
def test_assignments_are_scipys(shape: tuple[int, ...], maximize: bool, device: str) -> None:
    for turned in (False, True):
        cost = torch.rand(shape, device=device)
        cost = cost.mT.contiguous().mT if turned else cost
        assert_same(linear_assignment(cost, maximize), by_scipy(cost, maximize))


def test_a_batch_is_the_dimension_of_vmap(device: str) -> None:
    costs = torch.rand(3, 2, 4, 5, device=device)
    expected = tuple(part.view(3, 2, 4) for part in by_scipy(costs.flatten(0, 1)))
    assert_same(torch.vmap(torch.vmap(linear_assignment))(costs), expected)
    assert_same(torch.vmap(linear_assignment)(costs), expected)
    assert_same(torch.vmap(linear_assignment, in_dims=2)(costs.movedim(0, 2)), expected)
    with pytest.raises(ValueError, match="got 1 axes"):
        torch.vmap(linear_assignment)(costs[0, 0])


BAD = {
    "NaN": torch.full((3, 3), torch.nan),
    "infeasible": torch.full((3, 3), torch.inf),
    "complex": torch.zeros(3, 3, dtype=torch.complex64),
    "far apart": torch.tensor([[-(2**62), 2**62]] * 2),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("batch", [False, True])
def test_errors_are_those_of_the_plain_function(kind: str, batch: bool) -> None:
    bad = BAD[kind]
    with pytest.raises((ValueError, TypeError)) as plain:
        solve_assignment(bad[None]) if batch else linear_sum_assignment(bad)
    compiled = torch.compile(linear_assignment, fullgraph=True, backend="aot_eager")
    for solve in (linear_assignment, compiled):
        with pytest.raises(plain.type) as raised:
            solve(bad[None] if batch else bad)
        expected = str(plain.value).replace("cost_matrix", "cost")
        assert str(raised.value).startswith(expected)  # some versions of torch add where it was


def test_what_is_no_matrix_is_refused() -> None:
    for shape in ((3,), (2, 3, 4, 4)):
        for other in ("cpu", "meta"):
            with pytest.raises(ValueError, match=f"a matrix or a batch of them, got {len(shape)}"):
                linear_assignment(torch.zeros(shape, device=other))


@pytest.mark.parametrize(
    ("of_x", "of_y", "axis"),
    [
        ((9, 3), (9, 4), -1), ((2, 3, 5), (2, 4, 5), 1), ((7, 1), (7, 1), 1),
        ((0, 3), (0, 4), -1), ((9, 0), (9, 4), -1), ((9, 3), (9, 0), -1), ((0, 0), (0, 0), -1),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_cross_moments_are_sums_of_products(
    of_x: tuple[int, ...], of_y: tuple[int, ...], axis: int, dtype: torch.dtype, device: str
) -> None:
    x, y = (torch.randn(shape, device=device).to(dtype) for shape in (of_x, of_y))
    opcheck(torch.ops.fastrebasin.cross_moments, (x, y, axis))
    found = cross_moments(x, y, axis)
    u, v = (t.double().movedim(axis, 0).flatten(1) for t in (x, y))
    sums = (u @ v.T, u.sum(1), u.square().sum(1), v.sum(1), v.square().sum(1))
    for part, expected in zip(found, sums, strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-6, atol=1e-5)


def test_sums_of_batches_tell_deviations_from_means(device: str) -> None:
    x = (100 + 0.01 * torch.randn(4000, 3, dtype=torch.float64)).float().to(device)
    batches = [cross_moments(part, part) for part in x.split([1500, 2500])]
    products, sums, squares, *_ = (sum(parts) for parts in zip(*batches, strict=True))
    mean = sums / len(x)
    centred = x.double() - x.double().mean(0)
    scatter = products - len(x) * mean[:, None] * mean
    error = scatter - centred.T @ centred
    assert error.abs().max() < 1e-5 * len(x) * 0.01**2
    torch.testing.assert_close(squares, products.diagonal(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("of_x", "of_y", "axis"), [((9, 3), (9, 4), -1), ((2, 3, 5), (2, 4, 5), 1)]
)
def test_gradients_of_cross_moments(
    of_x: tuple[int, ...], of_y: tuple[int, ...], axis: int, device: str
) -> None:
    x, y = (
        torch.randn(shape, dtype=torch.float64, device=device, requires_grad=True)
        for shape in (of_x, of_y)
    )
    assert torch.autograd.gradcheck(lambda x, y: cross_moments(x, y, axis), (x, y))
    opcheck(torch.ops.fastrebasin.cross_moments, (x, y, axis))


def test_cross_moments_refuse_what_moments_do() -> None:
    x = torch.zeros(4, 3)
    with pytest.raises(TypeError, match=r"y must be a floating-point tensor, got torch\.int64"):
        cross_moments(x, x.long())
    with pytest.raises(ValueError, match="the same observations"):
        cross_moments(x, torch.zeros(5, 3))
