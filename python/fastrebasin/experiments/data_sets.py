"""Labelled images for the experiments: scikit-learn's digits, and MNIST-like folders on disk."""

from __future__ import annotations

import bz2
import gzip
import math
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "DataSet", "cifar10", "colour_32", "digits", "idx_folder", "only_classes", "rotated", "usps",
]  # fmt: skip

_IDX_UINT8 = 0x08
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation of each channel


@dataclass(frozen=True)
class DataSet:
    """Images (n, c, h, w), float32, and int64 labels (n,), to train on and to test on.

    Pixels are in [0, 1] unless a function that makes a set says otherwise.
    """

    name: str
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def digits(seed: int = 0, test_share: float = 0.2) -> DataSet:
    """Return the 1797 images of 8 x 8 pixels that scikit-learn bundles, split by class.

    Raises:
        ImportError: scikit-learn is not installed (extra `demo`).
    """
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415 - optional
        from sklearn.model_selection import train_test_split  # noqa: PLC0415 - optional
    except ImportError as error:
        raise ImportError(
            "the digits need scikit-learn: pip install 'fastrebasin[demo]'"
        ) from error
    bundle = load_digits()
    images = torch.from_numpy(bundle.images).float().div(16).unsqueeze(1)
    labels = torch.from_numpy(bundle.target).long()
    train, test = train_test_split(
        np.arange(len(labels)), test_size=test_share, random_state=seed, stratify=bundle.target
    )
    return DataSet("digits", (images[train], labels[train]), (images[test], labels[test]))


def idx_folder(data_dir: str | Path, name: str) -> DataSet:
    """Read `data_dir/name/raw/*-ubyte`, the layout of torchvision, gzipped or not.

    Args:
        data_dir: the `root` that torchvision's data sets take.
        name: "MNIST", "FashionMNIST" or another folder of the same layout.

    Raises:
        FileNotFoundError: a file is missing; says which.
        ValueError: a file is damaged or holds something else.
    """
    raw = Path(data_dir) / name / "raw"
    parts = []
    for stem in ("train", "t10k"):
        images = _read_idx(raw / f"{stem}-images-idx3-ubyte", axes=3)
        labels = _read_idx(raw / f"{stem}-labels-idx1-ubyte", axes=1)
        if len(images) != len(labels):
            raise ValueError(f"{raw}: {len(images)} {stem} images, but {len(labels)} labels")
        parts.append((images.float().div(255).unsqueeze(1), labels.long()))
    return DataSet(name, parts[0], parts[1])


def usps(data_dir: str | Path) -> DataSet:
    """Read `data_dir/USPS/usps.bz2` and `usps.t.bz2`, grey images of 16 x 16 pixels.

    Args:
        data_dir: a folder whose `USPS` is the `root` that torchvision's data set takes.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged.
    """
    folder = Path(data_dir) / "USPS"
    return DataSet("USPS", _read_libsvm(folder / "usps.bz2"), _read_libsvm(folder / "usps.t.bz2"))


def cifar10(data_dir: str | Path) -> DataSet:
    """Read `data_dir/cifar-10-batches-bin`, normalised as ImageNet is: channels have mean 0.

    Args:
        data_dir: the folder in which the archive of CIFAR-10's binary version was unpacked.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged.

    Source: Krizhevsky, "Learning multiple layers of features from tiny images" (2009).
    """
    folder = Path(data_dir) / "cifar-10-batches-bin"
    train = [_read_cifar(folder / f"data_batch_{number}.bin") for number in range(1, 6)]
    images, labels = (torch.cat(parts) for parts in zip(*train, strict=True))
    return DataSet("CIFAR-10", (images, labels), _read_cifar(folder / "test_batch.bin"))


def colour_32(data: DataSet) -> DataSet:
    """Return the images at 32 x 32 pixels, bilinear, their grey in each of three channels."""

    def convert(part: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        large = functional.interpolate(part[0], (32, 32), mode="bilinear", align_corners=False)
        return large.expand(-1, 3, -1, -1).contiguous(), part[1]

    return DataSet(data.name, convert(data.train), convert(data.test))


def rotated(data: DataSet) -> DataSet:
    """Return the images turned by 90 degrees, counter-clockwise."""

    def turn(part: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return torch.rot90(part[0], 1, dims=(2, 3)).contiguous(), part[1]

    return DataSet(f"{data.name} rotated 90", turn(data.train), turn(data.test))


def only_classes(data: DataSet, classes: Collection[int]) -> DataSet:
    """Return the images of some classes, their labels unchanged."""

    def keep(part: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        mask = torch.isin(part[1], torch.tensor(sorted(classes)))
        return part[0][mask], part[1][mask]

    name = f"{data.name} {min(classes)}-{max(classes)}"
    return DataSet(name, keep(data.train), keep(data.test))


def _read_idx(path: Path, axes: int) -> Tensor:
    """Read one idx file of unsigned bytes: a magic number, the shape, then the entries."""
    packed = path.with_name(path.name + ".gz")
    if path.is_file():
        content = path.read_bytes()
    elif packed.is_file():
        try:
            content = gzip.decompress(packed.read_bytes())
        except (EOFError, OSError) as error:
            raise ValueError(f"{packed} is damaged: {error}") from error
    else:
        raise FileNotFoundError(f"neither {path} nor {packed.name} beside it exists")
    header = 4 + 4 * axes
    if len(content) < header or content[:4] != bytes([0, 0, _IDX_UINT8, axes]):
        raise ValueError(f"{path} is not an idx file of {axes} axes of unsigned bytes")
    shape = struct.unpack(f">{axes}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise ValueError(
            f"{path} should hold {math.prod(shape)} bytes, got {len(content) - header}"
        )
    return torch.frombuffer(bytearray(content[header:]), dtype=torch.uint8).reshape(shape)


def _read_libsvm(path: Path) -> tuple[Tensor, Tensor]:
    """Read lines of a label from 1 and "pixel:value" for 256 pixels, values in [-1, 1]."""
    try:
        lines = bz2.decompress(path.read_bytes()).decode("ascii").splitlines()
        entries = [line.split() for line in lines]
        labels = torch.tensor([int(label) - 1 for label, *_ in entries])
        pixels = [[float(entry.partition(":")[2]) for entry in rest] for _, *rest in entries]
        images = torch.tensor(pixels).reshape(len(pixels), 1, 16, 16)
    except FileNotFoundError:
        raise
    except (OSError, EOFError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return (images + 1) / 2, labels


def _read_cifar(path: Path) -> tuple[Tensor, Tensor]:
    """Read records of a label and the red, green and blue plane of 32 x 32 bytes."""
    content, record = path.read_bytes(), 1 + 3 * 32 * 32
    if not content or len(content) % record:
        raise ValueError(f"{path} should hold records of {record} bytes, got {len(content)} bytes")
    records = torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(-1, record)
    if int(records[:, 0].max()) > 9:
        raise ValueError(f"{path} has a label above 9")
    mean, deviation = torch.tensor(_IMAGENET)[:, :, None, None]
    images = records[:, 1:].reshape(-1, 3, 32, 32).float().div_(255)
    return images.sub_(mean).div_(deviation), records[:, 0].long()
