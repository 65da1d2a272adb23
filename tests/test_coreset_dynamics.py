"""Rules that watch models learn, against replays of what the models saw and answered."""

from __future__ import annotations

import copy
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastrebasin import ReducedSet, select_coreset
from fastrebasin.experiments.models import MLP
from fastrebasin.reduction.coreset import EL2N, Forgetting, GraNd, Selector
from fastrebasin.reduction.coreset.candidates import Candidates
from fastrebasin.reduction.coreset.training import Task, redrawn

COUNT = 90
LABELS = torch.arange(COUNT) % 3
QUICK = [Forgetting(epochs=3), GraNd(models=2), EL2N(models=2, epochs=1)]


def examples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.randn(COUNT, 6, generator=generator) + LABELS[:, None], LABELS


def scores(rule: Selector, model: nn.Module | None = None, **options: object) -> Tensor:
    """Return the score of every example."""
    chosen = select_coreset(examples(), rule, fraction=1, model=model, progress=False, **options)  # type: ignore[arg-type]
    return in_order(chosen)


def in_order(chosen: ReducedSet) -> Tensor:
    return chosen.extras["scores"][chosen.extras["indices"].argsort()]


def small() -> MLP:
    return MLP(6, (8,), 3)


def in_turn(*models: nn.Module) -> Callable[[], nn.Module]:
    """Return a factory that makes copies of the models, one after the other."""
    turns: Iterator[nn.Module] = iter(models)
    return lambda: copy.deepcopy(next(turns))


class Watched(nn.Module):
    """Remember which examples came, told by their first number, and what was answered."""

    def __init__(self, seen: list[tuple[bool, Tensor, Tensor]]) -> None:
        super().__init__()
        self.inner, self._remember = small(), seen.append

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x[:, 1:])
        if x.requires_grad is False:
            self._remember((self.training, x[:, 0].long(), logits.detach()))
        return logits

    def __deepcopy__(self, memo: dict[int, object]) -> Watched:
        return self


def numbered() -> tuple[Tensor, Tensor]:
    x, y = examples()
    return torch.cat([torch.arange(COUNT)[:, None], x], 1), y


def test_forgetting_counts_agree_with_a_replay() -> None:
    seen: list[tuple[bool, Tensor, Tensor]] = []
    rule = Forgetting(lambda: Watched(seen), epochs=12, lr=0.3, batch_size=16)
    found = in_order(select_coreset(numbered(), rule, fraction=1, progress=False))
    histories, wrong = defaultdict[int, list[bool]](list), torch.zeros(COUNT, dtype=torch.float64)
    for training, numbers, logits in seen:
        if training:
            for number, answer in zip(numbers.tolist(), logits, strict=True):
                histories[number].append(bool(answer.argmax() == LABELS[number]))
                wrong[number] += 1 - answer.double().softmax(0)[LABELS[number]]
    assert all(len(history) == 12 for history in histories.values())
    counts = [
        sum(a and not b for a, b in itertools.pairwise(history)) if any(history) else 12
        for _, history in sorted(histories.items())
    ]
    assert found.floor().tolist() == counts
    assert len(set(counts)) > 3
    torch.testing.assert_close(found - found.floor(), wrong / 12, atol=1e-5, rtol=0)


def sure() -> nn.Module:
    """Return a classifier that is right from the start about points on either side of zero."""
    model = nn.Linear(2, 2)
    model.load_state_dict({"weight": torch.tensor([[1.0, 1], [-1, -1]]), "bias": torch.zeros(2)})
    return model


def test_what_is_never_learned_counts_as_forgotten_most() -> None:
    x = torch.cat([torch.randn(40, 2) + 4, torch.randn(40, 2) - 4])
    y = torch.arange(2).repeat_interleave(40)
    y[3] = 1  # amid class 0
    rule = Forgetting(in_turn(sure()), epochs=10)
    found = in_order(select_coreset((x, y), rule, fraction=1, progress=False))
    others = found[torch.arange(80) != 3]
    assert found[3].floor() == 10
    assert others.max() < 1


def one_by_one(model: nn.Module) -> Tensor:
    """Return the norm of each example's gradient in all parameters, by plain autograd."""
    model, norms = copy.deepcopy(model).eval(), []
    for x, y in zip(*examples(), strict=True):
        model.zero_grad()
        nn.functional.cross_entropy(model(x[None]), y[None]).backward()
        flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        norms.append(flat.double().norm())
    return torch.stack(norms)


def with_batch_norm() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    )


@pytest.mark.parametrize("make", [small, with_batch_norm])
def test_grand_is_the_mean_norm_of_all_gradients(
    make: Callable[[], nn.Module], device: str
) -> None:
    models = [make(), make(), make()]
    factory = in_turn(*(copy.deepcopy(model).to(device) for model in models))
    found = scores(GraNd(factory, models=3))
    expected = torch.stack([one_by_one(model) for model in models]).mean(0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_grand_takes_models_that_cannot_be_mapped() -> None:
    class Branching(MLP):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.sum() > 0 else -x)

    model = Branching(6, (8,), 3)
    torch.testing.assert_close(scores(GraNd(in_turn(model), 1)), one_by_one(model))


def test_el2n_is_the_mean_norm_of_errors(device: str) -> None:
    models = [small().to(device), small().to(device)]
    found = scores(EL2N(in_turn(*models), models=2, epochs=0))
    errors = [Candidates(examples(), model).errors.double().norm(dim=1) for model in models]
    torch.testing.assert_close(found, torch.stack(errors).mean(0).cpu(), rtol=1e-5, atol=1e-6)


