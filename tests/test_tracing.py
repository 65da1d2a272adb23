"""Specs traced from a model's graph: whatever the architecture, true and complete."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from zoo import ZOO

from fastrebasin import PermutationSpec, TracingWarning, trace


class Module(nn.Module):
    """A model whose forward pass is a function of itself."""

    def __init__(self, forward: Callable[..., object], **layers: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *inputs: Tensor) -> object:
        return self.function(self, *inputs)

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)


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


def test_experts_have_units_of_their_own() -> None:
    entry = next(entry for entry in ZOO if entry.name == "Mixture of experts")
    spec = trace(entry.build(), entry.inputs())
    experts, units = spec.axes["layer1.w1"][0], spec.axes["layer1.w1"][2]
    assert spec.within[units or ""] == (experts,)
    assert spec.axes["layer1.router.weight"][0] == experts


def test_a_shared_module_used_twice_has_one_group() -> None:
    def twice(self: Any, h: Tensor) -> Tensor:
        once: Tensor = self.twice(h)
        again: Tensor = self.twice(once.relu())
        return again

    found, spec = traced_axis(hidden(twice, twice=nn.Linear(12, 12)), "last.weight", 1)
    assert found == "P0"
    assert spec.axes["twice.weight"] == ("P0", "P0")


def test_tied_tensors_move_as_one() -> None:
    model = Module(
        lambda self, x: self.head(self.embedding(x).relu()),
        embedding=nn.Embedding(7, 12), head=nn.Linear(12, 7, bias=False),
    )  # fmt: skip
    model.head.weight = model.embedding.weight
    spec = trace(model, torch.arange(7))
    assert dict(spec.axes) == {"embedding.weight": (None, "P0"), "head.weight": (None, "P0")}


@pytest.mark.parametrize("training", [True, False])
def test_dropout_left_in_training_is_traced_in_eval_mode_and_left_as_it_was(training: bool) -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    model.train(training)
    model[2].eval()
    before = copy.deepcopy(model.state_dict())
    spec = trace(model, torch.randn(4, 5))
    assert list(spec.sizes.values()) == [8]
    assert [module.training for module in model] == [training, training, False, training]
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


class Holder:
    """An output that torch.export knows nothing of."""

    def __init__(self, logits: Tensor, name: str) -> None:
        self.logits = logits
        self.name = name


def test_outputs_may_be_any_object_or_only_a_part_of_one() -> None:
    def holding(self: Any, x: Tensor) -> Holder:
        return Holder(self.b(self.a(x).relu()), "result")

    model = Module(holding, a=nn.Linear(5, 8), b=nn.Linear(8, 2))
    assert list(trace(model, torch.randn(4, 5)).sizes.values()) == [8]

    both = Module(
        lambda self, x: {"hidden": self.a(x), "logits": self.b(self.a(x).relu())},
        a=nn.Linear(5, 8), b=nn.Linear(8, 2),
    )  # fmt: skip
    assert not trace(both, torch.randn(4, 5)).groups
    assert trace(both, torch.randn(4, 5), outputs=lambda out: out["logits"]).groups


def test_control_flow_that_depends_on_data_is_refused_with_advice() -> None:
    model = Module(
        lambda self, x: self.a(x) if x.sum() > 0 else self.b(x),
        a=nn.Linear(5, 2), b=nn.Linear(5, 2),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"can't be traced.*depends on data.*from_axes"):
        trace(model, torch.randn(4, 5))


def test_unknown_operations_fix_what_they_touch_and_are_named() -> None:
    def spectrum(_: nn.Module, h: Tensor) -> Tensor:
        magnitudes: Tensor = torch.fft.rfft(h).abs()
        return magnitudes

    model = nn.Sequential(
        nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), Module(spectrum), nn.Linear(4, 2)
    )
    with pytest.warns(TracingWarning, match=r"aten\._fft_r2c.*test_tracing\.py"):
        spec = trace(model, torch.randn(4, 5))
    assert list(spec.sizes.values()) == [8]
    assert "_fft_r2c" in spec.describe()
    assert "_fft_r2c" in PermutationSpec.from_json(spec.to_json()).notes[0]


def test_what_is_not_a_model_and_what_it_cannot_run_on() -> None:
    with pytest.raises(TypeError, match="model must be a torch module, got int"):
        trace(3, torch.randn(2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="can't run on example_inputs: mat1"):
        trace(nn.Linear(4, 2), torch.randn(3, 5))


def test_outputs_that_prove_nothing_are_refused() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 1), nn.Softmax(1))
    with pytest.raises(ValueError, match="proves nothing"):
        trace(model, torch.randn(4, 5))
    assert trace(model, torch.randn(4, 5), verify=False).groups


def test_buffers_stay_unless_asked_for() -> None:
    model = Module(
        lambda self, x: self.b((self.a(x) + self.table).relu()),
        a=nn.Linear(5, 8),
        b=nn.Linear(8, 2),
    )
    model.register_buffer("table", torch.randn(8))
    assert not trace(model, torch.randn(4, 5)).groups
    spec = trace(model, torch.randn(4, 5), buffers=True)
    assert spec.axes["table"] == ("P0",)


def test_models_that_cast_inside_are_proved_in_their_own_precision() -> None:
    model = Module(
        lambda self, x: self.b(self.a(x).relu().float()), a=nn.Linear(5, 8), b=nn.Linear(8, 2)
    )
    spec = trace(model, torch.randn(4, 5))
    with pytest.raises(ValueError, match="does not preserve"):
        PermutationSpec.from_axes({**spec.axes, "a.bias": (None,)}).verify(model, torch.randn(4, 5))


@pytest.mark.parametrize(
    "function",
    [
        lambda h: h - h.max(),
        lambda h: h / h.max(1, keepdim=True).values,
        lambda h: h.view(torch.int32).float() / 2**31,
        lambda h: h.T[h.argmax(1)],
        lambda h: h.unfold(1, 3, 3).flatten(1).repeat(1, 1),
        lambda h: torch.var_mean(h, 1, keepdim=True)[0] * h,
        lambda h: torch.linalg.vector_norm(h, dim=1, keepdim=True) + h,
        lambda h: h.index_add(1, torch.tensor([0, 2]), h[:, :2]),
        lambda h: functional.interpolate(h[:, None], scale_factor=2)[:, 0, ::2],
        lambda h: functional.max_pool1d(h[:, None], 3, 1, 1)[:, 0],
        lambda h: torch.fft.rfft(h).abs(),
    ],
)
def test_odd_operations_are_handled_or_reported(function: Callable[[Tensor], Tensor]) -> None:
    model = hidden(lambda _, h: function(h))
    model(inputs := torch.randn(4, 5))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        spec = trace(model, inputs)  # which proves it
    assert len(spec.notes) == sum(issubclass(w.category, TracingWarning) for w in caught)


def attention(x: Tensor) -> Tensor:
    """Mix sets by each other, for each head: the axes are sets, heads, units."""
    scores = torch.einsum("bnhd,bmhd->bhnm", x, x).softmax(-1)
    return torch.einsum("bhnm,bmhd->bnhd", scores, x)


def test_what_is_on_two_axes_has_no_parts_inside() -> None:
    """Attention mixes sets of one axis: their units can't have permutations for each set."""
    model = hidden(lambda _, h: attention(h.view(-1, 3, 2, 2)).flatten(1))
    found, spec = traced_axis(model, "last.weight", 1)
    assert found == "P0*P1*P2"
    assert dict(spec.within) == {"P0": ("P1",), "P2": ("P1",)}
    # The proof sees it even where pairs of units leave one way only to move them all.
    wrong = PermutationSpec.from_axes(
        spec.axes, within={"P2": ("P0", "P1")}, sizes={"P0": 3, "P1": 2, "P2": 12}
    )
    with pytest.raises(ValueError, match="does not preserve"):
        wrong.verify(model, torch.randn(4, 5))


def test_what_is_on_two_axes_has_no_parts_inside_after_a_cut_either() -> None:
    """The same holds for the units of one head, which a slice of what was mixed leaves."""

    def gate(_: nn.Module, h: Tensor) -> Tensor:
        mixed = attention(h.view(-1, 3, 2, 2)).permute(0, 2, 3, 1).flatten(1)
        return mixed[:, :6] * mixed[:, 6:].sigmoid()

    found, spec = traced_axis(hidden(gate), "first.weight", 0)
    assert found == "P0*(P1 + P1)"
    assert not spec.within
