"""A search that was interrupted goes on from its file, to the result it would have had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from search_problems import assert_same, problem, search
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from fastrebasin import Matching, architectures, sinkhorn_matching, straight_through_matching
from fastrebasin.checkpoints import save_checkpoint
from fastrebasin.experiments.models import MLP, resnet20
from fastrebasin.saved_state import read_state, write_state


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
@pytest.mark.parametrize("method", [straight_through_matching, sinkhorn_matching])
def test_an_interrupted_search_ends_as_one_that_was_not(
    case: str, calls: int, method: Callable[..., Matching], tmp_path: Path
) -> None:
    spec, a, b, _ = problem()
    x = torch.randn(60, 6)
    data = (x, x[:, :3].argmax(1))

    def run(name: str, calls: int | None) -> Matching:
        given = spec, a, b, Interruption(data, calls)
        path = tmp_path / f"{name}.safetensors"
        return search(given, method, checkpoint=path, checkpoint_every=3, **CASES[case])

    whole = run("whole", None)
    with pytest.raises(KeyboardInterrupt):  # 60 examples an epoch: inside of one
        run("parts", calls)
    assert_same(run("parts", None), whole)
    assert_same(run("parts", None), whole)  # a finished file gives the result again
    assert_same(search((spec, a, b, data), method, **CASES[case]), whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["parts.safetensors", "whole.safetensors"]


def test_equal_units_make_no_difference(tmp_path: Path) -> None:
    """Among equals an assignment may depend on the one it started from, which is not stored."""
    spec, a, b, _ = problem()
    for model in (a, b):
        for name, tensor in model.state_dict().items():
            if name.startswith("layer0"):
                tensor[4:] = tensor[4]  # 12 of 16
            elif name == "layer1.weight":
                tensor[:, 4:] = tensor[:, 4:5]
    x = torch.randn(60, 6)
    results = []
    for name, calls in {"whole": None, "parts": 100}.items():
        options: dict[str, Any] = {
            "checkpoint": tmp_path / f"{name}.safetensors",
            "checkpoint_every": 3,
        }
        if calls is not None:
            with pytest.raises(KeyboardInterrupt):
                search((spec, a, b, Interruption((x, x[:, :3].argmax(1)), calls)), **options)
        given = spec, a, b, Interruption((x, x[:, :3].argmax(1)), None)
        results.append(search(given, **options))
    assert_same(*results)


def test_a_batch_norm_network_goes_on_as_well(tmp_path: Path) -> None:
    a, b = resnet20(), resnet20()
    data = (torch.randn(12, 3, 8, 8), torch.arange(12) % 10)
    given = architectures.resnet(), a, b, Interruption(data, 24 + 5)
    options: dict[str, Any] = {"epochs": 3, "batch_size": 8, "max_sweeps": 3, "checkpoint_every": 2}
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
    with pytest.raises(ValueError, match=r"is of another run: epochs was 4, is 5; optimizer was"):
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
    with pytest.raises(ValueError, match="is of another run"):
        search(checkpoint=path)
    save_checkpoint({"w": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="holds no saved state"):
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
