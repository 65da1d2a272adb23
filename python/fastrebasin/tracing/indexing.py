"""Rules of operations that read or write by index: embeddings, gathers, scatters.

An index may move only with the axis that it numbers: if that is known (`Value.labels`) the two axes
are joined, and otherwise the axis that is read is fixed.
"""

from __future__ import annotations

from fastrebasin.tracing.atoms import Axis
from fastrebasin.tracing.axes import atoms, join, pin
from fastrebasin.tracing.values import Operation, Value, broadcast


def _read(axis: Axis, index: Value) -> None:
    if index.labels is None:
        pin(axis)
        return
    join(axis, index.labels)
    for slots in index.axes:
        for atom in atoms(slots):
            atom.numbered.append(axis)


def embedding(op: Operation) -> Value:
    """`embedding`: rows of a table."""
    table, index = op.value("weight"), op.value("indices")
    _read(table.axes[0], index)
    return Value.of([*index.axes, table.axes[1]])


def index_select(op: Operation) -> Value:
    """`index_select`: entries of one axis, by a vector of indices."""
    value, index = op.value("self"), op.value("index")
    place = op.integer("dim") % value.ndim
    _read(value.axes[place], index)
    return value.replace(place, index.axes[0])


def index(op: Operation) -> Value:
    """`x[i, :, j]`: tensors of integers in the places of some axes."""
    value, indices = op.value("self"), op.arguments["indices"]
    assert isinstance(indices, (list, tuple))
    places = [d for d, i in enumerate(indices) if i is not None]
    for d in places:
        _read(value.axes[d], indices[d])
    count = len(op.shape) - (value.ndim - len(places))
    adjacent = places == list(range(places[0], places[-1] + 1))
    first = places[0] if adjacent else 0
    tensors = [indices[d] for d in places]
    inserted = broadcast(tensors, op.shape[first : first + count])
    rest = [axis for d, axis in enumerate(value.axes) if d not in places]
    return Value.of([*rest[:first], *inserted, *rest[first:]])


def gather(op: Operation) -> Value:
    """`gather`: for each entry of the index, one of the axis, all else in the same place."""
    value, index = op.value("self"), op.value("index")
    place = op.integer("dim") % value.ndim
    _read(value.axes[place], index)
    _join_others(value, index, place)
    return Value.of(index.axes)


def scatter(op: Operation) -> Value:
    """`scatter`, `scatter_add`: write entries where the index says."""
    value, index = op.value("self"), op.value("index")
    place = op.integer("dim") % value.ndim
    _read(value.axes[place], index)
    _join_others(value, index, place)
    source = op.arguments.get("src")
    if isinstance(source, Value):
        for one, other in zip(source.axes, index.axes, strict=True):
            join(one, other)
    return Value.of(value.axes)


def _join_others(value: Value, index: Value, place: int) -> None:
    for d, (one, other) in enumerate(zip(value.axes, index.axes, strict=True)):
        if d != place:
            join(one, other)  # an index that is shorter fixes both
