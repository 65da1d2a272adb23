"""A reduced set goes through its file, into `data=`, and onto a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fastrebasin import ReducedSet, select_coreset
from fastrebasin.data import load_examples, sources


def reduced() -> ReducedSet:
    images = torch.rand(60, 1, 5, 4)
    return select_coreset(
        (images, torch.arange(60) % 3), "random", per_class=4, seed=7, progress=False
    )


def test_comes_back_from_its_file(tmp_path: Path) -> None:
    kept = reduced()
    kept.save(tmp_path / "few.safetensors")
    loaded = ReducedSet.load(tmp_path / "few.safetensors")
    assert torch.equal(loaded.images, kept.images)
    assert torch.equal(loaded.labels, kept.labels)
    assert loaded.provenance == kept.provenance
    assert loaded.provenance["method"] == "Random"
    assert loaded.provenance["seed"] == "7"
    assert all(torch.equal(loaded.extras[name], kept.extras[name]) for name in kept.extras)
    assert torch.equal(load_examples(tmp_path / "few.safetensors")[0], kept.images)


def test_is_a_source(tmp_path: Path) -> None:
    kept = reduced()
    kept.save(tmp_path / "few.safetensors")
    for data in (kept, tmp_path / "few.safetensors", str(tmp_path / "few.safetensors")):
        (source,) = sources(data)
        assert torch.equal(source.take(torch.tensor([3, 1]))[0], kept.images[[3, 1]])
    assert [len(part) for part in sources((kept, tmp_path / "few.safetensors"))] == [12, 12]


def test_picture_has_a_row_for_each_class() -> None:
    images = torch.zeros(6, 1, 3, 3)
    images[:, 0, 0, 0] = 1  # stretched: the first pixel is white, the others black
    drawn = np.asarray(ReducedSet(images, torch.tensor([1, 0, 1, 0, 0, 4]), {}).picture())
    assert drawn.shape == (3 * 4, 3 * 4)
    assert (drawn[::4, ::4] == [[255, 255, 255], [255, 255, 0], [255, 0, 0]]).all()
    assert drawn.sum() == 6 * 255


def test_long_rows_are_broken() -> None:
    drawn = ReducedSet(torch.rand(150, 3, 2, 2), torch.zeros(150).long(), {}).picture()
    assert drawn.size == (64 * 3, 3 * 3)
    assert drawn.mode == "RGB"


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be \(n, 1 or 3, h, w\), got \(2, 5\)"):
        ReducedSet(torch.zeros(2, 5), torch.zeros(2).long(), {}).picture()
    with pytest.raises(ValueError, match=r"each of 2 images, got \['labels 3'\]"):
        ReducedSet(torch.zeros(2, 5), torch.zeros(3).long(), {})
    with pytest.raises(FileNotFoundError):
        ReducedSet.load(tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        ReducedSet.load(tmp_path / "broken.safetensors")
    with pytest.raises(ValueError, match=r"kept in a .safetensors file, got .*few.npz"):
        reduced().save(tmp_path / "few.npz")
