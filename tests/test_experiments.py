"""Data sets on disk, training, and the comparison that the demonstration prints."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from fastrebasin import evaluate
from fastrebasin.checkpoints import check_fit, load_checkpoint
from fastrebasin.experiments import demo, pairs
from fastrebasin.experiments.comparison import compare
from fastrebasin.experiments.data_sets import (
    cifar10,
    colour_32,
    digits,
    idx_folder,
    only_classes,
    rotated,
    usps,
)
from fastrebasin.experiments.models import MLP, digits_mlp
from fastrebasin.experiments.pairs import Pair, load_pair
from fastrebasin.experiments.training import cycle, jittered, train


def write_idx(path: Path, tensor: torch.Tensor, *, packed: bool) -> None:
    header = bytes([0, 0, 8, tensor.ndim]) + struct.pack(f">{tensor.ndim}I", *tensor.shape)
    content = header + tensor.to(torch.uint8).numpy().tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    if packed:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def stand_in(root: Path, name: str, *, packed: bool = True) -> torch.Tensor:
    """Write a small folder of the same layout as MNIST's; return its training images."""
    images = torch.randint(256, (80, 28, 28))
    for stem, part in {"train": images, "t10k": images[:40]}.items():
        raw = root / name / "raw"
        write_idx(raw / f"{stem}-images-idx3-ubyte", part, packed=packed)
        write_idx(raw / f"{stem}-labels-idx1-ubyte", torch.arange(len(part)) % 10, packed=packed)
    return images


@pytest.mark.parametrize("packed", [True, False])
def test_idx_folders_are_read(tmp_path: Path, packed: bool) -> None:
    images = stand_in(tmp_path, "MNIST", packed=packed)
    found = idx_folder(tmp_path, "MNIST")
    assert torch.equal(found.train[0], images[:, None].float() / 255)
    assert torch.equal(found.test[1], torch.arange(40) % 10)


def test_real_mnist_is_read(data_dir: Path) -> None:
    found = idx_folder(data_dir, "MNIST")
    assert found.train[0].shape == (60000, 1, 28, 28)
    assert found.test[0].shape == (10000, 1, 28, 28)
    assert found.train[1].bincount().tolist()[:3] == [5923, 6742, 5958]
    assert found.train[0].mean().item() == pytest.approx(0.1307, abs=1e-4)  # as widely quoted


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte"):
        idx_folder(tmp_path, "MNIST")
    raw = tmp_path / "MNIST" / "raw"
    for damage, message in {
        b"junk": "is damaged",
        gzip.compress(b"junk"): "not an idx file of 3 axes",
        gzip.compress(bytes([0, 0, 8, 3]) + struct.pack(">3I", 9, 28, 28)): "should hold 7056",
    }.items():
        stand_in(tmp_path, "MNIST")
        (raw / "train-images-idx3-ubyte.gz").write_bytes(damage)
        with pytest.raises(ValueError, match=message):
            idx_folder(tmp_path, "MNIST")
    stand_in(tmp_path, "MNIST")
    write_idx(raw / "train-labels-idx1-ubyte", torch.arange(3), packed=False)
    with pytest.raises(ValueError, match="80 train images, but 3 labels"):
        idx_folder(tmp_path, "MNIST")


def test_digits_are_split_once_and_reproducibly() -> None:
    first, second = digits(seed=1), digits(seed=1)
    assert len(first.train[1]) == 1437
    assert len(first.test[1]) == 360
    assert torch.equal(first.test[0], second.test[0])
    assert not torch.equal(first.test[0], digits(seed=2).test[0])
    assert first.train[0].min() == 0
    assert first.train[0].max() == 1


def test_rotation_is_counter_clockwise() -> None:
    data = digits()
    turned = rotated(data)
    image = data.train[0][0, 0]
    assert torch.equal(turned.train[0][0, 0], torch.rot90(image, 1))
    assert turned.train[0][0, 0, -1, 0] == image[0, 0]  # top left goes to bottom left
    assert torch.equal(turned.train[1], data.train[1])


