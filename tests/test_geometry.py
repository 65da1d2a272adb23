"""Barriers, distance, sharpness, calibration and landscapes against plain computation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fastrebasin import Evaluation, Score, evaluate, interpolate
from fastrebasin.evaluation import (
    barrier,
    calibration,
    distance,
    landscape,
    midpoint_loss,
    sharpness,
)
from fastrebasin.experiments.models import MLP, resnet20

A = (torch.randn(50, 6, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 3)
B = (torch.randn(20, 6, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 3)


def test_barrier_is_the_rise_above_the_line() -> None:
    straight = [2.0 - 0.3 * k for k in range(7)]
    assert barrier(straight) == pytest.approx(0, abs=1e-12)
    assert barrier([x - 5.0 * (k == 3) for k, x in enumerate(straight)]) < 1e-12
    bumps = [x + b for x, b in zip(straight, [0, 0.5, 0.1, 0.7, 0, -1, 0], strict=True)]
    assert barrier(bumps) == pytest.approx(0.7)
    assert midpoint_loss(bumps) == bumps[3]


def test_barriers_read_the_mixtures_loss() -> None:
    losses = [(1.0, 3.0), (5.0, 9.0), (1.0, 5.0)]
    curve = [Evaluation((Score(0.5, a), Score(0.5, b))) for a, b in losses]
    assert midpoint_loss(curve) == 7.0
    assert barrier(curve) == pytest.approx(4.5)


def test_a_loss_that_is_lost_has_no_barrier() -> None:
    assert math.isnan(barrier([1.0, math.nan, 1.0, 1.0]))
    assert math.isnan(barrier([math.nan, 2.0, 1.0]))
    assert barrier([1.0, math.inf, 1.0]) == math.inf


def test_curves_too_short_are_refused() -> None:
    with pytest.raises(ValueError, match="curve must have at least 2 points, got 1"):
        barrier([1.0])
    with pytest.raises(ValueError, match="curve must have an odd number of points, got 4"):
        midpoint_loss([1.0] * 4)


def test_distance_is_the_norm_over_the_number_of_parameters(device: str) -> None:
    a, b = (resnet20().to(device) for _ in range(2))
    flat = [torch.cat([p.detach().double().flatten() for p in m.parameters()]) for m in (a, b)]
    with torch.no_grad():
        b.get_buffer("bn1.running_mean").fill_(1e6)  # statistics don't count
    expected = ((flat[0] - flat[1]).norm() / len(flat[0])).item()
    assert distance(a.state_dict(), b.state_dict()) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_distance_adds_in_float64(dtype: torch.dtype) -> None:
    a, b = torch.zeros(5_000_000, dtype=dtype), torch.full((5_000_000,), 2.0, dtype=dtype)
    assert distance({"w": a}, {"w": b}) == pytest.approx(2 / math.sqrt(5_000_000), rel=1e-12)


def test_what_has_no_distance_is_refused() -> None:
    broken = {"w": torch.tensor([1.0, math.nan]), "v": torch.ones(1)}
    with pytest.raises(ValueError, match="must be finite, but these are not: w of B"):
        distance({"w": torch.zeros(2), "v": torch.zeros(1)}, broken)
    with pytest.raises(ValueError, match="w is only in A"):
        distance({"w": torch.zeros(2)}, {})
    with pytest.raises(ValueError, match="must hold floating-point parameters"):
        distance({"n": torch.zeros(2).long()}, {"n": torch.zeros(2).long()})


def slope(model: nn.Module, a: nn.Module, b: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Return the derivative of the loss at A towards B by central differences."""
    step, losses = 1e-5, []
    for sign in (1, -1):
        model.load_state_dict(interpolate(a.state_dict(), b.state_dict(), sign * step))
        with torch.no_grad():
            losses.append(functional.cross_entropy(model(data[0]), data[1]).item())
    return (losses[0] - losses[1]) / (2 * step)


