"""Operators that `torch.compile` and `torch.export` keep whole: `torch.ops.fastrebasin`.

A compiler that meets native code splits the program there. It doesn't at an operator whose shapes
it knows, so that a model or a loss with a matcher inside is one graph. Importing the package
registers them. Gradients flow through sums of products, and not through an assignment.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from fastrebasin.assignment import solve_assignment, solve_tensor
from fastrebasin.assignment_result import check_axes
from fastrebasin.device_assignment import as_device_stack, solve_on_device
from fastrebasin.statistics import Moments

__all__ = ["cross_moments", "linear_assignment"]

Pairs = tuple[Tensor, Tensor]
Sums = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def linear_assignment(cost: Tensor, maximize: bool = False) -> Pairs:
    """Solve assignment problems exactly, in one operator of a compiled graph.

    `linear_sum_assignment` is this for one matrix, wherever it is compiled. `torch.vmap` over
    matrices solves them as a batch.

    Args:
        cost: shape (n, m) or (batch, n, m), of any real dtype, as for `solve_assignment`.
        maximize: find the assignment of largest instead of smallest sum.

    Returns:
        (row_ind, col_ind), int64 of shape (min(n, m)) or (batch, min(n, m)) on the costs' device,
        `row_ind` ascending. On a CUDA device nothing waits to see whether there is a solution:
        where there is none, `col_ind` is -1 throughout. (Integers of 64 bits are looked at first.)

    Raises:
        ValueError: not a matrix or a batch of matrices; and on the CPU, NaN or infinitely good
            entries, or no complete assignment.
        TypeError: a dtype that can't be read without loss.

    Example:
        >>> costs = torch.cdist(torch.rand(4, 8, 2), torch.rand(4, 5, 2))
        >>> rows, cols = linear_assignment(costs)
        >>> rows.shape
        torch.Size([4, 5])
        >>> torch.equal(torch.vmap(linear_assignment)(costs)[1], cols)
        True

    Source: as `linear_sum_assignment`.
    """
    found: Pairs = torch.ops.fastrebasin.linear_assignment(cost, maximize)
    return found


def cross_moments(x: Tensor, y: Tensor, axis: int = -1) -> Sums:
    """Sum over observations the values, squares and products of units, in one operator.

    Args:
        x: floating-point tensor with n units on one axis; all other axes are observations.
        y: the same observations of m units.
        axis: that of the units in both.

    Returns:
        (products, sums_x, squares_x, sums_y, squares_y), float64 of shape (n, m), (n), (n), (m)
        and (m): sums of the outputs of batches are those of all data. Gradients flow through them.

    Raises:
        TypeError: x or y isn't a floating-point tensor.
        ValueError: x and y differ in observations or device.

    Example:
        >>> x, y = torch.randn(500, 3), torch.randn(500, 4)
        >>> products, sums_x, *_ = cross_moments(x, y)
        >>> torch.allclose(products, x.double().T @ y.double())
        True

    Source: as `fastrebasin.statistics.Moments`, which finds them about the means.
    """
    found: Sums = torch.ops.fastrebasin.cross_moments(x, y, axis)
    return found


@custom_op(
    "fastrebasin::linear_assignment",
    mutates_args=(),
    schema="(Tensor cost, bool maximize=False) -> (Tensor row_ind, Tensor col_ind)",
)
def _linear_assignment(cost: Tensor, maximize: bool = False) -> Pairs:
    check_axes(cost.ndim, (2, 3), "cost")
    if cost.ndim == 2:
        return solve_tensor(cost, "cost", maximize)
    found = solve_assignment(cost, maximize=maximize)
    return found.row_ind.contiguous(), found.col_ind


@_linear_assignment.register_kernel("cuda")
def _on_device(cost: Tensor, maximize: bool = False) -> Pairs:
    costs = as_device_stack(cost, None, "cost", "", (2, 3)).costs
    (found,) = solve_on_device([costs], [None], maximize)
    batch, n, m = costs.shape
    col_ind = torch.where(found.status[:, None] == 0, found.col4row, -1)
    row_ind = torch.arange(n, device=cost.device).repeat(batch, 1)
    if n > m:  # rows that are left over come last
        row_ind = (col_ind < 0).byte().argsort(dim=1, stable=True)[:, :m].contiguous()
        col_ind = col_ind.gather(1, row_ind)
    return (row_ind, col_ind) if cost.ndim == 3 else (row_ind[0], col_ind[0])


@_linear_assignment.register_fake
def _(cost: Tensor, maximize: bool = False) -> Pairs:  # noqa: ARG001
    check_axes(cost.ndim, (2, 3), "cost")
    *batch, n, m = cost.shape
    shape = (*batch, torch.sym_min(n, m))  # which of them is smaller stays open
    row_ind, col_ind = (cost.new_empty(shape, dtype=torch.int64) for _ in range(2))
    return row_ind, col_ind


@_linear_assignment.register_vmap
def _(info: Any, in_dims: Any, cost: Tensor, maximize: bool = False) -> Any:  # noqa: ARG001
    check_axes(cost.ndim - 1, (2, 3), "cost")
    stacked = cost.movedim(in_dims[0], 0)
    found = linear_assignment(stacked.flatten(0, -3), maximize)
    return tuple(part.view(*stacked.shape[:-2], part.shape[-1]) for part in found), (0, 0)


def _no_sums(x: Tensor, y: Tensor, axis: int = -1) -> Sums:
    def zeros(*shape: int) -> Tensor:
        return x.new_zeros(shape, dtype=torch.float64)

    n, m = x.shape[axis], y.shape[axis]
    return zeros(n, m), zeros(n), zeros(n), zeros(m), zeros(m)


@custom_op(
    "fastrebasin::cross_moments",
    mutates_args=(),
    schema=(
        "(Tensor x, Tensor y, int axis=-1) -> (Tensor products, "
        "Tensor sums_x, Tensor squares_x, Tensor sums_y, Tensor squares_y)"
    ),
)
def _cross_moments(x: Tensor, y: Tensor, axis: int = -1) -> Sums:
    moments = Moments()
    moments.update(x, y, axis=axis)
    count = moments.count
    if not count:
        return _no_sums(x, y, axis)
    return (
        moments.scatter.addr(moments.mean_x, moments.mean_y, alpha=count),
        moments.mean_x * count,
        moments.scatter_x.addcmul(moments.mean_x, moments.mean_x, value=count),
        moments.mean_y * count,
        moments.scatter_y.addcmul(moments.mean_y, moments.mean_y, value=count),
    )


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Sums) -> None:  # noqa: ARG001
    x, y, ctx.axis = inputs
    ctx.save_for_backward(x, y)


def _backward(
    ctx: Any, products: Tensor, sums_x: Tensor, squares_x: Tensor, sums_y: Tensor, squares_y: Tensor
) -> tuple[Tensor, Tensor, None]:
    x, y = ctx.saved_tensors
    grad_x = _gradient(x, y, ctx.axis, products, sums_x, squares_x)
    return grad_x, _gradient(y, x, ctx.axis, products.T, sums_y, squares_y), None


def _gradient(
    x: Tensor, y: Tensor, axis: int, products: Tensor, sums: Tensor, squares: Tensor
) -> Tensor:
    """Return the gradient of x from those of its sums, and of its products with y: (n, m)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    u, v = (t.movedim(axis, -1).to(wide) for t in (x, y))
    grad = v @ products.T.to(wide) + 2 * squares.to(wide) * u + sums.to(wide)
    return grad.movedim(-1, axis).to(x.dtype)


_cross_moments.register_fake(_no_sums)
_cross_moments.register_autograd(_backward, setup_context=_keep)
