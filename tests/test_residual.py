"""Residual sums: which layers add to a stream, and that they make up for what it lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastrebasin import least_squares
from fastrebasin.experiments.models import ResNet, vgg11
from fastrebasin.merging import linear_layers as layers
from fastrebasin.merging.linear_layers import linear_layers
from fastrebasin.merging.residual import residual_sum


class Stream(nn.Module):
    """A layer whose weight another one shares, so that it is averaged, and one that adds to it."""

    def __init__(self, kind: str = "plain") -> None:
        super().__init__()
        self.kind = kind
        self.shared, self.twin = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        self.twin.weight = self.shared.weight
        self.branch, self.drop = nn.Linear(6, 6), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Any:
        stream = self.shared(x)
        branch = self.drop(self.branch(x))
        if self.kind == "made later":
            stream = self.twin(x)
        return SUMS[self.kind](stream, branch)


SUMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "plain": lambda stream, branch: branch + stream,
    "in place": lambda stream, branch: branch.add_(stream),
    "onto the stream": lambda stream, branch: stream.add_(branch),
    "changed before": lambda stream, branch: branch.relu_() + stream,
    "weighted": lambda stream, branch: torch.add(stream, branch, alpha=0.5),
    "added twice": lambda stream, branch: branch.exp() + branch + stream,
    "made later": lambda stream, branch: branch + stream,
}
KINDS = ["plain", "in place", "onto the stream"]
OTHERS = [kind for kind in SUMS if kind not in KINDS]


def test_residual_layers_of_networks_are_found() -> None:
    x = torch.randn(2, 3, 16, 16)
    model = ResNet(blocks=(2, 2, 1)).eval()
    found = {layer.name for layer in linear_layers(model, x) if layer.residual}
    assert found == {
        "layer1.0.conv2", "layer1.1.conv2", "layer2.0.shortcut.0", "layer2.1.conv2",
        "layer3.0.shortcut.0",
    }  # fmt: skip
    plain = linear_layers(vgg11(1 / 16).eval(), torch.randn(2, 3, 32, 32))
    assert not any(layer.residual for layer in plain)


@pytest.mark.parametrize("kind", KINDS + OTHERS)
def test_a_sum_is_known_however_it_is_written(kind: str, device: str) -> None:
    model, x = Stream(kind).eval().to(device), torch.randn(5, 6, device=device)
    found = residual_sum(model, "branch", "branch", x)
    if kind in OTHERS:
        assert found is None
        return
    assert found is not None
    assert torch.equal(found.input, x)
    assert torch.equal(found.stream, model.shared(x))
    assert torch.equal(found.output, model.branch(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_layer_makes_up_for_what_the_stream_lost(
    kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inputs of A's data and of B's are other ones: both can be answered, if by the branch."""
    a, b = (Stream(kind).eval().to(dtype) for _ in range(2))
    x = torch.randn(300, 6).to(dtype)
    x_a, x_b = x * (torch.arange(6) < 3), x * (torch.arange(6) >= 3)
    data = (x_a, torch.zeros(300)), (x_b, torch.zeros(300))
    with torch.no_grad():
        b.branch.bias.copy_(a.branch.bias)

    def error() -> float:
        merged = least_squares(a, b, data, ridge=0, augment=None)
        with torch.no_grad():
            errors = merged(x_a) - a(x_a), merged(x_b) - b(x_b)
        return float(max(each.abs().max() for each in errors))

    assert error() < {torch.float32: 1e-4, torch.float64: 1e-7, torch.bfloat16: 0.1}[dtype]
    monkeypatch.setattr(layers, "residual_sum", lambda *_: None)
    assert error() > 0.3
