"""Cross-moments of two networks' units, beside the same statistics written in torch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from gpu_bench import adapters
from gpu_bench.ceilings import BF16, COPY, TF32, arithmetic
from gpu_bench.context import Context
from gpu_bench.row import Row, Target, at_least

__all__ = ["channels_first", "flat"]

Pair = tuple[Tensor, Tensor]

# How far correlations may be off, by what is lost of a factor: nothing, 11 bits kept, 8 bits kept.
TOLERANCES = {"highest": 1e-6, "high": 2.0**-10, "medium": 2.0**-7}
CAUSES = 64


def flat(context: Context) -> Iterator[Row]:
    """Measure observations that lie in rows, (n, d)."""
    n = context.pick(65536, 512)
    for d in context.pick((1024, 4096), (16,)):
        shape = (n, d)
        pairs = [_activations(context, *shape) for _ in range(context.copies(8 * n * d))]
        for precision in adapters.precisions():
            yield _measure(context, f"{n} x {d}", pairs, -1, precision)


def channels_first(context: Context) -> Iterator[Row]:
    """Measure images as convolutions leave them, (n, channels, height, width)."""
    images, side, d = context.pick((256, 32, 256), (4, 4, 16))
    x, y = _activations(context, images * side * side, d)
    u, v = (u.view(images, side, side, d).movedim(-1, 1).contiguous() for u in (x, y))
    for precision in adapters.precisions():
        yield _measure(context, f"{images} x {d} x {side} x {side}", [(u, v)], 1, precision)


def _activations(context: Context, n: int, d: int) -> Pair:
    """Return what n observations make of d units of either network: causes in common, and ReLU."""
    draw = partial(torch.randn, device=context.device)
    causes = draw(n, CAUSES)
    noisy = (draw(n, d).addmm_(causes, draw(CAUSES, d), alpha=0.2) for _ in range(2))
    x, y = (u.add_(0.5).relu_() for u in noisy)
    return x, y


def _measure(context: Context, shape: str, pairs: list[Pair], axis: int, precision: str) -> Row:
    x, y = pairs[0]
    error = (_ours(x, y, axis, precision) - _two_passes(x, y, axis)).abs().max().item()
    kernel = context.times([adapters.products(*pair, axis, precision) for pair in pairs]).device
    whole = context.times([partial(_ours, *pair, axis, precision) for pair in pairs]).called
    with arithmetic(precision):
        torchs = context.times([partial(_by_torch, *pair, axis) for pair in pairs]).called
    n, d = x.numel() // x.shape[axis], x.shape[axis]
    flop, nbytes = 2.0 * n * d * d, 8.0 * n * d
    shares = _shares(context, precision, flop / kernel, nbytes / kernel)
    targets = _targets(precision, shares, is_flat=x.ndim == 2)
    return Row(
        f"cross-moments, {shape}, {precision}", whole, kernel, flop, nbytes, shares,
        peers={"torch": torchs},
        checked=f"correlations off by {error:.1e} (at most {TOLERANCES[precision]:.1e})",
        wrong=not error <= TOLERANCES[precision],
        targets=(*targets, at_least("torch / ours", torchs / whole, 3.0)),
    )  # fmt: skip


def _shares(context: Context, precision: str, flops: float, bandwidth: float) -> dict[str, float]:
    """Return shares of the ceilings: "highest" takes three TF32 products for one."""
    ceilings, product, parts = context.ceilings, BF16 if precision == "medium" else TF32, 1
    if precision == "highest":
        parts = 3
    name = product if parts == 1 else f"{product} / {parts}"
    shares = {name: parts * flops / ceilings[product]} if product in ceilings else {}
    return shares | ({COPY: bandwidth / ceilings[COPY]} if COPY in ceilings else {})


def _targets(precision: str, shares: dict[str, float], *, is_flat: bool) -> list[Target]:
    """Return what a row should reach."""
    product = next((share for name, share in shares.items() if name != COPY), None)
    if is_flat:
        bound = {"highest": 0.6, "high": 0.7}.get(precision)
        return [] if bound is None else [at_least("share of products", product, bound)]
    copy = shares.get(COPY)
    floor = None if product is None or copy is None else max(copy / 0.8, product / 0.7)
    return [at_least("of 80 % of copy or 70 % of products, whichever binds", floor, 1.0)]


def _ours(x: Tensor, y: Tensor, axis: int, precision: str) -> Tensor:
    return adapters.moments(x, y, axis, precision).correlation()


def _by_torch(x: Tensor, y: Tensor, axis: int) -> Tensor:
    """Return the correlations as one writes them."""
    u, v = (t.movedim(axis, -1).reshape(-1, t.shape[axis]) for t in (x, y))
    u, v = ((t - t.mean(0)) / t.std(0, correction=0) for t in (u, v))
    return u.T @ v / len(u)


def _two_passes(x: Tensor, y: Tensor, axis: int) -> Tensor:
    """Return the correlations in float64, means first."""
    u, v = (t.movedim(axis, -1).flatten(0, -2).double() for t in (x, y))
    u, v = (t.sub_(t.mean(0)) for t in (u, v))
    return u.T @ v / torch.outer(u.square().sum(0).sqrt(), v.square().sum(0).sqrt())
