"""Partial merging: some units of both models stay apart, in a wider model."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from partial_problems import Joined
from torch import Tensor, nn

from fastrebasin import (
    apply_permutation,
    evaluate,
    fit_widths,
    interpolate,
    least_squares,
    merge,
    partial_merge,
    reset_batch_norm,
    trace,
    weight_matching,
)
from fastrebasin.experiments.models import ResNet, vgg11
from fastrebasin.experiments.pairs import load_pair
from fastrebasin.experiments.steps import end_model
from fastrebasin.merging.partial import merging_costs
from fastrebasin.merging.widening import widenable


def mlp(hidden: int = 8) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(5, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 3)
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (5,)),
    "vgg": (lambda: vgg11(width=1 / 16), (3, 32, 32)),
    "resnet": (lambda: ResNet(blocks=(1, 1, 1)), (3, 8, 8)),
    "joined": (Joined, (3, 2, 2)),
}


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Compare, relative to the largest entry."""
    scale = expected.detach().abs().max().item()
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * scale)


def pair(name: str, device: str = "cpu") -> tuple[Any, Any, Tensor]:
    """Return two networks in eval mode, their statistics as after training, and inputs."""
    make, shape = MODELS[name]
    models = make(), make()
    for model in models:
        for tensor in model.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
    a, b = (model.to(device).eval() for model in models)
    return a, b, torch.randn(40, *shape, device=device)


@pytest.mark.parametrize("name", MODELS)
def test_all_units_apart_are_the_mean_of_both_networks(name: str, device: str) -> None:
    a, b, x = pair(name, device)
    merged = partial_merge(a, b, width=2, example_inputs=x[:2])
    expected = (a(x) + b(x)) / 2
    assert_close(merged(x), expected, 1e-4)
    units = [p.shape[0] for p in merged.parameters() if p.ndim == 1]
    before = [p.shape[0] for p in a.parameters() if p.ndim == 1]
    assert units[:-1] == [2 * n for n in before[:-1]]


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("mlp", 1.0),
        ("mlp", 1.3),
        ("joined", 1.3),
        ("joined", 2.0),
        pytest.param("vgg", 1.3, marks=pytest.mark.slow),
        pytest.param("resnet", 1.3, marks=pytest.mark.slow),
    ],
)
def test_a_model_and_its_permuted_copy_give_the_model(name: str, width: float) -> None:
    model, _, x = pair(name)
    spec = trace(model, x[:2]).bind(model.state_dict())
    twin = copy.deepcopy(model)
    moved = spec.random_permutation(1)
    twin.load_state_dict(apply_permutation(spec, moved, model.state_dict()))
    back = weight_matching(spec, model.state_dict(), twin.state_dict()).permutation
    twin.load_state_dict(apply_permutation(spec, back, twin.state_dict()))
    expected = model(x)
    average = partial_merge(model, twin, width=width, spec=spec, example_inputs=x[:2])
    assert_close(average(x), expected, 1e-3)
    data = (x, torch.zeros(len(x)))
    solved = partial_merge(model, twin, data, width=width, spec=spec, augment=None)
    assert_close(solved(x), expected, 1e-3)


def test_units_that_agree_share_a_place_and_those_that_differ_get_two() -> None:
    """B differs from A in two units, which a width of 10 for 8 has room for: nothing is lost."""
    a, _, x = pair("mlp")
    b = copy.deepcopy(a)
    with torch.no_grad():
        b[2].weight[[1, 6]] = torch.randn(2, 8)
        b[4].weight[:, [1, 6]] = torch.randn(3, 2)
    merged = partial_merge(a, b, width=1.25, example_inputs=x)
    torch.testing.assert_close(merged(x), (a(x) + b(x)) / 2)
    plain = partial_merge(a, b, width=1, example_inputs=x)
    assert (plain(x) - (a(x) + b(x)) / 2).abs().max() > 0.01


def test_width_one_is_the_plain_merge() -> None:
    a, b, x = pair("joined")
    average = partial_merge(a, b, width=1, example_inputs=x[:2])
    for name, tensor in interpolate(a.state_dict(), b.state_dict()).items():
        assert torch.equal(average.state_dict()[name], tensor)
    data = (x, torch.zeros(len(x)))
    solved = partial_merge(a, b, data, width=1, augment=None)
    for name, tensor in least_squares(a, b, data, augment=None).state_dict().items():
        assert torch.equal(solved.state_dict()[name], tensor)


def test_the_costs_are_those_of_a_loop_over_units() -> None:
    a, b, x = pair("joined")
    spec = trace(a, x[:2]).bind(a.state_dict())
    groups = widenable(spec, a, x[:2])
    assert groups == list(spec.groups)
    costs = merging_costs(spec, groups, a, b)
    (group,) = (g for g, axes in spec.groups.items() if ("stem.weight", 0) in axes)
    for unit in range(6):
        made = read = 0.0
        for model_part in ("stem.weight", "stem.bias", "norm.weight", "norm.bias", "slope.weight",
                           "each.weight", "each.bias", "gate.weight", "gate.bias"):  # fmt: skip
            w, v = (model.get_parameter(model_part)[unit].double() for model in (a, b))
            made += (w - v).square().sum().item()
        for model in (a, b):
            for reader in (model.wide.weight[:, unit], model.gate.weight[:, unit],
                           model.up.weight[unit]):  # fmt: skip
                read += reader.double().square().sum().item()
        assert costs[group][unit].item() == pytest.approx(made * read, rel=1e-6)


