"""Coresets: what every rule of selection must hold to, and what candidates show it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fastrebasin import ReducedSet, select_coreset
from fastrebasin.experiments.models import MLP
from fastrebasin.reduction.coreset import SELECTORS, Random
from fastrebasin.reduction.coreset.candidates import Candidates
from fastrebasin.reduction.coreset.selector import class_counts

LABELS = torch.arange(120) % 3
COUNT = 120


def examples(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(COUNT, 6, generator=generator) + LABELS[:, None], LABELS


def select(method: str, **options: object) -> ReducedSet:
    return select_coreset(examples(), method, **{"progress": False, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("method", SELECTORS)
@pytest.mark.parametrize("count", [0, 1, 7, 40])
def test_every_class_gets_as_many_distinct_examples(method: str, count: int) -> None:
    x, y = examples()
    chosen = select(method, per_class=count)
    indices = chosen.extras["indices"]
    assert indices.dtype == torch.int64
    assert len(indices.unique()) == len(indices)
    assert chosen.labels.tolist() == [0] * count + [1] * count + [2] * count
    assert torch.equal(chosen.images, x[indices])
    assert torch.equal(chosen.labels, y[indices])
    assert torch.isfinite(chosen.extras["scores"]).all()


@pytest.mark.parametrize("method", SELECTORS)
def test_the_seed_decides(method: str) -> None:
    first, second = (select(method, per_class=5, seed=4).extras for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("method", SELECTORS)
def test_looks_through_a_model_and_leaves_it_alone(method: str) -> None:
    model = MLP(6, (8, 8), 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    chosen = select(method, per_class=4, model=model.train())
    assert len(chosen) == 12
    assert model.training
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


@pytest.mark.parametrize("method", set(SELECTORS) - {"random", "uniform"})
def test_features_must_be_finite(method: str) -> None:
    x, y = examples()
    x[17, 2] = float("nan")
    with pytest.raises(ValueError, match=r"features must be finite.*1 examples aren't, number 17"):
        select_coreset((x, y), method, per_class=1, progress=False)


@pytest.mark.parametrize("method", ["random", "uniform"])
def test_another_seed_draws_others(method: str) -> None:
    first, second = (select(method, per_class=5, seed=k).extras["indices"] for k in (1, 2))
    assert not torch.equal(first, second)


def test_random_examples_have_the_same_chance() -> None:
    counts = torch.zeros(20)
    seen = Candidates((torch.zeros(20, 1), torch.zeros(20).long()))
    for seed in range(2000):
        counts[Random().select(seen, {0: 5}, torch.Generator().manual_seed(seed)).indices] += 1
    assert (counts / 2000 - 0.25).abs().max() < 0.05  # five standard deviations


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.floats(0, 1))
def test_a_fraction_is_shared_by_the_classes(sizes: list[int], fraction: float) -> None:
    labels = torch.cat([torch.full((size,), k) for k, size in enumerate(sizes)])
    counts = class_counts(labels, per_class=None, fraction=fraction)
    assert sum(counts.values()) == int(np.floor(fraction * len(labels) + 0.5))
    for label, size in enumerate(sizes):
        assert abs(counts[label] - fraction * size) <= 1


def test_uniform_takes_as_many_of_every_class() -> None:
    labels = torch.tensor([0] * 80 + [1] * 20)
    data = torch.zeros(100, 1), labels
    even, shared = (
        select_coreset(data, method, fraction=0.2, progress=False).labels.bincount().tolist()
        for method in ("uniform", "random")
    )
    assert even == [10, 10]
    assert shared == [16, 4]


def test_errors_name_everything_wrong() -> None:
    with pytest.raises(ValueError, match=r"per_class is 41, .* fewer examples: \{0: 40, 1: 40"):
        select("random", per_class=41)
    with pytest.raises(ValueError, match=r"must not be negative, got -1; .* no examples: \[7\]"):
        select("random", per_class=-1, classes=[0, 7])
    with pytest.raises(ValueError, match=r"give per_class or fraction, got None and None"):
        select("random")
    with pytest.raises(ValueError, match=r"fraction must be in \[0, 1\], got 2"):
        select("random", fraction=2)
    with pytest.raises(ValueError, match="vector of integers"):
        select_coreset((torch.zeros(3, 2), torch.zeros(3)), "random", per_class=1)
    with pytest.raises(ValueError, match="method must be a selector or one of "):
        select("rnadom", per_class=1)
    with pytest.raises(ValueError, match="data must be one source, got 2"):
        select_coreset((examples(), examples()), "random", per_class=1)
    with pytest.raises(ValueError, match="layer is 'fc', but there is no model"):
        select("random", per_class=1, layer="fc")


class TestCandidates:
    def test_features_are_the_input_of_the_last_linear_layer(self) -> None:
        model, (x, y) = MLP(6, (8, 5), 3), examples()
        seen = Candidates((x, y), model, batch_size=50)
        first, second = (model.get_submodule(f"layer{k}") for k in (0, 1))
        hidden = torch.relu(second(torch.relu(first(x))))
        torch.testing.assert_close(seen.features, hidden)
        torch.testing.assert_close(seen.logits, model(x))
        assert torch.equal(seen.labels, y)

    def test_errors_are_the_gradient_in_the_logits(self) -> None:
        model, (x, y) = MLP(6, (8,), 3), examples()
        logits = model(x).detach().requires_grad_()
        nn.functional.cross_entropy(logits, y, reduction="sum").backward()
        torch.testing.assert_close(Candidates((x, y), model).errors, logits.grad)

    def test_a_layer_of_maps_gives_means_over_positions(self) -> None:
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 2))
        x, y = torch.rand(5, 1, 8, 8), torch.zeros(5).long()
        seen = Candidates((x, y), model, layer="0")
        torch.testing.assert_close(seen.features, model[0](x).mean((2, 3)))

    def test_labels_come_without_the_model(self) -> None:
        class Never(nn.Module):
            def forward(self, _: Tensor) -> Tensor:
                raise AssertionError

        data = [(torch.zeros(2), k % 2) for k in range(7)]
        assert Candidates(data, Never(), batch_size=3).labels.tolist() == [0, 1] * 3 + [0]

    def test_errors(self) -> None:
        data = torch.rand(5, 1, 8, 8), torch.zeros(5).long()
        maps = nn.Conv2d(1, 4, 3)
        with pytest.raises(ValueError, match="has no layer 'fc'"):
            Candidates(data, maps, layer="fc")
        with pytest.raises(ValueError, match=r"must return logits \(batch, classes\), got \(5, 4"):
            _ = Candidates(data, maps).features
        with pytest.raises(ValueError, match=r"no nn.Linear ran; name a layer"):
            _ = Candidates(data, nn.Sequential(maps, nn.Flatten())).features
        with pytest.raises(ValueError, match=r"labels must be in \[0, 2\)"):
            _ = Candidates((torch.zeros(3, 2), torch.tensor([0, 1, 2]))).errors
