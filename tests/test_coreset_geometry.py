"""Herding, centres and uncertainty against oracles written out in NumPy."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fastrebasin import ReducedSet, select_coreset
from fastrebasin.experiments.data_sets import idx_folder
from fastrebasin.experiments.models import MLP
from fastrebasin.reduction.coreset import SELECTORS, Herding, KCenter, Selector, Uncertainty

GEOMETRY = [Herding(), KCenter()]
RULES = [*GEOMETRY, *map(Uncertainty, ("margin", "entropy", "least-confidence"))]


def choose(x: Tensor, method: str | Selector, count: int, **options: object) -> ReducedSet:
    """Choose from a single class."""
    data = x, torch.zeros(len(x), dtype=torch.int64)
    return select_coreset(data, method, per_class=count, progress=False, **options)  # type: ignore[arg-type]


def picked(x: Tensor, method: str | Selector, count: int) -> list[int]:
    indices: list[int] = choose(x, method, count).extras["indices"].tolist()
    return indices


def points(count: int = 60, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, generator=generator, dtype=torch.float64).exp().to(dtype)


def herded(x: np.ndarray, count: int) -> tuple[list[int], list[float]]:
    """Try every example at every step."""
    mean, chosen, shifts = x.mean(0), list[int](), list[float]()
    for _ in range(count):
        shift = [
            np.inf if i in chosen else float(np.linalg.norm(x[[*chosen, i]].mean(0) - mean))
            for i in range(len(x))
        ]
        chosen.append(int(np.argmin(shift)))
        shifts.append(min(shift))
    return chosen, shifts


def centred(x: np.ndarray, count: int) -> tuple[list[int], list[float]]:
    """Measure every example against every centre at every step."""
    chosen = [int(np.argmin(np.linalg.norm(x - x.mean(0), axis=1)))]
    radii = [float(np.linalg.norm(x[chosen[0]] - x.mean(0)))]
    while len(chosen) < count:
        far = [
            -1.0 if i in chosen else min(float(np.linalg.norm(x[i] - x[c])) for c in chosen)
            for i in range(len(x))
        ]
        chosen.append(int(np.argmax(far)))
        radii.append(max(far))
    return chosen, radii


@pytest.mark.parametrize(("method", "oracle"), [("herding", herded), ("k-center", centred)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_agrees_with_an_oracle_to_the_last_example(
    method: str, oracle: object, dtype: torch.dtype, device: str
) -> None:
    x = points(dtype=dtype).to(device)
    chosen = choose(x, method, len(x))
    indices, scores = oracle(x.cpu().double().numpy(), len(x))  # type: ignore[operator]
    assert chosen.extras["indices"].tolist() == indices
    np.testing.assert_allclose(chosen.extras["scores"], scores, rtol=1e-9, atol=1e-12)


@given(st.integers(1, 25), st.integers(1, 3), st.integers(0, 2**31))
def test_many_ties_are_no_trouble(count: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 2, (count, width), generator=generator).float()
    for rule in GEOMETRY:
        assert sorted(picked(x, rule, count)) == list(range(count))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_order_of_the_examples_does_not_matter(rule: Selector) -> None:
    x, order = points(), torch.randperm(60)
    assert order[picked(x[order], rule, 20)].tolist() == picked(x, rule, 20)


@pytest.mark.parametrize("rule", GEOMETRY, ids=str)
def test_shifts_scales_and_rotations_do_not_matter(rule: Selector) -> None:
    x = points(dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    plain, moved = choose(x, rule, 30).extras, choose(3 * x @ rotation + 1e5, rule, 30).extras
    assert torch.equal(plain["indices"], moved["indices"])
    torch.testing.assert_close(3 * plain["scores"], moved["scores"], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rule", GEOMETRY, ids=str)
def test_small_differences_far_from_zero_count(rule: Selector) -> None:
    small = torch.randint(0, 9, (40, 5)).float()
    assert picked(small + 2.0**20, rule, 20) == picked(small, rule, 20)


def test_all_of_a_class_have_its_mean() -> None:
    scores = choose(points(), "herding", 60).extras["scores"]
    assert scores[-1] < 1e-12
    assert (scores[:-1] > 1e-6).all()


@pytest.mark.parametrize("seed", range(10))
def test_centres_are_within_twice_the_best_radius(seed: int) -> None:
    x = points(12, seed)
    between = torch.cdist(x, x)

    def radius(centres: tuple[int, ...] | list[int]) -> float:
        return between[list(centres)].amin(0).max().item()

    best = min(map(radius, itertools.combinations(range(12), 3)))
    assert best <= radius(picked(x, "k-center", 3)) <= 2 * best


def test_distances_to_centres_never_grow() -> None:
    scores = choose(points(200), "k-center", 200).extras["scores"]
    assert (scores[1:].diff() <= 0).all()


def test_copies_of_a_centre_come_last() -> None:
    x = torch.cat([points(10), points(10)])
    first = picked(x, "k-center", 10)
    assert len({k % 10 for k in first}) == 10


def uncertain(logits: np.ndarray, score: str) -> np.ndarray:
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    ranked = np.sort(p, axis=1)
    found: dict[str, np.ndarray] = {
        "margin": ranked[:, -2] - ranked[:, -1],
        "entropy": -(p * np.log(p)).sum(1),
        "least-confidence": 1 - ranked[:, -1],
    }
    return found[score]


@pytest.mark.parametrize("score", ["margin", "entropy", "least-confidence"])
def test_the_most_uncertain_come_first(score: str, device: str) -> None:
    model = MLP(5, (8,), 4).to(device)
    chosen = choose(points(), Uncertainty(score), 60, model=model)
    expected = uncertain(model(points().to(device)).detach().cpu().double().numpy(), score)
    assert chosen.extras["indices"].tolist() == np.argsort(-expected, kind="stable").tolist()
    np.testing.assert_allclose(chosen.extras["scores"], -np.sort(-expected), rtol=1e-6)


@pytest.mark.parametrize("score", ["margin", "entropy", "least-confidence"])
def test_logits_are_as_good_as_log_probabilities(score: str) -> None:
    x = points(dtype=torch.float64)
    plain, shifted = (choose(z, Uncertainty(score), 60).extras for z in (x, x.log_softmax(1)))
    assert torch.equal(plain["indices"], shifted["indices"])
    torch.testing.assert_close(plain["scores"], shifted["scores"])


def test_a_sure_model_is_told_from_a_surer_one() -> None:
    x = torch.tensor([[40.0, 0.0], [0.0, 30.0], [35.0, 0.0]])
    assert picked(x, Uncertainty("entropy"), 3) == [1, 2, 0]
    assert picked(x, Uncertainty("least-confidence"), 3) == [1, 2, 0]
    assert picked(x / 2, Uncertainty("margin"), 3) == [1, 2, 0]


def test_two_classes_are_ordered_alike_by_all_three() -> None:
    x = points()[:, :2]
    orders = [picked(x, Uncertainty(s), 60) for s in ("margin", "entropy", "least-confidence")]
    assert orders[0] == orders[1] == orders[2]


def test_uncertainty_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"score must be one of margin, .* got 'marign'"):
        Uncertainty("marign")
    with pytest.raises(ValueError, match=r"two classes or more .* got shape \(4, 1\)"):
        choose(torch.rand(4, 1), "uncertainty", 1)


@pytest.mark.parametrize("rule", GEOMETRY, ids=str)
def test_features_are_the_layer_s(rule: Selector) -> None:
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    chosen = choose(points(), rule, 9, model=model, layer="1")
    hidden = model[:2](points()).detach()
    assert chosen.extras["indices"].tolist() == picked(hidden, rule, 9)


def test_herding_shifts_the_means_of_mnist_the_least(data_dir: Path) -> None:
    x, y = (tensor[:2000] for tensor in idx_folder(data_dir, "MNIST").train)
    means = torch.stack([x[y == k].mean(0) for k in range(10)])

    def shift(method: str) -> float:
        chosen = select_coreset((x, y), method, per_class=10, progress=False)
        own = chosen.images.reshape(10, 10, *x.shape[1:]).mean(1)
        return float((own - means).flatten(1).norm(dim=1).mean())

    shifts = {method: shift(method) for method in SELECTORS}
    herding = shifts.pop("herding")
    assert herding < min(shifts.values()), (herding, shifts)
