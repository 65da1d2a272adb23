"""Ridge regression from streamed moments, towards a prior, its strength by cross-validation.

Observations come in folds; the strength is the one whose fit to all folds but one has the least
error on the one left out, summed over folds. Fits and errors are computed from second moments
alone, in float64; no observation is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastrebasin.statistics import Moments

__all__ = ["STRENGTHS", "Fit", "Regression"]

STRENGTHS = tuple(10.0**k for k in range(-5, 1))  # of the ridge, in mean squares of the inputs
_LEAST = 1e-10  # keeps inputs that depend on each other from having no solution


@dataclass(frozen=True)
class Fit:
    """Outputs z of inputs x by weight @ x + shift.

    Attributes:
        weight, shift: float64 of shapes (m, n) and (m,).
        mean, variance: of weight @ x, for each output.
        strength: of the ridge, in mean squares of the inputs.
    """

    weight: Tensor
    shift: Tensor
    mean: Tensor
    variance: Tensor
    strength: float


class Regression:
    """Outputs as a linear function of inputs, by least squares.

    Attributes:
        moments: of inputs against inputs and outputs side by side, for each fold.
    """

    def __init__(self, folds: int) -> None:
        self.moments = [Moments() for _ in range(folds)]

    def update(self, fold: int, x: Tensor, z: Tensor) -> None:
        """Add observations of inputs (n, ...) and outputs (m, ...), units first."""
        self.moments[fold].update(x, torch.cat([x, z]), axis=0)

    def is_finite(self) -> bool:
        """Tell whether all that was observed is finite."""
        return all(bool(torch.isfinite(m.scatter).all()) for m in self.moments)

    def merge(self, other: Regression) -> None:
        """Add another's observations, so that all of them count as many as all here.

        The other is used up.
        """
        counts = [sum(m.count for m in each.moments) for each in (self, other)]
        for mine, its in zip(self.moments, other.moments, strict=True):
            if counts[0] and its.count:
                its.scale(counts[0] / counts[1])
            mine.merge(its)

    def solve(self, prior: Tensor, *, intercept: bool = True, strength: float | None = None) -> Fit:
        """Return the fit to all observations.

        Args:
            prior: weights towards which the ridge draws, (m, n).
            intercept: whether there is any; else the shift is zero.
            strength: of the ridge, in mean squares of the inputs; chosen by default.
        """
        prior = prior.double()
        if strength is None:
            strength = self._choose(prior, intercept)
        return _Normal(self.moments, intercept).fit(prior, strength)

    def _choose(self, prior: Tensor, intercept: bool) -> float:
        seen = [moments for moments in self.moments if moments.count]
        if len(seen) < 2:
            return STRENGTHS[len(STRENGTHS) // 2]
        errors = dict.fromkeys(STRENGTHS, 0.0)
        for left_out in seen:
            rest = _Normal([m for m in seen if m is not left_out], intercept)
            for strength in STRENGTHS:
                errors[strength] += _error(left_out, rest.fit(prior, strength))
        return min(errors, key=errors.__getitem__)


class _Normal:
    """The normal equations of all observations of some folds."""

    def __init__(self, parts: Sequence[Moments], intercept: bool) -> None:
        moments = Moments()
        for part in parts:
            moments.merge(part)
        n = len(moments.mean_x)
        self._intercept = intercept
        self._mean_x, self._mean_z = moments.mean_x, moments.mean_y[n:]
        self._scatter = moments.covariance()[:, :n]
        products = moments.covariance() if intercept else moments.gram()
        self._xx, self._xz = products[:, :n], products[:, n:]

    def fit(self, prior: Tensor, strength: float) -> Fit:
        """Return the weights and the intercepts."""
        factor, strength = self._factor(strength)
        rest = self._xz - self._xx @ prior.T
        weight = prior + torch.cholesky_solve(rest, factor).T
        mean = weight @ self._mean_x
        shift = self._mean_z - mean if self._intercept else torch.zeros_like(mean)
        variance = ((weight @ self._scatter) * weight).sum(1)
        return Fit(weight, shift, mean, variance, strength)

    def _factor(self, strength: float) -> tuple[Tensor, float]:
        """Return the Cholesky factor of inputs' products with a ridge, and the ridge's strength.

        Products of float32 numbers are rounded: of fewer observations than inputs, they may have
        negative eigenvalues larger than a weak ridge. It is made stronger until it covers them.
        """
        scale = self._xx.diagonal().mean()
        if not torch.isfinite(self._xx).all():
            raise ValueError("observations of inputs must be finite")
        while True:  # a strength of 1 is far above any rounding
            ridged = self._xx.clone()
            # Inputs that are always zero, such as a black border, leave the prior as it is.
            ridge = (max(strength, _LEAST) * scale).clamp_min(torch.finfo(torch.float64).tiny)
            ridged.diagonal().add_(ridge)
            factor, failed = torch.linalg.cholesky_ex(ridged)
            if not failed:
                return factor, strength
            strength = 10 * max(strength, _LEAST)


def _error(moments: Moments, fit: Fit) -> float:
    """Return the sum of squared errors on a fold."""
    n, weight = len(moments.mean_x), fit.weight
    about_means = (
        moments.scatter_y[n:].sum()
        - 2 * (weight * moments.scatter[:, n:].T).sum()
        + ((weight @ moments.scatter[:, :n]) * weight).sum()
    )
    bias = weight @ moments.mean_x + fit.shift - moments.mean_y[n:]
    return (about_means + moments.count * bias.square().sum()).item()