def test_classes_keep_their_labels() -> None:
    some = only_classes(digits(), range(5, 10))
    assert some.train[1].unique().tolist() == [5, 6, 7, 8, 9]
    assert len(some.test[0]) == len(some.test[1])


def stand_in_usps(folder: Path) -> None:
    """Write images of which pixel k is (k + label) / 300 - 1."""
    (folder / "USPS").mkdir()
    for name in ("usps.bz2", "usps.t.bz2"):
        lines = [
            f"{label} " + " ".join(f"{k + 1}:{(k + label) / 300 - 1:.6f}" for k in range(256))
            for label in (1, 10, 3)
        ]
        (folder / "USPS" / name).write_bytes(bz2.compress("\n".join(lines).encode()))


def test_usps_is_read_as_grey_images(tmp_path: Path) -> None:
    stand_in_usps(tmp_path)
    images, labels = usps(tmp_path).train
    assert labels.tolist() == [0, 9, 2]
    assert torch.allclose(images[1].flatten(), (torch.arange(256) + 10) / 600, atol=1e-5)
    large = colour_32(usps(tmp_path)).test[0]
    assert large.shape == (3, 3, 32, 32)
    assert torch.equal(large[:, 0], large[:, 2])
    assert torch.allclose(large.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=1e-3)
    (tmp_path / "USPS" / "usps.bz2").write_bytes(b"BZh9 not")
    with pytest.raises(ValueError, match=r"usps.bz2 is damaged"):
        usps(tmp_path)
    (tmp_path / "USPS" / "usps.bz2").write_bytes(bz2.compress(b"1 1:0.5\n"))
    with pytest.raises(ValueError, match=r"usps.bz2 is damaged"):
        usps(tmp_path)


