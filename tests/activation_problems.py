"""Networks, specs and inputs that tell every unit from the others by what it does."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from zoo import ZOO

import fastrebasin as fr
from fastrebasin import PermutationSpec, architectures, trace
from fastrebasin.experiments.models import MLP, resnet20, vgg11
from fastrebasin.permutation import Permutation

Data = tuple[Tensor, Tensor]
Problem = tuple[nn.Module, PermutationSpec, Tensor]


def alive(model: nn.Module, x: Tensor) -> nn.Module:
    """Give every unit a variance of its own, so that none is like another."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                shift = 0.5 * float("weight" in name) + 0.3 * torch.rand_like(parameter)
                parameter.copy_(shift if "weight" in name else 2 * shift)
    return fr.reset_batch_norm(model, labelled(x))


def labelled(x: Tensor) -> Data:
    return x, torch.zeros(len(x))


def multilayer() -> Problem:
    x = torch.randn(200, 12)
    return alive(MLP(12, (16, 14, 15), 4), x), architectures.mlp(3), x


def vgg() -> Problem:
    x = torch.randn(64, 3, 32, 32)
    return alive(vgg11(width=1 / 16), x), architectures.vgg(), x


def resnet() -> Problem:
    x = torch.randn(32, 3, 12, 12)
    return alive(resnet20(), x), architectures.resnet(), x


def of_zoo(name: str) -> Problem:
    entry = next(entry for entry in ZOO if entry.name == name)
    model, inputs = entry.build(), entry.inputs()
    assert isinstance(inputs, tuple)
    example = inputs[0]
    assert isinstance(example, Tensor)
    shape = (64, *example.shape[1:])
    real = example.is_floating_point()
    x = torch.randn(shape) if real else torch.randint(0, int(example.max()), shape)
    return model, trace(model, example, verify=False), x


class Autoencoder(nn.Module):
    """Flattened, grouped and transposed convolutions, and normalised groups of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.Tanh(),
            nn.Conv2d(8, 12, 2, 2, groups=4), nn.Tanh(), nn.Flatten(), nn.Linear(12 * 16, 10),
        )  # fmt: skip
        self.grow = nn.Linear(10, 6 * 16)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(6, 7, 2, 2), nn.PReLU(7), nn.Conv2d(7, 1, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.encoder(x))
        x = torch.tanh(self.grow(x)).unflatten(1, (6, 4, 4))
        out: Tensor = self.decoder(x)
        return out


def autoencoder() -> Problem:
    model = Autoencoder()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    x = torch.randn(120, 1, 8, 8)
    return model, trace(model, x[:2]), x


class Watched(nn.Module):
    """A network that works in place, in training mode but for one layer, and counts its calls."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 9, 3), nn.BatchNorm2d(9)
        self.second, self.last = nn.Conv2d(9, 9, 1), nn.Linear(9, 3)
        self.norm.eval()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = torch.relu_(self.norm(self.first(x)))
        x += self.second(torch.dropout(x, 0.5, self.training)).tanh_()
        out: Tensor = self.last(x.mean((2, 3)))
        return out


def watched() -> Problem:
    model, x = Watched(), torch.randn(60, 2, 6, 6)
    with torch.no_grad():
        model.norm.weight.uniform_(0.5, 1.5)
        model.norm.bias.normal_()
    return model, trace(model, x[:2]), x


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "MLP": multilayer,
    "VGG11-BN": vgg,
    "ResNet20": resnet,
    "ViT": functools.partial(of_zoo, "ViT (timm shape)"),
    "language model": functools.partial(of_zoo, "Language model (tied head)"),
    "GEGLU and SwiGLU": functools.partial(of_zoo, "GEGLU and SwiGLU"),
    "autoencoder": autoencoder,
    "in place": watched,
}


@functools.cache
def problem_of(name: str) -> Problem:
    """Return a problem that is traced once; its model must be left alone."""
    return PROBLEMS[name]()


def planted(problem: Problem) -> tuple[PermutationSpec, nn.Module, nn.Module, Permutation]:
    """Return a spec, A, A with its units permuted, and the permutation that undoes it."""
    a, spec, _ = problem
    spec = spec.bind(a.state_dict())
    answer = spec.random_permutation(1)
    b = copy.deepcopy(a)
    b.load_state_dict(fr.apply_permutation(spec, fr.invert(answer), a.state_dict()))
    return spec, a, b, answer


class Moody(nn.Module):
    """Skips a layer if its bias says so."""

    def __init__(self, skips: bool) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)
        self.skips = skips

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).tanh()
        if not self.skips:
            x = self.second(x).tanh()
        out: Tensor = self.last(x)
        return out
