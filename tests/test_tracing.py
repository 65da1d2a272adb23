"""Specs traced from a model's graph: whatever the architecture, true and complete."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from zoo import LARGE, ZOO, Entry

import fastrebasin as fr
from fastrebasin import PermutationSpec, architectures, trace
from fastrebasin._calls import arguments, tensors_in
from fastrebasin.experiments.models import MLP, resnet20, vgg11

ZOO_CASES = [
    pytest.param(
        entry,
        id=entry.name,
        marks=pytest.mark.skipif(
            entry.requires is not None and importlib.util.find_spec(entry.requires) is None,
            reason=f"{entry.requires} is not installed",
        ),
    )
    for entry in ZOO
]


def outputs(model: nn.Module, inputs: object) -> list[Tensor]:
    args, kwargs = arguments(inputs)  # type: ignore[arg-type]
    with torch.no_grad():
        return list(tensors_in(model.eval()(*args, **kwargs)))


@pytest.mark.parametrize("entry", ZOO_CASES)
def test_zoo(entry: Entry) -> None:
    """Each row of README's table: traced, proved, nearly all moves, planted permutations found."""
    torch.manual_seed(0)
    model = entry.build()
    inputs = entry.inputs()
    spec = trace(model, inputs)  # which proves it
    params = model.state_dict()
    assert not spec.notes
    assert spec.share(params) >= entry.movable
    assert PermutationSpec.from_json(spec.to_json()) == spec

    planted = spec.random_permutation(seed=1)
    scrambled = fr.apply_permutation(spec, planted, params)
    found = fr.weight_matching(spec, params, scrambled).permutation
    merged = fr.interpolate(params, fr.apply_permutation(spec, found, scrambled))
    twin = copy.deepcopy(model)
    twin.load_state_dict(merged)
    for before, after in zip(outputs(model, inputs), outputs(twin, inputs), strict=True):
        assert torch.allclose(before, after, rtol=1e-5, atol=1e-5 * before.abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize("entry", [pytest.param(entry, id=entry.name) for entry in LARGE])
def test_large_models(entry: Entry) -> None:
    torch.manual_seed(0)
    model = entry.build()
    spec = trace(model, entry.inputs())
    assert spec.share(model.state_dict()) >= entry.movable


def renamed(spec: PermutationSpec) -> dict[str, tuple[str | None, ...]]:
    """Return the axes with groups named in the order in which they come."""
    names: dict[str, str] = {}
    return {
        name: tuple(None if g is None else names.setdefault(g, f"P{len(names)}") for g in groups)
        for name, groups in spec.axes.items()
        if any(groups)
    }


@pytest.mark.parametrize(
    ("model", "table", "shape"),
    [
        (MLP(12, (9, 8, 7), 5), architectures.mlp(3), (2, 12)),
        (vgg11(width=1 / 16), architectures.vgg(), (2, 3, 32, 32)),
        (resnet20(), architectures.resnet(), (2, 3, 16, 16)),
    ],
    ids=["MLP", "VGG11-BN", "ResNet20"],
)
def test_traced_specs_equal_those_written_by_hand(
    model: nn.Module, table: PermutationSpec, shape: tuple[int, ...]
) -> None:
    traced = trace(model, torch.randn(shape))
    order = {name: table.axes[name] for name in model.state_dict() if name in table.axes}
    assert renamed(traced) == renamed(PermutationSpec.from_axes(order))


class Module(nn.Module):
    """A model whose forward pass is a function of itself."""

    def __init__(self, forward: Callable[..., object], **layers: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *inputs: Tensor) -> object:
        return self.function(self, *inputs)


def hidden(function: Callable[[nn.Module, Tensor], object], **layers: nn.Module) -> Module:
    """Return a model that does something to twelve hidden units between two layers."""
    return Module(
        lambda self, x: self.last(function(self, self.first(x))),
        first=nn.Linear(5, 12), last=nn.LazyLinear(3), **layers,
    )  # fmt: skip


def traced_axis(model: nn.Module, name: str, axis: int) -> tuple[str | None, PermutationSpec]:
    inputs = torch.randn(4, 5)
    model(inputs)  # lazy layers
    spec = trace(model, inputs)
    return spec.axes[name][axis], spec


@pytest.mark.parametrize(
    ("function", "layout"),
    [
        (lambda _, h: h.relu(), "P0"),
        (lambda _, h: torch.cat([h, h], 1), "P0 + P0"),
        (lambda _, h: torch.cat([h.relu(), -h], 1), "P0 + P0"),
        (lambda _, h: h.repeat_interleave(3, dim=1), "P0*P1"),  # copies may change places, too
        (lambda _, h: h.chunk(2, 1)[0] * h.chunk(2, 1)[1], "P0"),
        (lambda _, h: functional.pad(h, (2, 1)).relu()[:, 1:-1], "1 + P0"),
        (lambda _, h: h.view(-1, 3, 4).softmax(2).flatten(1), "P0*P1"),
        (lambda _, h: h.view(-1, 3, 4).transpose(1, 2).softmax(1).flatten(1), "P1*P0"),
        (lambda _, h: functional.group_norm(h, 4), "P0*P1"),
        (lambda _, h: h.cumsum(1), None),
        (lambda _, h: h.flip(1), None),
        (lambda _, h: h * torch.arange(12), None),
        (lambda _, h: h[:, torch.tensor([3, 1])], None),
        (lambda _, h: h.sort(1).values, None),
        (lambda _, h: (h[:, :, None] * h[:, None, :]).flatten(1), "P0*P0"),
        (lambda _, h: functional.one_hot(h.argmax(1), 12).float(), "P0"),
    ],
)
def test_what_one_operation_leaves_free(
    function: Callable[[nn.Module, Tensor], Tensor], layout: str | None
) -> None:
    found, _ = traced_axis(hidden(function), "last.weight", 1)
    assert found == layout


def test_units_inside_sets_have_permutations_of_their_own_for_each_set() -> None:
    _, spec = traced_axis(hidden(lambda _, h: functional.group_norm(h, 4)), "last.weight", 1)
    assert dict(spec.within) == {"P1": ("P0",)}
    assert spec.sizes == {"P0": 4, "P1": 12}
