"""Cross-moments by the core's CUDA kernels: what can be shown of their door without a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from test_statistics import assert_equals_two_passes, correlated, gathered
from torch import Tensor

from fastrebasin import _core, _native, _unit_pairs
from fastrebasin.statistics import Moments


def by_the_definition(
    observations: Sequence[_native.Observations], precision: str
) -> list[_native.CrossMoments]:
    assert precision in ("highest", "high", "medium")
    found = []
    for x, y, axis, *_ in observations:
        flat = [t.movedim(axis, -1).flatten(0, -2) for t in (x, y)]
        shifts = [t[0].float() for t in flat]
        u, v = (t.double() - shift for t, shift in zip(flat, shifts, strict=True))
        sums = u.T @ v, u.sum(0), u.square().sum(0), v.sum(0), v.square().sum(0)
        found.append(_native.CrossMoments(*sums, *shifts))
    return found


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the definition in the place of the kernels, for tensors on the CPU."""
    monkeypatch.setattr(_native, "has_cross_moments", lambda *_: True)
    monkeypatch.setattr(_native, "cross_moments", by_the_definition)


@pytest.mark.usefixtures("replaced")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moments_are_those_of_two_passes(dtype: torch.dtype) -> None:
    x, y = (t.to(dtype) for t in correlated(mean=100 if dtype == torch.float32 else 1))
    assert_equals_two_passes(gathered(x, y, [3000, 1999, 1]), x, y, 1e-9)
    assert_equals_two_passes(gathered(x, None, [3000, 2000]), x, x, 1e-9)
    moments = Moments()
    moments.update(x.view(50, 100, 12).mT, y.view(50, 100, 9).mT, axis=1)
    assert_equals_two_passes(moments, x, y, 1e-9)


def images(units: int) -> dict[str, tuple[Tensor, int]]:
    """Return the same 2 x 5 x 6 observations, laid out in many ways, with the axis of units."""
    flat = torch.randn(60, units, generator=torch.Generator().manual_seed(units))
    rows = flat.view(2, 5, 6, units)
    wide = torch.zeros(2, units, 5, 8)
    wide[..., 1:7] = rows.movedim(-1, 1)
    return {
        "channels first": (rows.movedim(-1, 1).contiguous(), 1),
        "channels last": (rows.movedim(-1, 1), 1),
        "window": (wide[..., 1:7], 1),
        "turned": (rows.movedim(-1, 1).mT.contiguous().mT, 1),
        "negated": (torch._neg_view(-rows.movedim(-1, 1)), 1),
    }


def laid_out(flat: Tensor, layout: str) -> tuple[Tensor, int]:
    """Return observations (rows) of units as layers hold them, with the axis of units."""
    if layout == "rows":
        return flat, -1
    images = flat.view(6, 16, -1, flat.shape[1]).movedim(-1, 1)
    if layout == "channels first":
        return images.contiguous(), 1
    if layout == "window":
        return torch.nn.functional.pad(images, (1, 2))[..., 1:-2], 1
    return images, 1


