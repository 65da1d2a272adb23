"""Facility location and graph cut: greedy itself, spelled out on whole matrices, is the oracle."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from coreset_oracles import COUNT, cosine, examples, gradients, greedy, value
from torch import Tensor

from fastrebasin import select_coreset
from fastrebasin.experiments.models import MLP
from fastrebasin.reduction.coreset import FacilityLocation, GraphCut, Selector
from fastrebasin.reduction.coreset.greedy import facility_location
from fastrebasin.reduction.coreset.similarity import Cosine, Nearness, Similarity
from fastrebasin.reduction.coreset.vectors import Vectors


@pytest.mark.parametrize("of", ["features", "gradients", "auto"])
@pytest.mark.parametrize("with_model", [False, True])
@pytest.mark.parametrize("kind", ["facility", "cut"])
def test_is_plain_greedy_on_the_whole_matrix(kind: str, of: str, with_model: bool) -> None:
    (x, y), model = examples(), MLP(5, (7,), 2).double() if with_model else None
    rule: Selector = FacilityLocation(of=of) if kind == "facility" else GraphCut(lam=1.5, of=of)
    found = select_coreset((x, y), rule, model=model, per_class=12, progress=False).extras
    for k in range(2):
        members = (y == k).nonzero().flatten()
        features = x if model is None else torch.relu(model.get_submodule("layer0")(x))
        vectors = features[members].detach()
        if of == "gradients" and model is None:
            vectors = torch.cat([vectors, torch.ones(len(vectors), 1)], 1)
        elif of != "features" and model is not None:
            vectors = gradients(model, x[members], y[members])
        chosen, gains = greedy(kind, cosine(vectors), 12, 1.5)
        if kind == "cut":  # the rule's gains leave the diagonal out
            gains = [gain + 1 for gain in gains]
        part = slice(12 * k, 12 * k + 12)
        assert found["indices"][part].tolist() == members[chosen].tolist()
        torch.testing.assert_close(found["scores"][part].tolist(), gains, rtol=0, atol=1e-9)


@pytest.mark.parametrize("cells", [1, 50, 2**22])
@pytest.mark.parametrize("memory", [0, 4 * 8 * COUNT, 30 * 8 * COUNT, 2**28])
@pytest.mark.parametrize("near", [Cosine, Nearness])
def test_blocks_and_memory_do_not_change_the_choice(
    near: type[Similarity], memory: int, cells: int, device: str
) -> None:
    vectors = Vectors(examples()[0].to(device), torch.randn(COUNT, 3).double().to(device))
    similarity = near(vectors)  # type: ignore[call-arg]
    chosen, gains = facility_location(similarity, COUNT, cells=cells, memory=memory)
    whole = similarity.block(torch.arange(COUNT, device=device), slice(None)).cpu()
    expected, expected_gains = greedy("facility", whole, 25)
    assert chosen[:25].tolist() == expected
    torch.testing.assert_close(gains[:25].tolist(), expected_gains, rtol=0, atol=1e-9)
    assert sorted(chosen.tolist()) == list(range(COUNT))


@pytest.mark.parametrize("rule", [FacilityLocation(), GraphCut(), GraphCut(lam=0.1)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_gains_never_rise(rule: Selector, dtype: torch.dtype) -> None:
    x, y = examples()
    scores = select_coreset((x.to(dtype), y), rule, per_class=30, progress=False).extras["scores"]
    for part in scores.split(30):
        assert (part.diff() <= 0).all()


def test_greedy_reaches_its_bound_of_the_best_set() -> None:
    for seed in range(10):
        x = torch.randn(9, 3, generator=torch.Generator().manual_seed(seed)).double()
        K = cosine(x)
        chosen, _ = facility_location(Cosine(Vectors(x)), 3)
        best = max(value("facility", K, list(s)) for s in itertools.combinations(range(9), 3))
        assert value("facility", K, chosen.tolist()) >= (1 - 1 / math.e) * best


@pytest.mark.parametrize("rule", [FacilityLocation(), GraphCut(), GraphCut(lam=0)])
def test_ties_go_to_the_lowest_index(rule: Selector) -> None:
    same = torch.full((40, 7), 0.3), torch.zeros(40).long()
    indices = select_coreset(same, rule, per_class=40, progress=False).extras["indices"]
    assert indices.tolist() == list(range(40))
    x = torch.randn(30, 7)
    twice = torch.cat([x, x]), torch.zeros(60).long()
    indices = select_coreset(twice, rule, per_class=10, progress=False).extras["indices"]
    once = select_coreset((x, torch.zeros(30).long()), rule, per_class=10, progress=False)
    assert int(indices[0]) < 30
    if isinstance(rule, FacilityLocation):  # a copy gains nothing
        assert indices.tolist() == once.extras["indices"].tolist()


def test_zero_vectors_are_half_like_all() -> None:
    vectors = Vectors(torch.tensor([[0.0, 0.0], [1e-30, 0.0], [3e30, 0.0], [0.0, 1.0]]))
    K = Cosine(vectors).block(torch.arange(4), slice(None))
    expected = [[0.5, 0.5, 0.5, 0.5], [0.5, 1, 1, 0.5], [0.5, 1, 1, 0.5], [0.5, 0.5, 0.5, 1]]
    torch.testing.assert_close(K, torch.tensor(expected))
    torch.testing.assert_close(Cosine(vectors).sums(), K.sum(1).double())


def test_float32_is_as_good_as_float64() -> None:
    x = torch.rand(400, 64)
    K = cosine(x.double())
    chosen, gains = facility_location(Cosine(Vectors(x)), 40)
    exact, _ = facility_location(Cosine(Vectors(x.double())), 40)
    found, expected = (value("facility", K, c.tolist()) for c in (chosen, exact))
    assert found == pytest.approx(expected, rel=1e-6)
    assert float(gains.sum()) == pytest.approx(found, rel=1e-6)


class Counted(Cosine):
    """Notes how many entries were computed, and the most at once."""

    entries, most = 0, 0

    def block(self, rows: Tensor, columns: Tensor | slice) -> Tensor:
        found = super().block(rows, columns)
        self.entries += found.numel()
        self.most = max(self.most, found.numel())
        return found


def test_work_is_that_of_few_products_and_memory_bounded() -> None:
    x = torch.relu(torch.randn(1000, 10) @ torch.randn(10, 40))
    kept = Counted(Vectors(x))
    facility_location(kept, 50, cells=10_000)
    assert kept.entries <= 1.2 * 1000**2
    assert kept.most <= 10_000
    plain = Counted(Vectors(x))
    facility_location(plain, 50, cells=10_000, memory=0)
    assert plain.entries < 25 * 1000**2  # half of what plain greedy asks for
    assert plain.most <= 10_000


def test_errors_name_everything_wrong() -> None:
    with pytest.raises(ValueError, match=r"of must be one of auto, .* got 'pixels'; memory must"):
        FacilityLocation(of="pixels", memory=-1)
    with pytest.raises(
        ValueError, match=r"of must be one of auto, .* got 'x'; lam must .* got nan"
    ):
        GraphCut(of="x", lam=math.nan)
    model, (x, _) = MLP(5, (7,), 2).double(), examples()
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\), .* got 2"):
        select_coreset(
            (x, torch.arange(COUNT) % 3), "facility-location", model=model, per_class=1,
            progress=False,
        )  # fmt: skip
