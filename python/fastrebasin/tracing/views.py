"""Several axes as one, and one as several."""

from __future__ import annotations

from collections.abc import Sequence

from fastrebasin.tracing.atoms import Axis, Product, heads
from fastrebasin.tracing.axes import atoms, decouple, take_inner


def merge(axes: Sequence[Axis]) -> Axis:
    """Return the product of several axes as one, the first outermost."""
    axes = [axis for axis in axes if axis.size != 1]
    for i, axis in enumerate(axes):
        for later in axes[i + 1 :]:
            for inner in list(heads(later)):
                decouple(axis, inner)  # an axis can't depend on one that lies inside of it
    return axes[0] if len(axes) == 1 else Product(tuple(axes))


def split(axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """Return the axis as several whose product it is, of the given sizes."""
    inner: list[Axis] = []
    for size in reversed(sizes[1:]):
        axis, last = take_inner(axis, size)
        inner.append(last)
    return [axis, *reversed(inner)]


def is_fixed(axis: Axis) -> bool:
    """Whether no entry of the axis may move."""
    return all(atom.fixed for atom in atoms(axis))
