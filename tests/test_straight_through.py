"""Straight-through matching: the published algorithm restated as oracle, and its promises."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from fastrebasin import (
    PermutationSpec,
    apply_permutation,
    architectures,
    evaluate,
    interpolate,
    invert,
    straight_through_matching,
    weight_matching,
)
from fastrebasin.experiments.models import MLP, resnet20

Data = tuple[torch.Tensor, torch.Tensor]


def problem(count: int = 60) -> tuple[PermutationSpec, nn.Module, nn.Module, Data]:
    a, b = MLP(6, (16, 16), 3), MLP(6, (16, 16), 3)
    x = torch.randn(count, 6)
    return architectures.mlp(2), a, b, (x, x[:, :3].argmax(1))


def restated(
    spec: PermutationSpec, a: nn.Module, b: nn.Module, data: Data, steps: int, lr: float
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Restate algorithm 1 for data that fit one batch, with autograd through stop-gradients."""
    params_a, params_b = (dict(model.named_parameters()) for model in (a, b))
    latent = {n: t.detach().clone().requires_grad_() for n, t in params_a.items()}
    velocity = {n: torch.zeros_like(t) for n, t in latent.items()}
    perm = {g: torch.arange(s) for g, s in spec.bind(params_a).sizes.items()}
    best, best_perm, losses = float("inf"), perm, []
    for _ in range(steps):
        target = {n: t.detach() for n, t in latent.items()}
        perm = weight_matching(spec, target, params_b, init=perm, max_sweeps=100).permutation
        z = apply_permutation(spec, perm, params_b)
        merged = {n: 0.5 * params_a[n].detach() + 0.5 * (z[n] + w - w.detach())
                  for n, w in latent.items()}  # fmt: skip
        output = torch.func.functional_call(a, merged, (data[0],))
        loss = functional.nll_loss(output, data[1])
        losses.append(loss.item())
        if loss.item() < best:
            best, best_perm = loss.item(), perm
        gradients = torch.autograd.grad(loss, list(latent.values()))
        with torch.no_grad():
            for (name, w), gradient in zip(latent.items(), gradients, strict=True):
                velocity[name] = 0.9 * velocity[name] + (gradient + 1e-4 * w)
                w -= lr * velocity[name]
    return losses, best_perm


def test_takes_the_steps_of_the_published_algorithm() -> None:
    spec, a, b, data = problem()
    a, b, data = a.double(), b.double(), (data[0].double(), data[1])
    losses, permutation = restated(spec, a, b, data, steps=25, lr=0.5)
    found = straight_through_matching(spec, a, b, data, epochs=25, lr=0.5)
    assert found.losses == pytest.approx(losses, rel=1e-9)
    assert all(torch.equal(found.permutation[g], permutation[g]) for g in permutation)
    assert min(found.losses) < found.losses[0]


def test_returns_the_permutation_of_the_lowest_loss() -> None:
    spec, a, b, data = problem()
    found = straight_through_matching(spec, a, b, data, epochs=40, lr=0.5)
    merged = MLP(6, (16, 16), 3)
    moved = apply_permutation(spec, found.permutation, b.state_dict())
    merged.load_state_dict(interpolate(a.state_dict(), moved))
    assert evaluate(merged, data).mixture.loss == pytest.approx(min(found.losses), rel=1e-5)


def test_beats_weight_matching_on_its_data() -> None:
    spec, a, b, data = problem(200)
    for model in (a, b):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        for _ in range(100):
            optimizer.zero_grad()
            functional.nll_loss(model(data[0]), data[1]).backward()
            optimizer.step()
    found = straight_through_matching(spec, a, b, data, epochs=60, lr=0.5)
    assert min(found.losses) < found.losses[0]  # the first step is weight matching


def test_the_models_are_bit_unchanged_and_the_seed_decides() -> None:
    a, b = resnet20(), resnet20()
    before = [{n: t.clone() for n, t in m.state_dict().items()} for m in (a, b)]
    data = ((torch.randn(6, 3, 8, 8), torch.arange(6)), (torch.randn(9, 3, 8, 8), torch.arange(9)))
    runs = [
        straight_through_matching(
            architectures.resnet(), a, b, data, epochs=2, batch_size=8, max_sweeps=3, seed=4
        )
        for _ in range(2)
    ]
    assert runs[0].losses == runs[1].losses
    assert len(runs[0].losses) == 4  # 15 examples in batches of 8, twice
    for state, model in zip(before, (a, b), strict=True):
        assert model.training
        assert all(p.grad is None for p in model.parameters())
        assert all(torch.equal(state[n], t) for n, t in model.state_dict().items())


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.LSTM(3, 12, batch_first=True), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.cell(x)[0]
        out: torch.Tensor = self.out(states[:, -1])
        return out


def test_units_on_both_axes_are_matched() -> None:
    a, b, gates = Recurrent(), Recurrent(), "H + H + H + H"
    spec = PermutationSpec.from_axes(
        {"cell.weight_ih_l0": (gates, None), "cell.weight_hh_l0": (gates, "H"),
         "cell.bias_ih_l0": (gates,), "cell.bias_hh_l0": (gates,), "out.weight": (None, "H")},
        a.state_dict(),
    )  # fmt: skip
    answer = spec.random_permutation(1)
    b.load_state_dict(apply_permutation(spec, invert(answer), a.state_dict()))
    data = (torch.randn(8, 5, 3), torch.arange(8) % 4)
    found = straight_through_matching(spec, a, b, data, epochs=2, lr=0.01)
    assert torch.equal(found.permutation["H"], answer["H"])


def test_stored_batch_statistics_change_nothing() -> None:
    data = (torch.randn(12, 3, 8, 8), torch.arange(12) % 10)
    a, b = resnet20(), resnet20()
    first = straight_through_matching(architectures.resnet(), a, b, data, epochs=3, max_sweeps=3)
    for module in a.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean += 5
    second = straight_through_matching(architectures.resnet(), a, b, data, epochs=3, max_sweeps=3)
    assert first.losses == second.losses


@pytest.mark.parametrize("schedule", ["constant", "multistep", "cosine"])
def test_schedules_end_where_they_should(schedule: str) -> None:
    spec, a, b, data = problem()
    found = straight_through_matching(
        spec,
        a,
        b,
        data,
        epochs=8,
        schedule=schedule,  # type: ignore[arg-type]
    )
    assert len(found.losses) == 8


def test_options_out_of_range_are_named_together() -> None:
    spec, a, b, data = problem()
    with pytest.raises(ValueError, match=r"epochs must be positive.*lr must be.*schedule must be"):
        straight_through_matching(
            spec,
            a,
            b,
            data,
            epochs=0,
            lr=float("nan"),
            schedule="step",  # type: ignore[arg-type]
        )


def test_a_loss_that_is_not_finite_is_reported() -> None:
    spec, a, b, (x, y) = problem()
    with pytest.raises(ValueError, match="loss is nan at step 0"):
        straight_through_matching(spec, a, b, (x * float("nan"), y))
