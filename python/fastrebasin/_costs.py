"""Costs as the core reads them: float32 or float64, without loss.

Integers that float64 doesn't hold are shifted: an assignment takes one entry of every row (of
every column where rows are more), so taking the smallest from each of them changes no optimum.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Costs", "as_costs"]

_EXACT = 2**53  # float64 holds every integer up to here


class Costs(NamedTuple):
    """Costs of shape (..., n, m), less a shift."""

    values: npt.NDArray[Any]  # float32 or float64
    shift: npt.NDArray[Any] | None  # integers of shape (..., n, 1), or (..., 1, m) when n > m

    def objective(self, pair_costs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Sum the values of all pairs, of shape (batch, min(n, m)), and what they were shifted by.

        Every row of a shift, or every column of it where rows are more, has a pair.
        """
        if self.shift is None:
            return np.asarray(pair_costs.sum(axis=-1))
        # Python's integers have no limit.
        values = pair_costs.astype(np.int64).astype(object).sum(axis=-1)
        return np.asarray(values + self.shift.astype(object).sum(axis=(-2, -1)), dtype=np.float64)


def as_costs(array: npt.NDArray[Any], argument: str) -> Costs:
    """Return what the core reads of an array of any real dtype and layout.

    Raises:
        ValueError: integers differ by more than float64 can tell.
        TypeError: a dtype that float64 can't hold, in SciPy's words.
    """
    shift = None
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        array, shift = _shifted(array, argument)
    dtype = np.float32 if np.can_cast(array.dtype, np.float32, "safe") else np.float64
    if not np.can_cast(array.dtype, dtype, "safe"):
        raise TypeError(
            f"Cannot cast array data from {array.dtype!r} to dtype('float64') "
            "according to the rule 'safe'"
        )
    values = np.asarray(array, dtype=dtype)
    whole = values.flags.aligned and all(s % values.itemsize == 0 for s in values.strides)
    return Costs(values if whole else values.copy(), shift)


def _shifted(
    array: npt.NDArray[Any], argument: str
) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """Shift integers of 64 bits if any of them needs it."""
    if array.ndim < 2 or array.size == 0 or (array.min() >= -_EXACT and array.max() <= _EXACT):
        return array, None
    array = array.astype(array.dtype.newbyteorder("="))
    axis = -1 if array.shape[-2] <= array.shape[-1] else -2
    shift = array.min(axis=axis, keepdims=True)
    above = (array - shift).view(np.uint64)  # right even where int64 wraps around
    if above.max() > _EXACT:
        line = "row" if axis == -1 else "column"
        raise ValueError(
            f"{argument} must hold integers that differ by at most 2**53 within a {line}, which "
            f"float64 tells apart, got {array.dtype} with a difference of {above.max()}"
        )
    return above.astype(np.float64), shift
