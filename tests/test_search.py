"""What all searches on data share: scores, optimisers, precisions, and going on from a file."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, MultiStepLR, OneCycleLR

from fastrebasin import (
    Matching,
    PermutationSpec,
    apply_permutation,
    architectures,
    evaluate,
    interpolate,
    straight_through_matching,
)
from fastrebasin.checkpoints import save_checkpoint
from fastrebasin.experiments.models import MLP, resnet20
from fastrebasin.matching.midpoint import Midpoint
from fastrebasin.matching.saved_search import read_state, write_state
from fastrebasin.matching.selection import SELECTIONS

Problem = tuple[PermutationSpec, nn.Module, nn.Module, object]


def problem(count: int = 60) -> Problem:
    """Return untrained networks and a pair of sources of unequal sizes."""
    torch.manual_seed(1)
    a, b = MLP(6, (16, 16), 3), MLP(6, (16, 16), 3)
    x = torch.randn(count, 6)
    y = x[:, :3].argmax(1)
    return architectures.mlp(2), a, b, ((x[:40], y[:40]), (x[40:], y[40:]))


def search(given: Problem | None = None, **options: Any) -> Matching:
    options = {"epochs": 4, "batch_size": 16, "lr": 0.5, "progress": False} | options
    return straight_through_matching(*(given or problem()), **options)


def assert_same(first: Matching, second: Matching) -> None:
    assert first.losses == second.losses
    assert (first.objective, first.sweeps) == (second.objective, second.sweeps)
    assert all(torch.equal(p, second.permutation[g]) for g, p in first.permutation.items())


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

    def recording(self: Midpoint, permutation: dict[str, Tensor]) -> float:
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


class Interruption:
    """Data that raise KeyboardInterrupt when they are asked for the n-th time."""

    def __init__(self, data: tuple[Tensor, Tensor], calls: int | None) -> None:
        self.x, self.y = data
        self.calls = calls

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if self.calls is not None:
            self.calls -= 1
            if self.calls < 0:
                raise KeyboardInterrupt
        return self.x[index], self.y[index]


def adam(trained: list[Tensor]) -> Optimizer:
    return Adam(trained, lr=0.05)


def one_cycle(optimizer: Optimizer) -> LRScheduler:
    return OneCycleLR(optimizer, 0.1, total_steps=17)


CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "multistep": {"schedule": "multistep"},
    "cosine, average": {"schedule": "cosine", "select": "average", "match_every": 3},
    "surrogate": {"select": "surrogate", "match_every": 2},
    "Adam, one cycle": {"optimizer": adam, "scheduler": one_cycle},
    "float16": {"autocast": torch.float16},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("calls", [70, 200])
def test_an_interrupted_search_ends_as_one_that_was_not(
    case: str, calls: int, tmp_path: Path
) -> None:
    spec, a, b, _ = problem()
    x = torch.randn(60, 6)
    data = (x, x[:, :3].argmax(1))

    def run(name: str, calls: int | None) -> Matching:
        given = spec, a, b, Interruption(data, calls)
        path = tmp_path / f"{name}.safetensors"
        return search(given, checkpoint=path, checkpoint_every=3, **CASES[case])

    whole = run("whole", None)
    with pytest.raises(KeyboardInterrupt):  # 60 examples an epoch: inside of one
        run("parts", calls)
    assert_same(run("parts", None), whole)
    assert_same(run("parts", None), whole)  # a finished file gives the result again
    assert_same(search((spec, a, b, data), **CASES[case]), whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["parts.safetensors", "whole.safetensors"]


def test_a_batch_norm_network_goes_on_as_well(tmp_path: Path) -> None:
    a, b = resnet20(), resnet20()
    data = (torch.randn(12, 3, 8, 8), torch.arange(12) % 10)
    given = architectures.resnet(), a, b, Interruption(data, 24 + 5)
    options = {"epochs": 3, "batch_size": 8, "max_sweeps": 3, "checkpoint_every": 2}
    path = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        search(given, checkpoint=path, **options)
    given = (*given[:3], Interruption(data, None))
    resumed = search(given, checkpoint=path, **options)
    assert_same(resumed, search(given, checkpoint=tmp_path / "other.safetensors", **options))


def test_a_file_of_other_arguments_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    given = problem()
    search(given, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match=r"is of another search: epochs was 4, is 5; optimizer was"
    ):
        search(given, checkpoint=path, epochs=5, lr=0.1)
    spec, a, b, data = given
    with pytest.raises(ValueError, match=r"model_b was .*, is"):
        search((spec, a, MLP(6, (16, 16), 3), data), checkpoint=path)
    with pytest.raises(ValueError, match="data was"):
        search((spec, a, b, problem(61)[3]), checkpoint=path)
    assert path.read_bytes() == before


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    search(checkpoint=path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"state.safetensors is damaged: .*; remove it"):
        search(checkpoint=path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is damaged"):
        search(checkpoint=path)
    write_state(path, {}, {})
    with pytest.raises(ValueError, match="is of another search"):
        search(checkpoint=path)
    save_checkpoint({"w": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="is no state of a search"):
        search(checkpoint=path)


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    plain = {"n": None, "b": True, "i": 3, "f": 0.1, "inf": float("inf"), "s": "x", "l": [1, [2]]}
    tensors = {0: torch.arange(3), "h": torch.ones(2).half(), "z": torch.tensor(2.0)}
    write_state(path, {**plain, "tensors": tensors}, {"a": "1"})
    found = read_state(path, {"a": "1"})
    back = found.pop("tensors")
    assert found == plain
    assert list(back) == list(tensors)
    for key, tensor in tensors.items():
        assert back[key].dtype == tensor.dtype
        assert torch.equal(back[key], tensor)
    with pytest.raises(TypeError, match=r"a function in its state\['f'\]\[0\]"):
        write_state(path, {"f": [lambda: 0]}, {})


def test_a_schedule_by_a_function_is_stored_without_it(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    found = [
        search(checkpoint=path, scheduler=lambda o: LambdaLR(o, lambda step: 0.9**step))
        for _ in range(2)
    ]
    assert_same(*found)


def test_options_out_of_range_are_named_together() -> None:
    with pytest.raises(
        ValueError,
        match=r"match_every must be.*checkpoint_every must be.*select must.*autocast.*checkpoint",
    ):
        search(
            match_every=0, checkpoint_every=0, select="best", autocast=torch.int8,
            checkpoint="state.pt",
        )  # fmt: skip
