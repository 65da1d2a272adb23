"""Searches on a device: as on the CPU, and the host waits once a sweep of the projection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pretend_device import DEVICE, Crossing, PretendDevice, is_one_flag
from search_problems import Problem, assert_same, problem, search
from torch import Tensor

from fastrebasin import Matching, sinkhorn_matching, straight_through_matching
from fastrebasin.matching.search import _Run


def crossings_of_steps(
    there: PretendDevice, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[int, list[Crossing]]]:
    """Record the sweeps of each step and what crosses in it, from now on."""
    seen: list[tuple[int, list[Crossing]]] = []
    step = _Run.step

    def watched(self: _Run, x: Tensor, y: Tensor) -> None:
        assert all(not crossing.waits for crossing in there.taken() if seen)  # drawing a batch
        before = self._search.sweeps
        step(self, x, y)
        seen.append((self._search.sweeps - before, there.taken()))

    monkeypatch.setattr(_Run, "step", watched)
    return seen


def on_device(given: Problem) -> Problem:
    spec, a, b, data = given
    return spec, a.to(DEVICE), b.to(DEVICE), data


@pytest.mark.parametrize(
    ("method", "every"),
    [(straight_through_matching, 1), (straight_through_matching, 3), (sinkhorn_matching, 3)],
)
@pytest.mark.parametrize("select", ["batch", "average", "surrogate"])
def test_searches_as_on_the_cpu_and_reads_once_a_sweep(
    method: Callable[..., Matching],
    select: str,
    every: int,
    there: PretendDevice,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Few iterations don't end early, so that both take the same.
    more = {"iterations": 2} if method is sinkhorn_matching else {}
    options = {"select": select, "match_every": every, **more}
    here = search(problem(), method, **options)
    seen = crossings_of_steps(there, monkeypatch)
    found = search(on_device(problem()), method, **options)
    assert found.losses == pytest.approx(here.losses, rel=1e-5)
    assert found.sweeps == here.sweeps
    assert all(torch.equal(found.permutation[g], p) for g, p in here.permutation.items())
    assert sum(sweeps for sweeps, _ in seen) >= 16 // every
    # The first scores of all data also bring the data.
    for sweeps, crossings in seen[1:] if select == "surrogate" else seen:
        assert len(crossings) == sweeps
        assert all(is_one_flag([crossing], 40) for crossing in crossings)


@pytest.mark.parametrize("method", [straight_through_matching, sinkhorn_matching])
@pytest.mark.usefixtures("there")
def test_an_interrupted_search_goes_on_bit_for_bit(
    method: Callable[..., Matching], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str) -> Matching:
        options = {"checkpoint_every": 3, "match_every": 2, "select": "average"}
        path = tmp_path / f"{name}.safetensors"
        return search(on_device(problem()), method, checkpoint=path, **options)

    whole, step = run("whole"), _Run.step

    def stopping(self: _Run, x: Tensor, y: Tensor) -> None:
        if self.done == 8:
            raise KeyboardInterrupt
        step(self, x, y)

    monkeypatch.setattr(_Run, "step", stopping)
    with pytest.raises(KeyboardInterrupt):
        run("parts")
    monkeypatch.undo()
    assert_same(run("parts"), whole)


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("every", [1, 3])
def test_a_loss_that_is_not_finite_is_reported_with_its_step(every: int) -> None:
    spec, a, b, _ = problem()
    x = torch.randn(60, 6)
    x[17, 3] = float("nan")
    given: Problem = spec, a, b, (x, x[:, :3].argmax(1))
    messages = []
    for _ in range(2):
        with pytest.raises(ValueError, match=r"the loss is nan at step .*: try") as error:
            search(given, match_every=every)
        messages.append(str(error.value))
        given = on_device(given)
    assert messages[0] == messages[1]


@pytest.mark.usefixtures("there")
def test_models_on_two_devices_are_refused() -> None:
    spec, a, b, data = problem()
    with pytest.raises(ValueError, match="must lie on one device, got cpu, meta"):
        search((spec, a.to(DEVICE), b, data))


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_the_host_waits_once_a_sweep_of_a_step(
    reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, seen = _Run.step, list[tuple[int, int]]()

    def watched(self: _Run, x: Tensor, y: Tensor) -> None:
        if self.done < 4:  # what is set up at the first use may wait
            step(self, x, y)
            return
        before = self._search.sweeps, len(reads)
        torch.cuda.set_sync_debug_mode("error")
        step(self, x, y)
        torch.cuda.set_sync_debug_mode("default")
        seen.append((self._search.sweeps - before[0], len(reads) - before[1]))

    monkeypatch.setattr(_Run, "step", watched)
    spec, a, b, data = problem()
    search((spec, a.cuda(), b.cuda(), data))
    assert len(seen) == 12
    assert all(sweeps == count for sweeps, count in seen)
