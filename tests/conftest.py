"""Fixtures: devices, real data, determinism."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from pretend_device import PretendDevice, pretended

from fastrebasin.matching import readings

# A busy machine is no failure: examples have no time limit.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device found"),
    ),
]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test on the CPU and, where there is one, on a CUDA device."""
    name: str = request.param
    if name == "cuda":  # whose convolutions of float32 are in TF32 unless told otherwise
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return name


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder with real data that FASTREBASIN_DATA names, or skip."""
    folder = os.environ.get("FASTREBASIN_DATA")
    if not folder:
        pytest.skip("FASTREBASIN_DATA does not name a folder with MNIST/raw")
    path = Path(folder)
    if not (path / "MNIST" / "raw").is_dir():
        pytest.skip(f"FASTREBASIN_DATA: {path} has no MNIST/raw")
    return path


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Set how many threads torch uses, for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def there() -> Iterator[PretendDevice]:
    """Have a device where there is none, which notes what would wait for it."""
    with pretended() as device:
        yield device


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Count the reading of numbers of a CUDA device, and allow it where waiting is an error."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device found")
    sizes: list[int] = []
    read = readings._read

    def allowed(values: Sequence[readings.Number]) -> list[float]:
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("default")
        found = read(values)
        torch.cuda.set_sync_debug_mode(before)
        sizes.append(len(values))
        return found

    monkeypatch.setattr(readings, "_read", allowed)
    yield sizes
    torch.cuda.set_sync_debug_mode("default")
