"""REPAIR against statistics of channels computed directly, and what it gains on MNIST."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from states import equal
from torch import Tensor, nn

from fastrebasin import apply_permutation, architectures, evaluate, interpolate, invert
from fastrebasin import weight_matching as match
from fastrebasin.experiments.data_sets import idx_folder
from fastrebasin.experiments.models import MLP
from fastrebasin.experiments.training import train
from fastrebasin.normalization import repair, reset_batch_norm

MODES = ["forward", "closed-form"]
IMAGES = (
    torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
    torch.arange(40) % 10,
)


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3, groups=2, bias=False),
        nn.Tanh(), nn.ConvTranspose2d(8, 6, 2, groups=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(150, 10),
    )  # fmt: skip


def dense() -> nn.Module:
    return nn.Sequential(nn.Flatten(), MLP(192, (12, 11, 10), 4))


def outputs(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Return what each layer makes, channels first."""
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if getattr(module, "weight", None) is not None:
            axis = 1 - module.get_parameter("weight").ndim
            module.register_forward_hook(
                lambda _, __, y, name=name, axis=axis: found.update(
                    {name: y.clone().movedim(axis, 0).flatten(1)}
                )
            )
    with torch.no_grad():
        model(x)
    return found


@pytest.mark.parametrize("build", [convolutional, dense])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_repaired_channels_vary_as_those_of_both_models(
    build: type[nn.Module], weight: float, device: str
) -> None:
    a, b, merged = (build().to(device) for _ in range(3))
    merged.load_state_dict(interpolate(a.state_dict(), b.state_dict(), weight))
    before = [copy.deepcopy(model) for model in (a, b, merged)]
    repaired = repair(merged, a, b.state_dict(), IMAGES, weight=weight)
    assert all(equal(*models) for models in zip(before, (a, b, merged), strict=True))
    x = IMAGES[0].to(device)
    ends, found = [outputs(model, x) for model in (a, b)], outputs(repaired, x)
    last = list(found)[-1]
    for name, made in found.items():
        mean, deviation = (
            (1 - weight) * getattr(ends[0][name], moment)(1)
            + weight * getattr(ends[1][name], moment)(1)
            for moment in ("mean", "std")
        )
        alive = made.std(1) > 0
        has_bias = repaired.get_submodule(name).bias is not None
        if name == last:
            state, old = repaired.state_dict(), merged.state_dict()
            assert torch.equal(state[f"{name}.weight"], old[f"{name}.weight"])
        else:
            assert torch.allclose(made.std(1)[alive], deviation[alive], rtol=1e-3)
            assert not has_bias or torch.allclose(made.mean(1)[alive], mean[alive], atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_model_merged_with_its_aligned_copy_needs_no_repair(
    mode: str, dtype: torch.dtype
) -> None:
    a = MLP(12, (16, 16), 4).to(dtype)
    spec = architectures.mlp(2).bind(a.state_dict())
    moved = spec.random_permutation(1)
    b = apply_permutation(spec, moved, a.state_dict())
    data = torch.randn(50, 12).to(dtype), torch.zeros(50)
    repaired = repair(a, a, apply_permutation(spec, invert(moved), b), data, mode=mode)
    assert equal(a, repaired, 2e-2 if dtype is torch.bfloat16 else 1e-5)


def test_the_closed_form_is_exact_where_the_inputs_are_those_of_the_models() -> None:
    a, b = dense(), dense()
    merged = dense()
    merged.load_state_dict(interpolate(a.state_dict(), b.state_dict()))
    exact, closed = (repair(merged, a, b, IMAGES, mode=mode).state_dict() for mode in MODES)
    assert torch.allclose(closed["1.layer0.weight"], exact["1.layer0.weight"], atol=1e-5)
    assert not torch.allclose(closed["1.layer1.weight"], exact["1.layer1.weight"], atol=1e-3)
    # Further on, it takes the second moments of both models' inputs through the merged layer.
    made = [outputs(model, IMAGES[0])["1.layer1"] for model in (a, b)]
    with torch.no_grad():
        layer = merged.get_submodule("1.layer1")
        inputs = [outputs(model, IMAGES[0])["1.layer0"].T.relu() for model in (a, b)]
        pooled = layer(torch.cat(inputs)).std(0, correction=0)
    scale = (made[0].std(1, correction=0) + made[1].std(1, correction=0)) / 2 / pooled
    expected = merged.state_dict()["1.layer1.weight"] * scale[:, None]
    assert torch.allclose(closed["1.layer1.weight"], expected, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_channels_that_never_vary_are_left_alone(mode: str) -> None:
    a, b, merged = (MLP(6, (4,), 3) for _ in range(3))
    with torch.no_grad():
        for model, row in ((a, 0), (b, 0), (merged, 1)):
            model.get_parameter("layer0.weight")[row] = 0
    found = repair(merged, a, b, (torch.randn(50, 6), torch.zeros(50)), mode=mode).state_dict()
    for name in ("layer0.weight", "layer0.bias"):
        assert torch.equal(found[name][:2], merged.state_dict()[name][:2])
        assert not torch.equal(found[name][2:], merged.state_dict()[name][2:])


@pytest.mark.parametrize("mode", MODES)
def test_layers_before_batch_norm_are_left_to_its_reset(mode: str) -> None:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
        )

    a, b, merged = build(), build(), build()
    repaired = repair(merged, a, b, IMAGES, mode=mode, batch_size=20)
    assert equal(repaired, reset_batch_norm(merged, IMAGES, batch_size=20))
    # A layer without one, in the same network, is corrected, and the reset sees what it makes.
    a, b, merged = (nn.Sequential(nn.Conv2d(3, 3, 1), model) for model in (a, b, merged))
    found = repair(merged, a, b, IMAGES, mode=mode)
    assert not torch.equal(found.state_dict()["0.weight"], merged.state_dict()["0.weight"])
    assert equal(found, reset_batch_norm(found, IMAGES), 1e-4)


def test_a_layer_whose_output_changed_in_place_before_batch_norm_is_corrected() -> None:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Linear(6, 5), nn.ReLU(inplace=True), nn.BatchNorm1d(5), nn.Linear(5, 2)
        )

    a, b, merged = build(), build(), build()
    found = repair(merged, a, b, (torch.randn(50, 6), torch.zeros(50)))
    assert not torch.equal(found.state_dict()["0.weight"], merged.state_dict()["0.weight"])


