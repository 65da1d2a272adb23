"""Networks whose outputs are images: U-Net, generator, super-resolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .entry import Entry, real


class DoubleConv(nn.Module):
    """Convolution, group normalisation and SiLU, twice."""

    def __init__(self, fan_in: int, inner: int, fan_out: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, inner, 3, padding=1)
        self.norm1 = nn.GroupNorm(groups, inner)
        self.conv2 = nn.Conv2d(inner, fan_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, fan_out)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.silu(self.norm1(self.conv1(x)))
        return functional.silu(self.norm2(self.conv2(x)))


class UNet(nn.Module):
    """Two steps down, two up, and the features of each step down beside those coming up."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = DoubleConv(1, 12, 16, 4)
        self.down2 = DoubleConv(16, 20, 24, 4)
        self.middle = DoubleConv(24, 36, 40, 4)
        self.up2 = nn.ConvTranspose2d(40, 28, 2, stride=2)
        self.merge2 = DoubleConv(28 + 24, 32, 44, 4)
        self.up1 = nn.ConvTranspose2d(44, 14, 2, stride=2)
        self.merge1 = DoubleConv(14 + 16, 48, 52, 4)
        self.head = nn.Conv2d(52, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down1(x)
        coarse = self.down2(functional.max_pool2d(fine, 2))
        x = self.middle(functional.max_pool2d(coarse, 2))
        x = self.merge2(torch.cat([self.up2(x), coarse], dim=1))
        x = self.merge1(torch.cat([self.up1(x), fine], dim=1))
        masks: Tensor = self.head(x)
        return masks


class Generator(nn.Module):
    """DCGAN's generator: transposed convolutions from noise to an image."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(17, 36, 4, 1, 0, bias=False),
            nn.BatchNorm2d(36),
            nn.ReLU(True),
            nn.ConvTranspose2d(36, 28, 4, 2, 1, bias=False),
            nn.BatchNorm2d(28),
            nn.ReLU(True),
            nn.ConvTranspose2d(28, 20, 4, 2, 1, bias=False),
            nn.BatchNorm2d(20),
            nn.LeakyReLU(0.2, inplace=True),
            nn.ConvTranspose2d(20, 3, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, noise: Tensor) -> Tensor:
        image: Tensor = self.main(noise.view(-1, 17, 1, 1))
        return image


class ResidualBlock(nn.Module):
    """Two convolutions without normalisation beside a shortcut."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, inner, 3, padding=1)
        self.conv2 = nn.Conv2d(inner, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(functional.relu(self.conv1(x)))
        return x + 0.1 * out


class SuperResolution(nn.Module):
    """EDSR: residual blocks, then pixels shuffled out of channels, beside the upsampled input."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 18, 3, padding=1)
        self.body = nn.Sequential(ResidualBlock(18, 26), ResidualBlock(18, 30))
        self.upscale = nn.Sequential(nn.Conv2d(18, 14 * 2**2, 3, padding=1), nn.PixelShuffle(2))
        self.activation = nn.PReLU(14)
        self.tail = nn.Conv2d(14, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.head(x)
        features = features + self.body(features)
        detail: Tensor = self.tail(self.activation(self.upscale(features)))
        return detail + functional.interpolate(x, scale_factor=2, mode="nearest")


# All but the biases of the last convolutions moves.
ENTRIES = (
    Entry("U-Net (GroupNorm)", UNet, lambda: (real(2, 1, 16, 16),), 0.99),
    Entry("DCGAN generator", Generator, lambda: (real(2, 17),), 0.99),
    Entry("EDSR (pixel shuffle)", SuperResolution, lambda: (real(2, 3, 10, 10),), 0.99),
)
