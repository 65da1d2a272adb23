"""GLISTER, CRAIG and GradMatch, against gradients and steps that are formed in full."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import scipy
import torch
from coreset_oracles import examples, gradients, greedy
from torch import Tensor, nn

from fastrebasin import ReducedSet, select_coreset
from fastrebasin.experiments.models import MLP
from fastrebasin.reduction.coreset import Craig, Glister, GradMatch, Selector
from fastrebasin.reduction.coreset.candidates import Candidates
from fastrebasin.reduction.coreset.pursuit import matching_pursuit, nonnegative_fit
from fastrebasin.reduction.coreset.vectors import Vectors, last_layer

RULES = [Craig(), Glister(), GradMatch()]


def choose(rule: Selector, count: int, model: nn.Module | None) -> ReducedSet:
    return select_coreset(examples(), rule, model=model, per_class=count, progress=False)


def classes(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Return the indices of each class, and its gradients."""
    x, y = examples()
    members = [(y == k).nonzero().flatten() for k in range(2)]
    return [(m, gradients(model, x[m], y[m])) for m in members]


@pytest.fixture
def model() -> MLP:
    return MLP(5, (7,), 2).double()


def test_factors_give_the_products_of_gradients(model: MLP, device: str) -> None:
    x, y = examples()
    moved = copy.deepcopy(model).to(device)
    seen = Candidates((x.to(device), y.to(device)), moved)
    for members, explicit in classes(model):
        vectors = last_layer(seen, members).gradients()
        every, weights = torch.arange(len(members), device=device), torch.rand(len(members))
        products = explicit @ explicit.T
        torch.testing.assert_close(vectors.products(every, slice(None)).cpu(), products)
        torch.testing.assert_close(vectors.squares().cpu(), products.diag())
        expected = explicit @ (weights.double() @ explicit)
        torch.testing.assert_close(vectors.against(weights).cpu(), expected)


def test_without_a_model_all_errors_of_a_class_are_those_of_an_untrained_layer() -> None:
    x, y = torch.randn(6, 3), torch.tensor([4, 4, 9, 9, 7, 7])
    layer = last_layer(Candidates((x, y)), torch.tensor([2, 3]))
    torch.testing.assert_close(layer.errors(), torch.tensor([[1.0, 1.0, -2.0]] * 2).double() / 3)
    assert layer.inputs.tolist() == torch.cat([x[2:4], torch.ones(2, 1)], 1).tolist()


@pytest.mark.parametrize("lr", [0.0, 0.05, 1.0])
def test_glister_takes_a_step_on_each_chosen_example(model: MLP, lr: float) -> None:
    found = choose(Glister(lr=lr), 8, model).extras
    x, y = examples()
    for k, (members, explicit) in enumerate(classes(model)):
        stepped = copy.deepcopy(model)
        last = stepped.get_submodule("layer1")
        assert isinstance(last, nn.Linear)
        chosen: list[int] = []
        for step in range(8):
            mean = gradients(stepped, x[members], y[members]).mean(0)
            gains = explicit @ mean
            gains[chosen] = -torch.inf
            chosen.append(int(gains.argmax()))
            assert found["scores"][8 * k + step] == pytest.approx(float(gains.max()))
            with torch.no_grad():
                change = explicit[chosen[-1]].view(2, -1)
                last.weight.sub_(lr * change[:, :-1])
                last.bias.sub_(lr * change[:, -1])
        assert found["indices"][8 * k : 8 * k + 8].tolist() == members[chosen].tolist()


def test_glister_without_steps_takes_the_largest_gains(model: MLP) -> None:
    found = choose(Glister(lr=0), 30, model).extras["scores"]
    assert all((part.diff() <= 0).all() for part in found.split(30))
    stepped = choose(Glister(lr=1), 30, model).extras["indices"]
    assert stepped.tolist() != choose(Glister(lr=0), 30, model).extras["indices"].tolist()


def test_craig_is_facility_location_on_distances(model: MLP) -> None:
    found = choose(Craig(), 9, model).extras
    for k, (members, explicit) in enumerate(classes(model)):
        distances = (explicit[:, None] - explicit).norm(dim=2)
        chosen, gains = greedy("facility", distances.max() - distances, 9)
        part = slice(9 * k, 9 * k + 9)
        assert found["indices"][part].tolist() == members[chosen].tolist()
        torch.testing.assert_close(found["scores"][part].tolist(), gains, rtol=0, atol=1e-7)
        weights = distances[:, chosen].argmin(1).bincount(minlength=9)
        assert found["weights"][part].tolist() == weights.tolist()
        assert found["weights"][part].sum() == len(members)