def stand_in_cifar(folder: Path) -> np.ndarray:
    """Write ten records to each file; return those of the test images."""
    (folder / "cifar-10-batches-bin").mkdir()
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        records = rng.integers(256, size=(10, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(10)
        (folder / "cifar-10-batches-bin" / f"{name}.bin").write_bytes(records.tobytes())
    return records


def test_cifar_is_read_plane_by_plane(tmp_path: Path) -> None:
    records = stand_in_cifar(tmp_path)
    found = cifar10(tmp_path)
    assert found.train[0].shape == (50, 3, 32, 32)
    images, labels = found.test
    assert labels.tolist() == list(range(10))
    green = (records[7, 1 + 1024 + 32 * 5 + 3] / 255 - 0.456) / 0.224  # row 5, column 3
    assert images[7, 1, 5, 3].item() == pytest.approx(green, abs=1e-5)
    path = tmp_path / "cifar-10-batches-bin" / "test_batch.bin"
    for damage, message in ((b"junk", "records of 3073 bytes, got 4"), (b"\xff" * 3073, "above 9")):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match=message):
            cifar10(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"test_batch\.bin"):
        cifar10(tmp_path)


def test_jitter_moves_and_mirrors() -> None:
    image = torch.rand(1, 2, 6, 5)
    padded = torch.nn.functional.pad(image[0], (1, 1, 1, 1))
    windows = [padded[:, r : r + 6, c : c + 5] for r in range(3) for c in range(3)]
    expected = [*windows, *(window.flip(2) for window in windows)]
    found = jittered(image.expand(500, -1, -1, -1), torch.Generator().manual_seed(0), reach=1)
    matches = torch.tensor([[torch.equal(one, other) for other in expected] for one in found])
    assert (matches.sum(1) == 1).all()
    assert (matches.sum(0) > 0).all()


def test_one_cycle_ends_at_rest() -> None:
    rates = [cycle(step, 100) for step in range(101)]
    assert max(rates) == rates[20] == 1
    assert rates[:20] == sorted(rates[:20])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[100] == 0
    x, y = torch.eye(4), torch.tensor([0, 1, 0, 1])
    ends = [
        train(lambda: MLP(4, (), 2), (x, y), epochs=20, batch_size=1, one_cycle=one, seed=1)
        for one in (False, True)
    ]
    assert not torch.equal(ends[0](x), ends[1](x))


def test_pairs(tmp_path: Path) -> None:
    for name in ("MNIST", "FashionMNIST"):
        stand_in(tmp_path, name)
    stand_in_usps(tmp_path)
    stand_in_cifar(tmp_path)
    for name in pairs.pair_names():
        loaded = load_pair(name, tmp_path)
        colour = name == "usps" or name.startswith("cifar")
        shape = (3, 32, 32) if colour else (1, 28, 28)
        assert loaded.a.train[0].shape[1:] == loaded.b.train[0].shape[1:] == shape
        loaded.recipe.factory()(loaded.a.test[0])
    with pytest.raises(ValueError, match="pair must be one of rotated, split, fashion, usps"):
        load_pair("cifar")
    with pytest.raises(ValueError, match="needs a data folder"):
        load_pair("fashion")


def test_training_learns_and_its_seed_decides() -> None:
    data = digits()
    models = [train(digits_mlp, data.train, epochs=3, batch_size=100, seed=s) for s in (1, 1, 2)]
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
    assert not torch.equal(states[0]["layer0.weight"], states[2]["layer0.weight"])
    assert evaluate(models[0], data.test).mixture.accuracy > 0.8


def test_training_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    data = digits()
    train(digits_mlp, (data.train[0][:50], data.train[1][:50]), epochs=1, seed=0)
    assert torch.equal(torch.rand(1), expected)


def small_mlp() -> MLP:
    return MLP(64, (64, 64, 64))


def small_pair() -> Pair:
    """Return the digits and their rotation, small enough to compare in seconds."""
    loaded = load_pair("rotated")
    recipe = dataclasses.replace(
        loaded.recipe, factory=small_mlp, train_epochs=(15, 15), full_epochs=20, coreset_epochs=150
    )
    return dataclasses.replace(loaded, recipe=recipe)


def test_comparison_shows_that_merging_works() -> None:
    result = compare(small_pair(), seed=0)
    mixture = {method: score.mixture.accuracy for method, score in result.scores.items()}
    assert list(mixture) == [
        "model A", "model B", "ensemble", "naive average", "weight matching",
        "straight-through, all data", "straight-through, 10 per class",
    ]  # fmt: skip
    for single in ("model A", "model B", "naive average"):
        assert mixture["straight-through, all data"] > mixture[single] + 0.1
        assert mixture["straight-through, 10 per class"] > mixture[single] + 0.05
    for method, curve in result.curves.items():
        assert len(curve) == 25
        assert curve[12] == result.scores[method]
        assert curve[0] == result.scores["model A"]
        # B's function survives its permutation, up to rounding.
        assert curve[24].mixture.accuracy == pytest.approx(mixture["model B"], abs=0.005)


def test_demo_writes_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = dataclasses.replace(
        small_pair().recipe, train_epochs=(2, 2), full_epochs=1, coreset_epochs=3
    )
    monkeypatch.setattr(pairs, "_DIGITS", quick)
    _, runs = demo.run_demo(tmp_path / "out", seeds=(0, 1), progress=False)
    names = {"model_a.safetensors", "model_b.safetensors", "merged.safetensors",
             "report.json", "curves.png"}  # fmt: skip
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == names
    for name in ("model_a", "model_b", "merged"):
        check_fit(load_checkpoint(tmp_path / "out" / f"{name}.safetensors"), small_mlp(), name)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [run["seed"] for run in report["runs"]] == [0, 1]
    assert report["recipe"]["train_epochs"] == [2, 2]
    scores = report["runs"][1]["scores"]["naive average"]
    assert scores["mixture"]["accuracy"] == runs[1].scores["naive average"].mixture.accuracy
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_mnist_and_rotated_mnist_are_ordered_as_in_the_paper(data_dir: Path) -> None:
    loaded = load_pair("rotated", data_dir)
    recipe = dataclasses.replace(loaded.recipe, full_epochs=1, coreset_epochs=300)
    result = compare(dataclasses.replace(loaded, recipe=recipe), seed=0)
    mixture = {method: 100 * score.mixture.accuracy for method, score in result.scores.items()}
    assert mixture["naive average"] < mixture["weight matching"]
    for method in ("straight-through, all data", "straight-through, 10 per class"):
        assert mixture[method] > mixture["weight matching"] + 8
