"""Streaming moments: two passes in float64 as oracle, whatever the batches."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastrebasin import _batch_moments
from fastrebasin._precision import Precision
from fastrebasin.statistics import Moments, update_moments


def correlated(
    count: int = 5000, mean: float = 0.0, deviation: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return observations of 12 and of 9 units that share causes, in float64."""
    generator = torch.Generator().manual_seed(seed)
    causes, mixing_x, mixing_y, noise = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((count, 4), (4, 12), (4, 9), (count, 9))
    )
    x, y = causes @ mixing_x / 2, (causes @ mixing_y + noise) / 2
    return mean + deviation * x, mean - deviation * y


def gathered(x: Tensor, y: Tensor | None, sizes: list[int], axis: int = -1) -> Moments:
    moments = Moments()
    parts = [None] * len(sizes) if y is None else y.split(sizes)
    for part_x, part_y in zip(x.split(sizes), parts, strict=True):
        moments.update(part_x, part_y, axis=axis)
    return moments


def assert_equals_two_passes(moments: Moments, x: Tensor, y: Tensor, tolerance: float) -> None:
    """Compare with means first and products of float64 deviations afterwards."""
    x, y = x.double().cpu(), y.double().cpu()
    mean_x, mean_y = x.mean(0), y.mean(0)
    covariance = (x - mean_x).T @ (y - mean_y) / len(x)
    scale_x, scale_y = (x - mean_x).square().mean(0).sqrt(), (y - mean_y).square().mean(0).sqrt()
    norm_x, norm_y = x.square().mean(0).sqrt(), y.square().mean(0).sqrt()
    scale, norm = torch.outer(scale_x, scale_y), torch.outer(norm_x, norm_y)
    found = {
        "mean_x": (moments.mean_x.cpu() - mean_x) / scale_x,
        "mean_y": (moments.mean_y.cpu() - mean_y) / scale_y,
        "variance_x": moments.variance_x.cpu() / scale_x.square() - 1,
        "variance_y": moments.variance_y.cpu() / scale_y.square() - 1,
        "covariance": (moments.covariance().cpu() - covariance) / scale,
        "correlation": moments.correlation().cpu() - covariance / scale,
        "gram": (moments.gram().cpu() - x.T @ y / len(x)) / norm,
        "cosine": moments.cosine().cpu() - x.T @ y / len(x) / norm,
    }
    assert moments.count == len(x)
    for name, error in found.items():
        assert error.abs().max().item() <= tolerance, name


@pytest.mark.parametrize(
    ("mean", "deviation"), [(0.0, 1.0), (100.0, 0.01), (-1e4, 1.0), (3.0, 1e-3), (0.0, 1e-12)]
)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-6), (torch.float64, 1e-9), (torch.float16, 1e-6), (torch.bfloat16, 1e-6)],
)
def test_equals_two_passes_in_float64(
    mean: float, deviation: float, dtype: torch.dtype, tolerance: float, device: str
) -> None:
    if dtype in (torch.float16, torch.bfloat16):  # which hold few digits
        mean, deviation = mean / 100, 1.0
    x, y = (t.to(device, dtype) for t in correlated(mean=mean, deviation=deviation))
    moments = gathered(x, y, [700, 3000, 1, 1299])
    assert_equals_two_passes(moments, x, y, tolerance)
    assert moments.covariance().dtype == torch.float64
    assert moments.covariance().device.type == device


def test_a_jump_of_the_means_cancels_nothing() -> None:
    parts = [correlated(mean=mean, deviation=0.01, seed=k) for k, mean in enumerate((100, -200))]
    x, y = (torch.cat(part).float() for part in zip(*parts, strict=True))
    wide = gathered(x, y, [5000, 5000])
    assert_equals_two_passes(wide, x, y, 1e-6)


@pytest.mark.parametrize("threshold", [0.0, 1.0, 2.5])
def test_units_that_are_mostly_zero_lose_no_digits(threshold: float, device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(20_000, 100, generator=generator).to(device) for _ in range(2))
    x, y = (x - threshold).relu() ** 3, (0.5 * x + y - threshold).relu()
    assert_equals_two_passes(gathered(x, y, [4000] * 5), x, y, 4e-7)


