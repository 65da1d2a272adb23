"""Images made from models alone: what the models see in them, and what merging gets from them."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastrebasin import ReducedSet, merge
from fastrebasin.experiments.models import MLP, VGG
from fastrebasin.normalization import batch_norm_layers
from fastrebasin.normalization.layers import on_input
from fastrebasin.reduction import synthesize


def made(models: Any, **options: Any) -> ReducedSet:
    options = {"per_class": 4, "steps": 60, "l2": 0.1, "progress": False} | options
    return synthesize(models, **options)


def mlp(seed: int = 0) -> MLP:
    torch.manual_seed(seed)
    model = MLP(16, (32, 32), 3).eval()
    for parameter in model.parameters():
        parameter.data *= 4
    return model


def convolutions() -> nn.Module:
    """Return a network whose BatchNorm layers have seen bright images of low contrast."""
    model = VGG((8, "pool", 8), classes=3)
    model(1 + 0.2 * torch.randn(64, 3, 8, 8))
    for layer in batch_norm_layers(model):
        layer.momentum = 1.0
    model(1 + 0.2 * torch.randn(64, 3, 8, 8))
    return model.eval()


def distance(model: nn.Module, images: Tensor) -> float:
    """Return how far the images' means are from the running ones, in deviations."""
    model, found = copy.deepcopy(model), []
    for layer in batch_norm_layers(model):

        def see(x: Tensor, layer: Any = layer) -> None:
            shift = x.mean((0, 2, 3)) - layer.running_mean
            found.append((shift / layer.running_var.sqrt()).square().mean())

        on_input(layer, see)
    with torch.no_grad():
        model(images)
    return float(torch.stack(found).mean())


@pytest.mark.parametrize("shape", [None, (16,), (1, 4, 4)])
def test_the_model_classifies_them_as_intended(shape: tuple[int, ...] | None, device: str) -> None:
    model = mlp().to(device)
    found = made(model, shape=shape, smoothness=0.1, noise=0.1)
    assert found.images.shape == (12, *(shape or (16,)))
    assert found.images.device.type == device
    assert found.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    right = float((model(found.images).argmax(1).cpu() == found.labels).double().mean())
    assert right > 0.9
    assert json.loads(found.provenance["classified as intended"]) == right
    assert len(found.images.unique(dim=0)) == 12


def test_noise_and_classes_can_be_chosen() -> None:
    model = mlp()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = made(model.train(), classes=[2, 0], bounds=(-0.5, 0.25), batch_size=3)
    assert found.labels.tolist() == [0] * 4 + [2] * 4
    assert found.images.min() >= -0.5
    assert found.images.max() <= 0.25
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_several_models_agree() -> None:
    models = [mlp(0), mlp(1)]
    found = made(models, noise=0.1)
    for model in models:
        assert (model(found.images).argmax(1) == found.labels).all()


def test_batches_have_the_statistics_that_batch_norm_keeps() -> None:
    model = convolutions()
    options = {"shape": (3, 8, 8), "per_class": 16}
    found, without = (made(model, statistics=weight, **options) for weight in (10, 0))
    noise = torch.randn(48, 3, 8, 8)
    near = distance(model, found.images)
    assert near < 0.2 * distance(model, noise)
    assert near < 0.5 * distance(model, without.images)


def test_the_seed_decides() -> None:
    first, second, other = (made(mlp(), seed=seed).images for seed in (4, 4, 5))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_images_have_the_models_dtype(dtype: torch.dtype) -> None:
    model = mlp().to(dtype)
    found = made(model)
    assert found.images.dtype == dtype
    assert (model(found.images).argmax(1) == found.labels).all()


def test_serve_to_merge_without_data() -> None:
    model_a, model_b = mlp(0), mlp(1)
    data = made(model_a, per_class=10), made(model_b, per_class=10)
    merged = merge(
        model_a, model_b, data, align="activations", combine="least-squares", progress=False
    ).model
    average = merge(model_a, model_b, data, align="none", progress=False).model

    def right(model: nn.Module) -> int:
        return sum(int((model(each.images).argmax(1) == each.labels).sum()) for each in data)

    assert right(merged) > right(average)


def test_errors_name_everything_wrong() -> None:
    with pytest.raises(
        ValueError,
        match=r"per_class .* got 0; batch_size .* got 0; steps .* got 0; lr .* got 0; "
        r"noise .* -1; smoothness .* inf; bounds .* \(1, 0\); shape must be .*, got \(4, 4\)",
    ):
        made(
            mlp(), per_class=0, batch_size=0, steps=0, lr=0, noise=-1, smoothness=float("inf"),
            bounds=(1, 0), shape=(4, 4),
        )  # fmt: skip
    with pytest.raises(ValueError, match=r"give shape: the model doesn't begin with an nn.Linear"):
        made(convolutions())
    with pytest.raises(ValueError, match="models must not be empty"):
        made([])
    with pytest.raises(ValueError, match=r"model 0 can't run on \(2, 7\): mat1 and mat2"):
        made(mlp(), shape=(7,))
    with pytest.raises(ValueError, match=r"must return logits \(batch, classes\), got \(2, 4, 6"):
        made(nn.Conv2d(3, 4, 3), shape=(3, 8, 8))
    with pytest.raises(ValueError, match=r"as many classes apart, got \[3, 5\]"):
        made([mlp(), MLP(16, (8,), 5)])
    with pytest.raises(ValueError, match=r"classes must be in \[0, 3\), got \[-1, 3\]"):
        made(mlp(), classes=[3, -1, 0])
    broken = mlp()
    broken.get_parameter("layer1.weight").data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"not: layer1.weight of model 1"):
        made([mlp(), broken])
    with pytest.raises(ValueError, match=r"loss must be finite, got .* smaller lr than 1e"):
        made(mlp(), lr=1e30)
