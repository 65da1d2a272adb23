"""The architectures of Yamada et al., ACML 2024: MLP, VGG11 and ResNet20 (section 2.2).

And the ConvNet in which most data sets are condensed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "MLP",
    "VGG",
    "ResNet",
    "colour_mlp",
    "convnet",
    "digits_mlp",
    "mnist_mlp",
    "resnet20",
    "resnet20x4",
    "vgg11",
]

_VGG11_CHANNELS = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")


class MLP(nn.Module):
    """Fully connected network with ReLU and log-softmax: (batch, ...) to (batch, classes).

    Example:
        >>> import torch
        >>> MLP(64, hidden=(512, 512, 512), classes=10)(torch.zeros(2, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, inputs: int, hidden: Sequence[int] = (512, 512, 512), classes: int = 10
    ) -> None:
        super().__init__()
        widths = (inputs, *hidden, classes)
        self.depth = len(hidden)
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            self.add_module(f"layer{i}", nn.Linear(fan_in, fan_out))

    def forward(self, x: Tensor) -> Tensor:
        """Return log-probabilities."""
        x = x.flatten(1)
        for i in range(self.depth):
            x = functional.relu(self.get_submodule(f"layer{i}")(x))
        return functional.log_softmax(self.get_submodule(f"layer{self.depth}")(x), dim=1)


class VGG(nn.Module):
    """VGG with batch normalisation: (batch, 3, 32, 32) to logits (batch, classes)."""

    def __init__(
        self, channels: Sequence[int | str] = _VGG11_CHANNELS, width: float = 1.0, classes: int = 10
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        fan_in = 3
        for entry in channels:
            if isinstance(entry, str):
                layers.append(nn.MaxPool2d(2))
                continue
            fan_out = round(entry * width)
            layers += [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.BatchNorm2d(fan_out), nn.ReLU()]
            fan_in = fan_out
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(fan_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        features: Tensor = self.features(x)
        logits: Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits


class _Block(nn.Module):
    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(fan_out)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(fan_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or fan_in != fan_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(fan_in, fan_out, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(fan_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """CIFAR ResNet of three stages: (batch, 3, h, w) to logits (batch, classes).

    `width` multiplies the channels 16, 32 and 64; the paper uses 16. A stage begins with a 3 x 3
    convolution as its shortcut.
    """

    def __init__(
        self, blocks: Sequence[int] = (3, 3, 3), width: int = 1, classes: int = 10
    ) -> None:
        super().__init__()
        fan_in = 16 * width
        self.conv1 = nn.Conv2d(3, fan_in, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(fan_in)
        stages: list[str] = []
        for stage, count in enumerate(blocks):
            fan_out = 16 * width * 2**stage
            layers: list[nn.Module] = []
            for block in range(count):
                layers.append(_Block(fan_in, fan_out, 2 if stage and not block else 1))
                fan_in = fan_out
            stages.append(f"layer{stage + 1}")
            self.add_module(stages[-1], nn.Sequential(*layers))
        self.stages = tuple(stages)
        self.linear = nn.Linear(fan_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = functional.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def digits_mlp() -> MLP:
    """Return the 3 x 512 MLP for 8 x 8 grey images."""
    return MLP(64)


def mnist_mlp() -> MLP:
    """Return the paper's 3 x 512 MLP for 28 x 28 grey images."""
    return MLP(784)


def colour_mlp() -> MLP:
    """Return the paper's 3 x 512 MLP for 32 x 32 images in colour."""
    return MLP(3072)


def vgg11(width: float = 1.0, classes: int = 10) -> VGG:
    """Return VGG11 with batch normalisation."""
    return VGG(width=width, classes=classes)


def resnet20(width: int = 1, classes: int = 10) -> ResNet:
    """Return ResNet20; the paper's has width 16."""
    return ResNet(width=width, classes=classes)


def resnet20x4() -> ResNet:
    """Return ResNet20 of width 4, for 10 classes."""
    return resnet20(4)


def convnet(
    channels: int = 3, classes: int = 10, size: int = 32, width: int = 128, depth: int = 3
) -> nn.Sequential:
    """Return the ConvNet of the literature on dataset condensation, for square images.

    Blocks of a 3 x 3 convolution, instance normalisation (group normalisation, a group for each
    channel), ReLU and average pooling, then one linear layer. Images are padded with zeros to the
    next multiple of two for each pooling, as far as both sides can share: 28 pixels become 32.

    Args:
        channels: of the images.
        classes: that it tells apart.
        size: pixels of a side.
        width: channels of every block.
        depth: blocks.

    Example:
        >>> import torch
        >>> convnet(1, size=28, width=8)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])

    Source: Gidaris and Komodakis, CVPR 2018; Zhao, Mopuri and Bilen, ICLR 2021, section 4.1.
    """
    margin = (-size % 2**depth) // 2
    layers: list[nn.Module] = []
    for block in range(depth):
        layers += [
            nn.Conv2d(width if block else channels, width, 3, padding=1 if block else 1 + margin),
            nn.GroupNorm(width, width),
            nn.ReLU(),
            nn.AvgPool2d(2),
        ]
    features = width * ((size + 2 * margin) // 2**depth) ** 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, classes))
