"""DenseNet: every layer reads the outputs of all before it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .entry import Entry, real, scaled


class DenseLayer(nn.Module):
    """Normalise all features so far, then compute a few more."""

    def __init__(self, fan_in: int, growth: int, inner: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(fan_in)
        self.conv1 = nn.Conv2d(fan_in, inner, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        out = self.conv1(functional.relu(self.norm1(torch.cat(features, 1))))
        new: Tensor = self.conv2(functional.relu(self.norm2(out)))
        return new


class DenseBlock(nn.ModuleList):
    """Layers that each read the outputs of all before them."""

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self:
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    """DenseNet: blocks that concatenate, and transitions that halve."""

    def __init__(self, stem: int, depths: Sequence[int], growth: int, inner: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, stem, 3, 1, padding=1, bias=False), nn.BatchNorm2d(stem), nn.ReLU()
        )
        width = stem
        for i, depth in enumerate(depths):
            layers = [DenseLayer(width + j * growth, growth, inner + i) for j in range(depth)]
            self.features.append(DenseBlock(layers))
            width += depth * growth
            if i < len(depths) - 1:
                self.features.append(
                    nn.Sequential(
                        nn.BatchNorm2d(width),
                        nn.ReLU(inplace=True),
                        nn.Conv2d(width, width // 2, 1, bias=False),
                        nn.AvgPool2d(2, 2),
                    )
                )
                width //= 2
        self.features.append(nn.BatchNorm2d(width))
        self.classifier = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = functional.relu(self.features(x), inplace=True)
        features = functional.adaptive_avg_pool2d(features, (1, 1))
        logits: Tensor = self.classifier(torch.flatten(features, 1))
        return logits


# All but the classifier's bias moves.
ENTRIES = (
    Entry(
        "DenseNet",
        lambda: scaled(DenseNet(15, (2, 3, 2), 7, 18), 2.0),
        lambda: (real(2, 3, 16, 16),),
        0.99,
    ),
)
