"""Where a value lies on an axis, and which values to write beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Scale", "scale_for"]


@dataclass(frozen=True)
class Scale:
    """A linear map from values to pixels.

    Attributes:
        low, high: the values at both ends; they differ.
        start, end: where they lie, in pixels.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return where a value lies."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Return round values between the ends, some `about` of them.

        Example:
            >>> Scale(0, 1, 0, 300).ticks()
            [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
        """
        rough = (self.high - self.low) / about
        size = 10.0 ** math.floor(math.log10(rough))
        step = min((m * size for m in (1, 2, 5, 10)), key=lambda s: abs(math.log(s / rough)))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def scale_for(
    values: Sequence[float], start: float, end: float, *, zero: bool = False, slack: float = 0.05
) -> Scale:
    """Return a scale with room for all finite values, and for zero if wanted.

    Example:
        >>> scale_for([2, math.inf, 4], 0, 100, slack=0)
        Scale(low=2, high=4, start=0, end=100)
    """
    finite = [value for value in values if math.isfinite(value)] + [0.0] * zero
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        reach = 0.5 * abs(high) or 1.0
        low, high = (low if zero and low == 0 else low - reach), high + reach
    reach = slack * (high - low)
    return Scale(low if zero and low == 0 else low - reach, high + reach, start, end)
