"""Rules of operations that compute: elementwise, sums over axes, matrix products, convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from fastrebasin.tracing.atoms import ONE, Axis, Product, fixed
from fastrebasin.tracing.axes import join, pin, take_inner
from fastrebasin.tracing.values import Operation, Value, broadcast
from fastrebasin.tracing.views import merge


def elementwise(op: Operation) -> Value:
    """Entries in the same place are combined, so the arguments move alike."""
    return Value.of(broadcast(list(op.values()), op.shape))


def compare(op: Operation) -> Value:
    """`eq`, `ne`: as elementwise; two tensors of labels number the same axis."""
    values = list(op.values())
    labels = [value.labels for value in values if value.labels is not None]
    if len(labels) == len(values) == 2:
        join(labels[0], labels[1])
    else:
        for axis in labels:
            pin(axis)
    return elementwise(op)


def reduce(op: Operation) -> Value:
    """`sum`, `mean`, `amax`: the order of what is summed doesn't matter."""
    return Value.of(_without(op, next(op.values()), op.integers("dim")))


def reduce_both(op: Operation) -> list[Value]:
    """`var_mean`: two reductions at once."""
    return [reduce(op)] * 2


def index_of(op: Operation) -> Value:
    """`argmax`: a reduction whose result numbers the entries of the axis."""
    value, dims = op.value("self"), op.integers("dim")
    if not dims:
        labels = merge(value.axes)
        pin(labels)
    else:
        labels = value.axes[dims[0]]
    return Value.of(_without(op, value, dims), labels)


def reduce_with_index(op: Operation) -> list[Value]:
    """`max.dim`: a reduction, and where it was found."""
    return [reduce(op), index_of(op)]


def _without(op: Operation, value: Value, dims: Sequence[int]) -> list[Axis]:
    gone = {d % value.ndim for d in dims} if dims else set(range(value.ndim))
    if op.arguments.get("keepdim"):
        return [ONE if d in gone else axis for d, axis in enumerate(value.axes)]
    return [axis for d, axis in enumerate(value.axes) if d not in gone]


def ordered(op: Operation) -> list[Value]:
    """`topk`, `sort`: entries by rank, whose order is no longer that of the axis."""
    value = op.value("self")
    place = op.integer("dim") % value.ndim
    ranked = value.replace(place, fixed(op.shape[place]))
    op.hidden.append(Value.of([axis for d, axis in enumerate(value.axes) if d != place]))
    return [ranked, Value.of(ranked.axes, value.axes[place])]


def matrix_product(op: Operation, left: str = "self", right: str = "mat2") -> Value:
    """`mm`, `bmm`: rows of the left times columns of the right, batch by batch."""
    a, b = op.value(left), op.value(right)
    join(a.axes[-1], b.axes[-2])
    batch = broadcast([Value(a.axes[:-2]), Value(b.axes[:-2])], op.shape[:-2])
    op.alone(batch, a.axes[-1], a.axes[-2], b.axes[-1])
    return Value.of([*batch, a.axes[-2], b.axes[-1]])


def matrix_product_and_sum(op: Operation) -> Value:
    """`addmm`, `baddbmm`: a matrix product, and something added."""
    names = ("mat1", "mat2") if "mat1" in op.arguments else ("batch1", "batch2")
    product = matrix_product(op, *names)
    return Value.of(broadcast([product, op.value("self")], op.shape))


def convolution(op: Operation) -> Value:
    """`convolution`, forward and transposed, grouped or not; places are fixed."""
    x, weight, bias = op.value("input"), op.value("weight"), op.optional("bias")
    groups = op.integer("groups")
    first, second = weight.axes[:2]
    for place in (*x.axes[2:], *weight.axes[2:]):
        pin(place)
    channels = x.axes[1]
    if op.arguments["transposed"]:
        out = _transposed(channels, first, second, groups)
    else:
        out = first
        if groups == 1:
            join(channels, second)
            op.alone([], channels, out)
        else:
            sets, inside = take_inner(channels, channels.size // groups)
            sets_out, inside_out = take_inner(first, first.size // groups)
            join(sets, sets_out)
            join(inside, second)
            op.alone([sets], inside, inside_out)
    if bias is not None:
        join(out, bias.axes[0])
    return Value.of([x.axes[0], out, *map(fixed, op.shape[2:])])


def _transposed(channels: Axis, first: Axis, second: Axis, groups: int) -> Axis:
    join(channels, first)
    if groups == 1:
        return second
    sets, _ = take_inner(first, first.size // groups)
    return Product((sets, second))


def batch_norm(op: Operation) -> list[Value]:
    """BatchNorm in eval mode: four vectors over the channels."""
    x = op.value("input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        vector = op.optional(name)
        if vector is not None:
            join(x.axes[1], vector.axes[0])
    return [x, Value(()), Value(())]


def layer_norm(op: Operation) -> list[Value]:
    """LayerNorm, RMSNorm: statistics over the last axes, all entries alike."""
    x = op.value("input")
    count = len(op.integers("normalized_shape"))
    for name in ("weight", "bias"):
        vector = op.optional(name)
        if vector is not None:
            for one, other in zip(x.axes[-count:], vector.axes, strict=True):
                join(one, other)
    statistic = Value.of([*x.axes[:-count], *[ONE] * count])
    return [x, statistic, statistic]


def group_norm(op: Operation) -> list[Value]:
    """GroupNorm: channels may change places within their set, and sets as a whole."""
    x, groups = op.value("input"), op.integer("group")
    channels = x.axes[1]
    sets, _ = take_inner(channels, channels.size // groups)
    for name in ("weight", "bias"):
        vector = op.optional(name)
        if vector is not None:
            join(channels, vector.axes[0])
    statistic = Value.of([x.axes[0], sets])
    return [x, statistic, statistic]


def local(op: Operation, places: int, outputs: int = 1) -> Value | list[Value]:
    """Pooling, resizing: each channel by itself, along the last `places` axes, which are fixed."""
    x = next(op.values())
    for place in x.axes[-places:]:
        pin(place)
    op.hidden.append(Value(x.axes[:-places]))
    found = Value.of([*x.axes[:-places], *map(fixed, op.shape[-places:])])
    return found if outputs == 1 else [found] * outputs
