"""Two tensors' units and observations as the core reads them: addresses, sizes and strides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

__all__ = ["ELEMENTS", "MOST_AXES", "UnitPair", "aligned"]

# By the numbers that the core knows them by.
ELEMENTS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
MOST_AXES = 3


class UnitPair(NamedTuple):
    """Two tensors whose units are multiplied, with their observations on `MOST_AXES` axes."""

    x: torch.Tensor
    y: torch.Tensor
    dim_x: int  # of the units
    dim_y: int
    sizes: tuple[int, ...]
    strides_x: tuple[int, ...]
    strides_y: tuple[int, ...]
    gathered: int  # which of the axes is the one that stays by itself; 0 if there is none

    def addresses(
        self,
        products: torch.Tensor,
        of_x: Sequence[torch.Tensor] = (),
        of_y: Sequence[torch.Tensor] = (),
        index: torch.Tensor | None = None,
    ) -> Any:
        """Return the pair as the core wants it, with the shift, sums and squares of each side."""
        x = _side(self.x, self.dim_x, self.strides_x, of_x)
        y = _side(self.y, self.dim_y, self.strides_y, of_y)
        where = 0 if index is None else index.data_ptr()
        return x, y, self.sizes, products.data_ptr(), where, self.gathered


def _side(
    x: torch.Tensor, dim: int, strides: tuple[int, ...], sums: Sequence[torch.Tensor]
) -> tuple[Any, ...]:
    addresses = [tensor.data_ptr() for tensor in sums] or [0, 0, 0]
    return x.data_ptr(), ELEMENTS[x.dtype], x.shape[dim], x.stride(dim), strides, *addresses


def aligned(x: torch.Tensor, y: torch.Tensor, axis: int, gathered: int | None = None) -> UnitPair:
    """Return two tensors with the same observations beside `axis`, that of the units.

    They are copied only where their observations lie on too many axes. Axes that lie evenly in both
    are joined, but for the one that is `gathered`.
    """
    dim_x, dim_y = axis % x.ndim, axis % y.ndim
    alone = None if gathered is None else gathered % x.ndim
    x, y = x.resolve_neg(), y.resolve_neg()
    axes, place = _joined(x, y, dim_x, dim_y, alone)
    if len(axes) > MOST_AXES:
        x, y = x.movedim(dim_x, 0).contiguous(), y.movedim(dim_y, 0).contiguous()
        if alone is not None and alone < dim_x:
            alone += 1
        dim_x = dim_y = 0
        axes, place = _joined(x, y, 0, 0, alone)
    missing = MOST_AXES - len(axes)
    sizes, strides_x, strides_y = zip(*([(1, 0, 0)] * missing + axes), strict=True)
    return UnitPair(x, y, dim_x, dim_y, sizes, strides_x, strides_y, max(0, place + missing))


def _joined(
    x: torch.Tensor, y: torch.Tensor, dim_x: int, dim_y: int, alone: int | None
) -> tuple[list[tuple[int, int, int]], int]:
    """Return (size, stride in x, stride in y) of the axes, and which of them is `alone`."""
    places = [k for k in range(x.ndim) if k != dim_x]
    strides = (
        [stride for k, stride in enumerate(t.stride()) if k != dim]
        for t, dim in ((x, dim_x), (y, dim_y))
    )
    axes: list[tuple[int, int, int]] = []
    found, joinable = -MOST_AXES, False
    for k, *step in zip(places, *strides, strict=True):
        size = x.shape[k]
        if k == alone:
            found, joinable = len(axes), False
        elif size == 1:
            continue
        elif joinable and _lie_evenly(axes[-1][1:], size, step):
            size *= axes.pop()[0]
        else:
            joinable = True
        axes.append((size, step[0], step[1]))
    return axes, found


def _lie_evenly(outer: Sequence[int], size: int, inner: Sequence[int]) -> bool:
    return all(far == size * near for far, near in zip(outer, inner, strict=True))