def test_el2n_looks_at_trained_models() -> None:
    seen: list[tuple[bool, Tensor, Tensor]] = []
    rule = EL2N(lambda: Watched(seen), models=1, epochs=3, batch_size=16)
    found = in_order(select_coreset(numbered(), rule, fraction=1, progress=False))
    assert [training for training, _, _ in seen] == [False] + [True] * 18 + [False]
    p = seen[-1][2].double().softmax(1).numpy()
    expected = np.sqrt(((p - np.eye(3)[LABELS]) ** 2).sum(1))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_training_fits() -> None:
    x, y = torch.randn(60, 4), torch.arange(60) % 3
    x[:, 0] += 6 * y
    task = Task(Candidates((x, y + 5)), None, torch.Generator().manual_seed(0))
    model = task.fresh()
    task.train(model, "test", epochs=60, lr=0.1, batch_size=20)
    assert (model(x).argmax(1) == y).float().mean() > 0.95


@pytest.mark.parametrize("rule", QUICK, ids=lambda rule: type(rule).__name__)
class TestEachRule:
    def test_a_model_lends_its_shape_but_not_its_weights(self, rule: Selector) -> None:
        first, second = scores(rule, small()), scores(rule, small())
        assert torch.equal(first, second)
        assert not torch.equal(first, scores(rule, small(), seed=1))

    def test_nothing_but_the_seed_decides(self, rule: Selector) -> None:
        before, model = torch.get_rng_state(), with_batch_norm()
        first = scores(rule, model)
        torch.rand(3)
        state = torch.get_rng_state()
        assert torch.equal(first, scores(rule, model))
        assert torch.equal(torch.get_rng_state(), state)
        assert not torch.equal(before, state)

    def test_classes_may_have_any_number_without_a_model(self, rule: Selector) -> None:
        x, y = examples()
        odd = torch.tensor([-7, 40, 10**12])[y]
        found = select_coreset((x, odd), rule, fraction=1, progress=False)
        assert torch.equal(in_order(found), scores(rule))

    def test_narrow_and_frozen_models_learn_in_float32(self, rule: Selector) -> None:
        model = small().bfloat16().requires_grad_(False)
        assert torch.isfinite(scores(rule, model)).all()
        assert not any(parameter.requires_grad for parameter in model.parameters())

    def test_needs_no_linear_layer(self, rule: Selector) -> None:
        model = nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 3, 6), nn.Flatten())
        assert len(scores(rule, model).unique()) > 1

    def test_data_sets_serve_as_well_as_tensors(self, rule: Selector) -> None:
        data = list(zip(*examples(), strict=True))
        pairs = [(x, int(y)) for x, y in data]
        found = select_coreset(pairs, rule, fraction=1, model=small(), progress=False)
        assert torch.equal(in_order(found), scores(rule, small()))

    def test_says_what_is_wrong(self, rule: Selector) -> None:
        class Token(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.token, self.fc = nn.Parameter(torch.zeros(6)), nn.Linear(6, 3)

        kind = type(rule)
        with pytest.raises(ValueError, match=r"give factory=, .* the model itself \(Token\)$"):
            scores(rule, Token())
        with pytest.raises(ValueError, match=r"labels must be in \[0, 2\).* from 0 to 2"):
            scores(rule, MLP(6, (8,), 2))
        with pytest.raises(ValueError, match=r"must return logits \(batch, classes\), got \(1, 1,"):
            scores(rule, nn.Sequential(nn.Linear(6, 3), nn.Unflatten(1, (1, 3))))
        with pytest.raises(ValueError, match="must have parameters, but Flatten has none"):
            scores(kind(nn.Flatten))  # type: ignore[call-arg]
        with pytest.raises(TypeError, match=r"factory must make an nn.Module, got int"):
            scores(kind(int))  # type: ignore[call-arg]
        with pytest.raises(ValueError, match="factory must make a model when called, got 3"):
            kind(3)  # type: ignore[call-arg]
        x, y = examples()
        x[17, 2] = torch.inf
        with pytest.raises(ValueError, match="examples must be finite, but number 17 isn't"):
            select_coreset((x, y), rule, per_class=1, model=small(), progress=False)


def test_options_are_checked_all_at_once() -> None:
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0; batch_size must be at"):
        Forgetting(epochs=0, batch_size=0)
    with pytest.raises(ValueError, match="models must be at least 1, got 0"):
        GraNd(models=0)
    with pytest.raises(ValueError, match="epochs must be at least 0, got -1; lr must be positive"):
        EL2N(epochs=-1, lr=float("nan"))


def test_diverging_training_is_refused() -> None:
    with pytest.raises(ValueError, match=r"diverged in epoch \d+: lower lr, got 1e\+30"):
        scores(Forgetting(small, lr=1e30))


def test_redrawn_models_are_fresh_in_all_they_have() -> None:
    model = with_batch_norm().train()
    model(torch.randn(20, 6) + 3)
    before = copy.deepcopy(model.state_dict())
    fresh = redrawn(model)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    after = fresh.state_dict()
    assert torch.equal(after["1.running_mean"], torch.zeros(8))
    assert not torch.equal(after["0.weight"], before["0.weight"])
    attention = nn.Sequential(nn.Linear(6, 6), nn.MultiheadAttention(6, 2))
    with pytest.raises(ValueError, match=r"anew: 1 \(MultiheadAttention\)$"):
        redrawn(attention)


def test_the_file_names_the_factory() -> None:
    chosen = select_coreset(
        examples(), GraNd(small, models=1), model=None, per_class=1, progress=False
    )
    assert json.loads(chosen.provenance["settings"]) == {"factory": "small", "models": "1"}
