"""Rules of whole layers: linear maps, attention, recurrent networks."""

from __future__ import annotations

from collections.abc import Sequence

from fastrebasin.tracing.atoms import ONE, Axis, Concatenation, family, free
from fastrebasin.tracing.axes import join, pin
from fastrebasin.tracing.values import Operation, Value, broadcast
from fastrebasin.tracing.views import merge


def linear(op: Operation) -> Value:
    """`linear`: inputs times the rows of the weight."""
    x, weight, bias = op.value("input"), op.value("weight"), op.optional("bias")
    join(x.axes[-1], weight.axes[-1])
    if weight.ndim == 1:
        return Value(x.axes[:-1])
    if bias is not None:
        join(weight.axes[0], bias.axes[0])
    op.alone([], *weight.axes)
    return Value.of([*x.axes[:-1], weight.axes[0]])


def attention(op: Operation) -> list[Value]:
    """Fused attention: queries and keys share their units, keys and values their places."""
    query, key, value = op.value("query"), op.value("key"), op.value("value")
    heads = list(query.axes[:-2])
    if op.arguments.get("enable_gqa"):
        for other in (key, value):
            repeats = heads[-1].size // other.axes[-3].size
            join(heads[-1], merge([other.axes[-3], free(repeats)]))
        key, value = (Value((*v.axes[:-3], heads[-1], *v.axes[-2:])) for v in (key, value))
    shape = op.shape[:-2]
    batch = broadcast([Value(v.axes[:-2]) for v in (query, key, value)], shape)
    join(query.axes[-1], key.axes[-1])
    join(key.axes[-2], value.axes[-2])
    scores = [*batch, query.axes[-2], key.axes[-2]]
    mask = op.optional("attn_mask")
    if mask is not None:
        broadcast([Value.of(scores), mask], [axis.size for axis in scores])
    if op.arguments.get("is_causal"):
        for axis in scores[-2:]:
            pin(axis)
    op.hidden.append(Value.of(scores))
    op.alone(batch, query.axes[-1], *scores[-2:], value.axes[-1])
    return [Value.of([*batch, query.axes[-2], value.axes[-1]]), Value.of([*batch, query.axes[-2]])]


def lstm(op: Operation) -> list[Value]:
    """`nn.LSTM`: four gates for each unit, in every layer and direction."""
    return _recurrent(op, 4)


def gru(op: Operation) -> list[Value]:
    """`nn.GRU`: three gates for each unit."""
    return _recurrent(op, 3)


def rnn(op: Operation) -> list[Value]:
    """`nn.RNN`: units without gates."""
    return _recurrent(op, 1)


def _recurrent(op: Operation, gates: int) -> list[Value]:
    x, params = op.value("input"), _list(op, "params")
    directions = 2 if op.arguments["bidirectional"] else 1
    layers = op.integer("num_layers") * directions
    each = len(params) // layers
    biases = 2 if op.arguments["has_biases"] else 0
    pin(x.axes[1 if op.arguments["batch_first"] else 0])  # time
    read, cells, outputs = x.axes[-1], [], []
    for k in range(layers):
        from_input, from_state, *rest = params[k * each : (k + 1) * each]
        cell = out = free(from_input.axes[0].size // gates)
        if len(rest) > biases:  # a projection makes the output smaller than the cell
            out = rest[biases].axes[0]
            join(rest[biases].axes[1], cell)
        for value in (from_input, from_state, *rest[:biases]):
            join(value.axes[0], Concatenation((cell,) * gates))
        join(from_input.axes[1], read)
        join(from_state.axes[1], out)
        cells.append(cell)
        outputs.append(out)
        if (k + 1) % directions == 0:
            both = tuple(outputs[-directions:])
            read = Concatenation(both) if directions == 2 else out
    states = [outputs, cells][: len(op.shapes) - 1]
    _start(op, states)
    batch = x.axes[0 if op.arguments["batch_first"] else 1]
    return [Value.of([*x.axes[:-1], read]), *(_stacked(axes, batch) for axes in states)]


def _list(op: Operation, name: str) -> Sequence[Value]:
    values = op.arguments[name]
    assert isinstance(values, (list, tuple))
    return values


def _start(op: Operation, per_layer: Sequence[Sequence[Axis]]) -> None:
    """Join the layers' units with their first state, unless that is zero."""
    given = op.arguments["hx"]
    states = given if isinstance(given, (list, tuple)) else [given]
    for state, axes in zip(states, per_layer, strict=True):
        if isinstance(state, Value) and not state.constant:
            for axis in axes:
                join(axis, state.axes[-1])


def _stacked(axes: Sequence[Axis], batch: Axis) -> Value:
    """Return the last states of all layers: along the first axis, units differ."""
    if len(axes) == 1:
        return Value.of([ONE, batch, axes[0]])
    layers, units = family([(ONE, axis) for axis in axes])
    return Value.of([layers, batch, units])
