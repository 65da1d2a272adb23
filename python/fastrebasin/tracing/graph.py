"""A model as a graph of core ATen operators."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from fastrebasin._calls import call, tensors_in
from fastrebasin._errors import first_line


@dataclass(frozen=True)
class Graph:
    """A model's forward pass.

    Attributes:
        nodes: in the order in which they run.
        tensors: the state-dict name of each placeholder that is a parameter or buffer.
    """

    nodes: list[fx.Node]
    tensors: Mapping[str, str]


def capture(
    model: nn.Module,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    outputs: Callable[[Any], object] | None = None,
) -> Graph:
    """Return the model's graph, from `torch.export` or, where that fails, from `torch.fx`.

    The model is in eval mode meanwhile. Nothing is computed: tensors are fake.

    Raises:
        ValueError: neither can make a graph; says why, and what to do.
    """
    with _eval_mode(model), _silence():
        try:
            return _exported(model, args, kwargs, outputs)
        except Exception as error:
            first = error
        try:
            return _traced(model, args, kwargs, outputs)
        except Exception as error:
            with torch.no_grad():
                call(model, args, kwargs, outputs)  # says so where the example is at fault
            raise ValueError(
                f"{type(model).__name__} can't be traced. torch.export says: {first_line(first)}; "
                f"torch.fx says: {first_line(error)}. Control flow that depends on data can't be "
                "traced: write the spec with PermutationSpec.from_axes, or trace a submodule"
            ) from first


class _Only(nn.Module):
    """A model of which only some outputs count."""

    def __init__(self, model: nn.Module, outputs: Callable[[Any], object]) -> None:
        super().__init__()
        self.model = model
        self.outputs = outputs

    def forward(self, *args: object, **kwargs: object) -> object:
        """Return what is kept of the model's output."""
        return self.outputs(self.model(*args, **kwargs))


def _exported(
    model: nn.Module,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    outputs: Callable[[Any], object] | None,
) -> Graph:
    wrapped = model if outputs is None else _Only(model, outputs)
    program = torch.export.export(wrapped, args, dict(kwargs), strict=False)
    program = program.run_decompositions(_decompositions())
    signature = program.graph_signature
    tensors = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    prefix = "" if outputs is None else "model."
    names = {node: name.removeprefix(prefix) for node, name in tensors.items()}
    return Graph(_simplified(program.graph), names)


def _traced(
    model: nn.Module,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    outputs: Callable[[Any], object] | None,
) -> Graph:
    names = [*dict(model.named_parameters()), *dict(model.named_buffers())]
    state = [*model.parameters(), *model.buffers()]
    inputs, structure = tree_flatten((args, dict(kwargs)))

    def forward(state: list[torch.Tensor], inputs: list[object]) -> list[torch.Tensor]:
        args, kwargs = tree_unflatten(inputs, structure)
        named = dict(zip(names, state, strict=True))
        output = torch.func.functional_call(model, named, args, kwargs)
        return list(tensors_in(output if outputs is None else outputs(output)))

    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        fakes = [mode.from_tensor(tensor.detach()) for tensor in state]
        fake_inputs = [mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for x in inputs]
        graph = make_fx(forward, decomposition_table=_decompositions())(fakes, fake_inputs).graph
    nodes = _simplified(graph)
    placeholders = [node.name for node in nodes if node.op == "placeholder"]
    return Graph(nodes, dict(zip(placeholders, names, strict=False)))


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """Return how operators are made of core ATen ones, except for layers that have rules."""
    aten = torch.ops.aten
    table = dict(torch.export.default_decompositions())
    for kept in (
        aten.linear.default, aten.scaled_dot_product_attention.default, aten.lstm.input,
        aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input,
    ):  # fmt: skip
        table.pop(kept, None)
    return table


def _simplified(graph: fx.Graph) -> list[fx.Node]:
    """Return the nodes of a graph without detours that would hide what moves with what.

    One item of a `torch.stack` is that item itself: the stack would say that its items move alike,
    which those of a recurrent network's last hidden states don't. An `as_strided` that changes
    nothing goes, and so do assertions.
    """
    aten = torch.ops.aten
    for node in list(graph.nodes):
        if "assert" in str(node.target) and not node.users:
            graph.erase_node(node)
    for node in graph.find_nodes(op="call_function", target=aten.select.int):
        item = _stacked_item(node)
        if item is not None:
            node.replace_all_uses_with(item)
    for node in graph.find_nodes(op="call_function", target=aten.as_strided.default):
        source: Any = node.args[0]
        before, after = source.meta["val"], node.meta["val"]
        if before.shape == after.shape and _strides(before) == _strides(after):
            node.replace_all_uses_with(source)
    graph.eliminate_dead_code()
    return list(graph.nodes)


def _stacked_item(select: fx.Node) -> fx.Node | None:
    """Return what `torch.stack` put where `select` takes it, if that is what happens."""
    args: tuple[Any, ...] = select.args
    stack, dim, index = args
    cat: Any = stack.args[0] if stack.target is torch.ops.aten.view.default else None
    if dim != 0 or not isinstance(cat, fx.Node) or cat.target is not torch.ops.aten.cat.default:
        return None
    items: Any = cat.args[0]
    along = cat.args[1] if len(cat.args) > 1 else 0
    shape = select.meta["val"].shape
    if along != 0 or stack.meta["val"].shape[0] != len(items):
        return None
    found: fx.Node = items[index]
    return found if all(item.meta["val"].shape == shape for item in items) else None


def _strides(tensor: torch.Tensor) -> list[int]:
    return [step for step, size in zip(tensor.stride(), tensor.shape, strict=True) if size != 1]


@contextlib.contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        yield
    finally:
        for module in training:
            module.training = True


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what the tracers think of the model's code to ourselves; errors are raised anyway."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    was_disabled = logger.disabled
    try:
        logger.disabled = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was_disabled
