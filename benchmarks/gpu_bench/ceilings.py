"""What the device reaches where nothing is in the way: the ceilings that shares are of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from gpu_bench.context import Call, Context
from gpu_bench.row import Row

__all__ = ["BF16", "COPY", "FP32", "TF32", "arithmetic", "ceilings"]

COPY = "copy"
FP32, TF32, BF16 = "float32 product", "TF32 product", "bfloat16 product"


def ceilings(context: Context) -> Iterator[Row]:
    """Time a large copy, and large square products by torch."""
    yield _copy(context)
    n = context.pick(8192, 128)
    for name, dtype in ((FP32, torch.float32), (TF32, torch.float32), (BF16, torch.bfloat16)):
        u, v = (torch.randn(n, n, device=context.device, dtype=dtype) for _ in range(2))
        with arithmetic("high" if name == TF32 else "highest"):
            row = _row(context, name, lambda u=u, v=v: u @ v, flop=2.0 * n**3)  # type: ignore[misc]
        yield row


@contextlib.contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Let torch multiply float32 matrices in a precision of this name inside the block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _copy(context: Context) -> Row:
    count = context.pick(2**28, 2**18)
    source, target = (torch.randn(count, device=context.device) for _ in range(2))
    return _row(context, COPY, lambda: target.copy_(source), nbytes=8.0 * count)


def _row(context: Context, name: str, call: Call, flop: float = 0.0, nbytes: float = 0.0) -> Row:
    times = context.times([call])
    return Row(name, times.called, times.device, flop, nbytes)