def test_shared_and_computed_weights_are_left_alone() -> None:
    def build() -> nn.Sequential:
        model = nn.Sequential(*[nn.Linear(5, 5) for _ in range(4)], nn.Tanh(), nn.Linear(5, 2))
        model[1].weight = model[0].weight
        nn.utils.parametrizations.weight_norm(model[2])
        model.append(model[3])
        return nn.Sequential(model[:4], model[3], model[4:6])

    a, b, merged = build(), build(), build()
    assert equal(merged, repair(merged, a, b, (torch.randn(30, 5), torch.zeros(30))))


def test_what_does_not_fit_is_named() -> None:
    a, b = MLP(6, (4,), 3), MLP(6, (4,), 3)
    data = torch.randn(9, 6), torch.zeros(9)
    with pytest.raises(
        ValueError, match=r"batch_size must.*weight must be in.*mode must be.*is on"
    ):
        repair(a, a, MLP(6, (4, 4), 3), data, weight=2, mode="magic", batch_size=0)
    with pytest.raises(ValueError, match="activations must be finite, but these aren't: layer0"):
        repair(a, a, b, (data[0] * math.nan, data[1]))
    with torch.no_grad():
        b.get_parameter("layer0.bias")[0] = math.nan
    with pytest.raises(ValueError, match=r"not: layer0\.bias of model_b"):
        repair(a, a, b, data)


@pytest.mark.slow
def test_repair_lifts_the_midpoint_of_deep_networks_on_mnist(data_dir: Path) -> None:
    data = idx_folder(data_dir, "MNIST")
    spec = architectures.mlp(6)
    lifts: dict[str, list[float]] = {mode: [] for mode in MODES}
    for seed in range(3):
        a, b = (
            train(lambda: MLP(784, (128,) * 6), data.train, epochs=5, seed=2 * seed + end)
            for end in range(2)
        )
        found = match(spec, a.state_dict(), b.state_dict()).permutation
        aligned = apply_permutation(spec, found, b.state_dict())
        merged = MLP(784, (128,) * 6)
        merged.load_state_dict(interpolate(a.state_dict(), aligned))
        before = evaluate(merged, data.test).mixture.accuracy
        for mode in MODES:
            repaired = repair(merged, a, aligned, data.train, mode=mode, max_batches=10)
            lifts[mode].append(evaluate(repaired, data.test).mixture.accuracy - before)
    assert sum(lifts["forward"]) / 3 > 0.08
    assert sum(lifts["closed-form"]) / 3 > 0.04