def test_sharpness_is_the_slope_of_both_losses(device: str) -> None:
    a, b, carrier = (MLP(6, (8, 8), 3).double().to(device) for _ in range(3))
    data = [(x.double().to(device), y.to(device)) for x, y in (A, B)]
    found = sharpness(a, a.state_dict(), b.state_dict(), tuple(data), batch_size=7)
    expected = (slope(carrier, a, b, data[0]) + slope(carrier, b, a, data[1])) / 2
    assert found == pytest.approx(expected, rel=1e-6)
    assert all(parameter.grad is None for parameter in a.parameters())


def test_sharpness_keeps_batch_norm_in_eval_mode_and_its_statistics_fixed() -> None:
    def network() -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        model(A[0] * 3)  # so that statistics differ from the default
        return model.double()

    a, b, carrier = network(), network(), network().eval()
    data = (A[0].double(), A[1])
    before = {name: tensor.clone() for name, tensor in a.state_dict().items()}
    found = sharpness(a, a.state_dict(), b.state_dict(), (data, data))
    assert a.training
    assert all(torch.equal(before[name], tensor) for name, tensor in a.state_dict().items())

    def fixed(model: nn.Module, other: nn.Module) -> nn.Module:
        """Return `other` with the statistics of `model`."""
        twin = network()
        own = {n: t for n, t in model.state_dict().items() if n.startswith("1.running")}
        twin.load_state_dict({**other.state_dict(), **own})
        return twin

    expected = slope(carrier, a, fixed(a, b), data) + slope(carrier, b, fixed(b, a), data)
    assert found == pytest.approx(expected / 2, rel=1e-6)


def test_sharpness_needs_a_pair() -> None:
    params = MLP(6, (8,), 3).state_dict()
    with pytest.raises(
        ValueError, match="batch_size must be at least 1, got 0; data must be a pai"
    ):
        sharpness(MLP(6, (8,), 3), params, params, A, batch_size=0)


def test_state_dicts_of_other_models_are_refused() -> None:
    model, (a, b) = MLP(6, (8,), 3), (MLP(6, (9,), 3).state_dict() for _ in range(2))
    with pytest.raises(ValueError, match=r"params_a doesn't fit MLP:\n  misshapen: layer0.weight"):
        sharpness(model, a, b, (A, B))
    with pytest.raises(ValueError, match=r"params_a doesn't fit MLP:\n  misshapen: layer0.weight"):
        landscape(model, a, b, b, A)
    c = {"v" if name == "layer1.bias" else name: tensor for name, tensor in a.items()}
    with pytest.raises(ValueError, match=r"together: layer1.bias is only in A; v is only in C"):
        landscape(model, a, b, c, A)


