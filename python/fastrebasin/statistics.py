"""Streaming second moments of units: counts, means, variances and cross-covariances, by batches.

Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances"
(1979): the sums of products of two parts, each about its own mean, add up to that of the whole
about its mean, with a correction of rank one. A batch is cut into chunks; each is shifted by almost
its mean before it is multiplied, so that nothing cancels however far the mean is from zero, and the
product is in float32 (float64 for such inputs). Means, corrections and sums over chunks are in
float64. On a CUDA device the core's kernels do the same, a batch at a time, where they were built.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from fastrebasin import _native
from fastrebasin._precision import full_precision

__all__ = ["Moments"]

# Observations in one product of matrices: enough for its speed, few enough for its rounding (see
# `_shift`), and for both operands to stay in a cache.
_CHUNK = 2048
# A unit whose values differ by fewer units in the last place of their mean is constant but for
# rounding.
_ROUNDING = 8


class Moments:
    """Means and second moments of pairs of units: those of x, of A say, against those of y, of B.

    What was observed in parts, in any order or on several machines, is merged without loss. The
    accumulators are float64 tensors on the observations' device.

    Attributes:
        count: number of observations.
        mean_x, mean_y: the units' means, float64 of shape (n,) and (m,).
        scatter_x, scatter_y: sums of squares about the means, of the same shapes.
        scatter: sums of products about the means, float64 of shape (n, m).

    Example:
        >>> x, y = torch.randn(500, 3), torch.randn(500, 4)
        >>> moments = Moments()
        >>> for part_x, part_y in zip(x.split(100), y.split(100)):
        ...     moments.update(part_x, part_y)
        >>> whole = torch.corrcoef(torch.cat([x, y], dim=1).T)[:3, 3:]
        >>> torch.allclose(moments.correlation(), whole.double(), atol=1e-6)
        True

    Source: Chan, Golub and LeVeque, 1979.
    """

    def __init__(self) -> None:
        self.count: float = 0
        self.mean_x = self.mean_y = torch.zeros(0, dtype=torch.float64)
        self.scatter_x = self.scatter_y = self.mean_x
        self.scatter = torch.zeros(0, 0, dtype=torch.float64)
        self._eps = 0.0  # of the narrowest numbers that were multiplied

    @torch.no_grad()
    def update(self, x: Tensor, y: Tensor | None = None, *, axis: int = -1) -> None:
        """Add a batch of observations.

        Args:
            x: floating-point tensor with the n units of A on one axis; all other axes are
                observations, such as examples and positions. Read as it lies: images needn't be
                transposed.
            y: the same observations of B's m units; x itself by default, for the moments of one
                network alone.
            axis: that of the units in both.

        Raises:
            TypeError: x or y isn't a floating-point tensor.
            ValueError: x and y differ in observations or device, or in units from earlier batches.
        """
        y = x if y is None else y
        _check(x, y, axis)
        if not x.numel() and not y.numel():
            return
        if _native.has_cross_moments(x, y):
            self.merge(_by_kernels(x, y, axis))
            return
        dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
        with full_precision(x.device):
            if y is x:
                for u in _chunks(x, axis):
                    self.merge(_of_one(u, dtype))
            else:
                for u, v in zip(_chunks(x, axis), _chunks(y, axis), strict=True):
                    self.merge(_of_pair(u, v, dtype))

    def merge(self, other: Moments) -> None:
        """Add all that `other` observed, which stays as it is.

        Raises:
            ValueError: `other` has other numbers of units, or lies on another device.
        """
        if not other.count:
            return
        if not self.count:
            self.__dict__ |= copy.deepcopy(other.__dict__)
            return
        if self.scatter.shape != other.scatter.shape or self.scatter.device != other.scatter.device:
            raise ValueError(
                f"moments of {_units(self)} can't be merged with those of {_units(other)}"
            )
        total = self.count + other.count
        share, weight = other.count / total, self.count * other.count / total
        step_x, step_y = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        self.scatter.add_(other.scatter).addr_(step_x, step_y, alpha=weight)
        self.scatter_x.add_(other.scatter_x).addcmul_(step_x, step_x, value=weight)
        self.scatter_y.add_(other.scatter_y).addcmul_(step_y, step_y, value=weight)
        self.mean_x.add_(step_x, alpha=share)
        self.mean_y.add_(step_y, alpha=share)
        self.count, self._eps = total, max(self._eps, other._eps)

    def scale(self, weight: float) -> None:
        """Count every observation so far `weight` times, such as to balance two sources.

        Raises:
            ValueError: `weight` isn't positive.
        """
        if not 0 < weight < math.inf:
            raise ValueError(f"weight must be positive and finite, got {weight}")
        self.count *= weight
        for scatter in (self.scatter, self.scatter_x, self.scatter_y):
            scatter *= weight

    @property
    def variance_x(self) -> Tensor:
        """The variance of each unit of x, about its mean: float64 of shape (n,)."""
        return self.scatter_x / self._observed()

    @property
    def variance_y(self) -> Tensor:
        """The variance of each unit of y, about its mean: float64 of shape (m,)."""
        return self.scatter_y / self._observed()

    def covariance(self) -> Tensor:
        """Return the mean of products about the means, divided by `count`: float64, (n, m)."""
        return self.scatter / self._observed()

    def correlation(self) -> Tensor:
        """Return covariances over standard deviations, zero for units that never vary: (n, m)."""
        x = _inverse_root(self.variance_x, (_ROUNDING * self._eps * self.mean_x).square())
        y = _inverse_root(self.variance_y, (_ROUNDING * self._eps * self.mean_y).square())
        return (self.covariance() * x[:, None] * y).clamp(-1, 1)

    def gram(self) -> Tensor:
        """Return the mean of products, not centred: float64 of shape (n, m)."""
        return self.covariance().addr_(self.mean_x, self.mean_y)

    def cosine(self) -> Tensor:
        """Return the cosine of each two units over all observations, zero for units of zeros."""
        x = _inverse_root(self.variance_x + self.mean_x.square(), torch.zeros_like(self.mean_x))
        y = _inverse_root(self.variance_y + self.mean_y.square(), torch.zeros_like(self.mean_y))
        return (self.gram() * x[:, None] * y).clamp(-1, 1)

    def _observed(self) -> float:
        if not self.count:
            raise ValueError("moments need at least one observation, got none")
        return self.count


def _by_kernels(x: Tensor, y: Tensor, axis: int) -> Moments:
    """Return the moments of a batch, whose products are summed by the core, in its own chunks."""
    shift_x = _shift(x.movedim(axis, 0).float()).contiguous()
    shift_y = shift_x if y is x else _shift(y.movedim(axis, 0).float()).contiguous()
    sums = _native.cross_moments(x, y, axis, shift_x, shift_y)
    found = Moments()
    found.count, found._eps = x.numel() // x.shape[axis], torch.finfo(torch.float32).eps
    rest_x, rest_y = sums.sums_x / found.count, sums.sums_y / found.count
    found.mean_x, found.mean_y = shift_x.double() + rest_x, shift_y.double() + rest_y
    found.scatter = sums.products.addr_(rest_x, rest_y, alpha=-found.count)
    found.scatter_x = sums.squares_x.addcmul_(rest_x, rest_x, value=-found.count)
    found.scatter_y = sums.squares_y.addcmul_(rest_y, rest_y, value=-found.count)
    return found


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


def _of_pair(u: Tensor, v: Tensor, dtype: torch.dtype) -> Moments:
    """Return the moments of one chunk of each network."""
    found = Moments()
    x, found.mean_x, rest_x, found.scatter_x = _centred(u, dtype)
    y, found.mean_y, rest_y, found.scatter_y = _centred(v, dtype)
    found.count, found._eps = x.shape[1], torch.finfo(dtype).eps
    found.scatter = (x @ y.T).double().addr_(rest_x, rest_y, alpha=-found.count)
    return found


def _of_one(u: Tensor, dtype: torch.dtype) -> Moments:
    """Return the moments of one chunk with itself."""
    found = Moments()
    x, found.mean_x, rest, found.scatter_x = _centred(u, dtype)
    found.mean_y, found.scatter_y = found.mean_x.clone(), found.scatter_x.clone()
    found.count, found._eps = x.shape[1], torch.finfo(dtype).eps
    found.scatter = (x @ x.T).double().addr_(rest, rest, alpha=-found.count)
    return found


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


def _inverse_root(variance: Tensor, floor: Tensor) -> Tensor:
    return torch.where(variance > floor, variance.rsqrt(), 0.0)


def _check(x: Tensor, y: Tensor, axis: int) -> None:
    for name, tensor in (("x", x), ("y", y)):
        if not (isinstance(tensor, Tensor) and tensor.is_floating_point()):
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"{name} must be a floating-point tensor, got {kind}")
    observed = [list(tensor.shape) for tensor in (x, y)]
    if x.ndim < 2 or not -x.ndim <= axis < x.ndim:
        raise ValueError(f"x must have an axis {axis} of units and others, got {tuple(x.shape)}")
    for shape in observed[: 1 + (y.ndim == x.ndim)]:
        del shape[axis]
    if observed[0] != observed[1] or x.device != y.device:
        raise ValueError(
            f"x and y must hold the same observations beside the units on axis {axis}, on one "
            f"device, got {tuple(x.shape)} on {x.device} and {tuple(y.shape)} on {y.device}"
        )


def _units(moments: Moments) -> str:
    n, m = moments.scatter.shape
    return f"{n} and {m} units on {moments.scatter.device}"
