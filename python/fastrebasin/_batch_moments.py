"""Second moments of one batch of observations, about its own means.

A batch is cut into chunks; each is shifted by almost its mean before it is multiplied, so that
nothing cancels however far the mean is from zero, and the product is in float32 (float64 for such
inputs). On a CUDA device the core's kernels do the same, a batch at a time, where they were built.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastrebasin import _native
from fastrebasin._precision import Precision, full_precision

__all__ = ["BatchMoments", "by_chunks", "by_kernels", "has_kernels"]

# Observations in one product of matrices: enough for its speed, few enough for its rounding (see
# `_shift`), and for both operands to stay in a cache.
_CHUNK = 2048


class BatchMoments(NamedTuple):
    """Moments of n units of x and m of y; see `Moments`."""

    observations: int
    eps: float  # of the narrowest numbers that were multiplied
    mean_x: Tensor
    mean_y: Tensor
    scatter_x: Tensor
    scatter_y: Tensor
    scatter: Tensor


def has_kernels(x: Tensor, y: Tensor) -> bool:
    """Whether the core has kernels for a batch, and there is any work."""
    return _native.has_cross_moments(x, y)


def by_kernels(
    batches: Sequence[tuple[Tensor, Tensor]], axis: int, precision: Precision
) -> list[BatchMoments]:
    """Return the moments of each batch, whose products are summed by the core, all at once."""
    if not batches:
        return []
    sums = _native.cross_moments([_native.Observations(*pair, axis) for pair in batches], precision)
    counts = [x.numel() // x.shape[axis] for x, _ in batches]
    found = [_about_means(*each) for each in zip(counts, sums, strict=True)]
    return [
        _with_squares(moments) if y is x else moments
        for (x, y), moments in zip(batches, found, strict=True)
    ]


def by_chunks(x: Tensor, y: Tensor, axis: int) -> Iterator[BatchMoments]:
    """Yield the moments of the chunks of a batch, which torch multiplies."""
    if not x.numel() and not y.numel():
        return
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    with full_precision(x.device):
        if y is x:
            yield from (_of_one(u, dtype) for u in _chunks(x, axis))
        else:
            chunks = zip(_chunks(x, axis), _chunks(y, axis), strict=True)
            yield from (_of_pair(u, v, dtype) for u, v in chunks)


def _about_means(count: int, sums: _native.CrossMoments) -> BatchMoments:
    """Return the moments that sums about shifts come to."""
    rest_x, rest_y = sums.sums_x / count, sums.sums_y / count
    return BatchMoments(
        count,
        torch.finfo(torch.float32).eps,
        sums.shift_x + rest_x,
        sums.shift_y + rest_y,
        sums.squares_x.addcmul_(rest_x, rest_x, value=-count),
        sums.squares_y.addcmul_(rest_y, rest_y, value=-count),
        # Each product first, so that those of x with itself stay symmetric.
        sums.products.sub_(torch.outer(rest_x, rest_y).mul_(count)),
    )


def _chunks(x: Tensor, axis: int) -> Iterator[Tensor]:
    """Yield pieces of a tensor, units first; where they are cut depends on its shape alone."""
    units = x.movedim(axis, 0)
    inner = math.prod(units.shape[2:])
    for part in units.split(max(1, _CHUNK // max(1, inner)), 1):
        if inner > _CHUNK:
            yield from part.flatten(1).split(_CHUNK, 1)
            continue
        with contextlib.suppress(RuntimeError):  # where observations lie evenly, as tokens do
            part = part.view(len(part), -1)
        yield part


def _of_pair(u: Tensor, v: Tensor, dtype: torch.dtype) -> BatchMoments:
    """Return the moments of one chunk of each network."""
    x, mean_x, rest_x, scatter_x = _centred(u, dtype)
    y, mean_y, rest_y, scatter_y = _centred(v, dtype)
    count = x.shape[1]
    scatter = (x @ y.T).double().addr_(rest_x, rest_y, alpha=-count)
    eps = torch.finfo(dtype).eps
    return BatchMoments(count, eps, mean_x, mean_y, scatter_x, scatter_y, scatter)


def _of_one(u: Tensor, dtype: torch.dtype) -> BatchMoments:
    """Return the moments of one chunk with itself."""
    x, mean, rest, squares = _centred(u, dtype)
    count = x.shape[1]
    scatter = (x @ x.T).double().addr_(rest, rest, alpha=-count)
    eps = torch.finfo(dtype).eps
    moments = BatchMoments(count, eps, mean, mean.clone(), squares, squares.clone(), scatter)
    return _with_squares(moments)


def _with_squares(of_one: BatchMoments) -> BatchMoments:
    """Take the products of units with themselves from where they are summed more precisely.

    The last digits of squares aren't as likely one as another: where all numbers have few digits,
    as in half precision, a long sum is rounded down more often than up.
    """
    of_one.scatter.diagonal().copy_(of_one.scatter_x)
    return of_one


def _centred(u: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a chunk about almost its mean, its mean, what was left of it, and its scatter."""
    count = math.prod(u.shape[1:])
    wide = u.to(dtype)
    shift = _shift(wide)
    # Images come to lie in rows of observations; matrices can be multiplied as they lie.
    order = torch.contiguous_format if u.ndim > 2 else torch.preserve_format
    centred = torch.empty_like(wide, memory_format=order)
    torch.sub(wide, shift.reshape(-1, *[1] * (u.ndim - 1)), out=centred)
    centred = centred.flatten(1)
    rest = centred.sum(1).double() / count
    scatter = centred.square().sum(1).double().addcmul_(rest, rest, value=-count)
    return centred, shift.double() + rest, rest, scatter


def _shift(u: Tensor) -> Tensor:
    """Return the units' means, rounded to half a deviation at most.

    Many values may be equal, such as the zeros of a ReLU. Were they to differ from the shift by
    many digits, each addition would be rounded the same way, and the errors would add up. With few
    digits the sums are exact.
    """
    axes = list(range(1, u.ndim))
    low, high = u.amin(axes), u.amax(axes)
    # The next power of two over 128: a deviation is no less than a 64th of the spread in a chunk.
    step = (high - low) / torch.frexp(high - low).mantissa / 128
    return torch.where(step > 0, (u.mean(axes) / step).round() * step, low)