@pytest.mark.parametrize("units", [(132, 260), (150, 67), (66, 40)])
@pytest.mark.parametrize("layout", ["rows", "channels first", "channels last", "window"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_wide_layers_are_read_as_they_lie(
    dtype: torch.dtype, layout: str, units: tuple[int, int], device: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    flat = [torch.randn(6 * 16 * 12, d, generator=generator).add(3).to(dtype) for d in units]
    (x, axis), (y, _) = (laid_out(t.to(device), layout) for t in flat)
    moments, alone = Moments(), Moments()
    moments.update(x, y, axis=axis)
    assert_equals_two_passes(moments, flat[0], flat[1], 2e-6)
    alone.update(x, axis=axis)
    assert_equals_two_passes(alone, flat[0], flat[0], 2e-6)
    if device == "cuda":
        assert torch.equal(alone.scatter, alone.scatter.T)


def test_a_stream_may_be_long(device: str) -> None:
    x, y = (torch.rand(600_000, d, device=device).square_() for d in (70, 66))
    assert_equals_two_passes(gathered(x, y, [599_999, 1]), x, y, 5e-7)


def seen(pair: _unit_pairs.UnitPair, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the observations (rows) of each side's units, read as the core reads them."""
    found = []
    for t, dim, strides in (
        (pair.x, pair.dim_x, pair.strides_x), (pair.y, pair.dim_y, pair.strides_y),
    ):  # fmt: skip
        units = torch.as_strided(t, (*pair.sizes, t.shape[dim]), (*strides, t.stride(dim)))
        if index is not None and t is pair.y:
            units = units.index_select(pair.gathered, index)
        found.append(units.flatten(0, -2))
    return found[0], found[1]


@pytest.mark.parametrize("of_x", images(1))
@pytest.mark.parametrize("of_y", images(1))
def test_axes_are_joined_where_both_lie_evenly(of_x: str, of_y: str) -> None:
    (x, axis), (y, _) = images(3)[of_x], images(4)[of_y]
    pair = _unit_pairs.aligned(x, y, axis)
    assert pair.x.data_ptr() == x.resolve_neg().data_ptr() or x.is_neg()
    if {of_x, of_y} <= {"channels last", "negated"}:
        assert pair.sizes == (1, 1, 60)
    for t, found in zip((x, y), seen(pair), strict=True):
        assert torch.equal(found, t.movedim(axis, -1).flatten(0, -2))


@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("gathered", range(4))
@pytest.mark.parametrize("of_y", images(1))
def test_an_axis_is_gathered(axis: int, gathered: int, of_y: str) -> None:
    if axis == gathered:
        return
    x, y = images(4)["channels first"][0], images(4)[of_y][0]
    index = torch.randint(x.shape[gathered], (x.shape[gathered],))
    pair = _unit_pairs.aligned(x, y, axis, gathered)
    assert pair.sizes[pair.gathered] == x.shape[gathered]
    u, v = (t.movedim(axis, 0).flatten(1) for t in (x, y.index_select(gathered, index)))
    found = seen(pair, index)
    torch.testing.assert_close(found[0].T @ found[1], u @ v.T)


def test_many_axes_come_to_three() -> None:
    x = torch.randn(2, 3, 4, 3, 2, 5).permute(0, 2, 4, 1, 3, 5)
    for axis in range(6):
        for alone in (None, *(k for k in range(6) if k != axis)):
            pair = _unit_pairs.aligned(x, x, axis, alone)
            u, v = seen(pair)
            assert torch.equal(u, v)
            expected = x.movedim(axis, 0).flatten(1)
            torch.testing.assert_close(u.T @ v, expected @ expected.T)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device found")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_summed_over_terms(dtype: torch.dtype) -> None:
    # The shape of each term, the axis of its units, and the one that is gathered.
    sums: list[list[tuple[tuple[int, ...], int, int | None]]] = [
        [((70, 40, 3, 3), 0, 1), ((50, 70), 1, 0), ((70, 1), 0, None)],
        [((36, 24), 0, 1)],
        [((24, 36), 1, 0), ((8, 36, 4, 4), 1, 0)],
    ]
    factors: list[list[_native.Factors]] = []
    expected: list[Tensor] = []
    for terms in sums:
        factors.append([])
        expected.append(torch.zeros(1, dtype=torch.float64, device="cuda"))
        for shape, axis, turned in terms:
            x, y = torch.randn(2, *shape, dtype=dtype, device="cuda")
            order = None if turned is None else torch.randperm(shape[turned], device="cuda")
            factors[-1].append(_native.Factors(x, y, axis, turned, order))
            moved = y if order is None else y.index_select(turned or 0, order)
            u, v = (t.double().movedim(axis, 0).flatten(1) for t in (x, moved))
            expected[-1] = expected[-1] + u @ v.T
    for found, exact in zip(_native.summed_products(factors), expected, strict=True):
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-4)


def test_the_kernels_are_for_other_devices() -> None:
    x = torch.zeros(2, 3)
    assert not _native.has_cross_moments(x, x)
    side: Any = (0, 0, 3, 1, (0, 0, 3), 0, 0, 0)
    with pytest.raises(ValueError, match="an element of float32, bfloat16 or float16"):
        _core.add_cross_moments([((0, 7, *side[2:]), side, (1, 1, 2), 0, 0, 0)], 0, 0, 0, 0)
    with pytest.raises(ValueError, match="counts must not be negative"):
        _core.add_cross_moments([(side, side, (1, -1, 2), 0, 0, 0)], 0, 0, 0, 0)
    with pytest.raises(ValueError, match="an axis of observations"):
        _core.add_cross_moments([(side, side, (1, 1, 2), 0, 0, 3)], 0, 0, 0, 0)
    with pytest.raises(ValueError, match="a precision of highest, high or medium"):
        _core.add_cross_moments([(side, side, (1, 1, 2), 0, 0, 0)], 3, 0, 0, 0)
    if not torch.cuda.is_available():
        reason = "CUDA can't" if _native.cuda_built() else "has no CUDA kernels"
        with pytest.raises(RuntimeError, match=reason):
            _core.add_cross_moments([(side, side, (1, 1, 2), 0, 0, 0)], 0, 0, 0, 0)
