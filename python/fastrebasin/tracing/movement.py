"""Rules of operations that only move entries about, copy them or cut them out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fastrebasin.tracing.atoms import ONE, Axis, Concatenation, fixed, free
from fastrebasin.tracing.axes import after, join, piece, pin
from fastrebasin.tracing.values import Operation, Value, fixed_value
from fastrebasin.tracing.views import is_fixed, merge, split


def same(op: Operation) -> Value:
    """`clone`, `alias`, a cast: the axes are the argument's."""
    return next(op.values())


def view(op: Operation) -> Value:
    """`view`, `reshape`: runs of axes whose sizes multiply to the same number match."""
    value, shape = op.value("self"), op.shape
    if 0 in shape:
        return fixed_value(shape)
    result: list[Axis] = []
    axes, sizes = list(value.axes), list(shape)
    while axes or sizes:
        old, new = axes[:1], sizes[:1]
        del axes[:1], sizes[:1]
        while (have := math.prod(axis.size for axis in old)) != (want := math.prod(new)):
            if have < want:
                old.append(axes.pop(0))
            else:
                new.append(sizes.pop(0))
        if new:
            result += split(merge(old), new)
    return Value.of(result, value.labels)


def permute(op: Operation) -> Value:
    """`permute`: the axes in another order."""
    value = op.value("self")
    return Value.of([value.axes[d] for d in op.integers("dims")], value.labels)


def expand(op: Operation) -> Value:
    """`expand`: along new entries the value is constant, so they may change places."""
    value, shape = op.value("self"), op.shape
    axes = [ONE] * (len(shape) - value.ndim) + list(value.axes)
    grown = [free(size) if axis.size == 1 else axis for axis, size in zip(axes, shape, strict=True)]
    return Value.of(grown, value.labels)


def unsqueeze(op: Operation) -> Value:
    """`unsqueeze`: a new axis of one entry."""
    value = op.value("self")
    place = op.integer("dim") % (value.ndim + 1)
    return Value.of([*value.axes[:place], ONE, *value.axes[place:]], value.labels)


def squeeze(op: Operation) -> Value:
    """`squeeze`: axes of one entry go."""
    value = op.value("self")
    dims = {d % value.ndim for d in op.integers("dim")} if value.ndim else set()
    kept = [axis for d, axis in enumerate(value.axes) if d not in dims or axis.size != 1]
    return Value.of(kept, value.labels)


def concatenate(op: Operation) -> Value:
    """`cat`: the parts lie side by side along one axis, and move alike along all others."""
    values = op.arguments["tensors"]
    assert isinstance(values, (list, tuple))
    ndim = len(op.shape)
    parts: list[Value] = [v for v in values if v.ndim == ndim]  # (0,) may go with any shape
    place = op.integer("dim") % ndim
    for other in parts[1:]:
        for d in range(ndim):
            if d != place:
                join(parts[0].axes[d], other.axes[d])
    return parts[0].replace(place, Concatenation(tuple(v.axes[place] for v in parts)))


def slice_(op: Operation) -> Value:
    """`slice`: a run of entries; with a step they must be fixed."""
    value = op.value("self")
    place = op.integer("dim") % value.ndim
    axis, size = value.axes[place], op.shape[place]
    if op.integer("step") != 1:
        pin(axis)
        return value.replace(place, fixed(size))
    start = op.arguments["start"]
    low = start if isinstance(start, int) else 0
    low = max(0, low + axis.size if low < 0 else low)
    return _taken(value, place, low, low + size)


def select(op: Operation) -> Value:
    """`select`: one entry of an axis, which goes."""
    value = op.value("self")
    place = op.integer("dim") % value.ndim
    index = op.integer("index") % value.axes[place].size
    taken = _taken(value, place, index, index + 1)
    return Value.of([*taken.axes[:place], *taken.axes[place + 1 :]], value.labels)


def split_(op: Operation) -> list[Value]:
    """`split_with_sizes`: several runs of entries of one axis."""
    value = op.value("self")
    place = op.integer("dim") % value.ndim
    result, low = [], 0
    for size in op.integers("split_sizes"):
        result.append(_taken(value, place, low, low + size))
        low += size
    return result


def _taken(value: Value, place: int, low: int, high: int) -> Value:
    taken, cuts = piece(value.axes[place], low, high)
    axes = after(cuts, value.axes)
    return Value.of([*axes[:place], taken, *axes[place + 1 :]], value.labels)


def pad(op: Operation) -> Value:
    """`constant_pad_nd`: constant entries on both sides, which may change places."""
    value = op.value("self")
    widths = op.integers("pad")
    axes: list[Axis] = list(value.axes)
    for k in range(len(widths) // 2):
        place, (low, high) = value.ndim - 1 - k, widths[2 * k : 2 * k + 2]
        axis = axes[place]
        if is_fixed(axis):
            axes[place] = fixed(op.shape[place])
            continue
        kept, cuts = piece(axis, max(0, -low), axis.size + min(0, high))
        axes = after(cuts, axes)
        sides = [free(width) if width > 0 else None for width in (low, high)]
        parts = [part for part in (sides[0], kept, sides[1]) if part is not None]
        axes[place] = parts[0] if len(parts) == 1 else Concatenation(tuple(parts))
    return Value.of(axes)


def repeat(op: Operation) -> Value:
    """`repeat`: copies of the whole axis; which copy is which doesn't matter."""
    value, repeats = op.value("self"), op.integers("repeats")
    axes = [ONE] * (len(repeats) - value.ndim) + list(value.axes)
    return Value.of(
        [merge([free(n), axis]) for n, axis in zip(repeats, axes, strict=True)], value.labels
    )


def create(op: Operation) -> Value:
    """`full`, `zeros`: all entries are equal, so they may change places."""
    return Value(tuple(free(size) for size in op.shape), constant=True)


def number(op: Operation) -> Value:
    """`arange`: entry i is the number i; it moves as the axis that it numbers."""
    axis = free(op.shape[0])
    plain = op.arguments.get("start", 0) == 0 and op.arguments.get("step", 1) == 1
    return Value.of([axis], axis) if plain else fixed_value(op.shape)


def along(op: Operation, dims: Sequence[int], *, ordered: bool = True) -> Value:
    """`flip`, `cumsum`, `softmax`: entries along some axes act on each other.

    If their order matters these axes are fixed; either way all others are the same for them.
    """
    value = next(op.values())
    if ordered:
        for d in dims:
            pin(value.axes[d])
    gone = {d % value.ndim for d in dims} if value.ndim else set()
    op.hidden.append(Value.of([axis for d, axis in enumerate(value.axes) if d not in gone]))
    return Value(value.axes)
