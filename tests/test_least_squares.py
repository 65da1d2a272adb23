"""Least squares, RegMean and distillation against plain regressions and planted answers."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from states import trained_batch_norm
from torch import Tensor, nn
from torch.nn import functional

from fastrebasin import evaluate, reset_batch_norm
from fastrebasin.experiments.models import MLP, vgg11
from fastrebasin.merging import distil, interpolate, least_squares, regmean
from fastrebasin.merging.regression import Regression


@pytest.mark.parametrize("intercept", [True, False])
def test_a_fit_is_ridge_regression_towards_the_prior(intercept: bool) -> None:
    x, z, prior = torch.randn(50, 4) + 3, torch.randn(50, 3), torch.randn(3, 4)
    regression = Regression(2)
    regression.update(0, x[:20].T, z[:20].T)
    regression.update(1, x[20:].T, z[20:].T)
    fit = regression.solve(prior, intercept=intercept, strength=0.1)
    u, v = (t.double().numpy() for t in (x, z))
    rest = v - u @ prior.double().numpy().T
    if intercept:
        u, rest = u - u.mean(0), rest - rest.mean(0)
    ridge = 0.1 * (u**2).mean(0).mean() * len(u)
    design = np.vstack([u, np.sqrt(ridge) * np.eye(4)])
    expected = np.linalg.lstsq(design, np.vstack([rest, np.zeros((4, 3))]), rcond=None)[0].T
    assert np.allclose(fit.weight.numpy() - prior.numpy(), expected, atol=1e-5)
    predicted = x.double() @ fit.weight.T
    assert torch.allclose(fit.mean, predicted.mean(0), atol=1e-5)
    assert torch.allclose(fit.variance, predicted.var(0, correction=0), rtol=1e-4)
    residual = (z.double() - predicted - fit.shift).mean(0)
    assert torch.allclose(residual, torch.zeros(3).double(), atol=1e-5) or not intercept
    assert intercept or not fit.shift.any()


def test_rounding_of_few_observations_of_many_inputs_is_covered() -> None:
    x = 100 * torch.randn(30, 1) * torch.randn(1, 400) + torch.randn(30, 400)
    z = x @ torch.randn(400, 3) / 20
    regression = Regression(1)
    regression.update(0, x.T, z.T)
    products = regression.moments[0].covariance()[:, :400]
    assert torch.linalg.eigvalsh(products)[0] < -1e-10 * products.diagonal().mean()
    fit = regression.solve(torch.zeros(3, 400), strength=0.0)
    assert 0 < fit.strength < 1e-2
    residual = z - (x.double() @ fit.weight.T + fit.shift)
    assert residual.square().mean() < 1e-3 * z.double().var()


def test_a_fit_refuses_what_is_not_finite() -> None:
    regression = Regression(1)
    regression.update(0, torch.full((2, 5), torch.nan), torch.zeros(3, 5))
    with pytest.raises(ValueError, match="observations of inputs must be finite"):
        regression.solve(torch.zeros(3, 2), strength=0.1)


def test_the_ridge_is_chosen_by_the_error_on_the_other_fold() -> None:
    truth = torch.randn(3, 20)
    for noise, few in ((0.0, 40), (30.0, 12)):
        x = torch.randn(2 * few, 20)
        z = x @ truth.T + noise * torch.randn(2 * few, 3)
        regression = Regression(2)
        regression.update(0, x[:few].T, z[:few].T)
        regression.update(1, x[few:].T, z[few:].T)
        prior = truth if noise else torch.zeros(3, 20)
        strength = regression.solve(prior).strength
        assert (strength == 1.0) if noise else (strength == 1e-5)


def test_computed_weights_are_averaged() -> None:
    a, b = (
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.Linear(6, 2))
        for _ in range(2)
    )
    data = torch.randn(40, 4), torch.zeros(40)
    mean = interpolate(a.state_dict(), b.state_dict())
    for way in (least_squares, regmean):
        found = way(a, b, data).state_dict()
        assert all(torch.allclose(found[n], mean[n]) for n in mean if n.startswith("0."))
        assert not torch.allclose(found["1.weight"], mean["1.weight"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_model_merged_with_itself_is_itself(dtype: torch.dtype, device: str) -> None:
    model = trained_batch_norm(vgg11(0.1)).to(device, dtype)
    x = torch.randn(40, 3, 32, 32, dtype=dtype)
    merged = least_squares(model, model, (x, torch.zeros(40)), augment=None)
    tolerance = 0.1 if dtype is torch.bfloat16 else 1e-3
    x = x.to(device)
    assert torch.allclose(merged(x), model(x), rtol=tolerance, atol=tolerance)
    reset = reset_batch_norm(merged, (x.cpu(), torch.zeros(40)), batch_size=40)
    difference = (reset(x) - merged(x)).abs().mean() / merged(x).abs().mean()
    assert difference < 0.2  # its statistics are those of the data


def test_one_layer_is_the_regression_on_both_models_answers() -> None:
    a, b = nn.Linear(5, 3), nn.Linear(5, 3)
    x, y = torch.randn(30, 5), torch.randn(60, 5)
    merged = least_squares(a, b, ((x, x), (y, y)), ridge=0.0, augment=None)
    design = torch.cat([2**0.5 * x, y])  # A's data are half as many: each counts double
    design = torch.cat([design, torch.cat([torch.full((30, 1), 2**0.5), torch.ones(60, 1)])], 1)
    answers = torch.cat([2**0.5 * a(x), b(y)]).detach()
    expected = torch.linalg.lstsq(design, answers).solution
    state = merged.state_dict()
    assert torch.allclose(state["weight"], expected[:5].T, atol=1e-4)
    assert torch.allclose(state["bias"], expected[5], atol=1e-4)


def test_a_strong_ridge_gives_the_average() -> None:
    a, b = MLP(6, (8, 8), 3), MLP(6, (8, 8), 3)
    merged = least_squares(a, b, (torch.randn(50, 6), torch.zeros(50)), ridge=1e9)
    mean = interpolate(a.state_dict(), b.state_dict())
    state = merged.state_dict()
    assert all(torch.allclose(state[n], mean[n], atol=1e-4) for n in mean if n.endswith("weight"))


class Recurrent(nn.Module):
    """A layer that runs twice, and what works in place on what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Linear(5, 5)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.step(self.relu(self.step(x)))
        return out


