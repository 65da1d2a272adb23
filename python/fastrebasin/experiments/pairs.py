"""Pairs of data sets to train A and B on, each with the recipe of its experiment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from fastrebasin.experiments.data_sets import (
    DataSet,
    cifar10,
    colour_32,
    digits,
    idx_folder,
    only_classes,
    rotated,
    usps,
)
from fastrebasin.experiments.models import colour_mlp, digits_mlp, mnist_mlp, resnet20x4, vgg11
from fastrebasin.experiments.training import Transform, jittered

__all__ = ["Pair", "Recipe", "load_pair", "pair_names"]


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of training and of straight-through matching.

    Source: Yamada et al., ACML 2024, appendix A; end models and straight-through matching on all
    data are shorter here than the paper's where a pair says so.
    """

    factory: Callable[[], nn.Module]
    train_epochs: tuple[int, int] = (15, 15)  # of A and of B; the paper trains for 100
    train_batch: int = 500
    train_lr: float = 0.1
    train_weight_decay: float = 0.0
    train_one_cycle: bool = False
    train_transform: Transform | None = None
    train_bfloat16: bool = False
    full_epochs: int = 5
    full_lr: float = 0.1
    coreset_epochs: int = 1000
    coreset_lr: float = 0.1
    per_class: int = 10


@dataclass(frozen=True)
class Pair:
    """Two data sets of the same shape of image and number of classes."""

    name: str
    a: DataSet
    b: DataSet
    recipe: Recipe


_DIGITS = Recipe(
    digits_mlp, train_epochs=(40, 40), train_batch=100, full_epochs=20, coreset_epochs=150
)
_MNIST = Recipe(mnist_mlp)
# The paper: 100 epochs on all data, 5000 on a coreset.
_FASHION = Recipe(mnist_mlp, full_lr=0.05, coreset_lr=0.5)


# A fifth of MNIST's images: as many steps at 100 epochs as MNIST has at 12.
_USPS = Recipe(
    colour_mlp, train_epochs=(100, 15), train_lr=0.05, full_lr=0.5, coreset_epochs=100,
    coreset_lr=0.5,
)  # fmt: skip


def _cifar(factory: Callable[[], nn.Module], epochs: int) -> Recipe:
    """Return what two cores can train in an hour; the paper trains for 100 epochs."""
    return Recipe(
        factory, train_epochs=(epochs, epochs), train_batch=250, train_weight_decay=5e-4,
        train_one_cycle=True, train_transform=jittered, train_bfloat16=True,
    )  # fmt: skip


_CIFAR = {"cifar-vgg11": _cifar(vgg11, 5), "cifar-resnet20x4": _cifar(resnet20x4, 3)}

_NAMES = ("rotated", "split", "fashion", "usps", *_CIFAR)


def pair_names() -> tuple[str, ...]:
    """Return the names that `load_pair` takes."""
    return _NAMES


def load_pair(name: str, data_dir: str | Path | None = None, seed: int = 0) -> Pair:
    """Load a pair made from scikit-learn's digits, or from MNIST under `data_dir`.

    Args:
        name: "rotated" (upright, turned by 90 degrees), "split" (classes 0-4, 5-9), or, with
            `data_dir` only, "fashion" (MNIST, Fashion-MNIST), "usps" (USPS, MNIST), "cifar-vgg11"
            or "cifar-resnet20x4" (classes 0-4 and 5-9 of CIFAR-10).
        data_dir: folder with `MNIST/raw`, `FashionMNIST/raw` and `USPS`, with the files that
            torchvision keeps there, and with `cifar-10-batches-bin`.
        seed: of the split of the digits into training and test images.

    Raises:
        ValueError: no such pair, or damaged files.
        FileNotFoundError: `data_dir` lacks a file.
    """
    if name not in _NAMES:
        raise ValueError(f"pair must be one of {', '.join(_NAMES)}, got {name!r}")
    if data_dir is None and name not in ("rotated", "split"):
        raise ValueError(f"the pair {name!r} needs a data folder")
    if name in _CIFAR:
        return _halves(name, cifar10(str(data_dir)), _CIFAR[name])
    base = digits(seed) if data_dir is None else idx_folder(data_dir, "MNIST")
    recipe = _DIGITS if data_dir is None else _MNIST
    if name == "rotated":
        return Pair(name, base, rotated(base), recipe)
    if name == "split":
        return _halves(name, base, recipe)
    if name == "usps":
        return Pair(name, colour_32(usps(str(data_dir))), colour_32(base), _USPS)
    return Pair(name, base, idx_folder(str(data_dir), "FashionMNIST"), _FASHION)


def _halves(name: str, data: DataSet, recipe: Recipe) -> Pair:
    return Pair(name, only_classes(data, range(5)), only_classes(data, range(5, 10)), recipe)
