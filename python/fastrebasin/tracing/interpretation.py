"""Run a graph on axes instead of numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from fastrebasin.tracing.axes import free, pin
from fastrebasin.tracing.graph import Graph
from fastrebasin.tracing.rules import READ_LABELS, RULES, Rule
from fastrebasin.tracing.values import Operation, Value, fixed_value, pin_value
from fastrebasin.tracing import arithmetic


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


def interpret(graph: Graph, movable: Callable[[str], bool]) -> Interpretation:
    """Follow every operation of the graph; `movable` says which state-dict entries may move."""
    found = Interpretation()
    results: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op in {"placeholder", "get_attr"}:
            results[node] = _leaf(node, graph.tensors, movable, found)
        elif node.op == "output":
            torch.fx.node.map_arg(node.args, lambda n: _pin_output(results[n]))
        else:
            results[node] = _call(node, results, found)
        found.values += [v for v in _listed(results.get(node)) if v.axes]
    return found


def _leaf(
    node: fx.Node,
    tensors: Mapping[str, str],
    movable: Callable[[str], bool],
    found: Interpretation,
) -> Value | None:
    shape = _shapes(node)
    if not shape:
        return None
    name = tensors.get(node.name)
    if name is None or not movable(name):
        return fixed_value(shape[0])
    value = Value.of([free(size) for size in shape[0]])
    found.tensors[name] = value
    return value


def _call(node: fx.Node, results: Mapping[fx.Node, Any], found: Interpretation) -> Any:
    if getattr(node.target, "__name__", "") == "getitem":
        sequence, index = node.args
        return results[sequence][index]  # type: ignore[index]
    op = Operation(_name(node), _arguments(node, results), tuple(_shapes(node)))
    if not op.shapes:
        return None  # an assertion
    rule = _rule(node, op)
    if rule is None or any(-1 in shape for shape in op.shapes):
        place = _place(node)
        found.unknown.setdefault(op.name, [])
        if place not in found.unknown[op.name]:
            found.unknown[op.name].append(place)
        for value in op.values():
            pin_value(value)
        fixed = [fixed_value(shape) for shape in op.shapes]
        return fixed if isinstance(node.meta["val"], (list, tuple)) else fixed[0]
    if rule not in READ_LABELS:
        for value in op.values():
            if value.labels is not None:
                pin(value.labels)
    return rule(op)


def _rule(node: fx.Node, op: Operation) -> Rule | None:
    if op.name in RULES:
        return RULES[op.name]
    if torch.Tag.pointwise in getattr(node.target, "tags", ()):
        return arithmetic.elementwise
    return None


def _name(node: fx.Node) -> str:
    packet = getattr(node.target, "overloadpacket", None)
    return str(packet) if packet is not None else str(node.target)


def _arguments(node: fx.Node, results: Mapping[fx.Node, Any]) -> dict[str, object]:
    args = torch.fx.node.map_arg(node.args, lambda n: results[n])
    kwargs = torch.fx.node.map_arg(node.kwargs, lambda n: results[n])
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {**{str(i): arg for i, arg in enumerate(args)}, **kwargs}
    named: dict[str, object] = {}
    for i, argument in enumerate(schema.arguments):
        default = argument.default_value if argument.has_default_value() else None
        named[argument.name] = args[i] if i < len(args) else kwargs.get(argument.name, default)
    return named


def _shapes(node: fx.Node) -> list[tuple[int, ...]]:
    found = node.meta.get("val")
    tensors = found if isinstance(found, (list, tuple)) else [found]
    return (
        [_ints(t.shape) if isinstance(t, torch.Tensor) else () for t in tensors]
        if any(isinstance(t, torch.Tensor) for t in tensors)
        else []
    )


def _ints(shape: torch.Size) -> tuple[int, ...]:
    """Return a shape as integers, -1 for a size that depends on data."""
    return tuple(size if isinstance(size, int) else -1 for size in shape)


def _listed(result: object) -> list[Value]:
    return (
        [v for v in result if isinstance(v, Value)]
        if isinstance(result, list)
        else ([result] if isinstance(result, Value) else [])
    )


def _pin_output(result: object) -> None:
    for value in _listed(result):
        pin_value(value)


def _place(node: fx.Node) -> str:
    """Return the line of the model's source that calls a node."""
    trace = node.meta.get("stack_trace") or ""
    lines = [line.strip() for line in trace.splitlines() if line.strip().startswith("File ")]
    own = [line for line in lines if "/torch/" not in line] or lines
    return own[-1].removeprefix("File ") if own else node.name
