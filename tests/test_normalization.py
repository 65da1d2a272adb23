"""BatchNorm reset and REPAIR against statistics computed directly."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn

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


def equal(model: nn.Module, other: nn.Module, tolerance: float = 0.0) -> bool:
    state = other.state_dict()
    return all(
        torch.allclose(tensor.double(), state[name].double(), rtol=tolerance, atol=tolerance)
        for name, tensor in model.state_dict().items()
    )


def test_reset_statistics_are_those_of_the_data(device: str) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)).train().to(device)
    shifted = (IMAGES[0] * 3 + 5, IMAGES[1])
    # An uneven last batch counts by its examples; a single one that is left over, not at all.
    for batch_size, batches in ((40, 1), (16, 3), (13, 3)):
        repaired = reset_batch_norm(model, shifted, batch_size=batch_size)
        statistics = repaired.state_dict()
        assert statistics["0.num_batches_tracked"] == batches
        tolerance = 0.05 if batch_size == 13 else 1e-5
        mean, variance = shifted[0].mean((0, 2, 3)), shifted[0].var((0, 2, 3))
        assert torch.allclose(statistics["0.running_mean"].cpu(), mean, rtol=tolerance)
        assert torch.allclose(statistics["0.running_var"].cpu(), variance, rtol=tolerance)
    assert repaired.get_submodule("0").momentum == 0.1
    assert not repaired.training
    assert model.training
    assert not model.state_dict()["0.running_mean"].any()


def test_reset_averages_both_sources_evenly() -> None:
    x = torch.zeros(100, 1)
    data = ((x, torch.zeros(100)), (x + 10, torch.zeros(100)))
    repaired = reset_batch_norm(nn.Sequential(nn.BatchNorm1d(1)), data, batch_size=50)
    assert repaired.state_dict()["0.running_mean"].item() == pytest.approx(5)
    assert repaired.state_dict()["0.running_var"].item() == pytest.approx(25, rel=0.01)


def test_reset_without_batch_norm_changes_nothing() -> None:
    model = MLP(6, (8,), 3)
    assert equal(model, reset_batch_norm(model, (torch.randn(4, 6), torch.zeros(4))))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_reset_keeps_to_its_budget(dims: int) -> None:
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1](2)
    seen: list[int] = []
    model = nn.Sequential(norm)
    norm.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    x = torch.randn(100, 2, *[3] * (dims if dims > 1 else 0))
    repaired = reset_batch_norm(model, (x, torch.zeros(100)), batch_size=20, max_batches=3)
    assert seen == [20, 20, 20]
    assert not equal(model, repaired)


def test_reset_with_synchronised_statistics_is_the_plain_one(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None))
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        found = reset_batch_norm(synced, IMAGES, batch_size=20)
    finally:
        distributed.destroy_process_group()
    assert equal(reset_batch_norm(model, IMAGES, batch_size=20), found)
    assert isinstance(found.get_submodule("1"), nn.SyncBatchNorm)
    assert found.get_submodule("1").momentum is None
    assert found(IMAGES[0]).isfinite().all()


class Activated(nn.BatchNorm1d):
    """A normalisation with an activation of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def test_reset_runs_layers_as_they_are_written() -> None:
    model = nn.Sequential(Activated(3), nn.BatchNorm1d(3))
    found = reset_batch_norm(model, (torch.randn(500, 3), torch.zeros(500))).state_dict()
    normal = torch.full((3,), (2 * math.pi) ** -0.5)  # the mean of the positive part
    assert torch.allclose(found["1.running_mean"], normal, atol=0.05)


class Detour(nn.Module):
    """A network with a normalisation that its forward pass leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.used(x)
        return out


def test_layers_that_never_run_keep_their_statistics() -> None:
    model = Detour()
    for layer in (model.used, model.unused):
        layer.running_mean = torch.full((3,), 5.0)
        layer.num_batches_tracked = torch.tensor(9)
    found = reset_batch_norm(model, (torch.randn(30, 3), torch.zeros(30))).state_dict()
    assert found["unused.running_mean"].tolist() == [5, 5, 5]
    assert found["unused.num_batches_tracked"] == 9
    assert found["used.num_batches_tracked"] == 1
    assert found["used.running_mean"].abs().max() < 1


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
    with pytest.raises(ValueError, match="max_batches must be at least 1, got 0"):
        reset_batch_norm(a, data, max_batches=0)
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
            train(lambda: MLP(784, (128,) * 6), data.train, epochs=10, seed=2 * seed + end)
            for end in range(2)
        )
        found = match(spec, a.state_dict(), b.state_dict()).permutation
        aligned = apply_permutation(spec, found, b.state_dict())
        merged = MLP(784, (128,) * 6)
        merged.load_state_dict(interpolate(a.state_dict(), aligned))
        before = evaluate(merged, data.test).mixture.accuracy
        for mode in MODES:
            repaired = repair(merged, a, aligned, data.train, mode=mode)
            lifts[mode].append(evaluate(repaired, data.test).mixture.accuracy - before)
    assert sum(lifts["forward"]) / 3 > 0.08
    assert sum(lifts["closed-form"]) / 3 > 0.06
