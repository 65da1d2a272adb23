"""Cross-moments by the core's CUDA kernels: what can be shown of their door without a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from test_statistics import assert_equals_two_passes, correlated, gathered
from torch import Tensor

from fastrebasin import _core, _native
from fastrebasin.statistics import Moments


def by_the_definition(
    observations: Sequence[_native.Observations], precision: str
) -> list[_native.CrossMoments]:
    assert precision in ("highest", "high", "medium")
    found = []
    for x, y, axis, shift_x, shift_y in observations:
        u, v = (
            t.movedim(axis, -1).flatten(0, -2).double() - s for t, s in ((x, shift_x), (y, shift_y))
        )
        sums = u.T @ v, u.sum(0), u.square().sum(0), v.sum(0), v.square().sum(0)
        found.append(_native.CrossMoments(*sums))
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


@pytest.mark.parametrize("of_x", images(1))
@pytest.mark.parametrize("of_y", images(1))
def test_axes_are_joined_where_both_lie_evenly(of_x: str, of_y: str) -> None:
    (x, axis), (y, _) = images(3)[of_x], images(4)[of_y]
    axes = _native._observation_axes(x, y, axis, axis)
    assert len(axes) <= 3
    if {of_x, of_y} <= {"channels last", "negated"}:
        assert [size for size, *_ in axes] == [60]
    sizes, *strides = zip(*axes, strict=True)
    for t, steps in zip((x, y), strides, strict=True):
        seen = torch.as_strided(t, (*sizes, t.shape[axis]), (*steps, t.stride(axis)))
        seen = seen if t.is_neg() == seen.is_neg() else -seen
        assert torch.equal(seen.reshape(60, -1), t.movedim(axis, -1).reshape(60, -1))


def test_the_kernels_are_for_other_devices() -> None:
    x = torch.zeros(2, 3)
    assert not _native.has_cross_moments(x, x)
    side: Any = (0, 0, 3, 1, (0, 0, 3), 0, 0, 0)
    with pytest.raises(ValueError, match="an element of float32, bfloat16 or float16"):
        _core.add_cross_moments([((0, 7, *side[2:]), side, (1, 1, 2), 0)], 0, 0, 0, 0)
    with pytest.raises(ValueError, match="counts must not be negative"):
        _core.add_cross_moments([(side, side, (1, -1, 2), 0)], 0, 0, 0, 0)
    with pytest.raises(ValueError, match="a precision of highest, high or medium"):
        _core.add_cross_moments([(side, side, (1, 1, 2), 0)], 3, 0, 0, 0)
    if not torch.cuda.is_available():
        reason = "CUDA can't" if _native.cuda_built() else "has no CUDA kernels"
        with pytest.raises(RuntimeError, match=reason):
            _core.add_cross_moments([(side, side, (1, 1, 2), 0)], 0, 0, 0, 0)
