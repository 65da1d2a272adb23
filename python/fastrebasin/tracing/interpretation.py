"""Run a graph on axes instead of numbers."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

from fastrebasin.tracing import arithmetic
from fastrebasin.tracing.atoms import free
from fastrebasin.tracing.axes import pin
from fastrebasin.tracing.graph import Graph
from fastrebasin.tracing.rules import KEEP_CONSTANTS, READ_LABELS, RULES, Rule
from fastrebasin.tracing.values import Operation, Value, fixed_value, pin_value


@dataclass
class Interpretation:
    """What a graph says about axes.

    Attributes:
        tensors: the axes of each parameter and buffer that may move, by state-dict name.
        values: every tensor of the graph.
        unknown: operators without a rule, and where they are called.
    """

    tensors: dict[str, Value] = field(default_factory=dict)
    values: list[Value] = field(default_factory=list)
    unknown: dict[str, list[str]] = field(default_factory=dict)


def interpret(graph: Graph, movable: Mapping[str, str]) -> Interpretation:
    """Follow every operation of a graph.

    Args:
        graph: of the forward pass.
        movable: the state-dict entries that may move, each with the first name of its tensor.
    """
    return _Interpreter(graph, movable).found


class _Interpreter:
    def __init__(self, graph: Graph, movable: Mapping[str, str]) -> None:
        self.found = Interpretation()
        self._results: dict[fx.Node, Any] = {}
        for node in graph.nodes:
            if node.op in {"placeholder", "get_attr"}:
                name = movable.get(graph.tensors.get(node.name, ""))
                self._results[node] = self._leaf(node, name)
            elif node.op == "output":
                map_arg(node.args, lambda n: _pin_all(self._results[n]))
            else:
                self._results[node] = self._call(node)
            self.found.values += _listed(self._results.get(node))

    def _leaf(self, node: fx.Node, name: str | None) -> Value | None:
        shape = _shapes(node)
        if not shape:
            return None
        if name is None or not node.users:
            return fixed_value(shape[0])
        if name not in self.found.tensors:
            self.found.tensors[name] = Value.of([free(size) for size in shape[0]])
        return self.found.tensors[name]

    def _argument(self, node: fx.Node) -> Any:
        """Return a result; a constant is a new one for each use, so that it ties nothing."""
        result = self._results[node]
        if isinstance(result, Value) and result.constant:
            return replace(result, axes=tuple(free(axis.size) for axis in result.axes))
        return result

    def _call(self, node: fx.Node) -> Any:
        if node.target is operator.getitem:
            sequence, index = node.args
            return self._results[sequence][index]  # type: ignore[index]
        op = Operation(_name(node), _arguments(node, self._argument), tuple(_shapes(node)))
        if not op.shapes:
            return None  # an assertion
        result = _applied(_rule(node), op)
        if result is None:
            return self._give_up(node, op)
        self.found.values += op.hidden
        return result

    def _give_up(self, node: fx.Node, op: Operation) -> Value | list[Value]:
        """Fix whatever an operation touches that there is no rule for."""
        places = self.found.unknown.setdefault(op.name, [])
        place = _place(node)
        if place not in places:
            places.append(place)
        for value in op.values():
            pin_value(value)
        fixed = [fixed_value(shape) for shape in op.shapes]
        return fixed if isinstance(node.meta["val"], (list, tuple)) else fixed[0]


def _applied(rule: Rule | None, op: Operation) -> Value | list[Value] | None:
    """Return what a rule makes of an operation, or None if it isn't up to it."""
    if rule is None or any(-1 in shape for shape in op.shapes):
        return None
    arguments = list(op.values())
    if rule not in READ_LABELS:
        for value in arguments:
            if value.labels is not None:
                pin(value.labels)
    try:
        result = rule(op)
    except (AssertionError, LookupError, TypeError, ValueError, RecursionError):
        return None  # a form of the operator that the rule wasn't written for
    shapes = tuple(tuple(axis.size for axis in value.axes) for value in _listed(result))
    if shapes[0] != op.shape:
        return None
    if rule in KEEP_CONSTANTS and arguments and all(value.constant for value in arguments):
        return _constant(result)
    return result


def _rule(node: fx.Node) -> Rule | None:
    for name in (str(node.target), _name(node)):
        if name in RULES:
            return RULES[name]
    if torch.Tag.pointwise in getattr(node.target, "tags", ()):
        return arithmetic.elementwise
    return None


def _name(node: fx.Node) -> str:
    packet = getattr(node.target, "overloadpacket", None)
    return str(packet) if packet is not None else str(node.target)


def _arguments(node: fx.Node, result_of: Callable[[fx.Node], Any]) -> dict[str, object]:
    args, kwargs = map_arg(node.args, result_of), map_arg(node.kwargs, result_of)
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {**{str(i): arg for i, arg in enumerate(args)}, **kwargs}
    named: dict[str, object] = {}
    for i, argument in enumerate(schema.arguments):
        default = argument.default_value if argument.has_default_value() else None
        named[argument.name] = args[i] if i < len(args) else kwargs.get(argument.name, default)
    return named


def _shapes(node: fx.Node) -> list[tuple[int, ...]]:
    """Return the shapes of what a node returns; none if that isn't a tensor."""
    found = node.meta.get("val")
    listed = found if isinstance(found, (list, tuple)) else [found]
    if not any(isinstance(tensor, torch.Tensor) for tensor in listed):
        return []
    return [_ints(t.shape) if isinstance(t, torch.Tensor) else () for t in listed]


def _ints(shape: torch.Size) -> tuple[int, ...]:
    """Return a shape as integers, -1 for a size that depends on data."""
    return tuple(size if isinstance(size, int) else -1 for size in shape)


def _constant(result: Value | list[Value]) -> Value | list[Value]:
    if isinstance(result, Value):
        return replace(result, constant=True)
    return [replace(value, constant=True) for value in result]


def _listed(result: object) -> list[Value]:
    listed = result if isinstance(result, list) else [result]
    return [value for value in listed if isinstance(value, Value)]


def _pin_all(result: object) -> None:
    for value in _listed(result):
        pin_value(value)


def _place(node: fx.Node) -> str:
    """Return the line of the model's source that calls a node."""
    trace = node.meta.get("stack_trace") or ""
    lines = [line.strip() for line in trace.splitlines() if line.strip().startswith("File ")]
    own = [line for line in lines if "/torch/" not in line] or lines
    return own[-1].removeprefix("File ") if own else node.name
