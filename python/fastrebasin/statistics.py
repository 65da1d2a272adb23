"""Streaming second moments of units: counts, means, variances and cross-covariances, by batches.

Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances"
(1979): the sums of products of two parts, each about its own mean, add up to that of the whole
about its mean, with a correction of rank one. Means, corrections and sums are in float64.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastrebasin import _batch_moments
from fastrebasin._batch_moments import BatchMoments
from fastrebasin._precision import Precision

__all__ = ["Moments", "update_moments"]

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

    def update(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        axis: int = -1,
        precision: Precision = "highest",
    ) -> None:
        """Add a batch of observations.

        Args:
            x: floating-point tensor with the n units of A on one axis; all other axes are
                observations, such as examples and positions. Read as it lies: images needn't be
                transposed.
            y: the same observations of B's m units; x itself by default, for the moments of one
                network alone.
            axis: that of the units in both.
            precision: see `update_moments`.

        Raises:
            TypeError: x or y isn't a floating-point tensor.
            ValueError: x and y differ in observations or device, or in units from earlier batches.
        """
        update_moments([self], [(x, x if y is None else y)], axis=axis, precision=precision)

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

    def _add(self, batch: BatchMoments) -> None:
        part = Moments()
        part.count, part._eps, part.mean_x, part.mean_y, *scatters = batch
        part.scatter_x, part.scatter_y, part.scatter = scatters
        if self.count:
            self.merge(part)
        else:
            self.__dict__ |= part.__dict__

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


@torch.no_grad()
def update_moments(
    moments: Sequence[Moments],
    batches: Sequence[tuple[Tensor, Tensor]],
    *,
    axis: int = -1,
    precision: Precision = "highest",
) -> None:
    """Add a batch of observations to each of many moments, at once on a CUDA device.

    Args:
        moments: such as those of a network's layers.
        batches: for each of them x and y of `Moments.update`; all on one device.
        axis: that of the units in all.
        precision: of products of float32 numbers on a CUDA device, by torch's names: "highest" as
            accurate as float32 (an error of 2^-21), "high" of values rounded to TF32 (2^-10),
            "medium" to bfloat16 (2^-7), relative to the norms of two units less almost their means.
            Means and variances, and all on other devices, stay as accurate as float32.

    Raises:
        TypeError: x or y isn't a floating-point tensor.
        ValueError: `precision` is unknown, x and y differ in observations or device, or in units
            from earlier batches.

    Example:
        >>> layers = [Moments(), Moments()]
        >>> update_moments(layers, [(torch.randn(9, d), torch.randn(9, d)) for d in (3, 5)])
        >>> [tuple(moments.covariance().shape) for moments in layers]
        [(3, 3), (5, 5)]
    """
    if precision not in ("highest", "high", "medium"):
        raise ValueError(f"precision must be highest, high or medium, got {precision!r}")
    for x, y in batches:
        _check(x, y, axis)
    pairs = list(zip(moments, batches, strict=True))
    by_kernels = [(each, batch) for each, batch in pairs if _batch_moments.has_kernels(*batch)]
    found = _batch_moments.by_kernels([batch for _, batch in by_kernels], axis, precision)
    for (each, _), part in zip(by_kernels, found, strict=True):
        each._add(part)
    for each, batch in pairs:
        if not _batch_moments.has_kernels(*batch):
            for part in _batch_moments.by_chunks(*batch, axis):
                each._add(part)


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
