"""What all searches on data share: scores, optimisers, precisions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import pytest
import torch
from search_problems import Problem, assert_same, problem, search
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from fastrebasin import (
    Matching,
    PermutationSpec,
    apply_permutation,
    evaluate,
    interpolate,
    sinkhorn_matching,
    straight_through_matching,
)
from fastrebasin.experiments.models import MLP
from fastrebasin.matching.midpoint import Midpoint
from fastrebasin.matching.readings import Number
from fastrebasin.matching.selection import SELECTIONS


def merged_loss(given: Problem, permutation: dict[str, Tensor], data: object) -> float:
    """Return the midpoint's loss by other means: a merged model that is evaluated."""
    spec, a, b, _ = given
    merged = MLP(6, (16, 16), 3)
    moved = apply_permutation(spec, permutation, b.state_dict())
    merged.load_state_dict(interpolate(a.state_dict(), moved))
    return evaluate(merged, data).mixture.loss


@pytest.fixture
def visited(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """Record the permutations that a search visits; the first is the identity it starts from."""
    recorded: list[dict[str, Tensor]] = []
    move_to = Midpoint.move_to

    def recording(self: Midpoint, permutation: dict[str, Tensor]) -> Number:
        recorded.append(permutation)
        return move_to(self, permutation)

    monkeypatch.setattr(Midpoint, "move_to", recording)
    return recorded


@pytest.mark.parametrize("every", [1, 3])
def test_the_surrogate_score_is_the_lowest_loss_on_all_data(
    every: int, visited: list[dict[str, Tensor]]
) -> None:
    given = problem()
    found = search(given, select="surrogate", match_every=every)
    scores = [merged_loss(given, permutation, given[3]) for permutation in visited[1:]]
    assert len(scores) == {1: 16, 3: 6}[every]
    assert merged_loss(given, found.permutation, given[3]) == pytest.approx(min(scores), rel=1e-6)


def averages(steps: Sequence[tuple[float, float]]) -> list[float]:
    """Restate the average as a weighted mean, from the (share kept, loss) of each step."""
    weights: list[float] = []
    means = []
    for number, (kept, _) in enumerate(steps):
        total = sum(weights)
        shrink = kept * min(1.0, 9 / (total * kept)) if total * kept else 0.0
        weights = [weight * shrink for weight in weights] + [1.0]
        losses = [loss for _, loss in steps[: number + 1]]
        means.append(sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights))
    return means


def test_the_average_score_is_that_of_a_permutation_when_it_is_left() -> None:
    torch.manual_seed(3)
    spec, a, b, _ = problem()
    midpoint = Midpoint(spec, a, b)
    steps: list[tuple[float, float]] = [(1.0, 3.0)]
    reigns = [0]  # which permutation each step is of
    for _ in range(60):
        changed = bool(torch.rand(()) < 0.3)
        steps.append((torch.rand(()).item() if changed else 1.0, torch.rand(()).item()))
        reigns.append(reigns[-1] + changed)
    steps[30] = (0.0, steps[30][1])  # a new start forgets everything
    reigns = [reign + (k >= 30 and reigns[30] == reigns[29]) for k, reign in enumerate(reigns)]
    permutations = {
        reign: midpoint.spec.random_permutation(seed) for seed, reign in enumerate(set(reigns))
    }
    selection = SELECTIONS["average"](midpoint, list)
    for (kept, loss), reign in zip(steps, reigns, strict=True):
        midpoint.permutation = permutations[reign]
        selection.observe(kept, lambda loss=loss: loss)  # type: ignore[misc]
    selection.finish()
    means = averages(steps)
    last = dict(zip(reigns, means, strict=True))
    best = min(last, key=last.__getitem__)
    assert selection.score == pytest.approx(last[best])
    assert all(torch.equal(p, permutations[best][g]) for g, p in selection.permutation.items())


def test_a_batch_that_holds_all_data_scores_as_all_data_do() -> None:
    spec, a, b, _ = problem()
    x = torch.randn(30, 6)
    given = spec, a, b, (x, x[:, :3].argmax(1))
    first, second = (search(given, epochs=30, select=s) for s in ("batch", "surrogate"))
    assert_same(first, second)


def test_projecting_every_step_is_the_default() -> None:
    assert_same(search(), search(match_every=1, select="batch", schedule="constant"))


def test_between_projections_the_permutation_is_kept(visited: list[dict[str, Tensor]]) -> None:
    found = search(match_every=6)
    assert len(found.losses) == 16
    assert len(visited) == 1 + 4  # the identity; then steps 0, 6, 12 and the last


