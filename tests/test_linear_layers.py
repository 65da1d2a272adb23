"""The linear layers of a network: which there are, what enters and leaves them."""

from __future__ import annotations

import pytest
import torch
from states import trained_batch_norm
from torch import Tensor, nn

from fastrebasin.experiments.models import resnet20, vgg11
from fastrebasin.merging.linear_layers import folded_weight, inputs_of, linear_layers, outputs_of


class Preactivated(nn.Module):
    """What a convolution gives is read twice; BatchNorm behind it can't be folded into it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        out: Tensor = self.linear((x + self.bn(x).relu()).mean((2, 3)))
        return out


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 4),
        nn.Conv1d(6, 4, 3, padding=1, groups=2),
        nn.Conv2d(6, 4, (3, 2), stride=(2, 1), padding=1, dilation=(1, 2)),
        nn.Conv2d(6, 6, 3, groups=6, padding="same", padding_mode="reflect"),
        nn.Conv3d(6, 4, 2, stride=2, bias=False),
    ],
    ids=str,
)
def test_layers_are_products_of_weights_and_inputs(layer: nn.Module, device: str) -> None:
    layer = layer.to(device)
    shape = (3, 6) if isinstance(layer, nn.Linear) else (3, 6, *[7] * (layer.weight.ndim - 2))  # type: ignore[operator]
    x = torch.randn(shape, device=device)
    expected = layer(x)
    bias = layer.state_dict().get("bias", torch.zeros(1, device=device))
    weights = layer.state_dict()["weight"].flatten(1).chunk(getattr(layer, "groups", 1))
    found = [w @ each.flatten(1) for w, each in zip(weights, inputs_of(layer, x), strict=True)]
    outputs = [each.flatten(1) for each in outputs_of(layer, expected)]
    assert torch.allclose(torch.cat(found) + bias[:, None], torch.cat(outputs), atol=1e-5)


@pytest.mark.parametrize("factory", [resnet20, vgg11, Preactivated], ids=lambda f: f.__name__)
def test_batch_norm_is_folded_where_it_alone_reads_a_layer(factory: type[nn.Module]) -> None:
    model = trained_batch_norm(factory())
    layers = linear_layers(model, torch.randn(2, 3, 32, 32))
    weights = [n for n, t in model.named_parameters() if t.ndim > 1]
    assert sorted(f"{layer.name}.weight" for layer in layers) == sorted(weights)
    folded = {layer.name for layer in layers if layer.norm}
    expected = {n[: -len(".weight")] for n in weights if model.get_parameter(n).ndim == 4}
    assert folded == (set() if factory is Preactivated else expected)


def test_tied_weights_are_no_layers() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    assert len(linear_layers(model, torch.randn(1, 4))) == 2
    model[2].weight = model[0].weight
    assert linear_layers(model, torch.randn(1, 4)) == []


def test_a_folded_weight_does_what_the_layer_and_its_norm_do() -> None:
    model = nn.Sequential(nn.Conv2d(6, 4, 3, groups=2), nn.BatchNorm2d(4)).eval()
    for tensor in model[1].state_dict().values():
        tensor.copy_(torch.rand(tensor.shape) + 0.5)
    x, y = torch.randn(2, 3, 6, 5, 5)
    (layer,) = linear_layers(model, x)
    weight = folded_weight(model, layer).float()
    assert weight.shape == model[0].weight.shape
    expected = nn.functional.conv2d(x - y, weight, groups=2)  # no intercept in a difference
    torch.testing.assert_close(model(x) - model(y), expected, rtol=1e-4, atol=1e-5)