@pytest.mark.parametrize("regularisation", [0.0, 0.3])
def test_gradmatch_pursues_the_sum(model: MLP, regularisation: float) -> None:
    found = choose(GradMatch(regularisation=regularisation), 7, model).extras
    for k, (members, explicit) in enumerate(classes(model)):
        total, ridge = explicit.sum(0), regularisation * float(explicit.square().sum(1).mean())
        chosen: list[int] = []
        weights, losses = np.zeros(0), [float(total.square().sum())]
        for step in range(7):
            residual = total - torch.tensor(weights) @ explicit[chosen]
            correlation = explicit @ residual
            correlation[chosen] = -torch.inf
            if correlation.max() < 1e-9 * losses[0]:
                break
            chosen.append(int(correlation.argmax()))
            assert found["scores"][7 * k + step] == pytest.approx(float(correlation.max()))
            A = np.concatenate([explicit[chosen].T, np.sqrt(ridge) * np.eye(step + 1)])
            b = np.concatenate([total, np.zeros(step + 1)])
            weights, norm = scipy.optimize.nnls(A, b)
            losses.append(norm**2)
        assert found["indices"][7 * k :][: len(chosen)].tolist() == members[chosen].tolist()
        expected = torch.tensor(weights)
        found_weights = found["weights"][7 * k :][: len(chosen)]
        torch.testing.assert_close(found_weights, expected, rtol=1e-5, atol=1e-5)
        assert (np.diff(losses) <= 1e-9).all()


@pytest.mark.parametrize("features", [3, 40])
def test_the_residual_never_grows_and_every_budget_is_filled(features: int) -> None:
    rows = torch.randn(50, features).double() + 0.3
    total, losses = rows.sum(0), []
    for count in range(0, 51, 5):
        chosen, _, weights = matching_pursuit(Vectors(rows), count)
        assert len(chosen.unique()) == count
        assert (weights >= 0).all()
        losses.append(float((total - weights @ rows[chosen]).norm()))
    assert (torch.tensor(losses).diff() <= 1e-6).all()
    assert losses[-1] < 1e-4 * losses[0]


def test_the_fit_is_that_of_least_squares() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        A, b = rng.standard_normal((12, 8)), rng.standard_normal(12)
        gram, target = torch.tensor(A.T @ A), torch.tensor(A.T @ b)
        found = nonnegative_fit(gram, target, torch.zeros(8).double())
        np.testing.assert_allclose(found.numpy(), scipy.optimize.nnls(A, b)[0], atol=1e-8)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("fill", [0.0, 0.7])
def test_equal_examples_follow_in_order(rule: Selector, fill: float) -> None:
    same = torch.full((25, 6), fill), torch.arange(25) // 20
    found = select_coreset(same, rule, fraction=1, progress=False).extras
    assert found["indices"].tolist() == list(range(25))
    assert torch.isfinite(found["weights"]).all()


@pytest.mark.parametrize("rule", RULES)
def test_twins_and_a_perfect_model_are_no_trouble(rule: Selector) -> None:
    x = torch.randn(15, 6)
    twice = torch.cat([x, x]), torch.zeros(30).long()
    found = select_coreset(twice, rule, per_class=30, progress=False).extras
    assert sorted(found["indices"].tolist()) == list(range(30))
    perfect = MLP(6, (4,), 2)
    last = perfect.get_submodule("layer1")
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    last.bias.data = torch.tensor([2000.0, 0.0])
    found = select_coreset(twice, rule, model=perfect, per_class=4, progress=False).extras
    assert found["indices"].tolist() == [0, 1, 2, 3]


def test_options_must_be_in_range() -> None:
    with pytest.raises(ValueError, match="lr must be finite and not negative, got -1"):
        Glister(lr=-1)
    with pytest.raises(ValueError, match="memory must be finite and not negative, got -5"):
        Craig(memory=-5)
    with pytest.raises(ValueError, match="regularisation must be finite and not negative, got inf"):
        GradMatch(regularisation=float("inf"))