def test_factories_replace_the_settings_of_the_default() -> None:
    def optimizer(trained: list[Tensor]) -> Optimizer:
        return SGD(trained, lr=0.5, momentum=0.9, weight_decay=1e-4)

    def scheduler(made: Optimizer) -> LRScheduler:
        return MultiStepLR(made, [8, 12])

    given = search(optimizer=optimizer, scheduler=scheduler, lr=7.0)
    assert_same(given, search(schedule="multistep"))
    adam = search(optimizer=functools.partial(Adam, lr=0.01))
    assert adam.losses[:2] != given.losses[:2]
    assert len(adam.losses) == 16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision_changes_little(dtype: torch.dtype) -> None:
    x = torch.randn(30, 6)
    data = (x, x[:, :3].argmax(1))
    given = (*problem()[:3], data)
    wide, narrow = (search(given, epochs=4, lr=0.1, autocast=d) for d in (None, dtype))
    assert narrow.losses[0] == pytest.approx(wide.losses[0], abs=0.02)
    assert narrow.losses[0] != wide.losses[0]
    assert narrow.losses[-1] == pytest.approx(wide.losses[-1], abs=0.1)


def test_float16_does_not_lose_small_gradients() -> None:
    spec, a, b, data = problem()
    for model in (a, b):
        with torch.no_grad():  # what reaches the first layer is less than float16 can hold
            dict(model.named_parameters())["layer2.weight"].mul_(1e-5)
    start, moves = a.state_dict()["layer0.weight"].clone(), []
    for dtype in (None, torch.float16):
        trained: list[Tensor] = []

        def optimizer(tensors: list[Tensor], trained: list[Tensor] = trained) -> Optimizer:
            trained.extend(tensors)
            return SGD(tensors, lr=1e6)

        search((spec, a, b, data), optimizer=optimizer, autocast=dtype, epochs=1, batch_size=60)
        moves.append(trained[0] - start)
    largest = moves[0].abs().max().item()
    assert largest > 0
    assert torch.allclose(moves[1], moves[0], atol=0.05 * largest)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when it compiles
def test_a_compiled_forward_pass_gives_the_same_losses() -> None:
    found = search(compile=True, epochs=1, batch_size=60)
    assert found.losses == pytest.approx(search(epochs=1, batch_size=60).losses, rel=1e-5)


@pytest.mark.parametrize("method", [straight_through_matching, sinkhorn_matching])
def test_data_come_to_where_the_models_are(method: Callable[..., Matching], device: str) -> None:
    spec, a, b, data = problem()
    here = search((spec, a, b, data), method, select="average")
    there = search((spec, a.to(device), b.to(device), data), method, select="average")
    assert there.losses[0] == pytest.approx(here.losses[0], rel=1e-4)
    assert all(p.device.type == "cpu" for p in there.permutation.values())


class Sums(nn.Module):
    """Two parameters whose gradients autograd hands out as one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)
        self.more = nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        hidden = x @ self.first.weight.T + (self.first.bias + self.more)
        out: Tensor = self.second(hidden.relu())
        return out


def test_parameters_that_share_a_gradient_each_get_all_of_it() -> None:
    torch.manual_seed(0)
    a, b = Sums(), Sums()
    axes = {"first.weight": ("P", None), "first.bias": ("P",), "more": ("P",),
            "second.weight": (None, "P")}  # fmt: skip
    kept: list[Tensor] = []

    def optimizer(trained: list[Tensor]) -> Optimizer:
        kept.extend(trained)
        return SGD(trained, lr=1.0)

    start = {name: tensor.clone() for name, tensor in a.state_dict().items()}
    spec = PermutationSpec.from_axes(axes)
    search((spec, a, b, problem()[3]), optimizer=optimizer, epochs=1, batch_size=60)
    moved = {n: w - start[n] for (n, _), w in zip(a.named_parameters(), kept, strict=True)}
    assert torch.allclose(moved["more"], moved["first.bias"], atol=1e-7)
    assert moved["more"].any()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.inner, self.write = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 8)
        self.write.weight = self.read.weight
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.write(self.inner(self.read(x).relu()))
        return out


def test_tied_and_unused_parameters_are_welcome() -> None:
    a, b = Tied(), Tied()
    spec = PermutationSpec.from_axes(
        {"inner.weight": ("Q", None), "inner.bias": ("Q",),
         "write.weight": (None, "Q"), "read.weight": (None, "Q")}
    )  # fmt: skip
    found = search((spec, a, b, (torch.randn(9, 6), torch.arange(9) % 8)), epochs=3)
    assert len(found.losses) == 3


def test_options_out_of_range_are_named_together() -> None:
    with pytest.raises(
        ValueError,
        match=r"match_every must be.*checkpoint_every must be.*select must.*autocast.*checkpoint",
    ):
        search(
            match_every=0, checkpoint_every=0, select="best", autocast=torch.int8,
            checkpoint="state.pt",
        )  # fmt: skip