def test_layers_that_run_twice_and_dependent_inputs() -> None:
    model = Recurrent()
    x = torch.randn(40, 5)
    merged = least_squares(model, model, (x, torch.zeros(40)), ridge=0.0)
    assert torch.allclose(merged(x), model(x), atol=1e-4)
    x[:, 3] = x[:, 1]
    a, b = nn.Linear(5, 2), nn.Linear(5, 2)
    merged = least_squares(a, b, ((x[:20], x[:20]), (x[20:], x[20:])), ridge=0.0)
    assert all(torch.isfinite(tensor).all() for tensor in merged.state_dict().values())


def teachers() -> tuple[MLP, MLP, tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """Return two classifiers of different classes on different inputs, and their data."""
    x = torch.randn(2, 400, 10)
    x[0, :, 0] += 4
    x[1, :, 0] -= 4
    labels = [x[0, :, 1:6].argmax(1), 5 + x[1, :, 5:].argmax(1)]
    models = []
    for each, label in zip(x, labels, strict=True):
        model = MLP(10, (32, 32))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(150):
            optimizer.zero_grad()
            functional.cross_entropy(model(each), label).backward()
            optimizer.step()
        models.append(model)
    return models[0], models[1], ((x[0], labels[0]), (x[1], labels[1]))


def test_each_way_does_better_than_the_one_before() -> None:
    a, b, data = teachers()
    average = copy.deepcopy(a)
    average.load_state_dict(interpolate(a.state_dict(), b.state_dict()))
    solved = least_squares(a, b, data)
    learned = distil(solved, [a, b], data, steps=200)
    models = average, regmean(a, b, data), solved, learned
    scores = [evaluate(model, data).mixture.accuracy for model in models]
    assert all(earlier < later for earlier, later in itertools.pairwise(scores)), scores
    assert scores[-1] > 0.9


def test_distillation_is_repeatable_and_leaves_the_models() -> None:
    a, b, data = teachers()
    before = copy.deepcopy(a.state_dict())
    runs = [distil(a, [a, b], data, steps=5, seed=seed).state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(runs[0][n], runs[1][n]) for n in before)
    assert not torch.equal(runs[0]["layer0.weight"], runs[2]["layer0.weight"])
    assert all(torch.equal(before[n], t) for n, t in a.state_dict().items())
    assert all(
        torch.equal(before[n], t) for n, t in distil(a, [b], data[0], steps=0).state_dict().items()
    )


def test_regmean_is_its_formula() -> None:
    a, b = nn.Linear(5, 3), nn.Linear(5, 3)
    x, y = torch.randn(30, 5) + 1, torch.randn(60, 5)
    merged = regmean(a, b, ((x, x), (y, y)), shrink=0.5).state_dict()
    grams = []
    for each in (x, y):
        gram = each.T @ each / len(each)
        grams.append(0.5 * gram + 0.5 * gram.diag().diag())
    answers = grams[0] @ a.weight.T + grams[1] @ b.weight.T
    expected = torch.linalg.solve(grams[0] + grams[1], answers).T
    assert torch.allclose(merged["weight"], expected, atol=1e-5)
    assert torch.allclose(merged["bias"], (a.bias + b.bias) / 2)


def test_misuse_is_refused_by_name() -> None:
    a, data = MLP(4, (8,), 2), (torch.randn(9, 4), torch.zeros(9))
    broken = copy.deepcopy(a)
    broken.state_dict()["layer1.bias"].fill_(torch.nan)
    for way in (least_squares, regmean):
        with pytest.raises(ValueError, match=r"must be finite.*layer1.bias of B"):
            way(a, broken, data)
        with pytest.raises(ValueError, match="activations at 'layer0' must be finite"):
            way(a, a, (torch.full((9, 4), torch.inf), torch.zeros(9)))
        with pytest.raises(ValueError, match="don't fit together"):
            way(a, MLP(4, (9,), 2), data)
        with pytest.raises(ValueError, match=r"one source, or A's and B's, got 3 sources"):
            way(a, a, (data, data, data))
    with pytest.raises(ValueError, match=r"ridge must be finite.*batch_size must be at least 1"):
        least_squares(a, a, data, ridge=-1, batch_size=0)
    with pytest.raises(ValueError, match="shrink must be from 0 to 1"):
        regmean(a, a, data, shrink=2)
    with pytest.raises(ValueError, match=r"a source for each of 3 teachers, got 2; steps.*; lr"):
        distil(a, [a, a, a], (data, data), steps=-1, lr=0)
    with pytest.raises(ValueError, match=r"layer1.bias of teacher 1"):
        distil(a, [a, broken], data)
