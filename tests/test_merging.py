"""Interpolation and `merge`."""

from __future__ import annotations

import copy

import pytest
import torch

from fastrebasin import (
    PermutationSpec,
    apply_permutation,
    architectures,
    evaluate,
    interpolate,
    invert,
    merge,
)
from fastrebasin.experiments.models import MLP, resnet20
from fastrebasin.merging.combination import COMBINATIONS

IMAGES = (
    torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
    torch.arange(40) % 10,
)


def test_interpolation_is_linear_and_keeps_integers() -> None:
    a = {"w": torch.randn(4), "n": torch.tensor(3), "h": torch.randn(4).half()}
    b = {"w": torch.randn(4), "n": torch.tensor(7), "h": torch.randn(4).half()}
    for weight in (0.0, 0.3, 1.0, 1.5):
        found = interpolate(a, b, weight)
        assert torch.allclose(found["w"], (1 - weight) * a["w"] + weight * b["w"])
        assert found["n"] == 3
        assert found["h"].dtype == torch.float16
    found = interpolate(a, a)
    found["n"] += 1
    assert a["n"] == 3


def test_interpolation_names_every_misfit() -> None:
    a = {"w": torch.zeros(2), "x": torch.zeros(1), "v": torch.zeros(3)}
    b = {"w": torch.zeros(3), "y": torch.zeros(1), "v": torch.zeros(3)}
    with pytest.raises(ValueError, match="x is only in A; y is only in B; w has shape"):
        interpolate(a, b)


def test_merging_a_permuted_copy_gives_the_model_back() -> None:
    a = resnet20().eval()
    with torch.no_grad():
        for parameter in a.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    spec = architectures.resnet().bind(a.state_dict())
    b = resnet20().eval()
    b.load_state_dict(apply_permutation(spec, spec.random_permutation(3), a.state_dict()))
    result = merge(a, b, spec=spec, example_inputs=IMAGES[0][:2])
    undone = invert(spec.random_permutation(3))
    assert all(torch.equal(result.permutation[group], undone[group]) for group in undone)
    assert torch.allclose(result.model(IMAGES[0]), a(IMAGES[0]), atol=1e-4)
    assert result.report["align"] == "weights"
    assert result.report["normalize"] == "none"


def test_auto_normalisation_resets_where_there_is_batch_norm_and_data() -> None:
    a, b = resnet20(), resnet20()
    result = merge(a, b, IMAGES)
    assert result.report["normalize"] == "reset"
    statistics = result.params["bn1.running_mean"]
    assert torch.equal(statistics, result.model.state_dict()["bn1.running_mean"])
    assert statistics.any()
    mlp = merge(MLP(6, (8,), 3), MLP(6, (8,), 3), (torch.randn(9, 6), torch.zeros(9).long()))
    assert mlp.report["normalize"] == "none"


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_a_model_merged_with_its_permuted_copy_is_the_model(combine: str, device: str) -> None:
    model = MLP(12, (9, 7), 3).to(device)
    params, spec = model.state_dict(), architectures.mlp(2).bind(model.state_dict())
    answer = spec.random_permutation(seed=1)
    twin = copy.deepcopy(model)
    twin.load_state_dict(apply_permutation(spec, invert(answer), params))
    x = torch.randn(60, 12, generator=torch.Generator().manual_seed(0))
    data = (x, torch.arange(60) % 3)
    base = {name: torch.zeros_like(tensor) for name, tensor in params.items()}
    before = copy.deepcopy(twin.state_dict())
    result = merge(model, twin, data, combine=combine, base=base)
    assert all(torch.equal(result.permutation[g], p) for g, p in answer.items())
    assert all(torch.equal(before[n], t) for n, t in twin.state_dict().items())
    if combine not in ("ties", "dare"):  # which leave out small or random parts
        assert torch.allclose(result.model(x.to(device)), model(x.to(device)), atol=1e-3)
    assert set(result.params) == set(params)


def test_straight_through_does_better_than_averaging() -> None:
    a, b = MLP(6, (16, 16), 3), MLP(6, (16, 16), 3)
    x = torch.randn(100, 6)
    data = ((x, x[:, :3].argmax(1)), (x, x[:, 3:].argmax(1)))
    losses = {
        align: evaluate(merge(a, b, data, align=align).model, data).mixture.loss
        for align in ("none", "straight-through")
    }
    assert losses["straight-through"] < losses["none"]


def test_the_models_are_unchanged() -> None:
    a, b = resnet20(), resnet20()
    before = [{n: t.clone() for n, t in m.state_dict().items()} for m in (a, b)]
    result = merge(a, b, IMAGES)
    for tensor in result.params.values():
        tensor.zero_()
    for state, model in zip(before, (a, b), strict=True):
        assert model.training
        assert all(torch.equal(state[n], t) for n, t in model.state_dict().items())


def test_a_wrong_spec_stops_the_merge() -> None:
    axes = dict(architectures.mlp(1).axes) | {"layer0.bias": (None,)}
    with pytest.raises(ValueError, match="does not preserve the model's function"):
        merge(
            MLP(6, (8,), 3), MLP(6, (8,), 3),
            spec=PermutationSpec.from_axes(axes), example_inputs=torch.randn(4, 6),
        )  # fmt: skip


def test_options_are_checked_together() -> None:
    models = resnet20(), resnet20()
    with pytest.raises(ValueError, match=r"align must be one of.*combine must be.*normalize"):
        merge(*models, align="magic", combine="mode", normalize="never")
    with pytest.raises(ValueError, match='align="straight-through" needs data'):
        merge(*models, align="straight-through")
    with pytest.raises(ValueError, match='normalize="reset" needs data'):
        merge(*models, normalize="reset", example_inputs=IMAGES[0])
    with pytest.raises(
        ValueError, match='combine="least-squares" needs data; normalize="repair" needs data'
    ):
        merge(*models, combine="least-squares", normalize="repair", example_inputs=IMAGES[0])
    with pytest.raises(ValueError, match='combine="ties" needs base'):
        merge(*models, IMAGES, combine="ties")
    with pytest.raises(ValueError, match="give example_inputs or data"):
        merge(*models)
    with pytest.raises(ValueError, match="don't fit together"):
        merge(MLP(6, (8,), 3), MLP(6, (9,), 3), example_inputs=torch.randn(2, 6))
