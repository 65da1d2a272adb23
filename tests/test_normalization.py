"""BatchNorm reset against statistics computed directly."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from states import equal
from torch import Tensor, distributed, nn

from fastrebasin.experiments.models import MLP
from fastrebasin.normalization import reset_batch_norm

IMAGES = (
    torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
    torch.arange(40) % 10,
)


def test_reset_statistics_are_those_of_the_data(device: str) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)).train().to(device)
    shifted = (IMAGES[0] * 3 + 5, IMAGES[1])
    # An uneven last batch counts by its examples; a single one that is left over, not at all.
    for batch_size, batches in ((40, 1), (16, 3), (13, 3)):
        repaired = reset_batch_norm(model, shifted, batch_size=batch_size)
        statistics = repaired.state_dict()
        assert statistics["0.num_batches_tracked"] == batches
        tolerance = 0.05 if batch_size == 13 else 1e-5
        mean, variance = shifted[0].mean((0, 2, 3)), shifted[0].var((0, 2, 3))
        assert torch.allclose(statistics["0.running_mean"].cpu(), mean, rtol=tolerance)
        assert torch.allclose(statistics["0.running_var"].cpu(), variance, rtol=tolerance)
    assert repaired.get_submodule("0").momentum == 0.1
    assert not repaired.training
    assert model.training
    assert not model.state_dict()["0.running_mean"].any()


def test_reset_averages_all_sources_evenly() -> None:
    x = torch.zeros(100, 1)
    data = ((x, torch.zeros(100)), (x + 10, torch.zeros(100)))
    repaired = reset_batch_norm(nn.Sequential(nn.BatchNorm1d(1)), data, batch_size=50)
    assert repaired.state_dict()["0.running_mean"].item() == pytest.approx(5)
    assert repaired.state_dict()["0.running_var"].item() == pytest.approx(25, rel=0.01)
    three = (*data, (x + 20, torch.zeros(100)))
    repaired = reset_batch_norm(nn.Sequential(nn.BatchNorm1d(1)), three, batch_size=60)
    assert repaired.state_dict()["0.running_mean"].item() == pytest.approx(10)


def test_reset_without_batch_norm_changes_nothing() -> None:
    model = MLP(6, (8,), 3)
    assert equal(model, reset_batch_norm(model, (torch.randn(4, 6), torch.zeros(4))))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_reset_keeps_to_its_budget(dims: int) -> None:
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1](2)
    seen: list[int] = []
    model = nn.Sequential(norm)
    norm.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    x = torch.randn(100, 2, *[3] * (dims if dims > 1 else 0))
    repaired = reset_batch_norm(model, (x, torch.zeros(100)), batch_size=20, max_batches=3)
    assert seen == [20, 20, 20]
    assert not equal(model, repaired)


def test_reset_with_synchronised_statistics_is_the_plain_one(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None))
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        found = reset_batch_norm(synced, IMAGES, batch_size=20)
    finally:
        distributed.destroy_process_group()
    assert equal(reset_batch_norm(model, IMAGES, batch_size=20), found)
    assert isinstance(found.get_submodule("1"), nn.SyncBatchNorm)
    assert found.get_submodule("1").momentum is None
    assert found(IMAGES[0]).isfinite().all()


class Activated(nn.BatchNorm1d):
    """A normalisation with an activation of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def test_reset_runs_layers_as_they_are_written() -> None:
    model = nn.Sequential(Activated(3), nn.BatchNorm1d(3))
    found = reset_batch_norm(model, (torch.randn(500, 3), torch.zeros(500))).state_dict()
    normal = torch.full((3,), (2 * math.pi) ** -0.5)  # the mean of the positive part
    assert torch.allclose(found["1.running_mean"], normal, atol=0.05)


class Detour(nn.Module):
    """A network with a normalisation that its forward pass leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.used(x)
        return out


def test_layers_that_never_run_keep_their_statistics() -> None:
    model = Detour()
    for layer in (model.used, model.unused):
        layer.running_mean = torch.full((3,), 5.0)
        layer.num_batches_tracked = torch.tensor(9)
    found = reset_batch_norm(model, (torch.randn(30, 3), torch.zeros(30))).state_dict()
    assert found["unused.running_mean"].tolist() == [5, 5, 5]
    assert found["unused.num_batches_tracked"] == 9
    assert found["used.num_batches_tracked"] == 1
    assert found["used.running_mean"].abs().max() < 1


def test_budgets_that_are_no_number_of_examples_are_named() -> None:
    data = torch.randn(9, 6), torch.zeros(9)
    with pytest.raises(ValueError, match=r"batch_size must be at least 1, got 0; max_batches must"):
        reset_batch_norm(nn.BatchNorm1d(6), data, batch_size=0, max_batches=0)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        reset_batch_norm(nn.BatchNorm1d(6), (data[0][:1], data[1][:1]))