def test_what_takes_statistics_across_units_or_counts_them_is_merged_whole() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Linear(4, 6), nn.LayerNorm(6)
            self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 6)
            self.fixed, self.last = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Any:
            x = self.first(x)
            x = x + self.down(torch.relu(self.up(self.norm(x))))
            return self.last(torch.relu(self.fixed(x)).view(-1, 8))  # knows its width

    a, b, x = Block(), Block(), torch.randn(7, 4)
    spec = trace(a, x).bind(a.state_dict())
    (inner,) = (group for group, axes in spec.groups.items() if ("up.weight", 0) in axes)
    assert widenable(spec, a, x) == [inner]
    merged: Any = partial_merge(a, b, width=1.5, example_inputs=x)
    assert merged.up.weight.shape == (15, 6)
    assert merged.first.weight.shape == (6, 4)
    assert merged(x).shape == (7, 2)


def test_groups_that_fail_only_together_are_not_widened_together() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Any:
            first = torch.relu(self.first(x))
            second = torch.relu(self.second(first))
            return self.last(second) + (first.shape[1] - 8) * (second.shape[1] - 8)

    model, x = Counting(), torch.randn(7, 4)
    spec = trace(model, x).bind(model.state_dict())
    assert len(spec.groups) == 2
    assert widenable(spec, model, x) == list(spec.groups)[:1]


def test_a_weight_that_two_layers_share_stays_one() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
            self.out.weight = self.embed.weight
            self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Any:
            return self.out(self.down(torch.relu(self.up(self.embed(x)))))

    model, x = Tied(), torch.tensor([[1, 2], [3, 4]])
    spec = trace(model, x).bind(model.state_dict())
    assert {spec.sizes[group] for group in widenable(spec, model, x)} == {6}
    merged: Any = partial_merge(model, Tied(), width=1.5, example_inputs=x)
    assert merged.out.weight is merged.embed.weight
    assert merged.up.out_features == 9


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes_are_kept(dtype: torch.dtype) -> None:
    a, b, x = pair("mlp")
    a, b, x = a.to(dtype), b.to(dtype), x.to(dtype)
    merged = partial_merge(a, b, width=1.5, example_inputs=x)
    assert all(tensor.dtype == dtype for tensor in merged.state_dict().values())
    torch.testing.assert_close(
        merged(x), partial_merge_in_double(a, b, x).to(dtype), rtol=0.05, atol=0.05
    )


def partial_merge_in_double(a: nn.Module, b: nn.Module, x: Tensor) -> Tensor:
    a, b = (copy.deepcopy(model).double() for model in (a, b))
    found: Tensor = partial_merge(a, b, width=1.5, example_inputs=x.double())(x.double())
    return found


def test_the_state_dict_loads_into_a_plain_model_of_its_widths() -> None:
    a, b, x = pair("mlp")
    result = merge(a, b, combine="partial", width=1.5, example_inputs=x)
    plain = mlp(hidden=12)
    plain.load_state_dict(result.params)
    assert torch.equal(plain(x), result.model(x))
    assert result.report["width"] == 1.5
    assert result.report["parameters"] == pytest.approx(
        sum(p.numel() for p in plain.parameters()) / sum(p.numel() for p in a.parameters())
    )
    fitted = fit_widths(a, result.params)
    assert torch.equal(fitted(x), result.model(x))
    assert a[0].out_features == 8


def test_batch_norm_of_a_wider_model_can_be_reset() -> None:
    a, b, x = pair("joined")
    data = (x, torch.zeros(len(x)).long())
    result = merge(a, b, data, combine="partial", normalize="reset", augment=None)
    assert result.model(x).isfinite().all()
    average = partial_merge(a, b, width=1.3, example_inputs=x[:2])
    assert reset_batch_norm(average, data)(x).isfinite().all()


def test_misuse_is_refused_by_name() -> None:
    a, b, x = pair("mlp")
    broken = copy.deepcopy(b)
    broken[2].bias.data.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"must be finite.*2\.bias of B"):
        partial_merge(a, broken, example_inputs=x)
    with pytest.raises(ValueError, match="don't fit together"):
        partial_merge(a, mlp(9), example_inputs=x)
    with pytest.raises(ValueError, match="give example_inputs or data"):
        partial_merge(a, b)
    for width in (0.9, 2.1, float("nan")):
        with pytest.raises(ValueError, match="width must be from 1 to 2"):
            partial_merge(a, b, width=width, example_inputs=x)
        with pytest.raises(ValueError, match="width must be from 1 to 2"):
            merge(a, b, combine="partial", width=width, example_inputs=x)
    with pytest.raises(ValueError, match='normalize="repair" needs a merge as wide as A'):
        merge(a, b, (x, torch.zeros(40)), combine="partial", normalize="repair")
    params = mlp(9).state_dict()
    with pytest.raises(ValueError, match=r"missing: 2\.bias"):
        fit_widths(a, {name: t for name, t in params.items() if name != "2.bias"})
    with pytest.raises(ValueError, match=r"misshapen: weight is \(9,\)"):
        fit_widths(nn.LayerNorm(8), nn.LayerNorm(9).state_dict())


def test_units_apart_are_worth_their_place_on_digits() -> None:
    pair = load_pair("rotated")
    recipe = dataclasses.replace(pair.recipe, train_epochs=(8, 8))
    pair = dataclasses.replace(pair, recipe=recipe)
    a, b = (end_model(pair, side, side, None, progress=False) for side in (0, 1))
    test = pair.a.test, pair.b.test
    accuracy = {
        width: evaluate(merge(a, b, combine="partial", width=width,
                              example_inputs=test[0][0][:8]).model, test).mixture.accuracy
        for width in (1.0, 1.25, 1.5)
    }  # fmt: skip
    assert accuracy[1.0] + 0.03 < accuracy[1.25] < accuracy[1.5] + 0.02
