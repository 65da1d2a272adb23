"""Products of float32 matrices in float32, whatever faster arithmetic the user allows elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import torch

__all__ = ["Precision", "full_precision"]

# Of products of float32 numbers, by torch's names.
Precision: TypeAlias = Literal["highest", "high", "medium"]


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Multiply float32 matrices without TF32 or bfloat16 inside the block.

    The setting is torch's, one for the whole process. It's touched only where the user allowed
    less, and put back.
    """
    before = _read(device)
    if before in ("none", "ieee", "highest"):
        yield
        return
    _write(device, "ieee" if _is_by_backend() else "highest")
    try:
        yield
    finally:
        _write(device, before)


def _is_by_backend() -> bool:
    """Whether each backend has its own setting: from torch 2.9 on, which refuses to mix the two."""
    return hasattr(torch.backends.cuda.matmul, "fp32_precision")


def _matmul(device: torch.device) -> Any:
    backend: Any = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    return backend.matmul


def _read(device: torch.device) -> str:
    if _is_by_backend():
        return str(_matmul(device).fp32_precision)
    return torch.get_float32_matmul_precision()


def _write(device: torch.device, precision: str) -> None:
    if _is_by_backend():
        _matmul(device).fp32_precision = precision
    else:
        torch.set_float32_matmul_precision(precision)