def test_calibration_is_what_a_plain_loop_counts(device: str) -> None:
    model = MLP(6, (8,), 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # confidences of many sizes
    tables = calibration(model.to(device), (A, B), bins=5, batch_size=7).sets
    for table, (x, y) in zip(tables, (A, B), strict=True):
        confidence, predicted = model.cpu()(x).double().exp().max(1)
        error = 0.0
        for k, found in enumerate(table.bins):
            inside = [i for i, c in enumerate(confidence.tolist()) if k / 5 < c <= (k + 1) / 5]
            assert found.count == len(inside)
            if not inside:
                assert found.confidence == found.accuracy == 0
                continue
            sure = sum(confidence[i].item() for i in inside) / len(inside)
            right = sum(int(predicted[i] == y[i]) for i in inside) / len(inside)
            assert (found.confidence, found.accuracy) == pytest.approx((sure, right), rel=1e-5)
            error += len(inside) / len(y) * abs(right - sure)
        assert table.error == pytest.approx(error, rel=1e-4)
        assert sum(found.count for found in table.bins) == len(y)
        model.to(device)


def test_a_mixtures_calibration_weighs_data_sets_alike() -> None:
    model = MLP(6, (8,), 3)
    once = calibration(model, (A, B)).mixture
    (x, y), copies = B, 10
    again = calibration(model, (A, (x.repeat(copies, 1), y.repeat(copies)))).mixture
    assert again.error == pytest.approx(once.error)
    assert sum(found.share for found in once.bins) == pytest.approx(1)
    assert sum(found.count for found in once.bins) == 70
    alone = calibration(model, (A, A)).mixture
    assert alone.error == pytest.approx(calibration(model, A).mixture.error)


def test_confidence_on_the_edge_and_outputs_that_are_not_finite() -> None:
    x, y = torch.zeros(4, 2), torch.tensor([0, 0, 0, 1])  # argmax of a tie is the first
    bins = calibration(nn.Identity(), (x, y), bins=2).mixture.bins
    assert [found.count for found in bins] == [4, 0]
    assert bins[0].accuracy == 0.75
    with pytest.raises(ValueError, match="outputs on data must be finite"):
        calibration(nn.Identity(), (x * math.nan, y))
    with pytest.raises(ValueError, match=r"batch_size must be.*; bins must be at least 1, got 0"):
        calibration(nn.Identity(), (x, y), bins=0, batch_size=0)


def test_corners_of_a_landscape_are_the_models(device: str) -> None:
    models = [MLP(6, (8,), 3).to(device) for _ in range(3)]
    params = a, b, c = [model.state_dict() for model in models]
    found = landscape(models[0], a, b, c, (A, B), points=4)
    for corner, model in zip(found.corners, models, strict=True):
        assert corner.evaluation == evaluate(model, (A, B))
    flat = [torch.cat([t.double().flatten() for t in p.values()]).cpu() for p in params]
    places = torch.tensor([(corner.x, corner.y) for corner in found.corners], dtype=torch.float64)
    assert torch.allclose(torch.pdist(places), torch.pdist(torch.stack(flat)), rtol=1e-10)
    assert found.x[0] < places[:, 0].min()
    assert found.x[-1] > places[:, 0].max()


def test_points_of_a_landscape_are_those_of_an_orthonormal_basis() -> None:
    models = [MLP(6, (8,), 3).double() for _ in range(3)]
    data = (A[0].double(), A[1])
    params = [model.state_dict() for model in models]
    a, b, c = (torch.cat([t.flatten() for t in p.values()]) for p in params)
    basis, _ = torch.linalg.qr(torch.stack([b - a, c - a], dim=1))
    basis = basis * torch.stack([basis[:, 0] @ (b - a), basis[:, 1] @ (c - a)]).sign()
    found = landscape(models[0], params[0], params[1], params[2], data, points=3)
    for row, y in enumerate(found.y):
        for column, x in enumerate(found.x):
            carrier = MLP(6, (8,), 3).double()
            nn.utils.vector_to_parameters(a + x * basis[:, 0] + y * basis[:, 1],
                                          carrier.parameters())  # fmt: skip
            expected = evaluate(carrier, data).mixture
            assert found.grid[row][column].mixture.loss == pytest.approx(expected.loss, rel=1e-9)
            assert found.grid[row][column].mixture.accuracy == expected.accuracy


def test_landscapes_normalize_every_point_and_keep_variances_positive() -> None:
    models = [nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)) for _ in range(3)]
    for scale, model in enumerate(models):
        model(A[0] * (1 + 10 * scale))
    a, b, c = (model.state_dict() for model in models)
    found = landscape(models[0], a, b, c, A, points=5, margin=3)
    assert all(math.isfinite(e.mixture.loss) for row in found.grid for e in row)
    constant = MLP(6, (8,), 3)
    same = landscape(models[0], a, b, c, A, points=2, normalize=lambda _: constant)
    assert {e for row in same.grid for e in row} == {evaluate(constant, A)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_three_models_on_a_line_span_no_plane(dtype: torch.dtype) -> None:
    model = nn.Linear(300, 3).to(dtype)
    a, b = model.state_dict(), nn.Linear(300, 3).to(dtype).state_dict()
    data = (torch.randn(4, 300, dtype=dtype), torch.zeros(4).long())
    for c in (a, b, interpolate(a, b, 0.5)):
        with pytest.raises(ValueError, match="must not lie on one line"):
            landscape(model, a, b, c, data)
    with pytest.raises(ValueError, match="must not lie on one line"):
        landscape(model, a, a, b, data)
    with pytest.raises(ValueError, match="points must be at least 2, got 1; margin must be finite"):
        landscape(model, a, b, a, data, points=1, margin=math.inf)
