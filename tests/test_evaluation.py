"""Scores, ensembles and curves against direct computation."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from fastrebasin import Ensemble, evaluate, interpolate, interpolation_curve
from fastrebasin.experiments.models import MLP

A = (torch.randn(50, 6, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 3)
B = (torch.randn(20, 6, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 3)


def test_scores_are_accuracy_and_nll_and_their_unweighted_mean(device: str) -> None:
    model = MLP(6, (8,), 3).to(device)
    found = evaluate(model, (A, B), batch_size=7)
    for score, (x, y) in zip(found.sets, (A, B), strict=True):
        log_probs = model(x.to(device)).cpu()
        assert score.accuracy == pytest.approx((log_probs.argmax(1) == y).double().mean().item())
        assert score.loss == pytest.approx(functional.nll_loss(log_probs, y).item(), rel=1e-5)
    mean = sum(score.loss for score in found.sets) / 2
    assert found.mixture.loss == pytest.approx(mean)


def test_the_mixture_of_three_is_the_mean_of_three() -> None:
    model = MLP(6, (8,), 3)
    found = evaluate(model, [A, B, (A[0], (A[1] + 1) % 3)])
    assert len(found.sets) == 3
    assert found.sets[1] == evaluate(model, B).mixture
    assert found.mixture.accuracy == pytest.approx(sum(s.accuracy for s in found.sets) / 3)


def test_logits_and_log_probabilities_score_alike() -> None:
    logits = nn.Linear(6, 3)
    log_probs = nn.Sequential(logits, nn.LogSoftmax(dim=1))
    first, second = (evaluate(model, A).mixture for model in (logits, log_probs))
    assert first.accuracy == second.accuracy
    assert first.loss == pytest.approx(second.loss)


def test_evaluation_is_in_eval_mode_and_restores_every_module() -> None:
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.9), nn.Linear(6, 3))
    model.train()
    model[2].eval()
    before = model.state_dict()["0.running_mean"].clone()
    assert evaluate(model, A) == evaluate(model, A)
    assert torch.equal(model.state_dict()["0.running_mean"], before)
    assert [module.training for module in model] == [True, True, False]


def test_ensemble_is_a_proper_distribution_between_its_models() -> None:
    models = [MLP(6, (8,), 3), MLP(6, (8,), 3)]
    x = A[0]
    both = Ensemble(models, [0.5, 0.5])(x).exp()
    assert torch.allclose(both.sum(1), torch.ones(50))
    geometric = (models[0](x).exp() * models[1](x).exp()).sqrt()
    assert torch.allclose(both, geometric / geometric.sum(1, keepdim=True), atol=1e-6)
    assert torch.allclose(Ensemble(models, [1.0, 0.0])(x), models[0](x), atol=1e-6)
    with pytest.raises(ValueError, match="equally many"):
        Ensemble(models, [1.0])


def test_curve_runs_from_a_to_b() -> None:
    a, b = MLP(6, (8,), 3), MLP(6, (8,), 3)
    params = a.state_dict(), b.state_dict()
    curve = interpolation_curve(a, *params, (A, B), points=5)
    assert curve[0] == evaluate(a, (A, B))
    assert curve[-1] == evaluate(b, (A, B))
    middle = MLP(6, (8,), 3)
    middle.load_state_dict(interpolate(*params, 0.5))
    assert curve[2] == evaluate(middle, (A, B))
    changed = interpolation_curve(a, *params, A, points=2, normalize=lambda _: b)
    assert changed[0] == evaluate(b, A)


def test_options_out_of_range_are_refused() -> None:
    model = MLP(6, (8,), 3)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        evaluate(model, A, batch_size=0)
    with pytest.raises(ValueError, match="points must be at least 2, got 1"):
        interpolation_curve(model, model.state_dict(), model.state_dict(), A, points=1)
