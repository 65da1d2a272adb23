"""The `data=` argument: what it accepts, and that its sources are drawn evenly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.utils.data import DataLoader, TensorDataset

from fastrebasin.data import (
    batches,
    held_tensors,
    load_examples,
    mixture,
    mixture_length,
    on_device,
    sources,
    weighted_batches,
)


def examples(count: int, label: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(count, dtype=torch.float32)[:, None], torch.full((count,), label)


@pytest.mark.parametrize("wrap", [
    lambda x, y: (x, y),
    lambda x, y: [x, y],
    TensorDataset,
    lambda x, y: DataLoader(TensorDataset(x, y), batch_size=3),
    lambda x, y: list(zip(x, y, strict=True)),
    lambda x, y: iter(DataLoader(TensorDataset(x, y), batch_size=3)),
], ids=["tuple", "list", "data set", "loader", "sequence", "iterator"])  # fmt: skip
def test_every_kind_of_source_yields_its_examples(wrap) -> None:  # type: ignore[no-untyped-def]
    x, y = examples(8, label=1)
    (source,) = sources(wrap(x, y))
    found = list(batches(source, 3))
    assert [len(b) for b, _ in found] == [3, 3, 2]
    assert torch.equal(torch.cat([b for b, _ in found]), x)
    assert torch.equal(torch.cat([b for _, b in found]), y)


def test_any_number_of_sources_is_named() -> None:
    one, two, three = (examples(count, label=count) for count in (3, 4, 5))
    loader = DataLoader(TensorDataset(*two), batch_size=3)
    for data, lengths in (
        ([one], [3]),
        ((one, two), [3, 4]),
        ([one, loader, list(zip(*three, strict=True))], [3, 4, 5]),
        ((one, iter([two]), three, one), [3, 4, 5, 3]),
        ((examples(2, 0), examples(2, 1)), [2, 2]),
    ):
        parts = sources(data)
        assert [len(part) for part in parts] == lengths
        for part in parts[-1:]:
            x, y = part.take(torch.tensor([0, 1]))
            assert x.flatten().tolist() == [0, 1]
            assert len(set(y.tolist())) == 1


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("label", [int, torch.tensor, np.int64])
def test_a_few_examples_are_one_data_set(count: int, label) -> None:  # type: ignore[no-untyped-def]
    items = [(torch.full((4,), float(k)), label(k)) for k in range(count)]
    (source,) = sources(items)
    x, y = source.take(torch.arange(count))
    assert x.shape == (count, 4)
    assert y.tolist() == list(range(count))


def test_sources_mixed_with_others_are_refused() -> None:
    with pytest.raises(TypeError, match=r"these are none: number 1 \(Tensor\), number 2 \(int\)"):
        sources((examples(3, 0), torch.zeros(3), 4))


def test_sources_of_equal_size_are_each_seen_once() -> None:
    parts = sources((examples(10, 0), examples(10, 1)))
    drawn = list(mixture(parts, 6, torch.Generator().manual_seed(0)))
    assert [len(x) for x, _ in drawn] == [6, 6, 6, 2]
    assert len(drawn) == mixture_length(parts, 6)
    pairs = {(int(x), int(y)) for xs, ys in drawn for x, y in zip(xs, ys, strict=True)}
    assert pairs == {(k, label) for k in range(10) for label in (0, 1)}


def test_sources_of_unequal_size_are_drawn_half_and_half() -> None:
    parts = sources((examples(100, 0), examples(9900, 1)))
    labels = torch.cat([y for _, y in mixture(parts, 500, torch.Generator().manual_seed(0))])
    assert len(labels) == 10000
    assert abs(labels.double().mean().item() - 0.5) < 0.025  # five standard deviations
    small = torch.cat([x[y == 0] for x, y in mixture(parts, 500, torch.Generator().manual_seed(1))])
    assert set(small.flatten().tolist()) == set(range(100))


def test_three_sources_are_drawn_evenly() -> None:
    for counts in ((60, 60, 60), (50, 900, 3000)):
        parts = sources([examples(count, label) for label, count in enumerate(counts)])
        drawn = list(mixture(parts, 500, torch.Generator().manual_seed(0)))
        shares = torch.cat([y for _, y in drawn]).bincount() / sum(counts)
        assert len(drawn) == mixture_length(parts, 500)
        assert (shares - 1 / 3).abs().max() < 0.04  # five standard deviations
        everything = list(weighted_batches(parts, 500, torch.Generator().manual_seed(0)))
        _, y, weight = (torch.cat(tensors) for tensors in zip(*everything, strict=True))
        for label in range(3):
            assert weight[y == label].sum().item() == pytest.approx(1 / 3)


def test_the_generator_decides_the_order() -> None:
    parts = sources((examples(50, 0), examples(30, 1)))

    def draw(seed: int) -> torch.Tensor:
        return torch.cat([x for x, _ in mixture(parts, 7, torch.Generator().manual_seed(seed))])

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


@pytest.mark.parametrize("empty", [examples(0, 0), [], iter([]), (examples(3, 0), examples(0, 0))])
def test_nothing_is_refused(empty: object) -> None:
    with pytest.raises((ValueError, TypeError), match="empty"):
        sources(empty)


def test_what_is_no_data_is_refused() -> None:
    with pytest.raises(TypeError, match="data must be tensors"):
        sources(3)
    with pytest.raises(ValueError, match="equal lengths, got 3 and 2"):
        sources((torch.zeros(3), torch.zeros(2)))
    (source,) = sources([1, 2, 3])
    with pytest.raises(TypeError, match="pairs of tensors"):
        source.take(torch.tensor([0]))


@pytest.mark.parametrize("counts", [(20, 20), (30, 7)])
def test_an_epoch_goes_on_from_any_batch(counts: tuple[int, int]) -> None:
    parts = sources(tuple(examples(count, label=k) for k, count in enumerate(counts)))
    whole = list(mixture(parts, 6, torch.Generator().manual_seed(3)))
    rest = list(mixture(parts, 6, torch.Generator().manual_seed(3), first=4))
    assert len(rest) == len(whole) - 4
    for found, expected in zip(rest, whole[4:], strict=True):
        assert all(torch.equal(t, u) for t, u in zip(found, expected, strict=True))


@pytest.mark.parametrize("batch_size", [1, 6, 100])
def test_weighted_batches_hold_everything_once_and_sources_alike(batch_size: int) -> None:
    parts = sources((examples(30, label=0), examples(7, label=1)))
    found = list(weighted_batches(parts, batch_size, torch.Generator().manual_seed(0)))
    x, y, weight = (torch.cat(tensors) for tensors in zip(*found, strict=True))
    for label, count in enumerate((30, 7)):
        assert x[y == label].flatten().sort().values.tolist() == list(range(count))
        assert weight[y == label].sum().item() == pytest.approx(0.5)
    if batch_size == 6:
        assert all(set(labels.tolist()) == {0, 1} for _, labels, _ in found)


def test_tensors_go_to_the_device_and_data_sets_stay(device: str) -> None:
    tensors, items = sources((examples(5, label=0), TensorDataset(*examples(5, label=1))))
    placed = on_device(tensors, torch.device(device))
    assert all(tensor.device.type == device for tensor in held_tensors(placed))
    assert on_device(items, torch.device(device)) is items
    assert held_tensors(items) == ()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_examples_from_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"set{suffix}"
    images = np.arange(0, 256, 32, dtype=np.uint8).reshape(2, 4)
    labels = np.array([3, 1])
    if suffix == ".npz":
        np.savez(path, images=images, labels=labels)
    else:
        tensors = {"images": torch.from_numpy(images), "labels": torch.from_numpy(labels)}
        safetensors.torch.save_file(tensors, path)
    x, y = load_examples(path)
    assert torch.equal(x, torch.from_numpy(images).float() / 255)
    assert y.tolist() == [3, 1]


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.npz"):
        load_examples(tmp_path / "nothing.npz")
    for name, content in {"a.npz": b"junk", "b.safetensors": b"junk", "c.txt": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="can't read examples"):
            load_examples(tmp_path / name)
    np.savez(tmp_path / "objects.npz", images=np.array([{}]), labels=np.zeros(1))
    with pytest.raises(ValueError, match="can't read examples"):
        load_examples(tmp_path / "objects.npz")
    np.savez(tmp_path / "short.npz", images=np.zeros((2, 3)), labels=np.zeros(1))
    with pytest.raises(ValueError, match="labels must be one for each of 2"):
        load_examples(tmp_path / "short.npz")
    np.savez(tmp_path / "lacking.npz", images=np.zeros((2, 3)))
    with pytest.raises(ValueError, match="lacks labels"):
        load_examples(tmp_path / "lacking.npz")