@pytest.mark.parametrize(("dtype", "mean"), [(torch.float16, 3.0), (torch.bfloat16, 0.0)])
def test_squares_of_few_digits_are_summed_without_bias(
    dtype: torch.dtype, mean: float, device: str
) -> None:
    x = torch.randn(20_000, 80).add(mean).to(device, dtype)
    alone = Moments()
    alone.update(x)
    assert_equals_two_passes(alone, x, x, 4e-7)


@given(
    cuts=st.lists(st.integers(0, 400), max_size=6),
    chunk=st.integers(1, 500),
    width=st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=25)
def test_batches_and_chunks_change_nothing(cuts: list[int], chunk: int, width: torch.dtype) -> None:
    x, y = (t.to(width) for t in correlated(400, mean=100, deviation=0.01))
    edges = [0, *sorted(cuts), 400]
    sizes = [end - start for start, end in itertools.pairwise(edges)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_batch_moments, "_CHUNK", chunk)
        assert_equals_two_passes(gathered(x, y, sizes), x, y, 1e-6)


@given(order=st.permutations(range(5)), depth=st.integers(1, 4))
@settings(max_examples=20)
def test_merged_parts_are_the_whole(order: list[int], depth: int) -> None:
    x, y = correlated(500, mean=7)
    parts = [gathered(x[k * 100 :][:100], y[k * 100 :][:100], [100]) for k in order]
    left, right, nothing = Moments(), Moments(), Moments()
    for part in parts[:depth]:
        left.merge(part)
    for part in parts[depth:]:
        right.merge(part)
    before = right.scatter.clone()
    left.merge(right)
    left.merge(nothing)
    assert torch.equal(right.scatter, before)
    assert_equals_two_passes(left, x, y, 1e-12)


def test_a_merged_copy_is_independent() -> None:
    x, y = correlated(100)
    part, whole = gathered(x, y, [100]), Moments()
    whole.merge(part)
    whole.merge(part)
    assert_equals_two_passes(part, x, y, 1e-12)
    assert whole.count == 200
    assert torch.allclose(whole.covariance(), part.covariance())


def test_one_network_alone_is_a_pair_of_equals() -> None:
    x, _ = correlated(mean=5)
    x = x.float()
    alone = gathered(x, None, [2000, 3000])
    assert_equals_two_passes(alone, x, x, 1e-6)
    assert torch.equal(alone.scatter, alone.scatter.T)
    assert torch.allclose(alone.correlation().diagonal(), torch.ones(12).double(), atol=1e-6)
    assert torch.linalg.eigvalsh(alone.gram()).min() > -1e-6


@pytest.mark.parametrize("shape", [(30, 8, 9, 5), (3, 60, 70), (2, 8, 1), (1, 5000)])
def test_images_are_read_as_they_lie(shape: tuple[int, ...], device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(*shape[:1], n, *shape[1:], generator=generator).to(device) for n in (4, 3))
    moments = Moments()
    moments.update(x, y, axis=1)
    flat_x, flat_y = (t.movedim(1, -1).flatten(0, -2) for t in (x, y))
    assert_equals_two_passes(moments, flat_x, flat_y, 1e-6)


def test_networks_may_lay_their_images_out_each_in_its_own_way(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(30, n, 30, 20, generator=generator).to(device) for n in (4, 3))
    rows, columns = Moments(), Moments()
    rows.update(x, y, axis=1)
    columns.update(x.to(memory_format=torch.channels_last), y, axis=1)
    assert torch.allclose(rows.covariance(), columns.covariance(), atol=1e-7)
    assert rows.count == columns.count == 18_000


def test_units_that_never_vary_correlate_with_nothing() -> None:
    x, y = (t.float() for t in correlated(3000))
    x[:, 0], x[:, 1] = 0, 0.1
    x[:, 2] = 1 + torch.arange(3000) % 2 * torch.finfo(torch.float32).eps  # rounding
    y[:, 0] = -1e8
    moments = gathered(x, y, [1000, 2000])
    correlation = moments.correlation()
    assert not correlation[:3].any()
    assert not correlation[:, 0].any()
    assert (correlation[3:, 1:].abs() > 1e-3).all()
    assert not moments.cosine()[0].any()
    assert (moments.cosine()[1] != 0).all()


