"""What `fastrebasin info` says of the build and of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_line import invoke

from fastrebasin import _native
from fastrebasin.cli import machine


def test_info_prints_versions_and_what_was_built() -> None:
    code, text = invoke("info")
    assert code == 0
    assert f"torch {torch.__version__}" in text
    assert ("kernels for CPU and CUDA (nvcc " in text) == _native.cuda_built()
    assert all(_native.cuda_build()) == any(_native.cuda_build()) == _native.cuda_built()


def test_info_names_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name, major, minor, total_memory = "a device", 9, 0, 2**37

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    assert invoke("info")[1].count("CUDA device: a device, capability 9.0, 128 GiB\n") == 2
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "CUDA device: none found\n" in invoke("info")[1]


def test_the_driver_is_what_nvidias_tool_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.driver() == "none found"
    tool = tmp_path / "nvidia-smi"
    for script, version in (("echo 580.1; echo 580.1", "580.1"), ("exit 9", "none found")):
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        assert machine.driver() == version
