"""Networks of convolutions for small devices, and ConvNeXt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .entry import Entry, real


def conv_bn(
    fan_in: int,
    fan_out: int,
    kernel: int = 1,
    stride: int = 1,
    *,
    groups: int = 1,
    activation: type[nn.Module] | None = None,
) -> nn.Sequential:
    """Return convolution, batch normalisation and, if named, the activation."""
    conv = nn.Conv2d(fan_in, fan_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(fan_out)]
    if activation is not None:
        layers.append(activation())
    return nn.Sequential(*layers)


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate that reads the mean of all."""

    def __init__(
        self, width: int, inner: int, activation: type[nn.Module], gate: type[nn.Module]
    ) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(width, inner, 1)
        self.fc2 = nn.Conv2d(inner, width, 1)
        self.activation = activation()
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        scale = self.activation(self.fc1(self.avgpool(x)))
        gated: Tensor = self.gate(self.fc2(scale)) * x
        return gated


class StochasticDepth(nn.Module):
    """Drop a whole branch, sample by sample, in training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand((x.shape[0],) + (1,) * (x.ndim - 1), device=x.device) >= self.rate
        return x * keep / (1 - self.rate)


class InvertedResidual(nn.Module):
    """Widen, filter each channel, gate if wanted, and narrow, beside a shortcut."""

    def __init__(
        self,
        fan_in: int,
        inner: int,
        fan_out: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        activation: type[nn.Module] = nn.ReLU6,
        squeeze: nn.Module | None = None,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if inner != fan_in:
            layers.append(conv_bn(fan_in, inner, activation=activation))
        layers.append(conv_bn(inner, inner, kernel, stride, groups=inner, activation=activation))
        if squeeze is not None:
            layers.append(squeeze)
        layers.append(conv_bn(inner, fan_out))
        self.conv = nn.Sequential(*layers)
        self.drop = StochasticDepth(drop)
        self.residual = stride == 1 and fan_in == fan_out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        if self.residual:
            out = x + self.drop(out)
        return out


class MobileNetV2(nn.Module):
    """Inverted residuals with depthwise convolutions and ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_bn(3, 10, 3, 2, activation=nn.ReLU6),
            InvertedResidual(10, 10, 14),
            InvertedResidual(14, 84, 18, stride=2),
            InvertedResidual(18, 108, 18),
            InvertedResidual(18, 109, 22, stride=2),
            InvertedResidual(22, 132, 22),
            conv_bn(22, 70, activation=nn.ReLU6),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(70, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.adaptive_avg_pool2d(self.features(x), (1, 1))
        logits: Tensor = self.classifier(torch.flatten(x, 1))
        return logits


def _hard_gate(width: int, inner: int) -> SqueezeExcite:
    return SqueezeExcite(width, inner, nn.ReLU, nn.Hardsigmoid)


class MobileNetV3(nn.Module):
    """MobileNetV2's blocks with squeeze-excite, hard-swish and a wider head."""

    def __init__(self) -> None:
        super().__init__()
        swish = nn.Hardswish
        self.features = nn.Sequential(
            conv_bn(3, 12, 3, 2, activation=swish),
            InvertedResidual(12, 12, 12, activation=nn.ReLU, squeeze=_hard_gate(12, 8)),
            InvertedResidual(12, 46, 18, stride=2, activation=nn.ReLU),
            InvertedResidual(18, 58, 18, activation=nn.ReLU),
            InvertedResidual(
                18, 66, 26, kernel=5, stride=2, activation=swish, squeeze=_hard_gate(66, 20)
            ),
            InvertedResidual(26, 90, 26, kernel=5, activation=swish, squeeze=_hard_gate(90, 24)),
            conv_bn(26, 100, activation=swish),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(100, 116), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(116, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        logits: Tensor = self.classifier(torch.flatten(x, 1))
        return logits


def _soft_gate(width: int, inner: int) -> SqueezeExcite:
    return SqueezeExcite(width, inner, nn.SiLU, nn.Sigmoid)


class EfficientNet(nn.Module):
    """MBConv blocks: SiLU, squeeze-excite with a sigmoid, stochastic depth."""

    def __init__(self) -> None:
        super().__init__()
        silu = nn.SiLU
        self.features = nn.Sequential(
            conv_bn(3, 14, 3, 2, activation=silu),
            InvertedResidual(14, 14, 10, activation=silu, squeeze=_soft_gate(14, 4)),
            InvertedResidual(10, 60, 16, stride=2, activation=silu, squeeze=_soft_gate(60, 5)),
            InvertedResidual(16, 96, 16, activation=silu, squeeze=_soft_gate(96, 6), drop=0.1),
            InvertedResidual(
                16, 97, 26, kernel=5, stride=2, activation=silu, squeeze=_soft_gate(97, 7)
            ),
            InvertedResidual(
                26, 156, 26, kernel=5, activation=silu, squeeze=_soft_gate(156, 8), drop=0.2
            ),
            conv_bn(26, 104, activation=silu),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2, inplace=True), nn.Linear(104, 10))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).mean([2, 3]))
        return logits


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of (batch, channels, h, w), written out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        x = centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, then an MLP with the channels last, beside a shortcut."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1 = nn.Linear(width, inner)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(inner, width)
        self.gamma = nn.Parameter(1e-6 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        out = self.dwconv(x).permute(0, 2, 3, 1)
        out = self.pwconv2(self.act(self.pwconv1(self.norm(out))))
        scaled: Tensor = self.gamma * out
        return x + scaled.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Stages of ConvNeXt blocks with normalised 2 x 2 convolutions between them."""

    def __init__(self, widths: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4), ChannelNorm(widths[0])]
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if i:
                layers += [ChannelNorm(widths[i - 1]), nn.Conv2d(widths[i - 1], width, 2, 2)]
            layers += [ConvNeXtBlock(width, 4 * width + j) for j in range(depth)]
        self.stages = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(widths[-1], eps=1e-6)
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.stages(x).mean([-2, -1])))
        return logits


def _image() -> tuple[object, ...]:
    return (real(2, 3, 32, 32),)


ENTRIES = (
    Entry("MobileNetV2", MobileNetV2, _image, 0.99),
    Entry("MobileNetV3", MobileNetV3, _image, 0.99, large=True),
    Entry("EfficientNet", EfficientNet, _image, 0.99, large=True),
    Entry("ConvNeXt", lambda: ConvNeXt((12, 20, 28), (1, 2, 1)), _image, 0.99),
)
