"""Soft permutations: doubly stochastic matrices from scores, their gradient, mixtures of units.

Sinkhorn and Knopp 1967, doi:10.2140/pjm.1967.21.343, in logarithms, and the derivative of its fixed
point, as Guerrero Pena et al., CVPR 2023, and Eisenberger et al., CVPR 2022, have it. The formulas
are derived here, for the sums of rows and columns that were reached: so the gradient is exact also
where the balancing stops early, and none of its iterations is kept in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastrebasin import layout
from fastrebasin.matching.readings import Readings
from fastrebasin.spec import PermutationSpec

__all__ = ["mix_units", "soft_permutation"]

_RIDGE = 1e-12  # keeps the equations regular for a soft permutation that is all but hard


def soft_permutation(logits: Tensor, potential: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Scale exp(logits) by factors of rows and columns until all of them sum to one.

    Args:
        logits: shape (n, n), float32 or float64; may require a gradient.
        potential: shape (n,), logarithms of the columns' factors to start from, such as those that
            were found for similar logits.
        iterations: so many times all rows, then all columns; on the CPU at most.

    Returns:
        The doubly stochastic matrix, differentiable in `logits`, and the columns' potential.

    Example:
        >>> soft, _ = soft_permutation(torch.randn(3, 3), torch.zeros(3), iterations=100)
        >>> [torch.allclose(soft.sum(axis), torch.ones(3), atol=1e-3) for axis in (0, 1)]
        [True, True]

    Source: Sinkhorn and Knopp 1967, doi:10.2140/pjm.1967.21.343.
    """
    fixed, columns, readings = logits.detach(), potential, Readings(logits.device)
    tolerance = torch.finfo(logits.dtype).eps ** 0.5
    rows = -torch.logsumexp(fixed + columns, 1)
    for _ in range(iterations):
        columns = -torch.logsumexp(fixed + rows[:, None], 0)
        better = -torch.logsumexp(fixed + columns, 1)
        change = readings.known((better - rows).abs().max())
        if change is not None and change < tolerance:
            break  # columns sum to one, and rows nearly do
        rows = better
    else:
        columns = -torch.logsumexp(fixed + rows[:, None], 0)
    soft: Tensor = _Balanced.apply(logits, rows, columns)  # type: ignore[no-untyped-call]
    return soft, columns


class _Balanced(torch.autograd.Function):
    """exp(logits + rows + columns), differentiated with its own sums of rows and columns held."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        soft = (logits + rows[:, None] + columns).exp()
        ctx.save_for_backward(soft)
        return soft

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _implicit_gradient(*ctx.saved_tensors, *gradients), None, None


def _implicit_gradient(soft: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient at the logits, given that at P = exp(logits + f + g), both (n, n).

    A change of the logits is answered by f and g so that all sums stay. That makes of the gradient
    G the matrix P * (G - u - v), u by rows and v by columns such that all its rows and columns sum
    to zero. Of these 2n linear equations, those for u are solved by hand, which leaves n for v.
    """
    p = soft.double()  # the harder P, the worse the condition
    weighted = p * gradient.double()
    rows, columns = p.sum(1), p.sum(0)
    by_row = weighted.sum(1) / rows
    equations = torch.diag(columns + _RIDGE) - p.T @ (p / rows[:, None])
    equations += 1 / len(p)  # v is free by a constant, which u undoes: take the one of mean zero
    # What isn't finite goes on to the loss, whose message says more than a failed factorisation.
    factor: Tensor = torch.linalg.cholesky_ex(equations).L
    v = torch.cholesky_solve((weighted.sum(0) - p.T @ by_row)[:, None], factor)[:, 0]
    u = by_row - p @ v / rows
    return (weighted - p * (u[:, None] + v)).to(gradient.dtype)


def mix_units(
    tensor: Tensor, spec: PermutationSpec, name: str, soft: Mapping[str, Tensor]
) -> Tensor:
    """Return a parameter with each unit replaced by a mean of units, on every axis: out = P b.

    Args:
        tensor: what a bound spec calls `name`.
        spec: without groups inside groups.
        name: of the tensor.
        soft: a doubly stochastic matrix for each group; a permutation's makes of this
            `permute_units`.
    """
    for axis, axis_layout in enumerate(spec.layouts(name, tensor.ndim)):
        if axis_layout is not None:
            tensor = _mix_axis(tensor, axis, axis_layout, soft, spec.extents)
    return tensor


def _mix_axis(
    tensor: Tensor,
    axis: int,
    of_axis: layout.Layout,
    soft: Mapping[str, Tensor],
    extents: Mapping[str, int],
) -> Tensor:
    """Return a tensor mixed along one axis, piece by piece: autograd can't follow views of it."""
    mixed = tensor
    match of_axis:
        case layout.Units(group):
            mixed = torch.tensordot(soft[group].to(tensor.dtype), tensor, ([1], [axis]))
            mixed = mixed.movedim(0, axis)
        case layout.Product(factors):
            mixed = tensor.unflatten(axis, [layout.length(f, extents) for f in factors])
            for k, factor in enumerate(factors):
                mixed = _mix_axis(mixed, axis + k, factor, soft, extents)
            mixed = mixed.flatten(axis, axis + len(factors) - 1)
        case layout.Concatenation(parts):
            pieces = tensor.split([layout.length(part, extents) for part in parts], axis)
            mixed = torch.cat(
                [
                    _mix_axis(piece, axis, part, soft, extents)
                    for piece, part in zip(pieces, parts, strict=True)
                ],
                axis,
            )
    return mixed
