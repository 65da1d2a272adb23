"""What the kernels were built for, and what there is to run them on."""

from __future__ import annotations

import shutil
import subprocess

import torch

from fastrebasin import _native

__all__ = ["built_for", "devices", "driver"]


def built_for() -> str:
    """Return CUDA's version and the GPU generations of the kernels, or that there are none."""
    if not _native.cuda_built():
        return "CPU"
    toolkit, architectures = _native.cuda_build()
    return f"CPU and CUDA (nvcc {toolkit}: {architectures})"


def driver() -> str:
    """Return the version of NVIDIA's driver, or that none was found."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "none found"
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "none found"
    versions = run.stdout.split() if run.returncode == 0 else []
    return versions[0] if versions else "none found"


def devices() -> list[str]:
    """Return a line for each CUDA device that torch can use."""
    properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [
        f"{found.name}, capability {found.major}.{found.minor}, "
        f"{found.total_memory / 2**30:.0f} GiB"
        for found in properties
    ]