def test_a_network_without_units_leaves_the_others_moments() -> None:
    x, y = correlated(50)
    found, expected = gathered(x[:, :0], y, [20, 30]), gathered(y, None, [50])
    assert found.covariance().shape == (0, 9)
    torch.testing.assert_close(found.mean_y, expected.mean_y)
    torch.testing.assert_close(found.variance_y, expected.variance_y)


def test_scaled_parts_are_parts_seen_so_often() -> None:
    x, y = correlated(300, mean=2)
    few = gathered(x[:100], y[:100], [100])
    few.scale(3)
    few.update(x[100:], y[100:])
    often_x, often_y = (torch.cat([t[:100]] * 3 + [t[100:]]) for t in (x, y))
    assert_equals_two_passes(few, often_x, often_y, 1e-12)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_faster_arithmetic_elsewhere_changes_nothing(precision: str, device: str) -> None:
    x, y = (t.float().to(device) for t in correlated())
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        moments = gathered(x, y, [5000])
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    assert_equals_two_passes(moments, x, y, 1e-6)


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (100.0, 0.01)])
@pytest.mark.parametrize("units", [(20, 31), (64, 50), (300, 136)])
@pytest.mark.parametrize(
    ("precision", "least", "most"),
    [("highest", 0, 2**-21), ("high", 2**-16, 2**-10), ("medium", 2**-13, 2**-7)],
)
def test_products_are_as_precise_as_asked_for(
    precision: Precision, least: float, most: float, units: tuple[int, int], mean: float,
    deviation: float, device: str,
) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    x, y = (
        (mean + deviation * torch.randn(3000, d, generator=generator)).to(device) for d in units
    )
    moments = Moments()
    moments.update(x, y, precision=precision)
    wide_x, wide_y = (t.double() - t.double().mean(0) for t in (x, y))
    scale = torch.outer(wide_x.norm(dim=0), wide_y.norm(dim=0)) / 3000
    error = ((moments.covariance() - wide_x.T @ wide_y / 3000) / scale).abs().max().item()
    # Faster arithmetic is for CUDA devices alone, where it must have been used.
    assert least * (device == "cuda") <= error <= (most if device == "cuda" else 2**-21)
    for found, wide in ((moments.variance_x, wide_x), (moments.variance_y, wide_y)):
        torch.testing.assert_close(found, wide.square().mean(0), rtol=2**-22, atol=0)


def test_many_moments_are_updated_as_each_alone(device: str) -> None:
    sizes = [(5, 7), (40, 30), (130, 129), (40, 40)]
    batches = [(torch.randn(70, n).to(device), torch.randn(70, m).to(device)) for n, m in sizes]
    many = [Moments() for _ in batches]
    for _ in range(2):
        update_moments(many, batches)
    for each, (x, y) in zip(many, batches, strict=True):
        alone = gathered(x.repeat(2, 1), y.repeat(2, 1), [70, 70])
        assert torch.equal(each.scatter, alone.scatter)
        assert torch.equal(each.mean_x, alone.mean_x)
        assert each.count == 140


def test_observations_keep_their_values_and_gradients() -> None:
    x, y = (t.float() for t in correlated(50))
    copies = x.clone(), y.clone()
    x.requires_grad_()
    moments = gathered(x, y, [50])
    assert not moments.covariance().requires_grad
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])


def test_misfits_are_named() -> None:
    x, y = correlated(10)
    moments = Moments()
    with pytest.raises(ValueError, match="at least one observation, got none"):
        moments.covariance()
    with pytest.raises(TypeError, match=r"y must be a floating-point tensor, got torch.int64"):
        moments.update(x, y.long())
    with pytest.raises(ValueError, match=r"same observations.* got \(10, 12\).*and \(9, 9\)"):
        moments.update(x, y[:9])
    with pytest.raises(ValueError, match="an axis 2 of units and others"):
        moments.update(x, y, axis=2)
    with pytest.raises(ValueError, match="precision must be highest, high or medium, got 'low'"):
        moments.update(x, y, precision="low")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weight must be positive and finite, got 0"):
        moments.scale(0)
    moments.update(x, y)
    with pytest.raises(
        ValueError, match=r"of 12 and 9 units on cpu can't be merged with .*12 and 8"
    ):
        moments.update(x, y[:, :8])
