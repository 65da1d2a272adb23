"""Specs: the paper's tables preserve functions, broken ones are caught, JSON round trip."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn

from fastrebasin import PermutationSpec, apply_permutation, architectures
from fastrebasin.experiments.models import MLP, resnet20, vgg11

Case = tuple[Callable[[], nn.Module], PermutationSpec, tuple[int, ...], int]

CASES: dict[str, Case] = {
    "mlp": (lambda: MLP(20, (16, 12, 8), 5), architectures.mlp(3), (4, 20), 3),
    "vgg11": (lambda: vgg11(0.125), architectures.vgg(), (2, 3, 32, 32), 8),
    "resnet20": (resnet20, architectures.resnet(), (2, 3, 16, 16), 12),
}


@pytest.fixture(params=CASES, ids=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def test_hand_written_tables_preserve_the_function(case: Case) -> None:
    factory, spec, shape, groups = case
    assert len(spec.groups) == groups
    assert spec.verify(factory(), torch.randn(shape)) < 1e-10


def test_permuted_float32_model_gives_the_same_logits(case: Case, device: str) -> None:
    factory, spec, shape, _ = case
    model = factory().to(device).eval()
    x = torch.randn(shape, device=device)
    permutation = spec.bind(model.state_dict()).random_permutation(seed=1)
    twin = factory().to(device).eval()
    twin.load_state_dict(apply_permutation(spec, permutation, model.state_dict()))
    assert not torch.equal(*(next(m.parameters()) for m in (model, twin)))
    assert torch.allclose(model(x), twin(x), atol=1e-4)


def test_every_hidden_axis_is_permuted(case: Case) -> None:
    factory, spec, _, _ = case
    params = factory().state_dict()
    outputs, inputs = list(params.items())[-1][1].shape[0], None
    for name, tensor in params.items():
        if name.endswith("num_batches_tracked"):
            continue
        fixed = [axis for axis, group in enumerate(spec.axes[name]) if group is None]
        inputs = inputs or tensor.shape[1]
        # Only the model's inputs, its outputs and kernel axes stay where they are.
        assert all(axis > 1 or tensor.shape[axis] in (inputs, outputs) for axis in fixed), name


BREAKS = {
    "a forgotten bias": lambda axes: axes | {"layer1.bias": (None,)},
    "a forgotten input": lambda axes: axes | {"layer2.weight": ("P2", None)},
    "another group's axis": lambda axes: axes | {"layer2.weight": ("P2", "P0")},
    "an output permuted": lambda axes: (
        axes | {"layer3.weight": ("OUT", "P2"), "layer3.bias": ("OUT",)}
    ),
}


@pytest.mark.parametrize("damage", BREAKS, ids=list(BREAKS))
def test_a_broken_mlp_spec_fails(damage: str) -> None:
    axes = BREAKS[damage](dict(architectures.mlp(3).axes))
    spec = PermutationSpec.from_axes(axes)
    with pytest.raises(ValueError, match="does not preserve the model's function"):
        spec.verify(MLP(20, (16, 16, 16), 5), torch.randn(4, 20))


@pytest.mark.parametrize(
    "name", ["bn1.running_mean", "bn1.running_var", "layer2.0.bn1.weight", "layer1.1.bn2.bias"]
)
def test_a_forgotten_batch_norm_vector_fails_even_on_a_fresh_model(name: str) -> None:
    axes = dict(architectures.resnet().axes) | {name: (None,)}
    with pytest.raises(ValueError, match="does not preserve"):
        PermutationSpec.from_axes(axes).verify(resnet20(), torch.randn(2, 3, 8, 8))


def test_the_guilty_group_is_named() -> None:
    axes = dict(architectures.mlp(3).axes) | {"layer1.bias": (None,)}
    with pytest.raises(ValueError, match="permuting 'P1'") as caught:
        PermutationSpec.from_axes(axes).verify(MLP(20, (16, 16, 16), 5), torch.randn(4, 20))
    assert "'P0'" not in str(caught.value)
    assert "'P2'" not in str(caught.value)


def test_groups_of_two_units_are_always_moved() -> None:
    axes = dict(architectures.mlp(1).axes) | {"layer1.weight": (None, None)}
    for seed in range(10):
        with pytest.raises(ValueError, match="does not preserve"):
            PermutationSpec.from_axes(axes).verify(MLP(5, (2,), 3), torch.randn(4, 5), seed=seed)


def test_verify_leaves_the_model_alone() -> None:
    model = resnet20().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    architectures.resnet().verify(model, torch.randn(2, 3, 8, 8))
    assert model.training
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


class _Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.fc(x) * 0}


def test_outputs_that_prove_nothing_are_refused() -> None:
    spec = PermutationSpec.from_axes({"fc.weight": ("P", None)})
    with pytest.raises(ValueError, match="proves nothing"):
        spec.verify(_Constant(), torch.randn(2, 3))


def test_several_inputs_and_nested_outputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[list[torch.Tensor], int]:
            return [self.b(torch.relu(self.a(x) + self.a(y)))], 1

    axes = {"a.weight": ("P", None), "a.bias": ("P",), "b.weight": (None, "P")}
    inputs = (torch.randn(4, 3), torch.randn(4, 3))
    assert PermutationSpec.from_axes(axes).verify(Two(), inputs) < 1e-10
    with pytest.raises(ValueError, match="does not preserve"):
        PermutationSpec.from_axes(axes | {"a.bias": (None,)}).verify(Two(), inputs)


def test_json_round_trip(case: Case) -> None:
    factory, spec, _, _ = case
    bound = spec.bind(factory().state_dict())
    for original in (spec, bound):
        assert PermutationSpec.from_json(original.to_json()) == original
        for twin in (copy.deepcopy(original), pickle.loads(pickle.dumps(original))):
            assert twin == original


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"axes": 1}',
        '{"axes": {"w": "P0"}}',
        '{"axes": {}, "sizes": {"P": "x"}}',
        "nope",
    ],
)
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"JSON|Expecting value"):
        PermutationSpec.from_json(text)


def test_bind_names_every_misfit() -> None:
    spec = PermutationSpec.from_axes({"gone": ("P",), "flat": ("P", None), "w": ("P",)})
    with pytest.raises(ValueError, match="gone is missing; flat has 2 axes in the spec"):
        spec.bind({"flat": torch.zeros(3), "w": torch.zeros(3)})
    with pytest.raises(ValueError, match="'Q' has several sizes"):
        PermutationSpec.from_axes(
            {"a": ("Q",), "b": ("Q",)}, {"a": torch.zeros(2), "b": torch.zeros(3)}
        )


@pytest.mark.parametrize("entry", ["P0", (1, None)])
def test_entries_must_be_sequences_of_names(entry: object) -> None:
    with pytest.raises(TypeError, match="sequence of layouts"):
        PermutationSpec.from_axes({"w": entry})  # type: ignore[dict-item]


def test_random_permutation_needs_sizes() -> None:
    with pytest.raises(ValueError, match="bind the spec"):
        architectures.mlp().random_permutation()


def test_describe_lists_groups_and_axes() -> None:
    text = architectures.mlp(1).bind(MLP(3, (4,), 2).state_dict()).describe()
    assert "P0" in text
    assert "    4  layer0.weight[0], layer0.bias[0], layer1.weight[1]" in text
