"""Activation matching: planted permutations, statistics in float64 as oracle, and its promises."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import scipy.optimize
import torch
from activation_problems import (
    PROBLEMS,
    Moody,
    Problem,
    Watched,
    alive,
    labelled,
    multilayer,
    of_zoo,
    planted,
    problem_of,
    resnet,
)
from torch import Tensor, nn

import fastrebasin as fr
from fastrebasin import PermutationSpec, activation_matching, architectures, interpolate, trace
from fastrebasin.experiments.models import MLP, vgg11
from fastrebasin.matching import activations
from fastrebasin.permutation import check_permutation


def assert_recovered(problem: Problem, device: str = "cpu", **options: Any) -> None:
    spec, a, b, answer = planted(problem)
    a, b = copy.deepcopy(a).to(device), b.to(device)
    found = activation_matching(spec, a, b, labelled(problem[2]), batch_size=50, **options)
    assert sorted(found.permutation) == sorted(answer)
    for group, indices in answer.items():
        assert torch.equal(found.permutation[group], indices), group
    norm = sum(t.double().square().sum().item() for n, t in a.state_dict().items()
               if "running" not in n and "num_batches" not in n)  # fmt: skip
    assert found.objective == pytest.approx(norm, rel=1e-5)
    assert found.sweeps == 1


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("cost", ["correlation", "covariance", "cosine"])
def test_planted_permutation_is_recovered_by_every_cost(name: str, cost: str, device: str) -> None:
    assert_recovered(problem_of(name), device, cost=cost)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("observe", ["output", "normalized"])
def test_planted_permutation_is_recovered_at_every_kind_of_point(name: str, observe: str) -> None:
    assert_recovered(problem_of(name), observe=observe)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_float_dtype_recovers_a_planted_permutation(dtype: torch.dtype, device: str) -> None:
    model, spec, x = problem_of("MLP")
    assert_recovered((copy.deepcopy(model).to(dtype), spec, x.to(dtype)), device)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("precision", ["high", "medium"])
def test_every_precision_recovers_a_planted_permutation(
    name: str, precision: str, device: str
) -> None:
    assert_recovered(problem_of(name), device, precision=precision)


def test_the_problems_are_hard() -> None:
    axes = [str(axes) for axes in problem_of("autoencoder")[1].axes.values()]
    assert any("P0*P2*16" in text for text in axes)  # a flattened convolution
    assert problem_of("ViT")[1].within
    assert len(problem_of("in place")[1].groups) == 1  # all layers along one stream


def activations_at(model: nn.Module, name: str, x: Tensor) -> Tensor:
    """Return the inputs of a layer: float64, (observations, units)."""
    seen: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    with torch.no_grad():
        model(x)
    handle.remove()
    return seen[0].double().movedim(1, -1).flatten(0, -2)


def centred(x: Tensor, cost: str) -> Tensor:
    x = x - x.mean(0) if cost != "cosine" else x
    return x / x.square().sum(0).sqrt().clamp_min(1e-300) if cost != "covariance" else x


def reference(a: Tensor, b: Tensor, cost: str) -> Tensor:
    """Return the assignment of SciPy on statistics of all observations at once."""
    matrix = centred(a, cost).T @ centred(b, cost)
    return torch.as_tensor(scipy.optimize.linear_sum_assignment(matrix.numpy(), maximize=True)[1])


@pytest.mark.parametrize("cost", ["correlation", "covariance", "cosine"])
def test_independent_networks_are_matched_as_by_statistics_of_all_data(cost: Any) -> None:
    x = torch.randn(40, 3, 32, 32)
    a, b = alive(vgg11(width=1 / 16), x).eval(), alive(vgg11(width=1 / 16), x).eval()
    found = activation_matching(
        architectures.vgg(), a, b, labelled(x), cost=cost, batch_size=7
    ).permutation
    for group, layer in {"C0": "features.4", "C3": "features.15", "C7": "classifier"}.items():
        expected = reference(activations_at(a, layer, x), activations_at(b, layer, x), cost)
        assert torch.equal(found[group], expected)


@pytest.mark.parametrize("counts", [(30, 400), (30, 400, 100)])
def test_all_sources_weigh_the_same(counts: tuple[int, ...]) -> None:
    a, b = (MLP(6, (24,), 3) for _ in range(2))
    parts = [torch.randn(count, 6) @ torch.randn(6, 6) for count in counts]
    balanced = torch.cat([part.repeat(1200 // len(part), 1) for part in parts])
    found = activation_matching(
        architectures.mlp(1), a, b, [labelled(part) for part in parts], batch_size=64
    )
    expected, one, every = (
        reference(activations_at(a, "layer1", x), activations_at(b, "layer1", x), "correlation")
        for x in (balanced, parts[0], torch.cat(parts))
    )
    assert torch.equal(found.permutation["P0"], expected)
    assert not torch.equal(one, expected)
    assert not torch.equal(every, expected)


def test_some_examples_of_each_source_are_enough() -> None:
    a, b = (MLP(6, (24,), 3) for _ in range(2))
    x = torch.randn(300, 6)

    def match(data: object, **options: Any) -> Tensor:
        return activation_matching(architectures.mlp(1), a, b, data, **options).permutation["P0"]

    some = match(labelled(x), max_examples=40, seed=3)
    assert torch.equal(some, match(labelled(x), max_examples=40, seed=3, batch_size=9))
    assert not torch.equal(some, match(labelled(x), max_examples=40, seed=4))
    assert not torch.equal(some, match(labelled(x)))
    assert torch.equal(match(labelled(x), max_examples=300), match(labelled(x)))


def test_the_models_are_left_as_they_were() -> None:
    model, spec, x = problem_of("in place")
    a, b = copy.deepcopy(model), Watched()
    b.last.requires_grad_(False)
    models = (a, b)
    before = [{n: t.clone() for n, t in m.state_dict().items()} for m in models]
    modes = [[part.training for part in m.modules()] for m in models]
    activation_matching(spec, a, b, labelled(x))
    assert [[part.training for part in m.modules()] for m in models] == modes
    assert [p.requires_grad for p in b.last.parameters()] == [False, False]
    for state, model in zip(before, models, strict=True):
        assert all(torch.equal(state[n], t) for n, t in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_points_may_be_given_for_some_groups() -> None:
    a, spec, x = problem_of("autoencoder")
    groups = {axes[0]: name for name, axes in spec.axes.items() if name.endswith("bias")}
    latent = next(group for group, name in groups.items() if name == "encoder.6.bias")
    decoded = next(group for group, name in groups.items() if name == "decoder.0.bias")
    assert latent is not None
    assert decoded is not None
    given = {decoded: ["decoder.1:output", "decoder.0:output"], latent: ["encoder:output"]}
    assert_recovered((a, spec, x), observe=given)
    with pytest.raises(ValueError, match=rf"'{latent}' isn't seen at 'decoder:output'"):
        activation_matching(spec, a, a, labelled(x), observe={latent: ["decoder:output"]})
    with pytest.raises(ValueError, match=r"no group 'X', but P0.*: 'nowhere:output'; .*: 'grow'"):
        activation_matching(
            spec, a, a, labelled(x),
            observe={"X": [], latent: ["nowhere:output"], decoded: ["grow"]},
        )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "unseen"),
    [("MLP-Mixer", ("P1", "P3")), ("nn.TransformerEncoder", ("P1", "P2", "P3", "P5", "P6", "P7"))],
)  # fmt: skip
def test_groups_that_cannot_be_seen_are_named(name: str, unseen: tuple[str, ...]) -> None:
    model, spec, x = of_zoo(name)
    with pytest.raises(ValueError, match="groups can't be observed") as error:
        activation_matching(spec, model, model, labelled(x))
    for group in spec.groups:
        assert (f"'{group}' (of" in str(error.value)) == (group in unseen), group


def test_units_that_never_vary_are_matched_with_each_other() -> None:
    spec, a, b, answer = planted(multilayer())
    dead = [1, 4, 5]
    with torch.no_grad():
        for model, units in ((a, torch.tensor(dead)), (b, answer["P1"][dead])):
            layer = model.get_submodule("layer1")
            assert isinstance(layer, nn.Linear)
            layer.weight[units] = 0
            layer.bias[units] = -1
    x = torch.randn(200, 12)
    found = activation_matching(spec, a, b, labelled(x)).permutation["P1"]
    living = [unit for unit in range(14) if unit not in dead]
    assert torch.equal(found[living], answer["P1"][living])
    assert sorted(found[dead].tolist()) == sorted(answer["P1"][dead].tolist())


def test_merging_by_activations_gives_a_permuted_model_back() -> None:
    problem = multilayer()
    spec, a, b, answer = planted(problem)
    result = fr.merge(a, b, labelled(problem[2]), align="activations", spec=spec)
    assert all(torch.equal(result.permutation[group], answer[group]) for group in answer)
    merged = interpolate(a.state_dict(), result.params, 1.0)
    assert all(torch.allclose(t, merged[n], atol=1e-6) for n, t in a.state_dict().items())
    with pytest.raises(ValueError, match='align="activations" needs data'):
        fr.merge(a, b, align="activations", spec=spec, example_inputs=problem[2])


def test_heads_and_their_units_are_matched_at_the_best_sum() -> None:
    within = {"Q": ("H",), "V": ("H",)}
    axes = {"q": ("H*Q", None), "v": ("H*V", None), "alone": ("P", None)}
    sizes = {"H": 3, "Q": 12, "V": 15, "P": 4}
    spec = PermutationSpec.from_axes(axes, within=within, sizes=sizes)
    costs: dict[tuple[str, ...], Tensor] = {
        ("H", "Q"): torch.randn(12, 12),
        ("H", "V"): torch.randn(15, 15),
    }
    found = activations._solve(spec, {**costs, ("P",): torch.eye(4).double()}, 0)
    check_permutation(found, spec.sizes, spec.within)
    value = sum(c[range(len(c)), found[groups[1]]].sum().item() for groups, c in costs.items())

    def best(a: int, b: int) -> float:
        inside = [c.reshape(3, len(c) // 3, 3, -1)[a, :, b].numpy() for c in costs.values()]
        solved = [(c, scipy.optimize.linear_sum_assignment(c, maximize=True)) for c in inside]
        return float(sum(c[pairs].sum() for c, pairs in solved))

    optimum = max(
        sum(best(a, b) for a, b in enumerate(heads)) for heads in itertools.permutations(range(3))
    )
    assert value == pytest.approx(optimum, rel=1e-6)


def test_a_spec_without_groups_moves_nothing() -> None:
    model = MLP(6, (24,), 3)
    found = activation_matching(
        PermutationSpec.from_axes({}), model, model, labelled(torch.ones(1, 6))
    )
    assert found.permutation == {}


def test_misfits_are_named() -> None:
    a, spec, x = multilayer()
    wrong: dict[str, Any] = {"cost": "best", "observe": "all", "batch_size": 0, "max_examples": 0}
    wrong["precision"] = "low"
    message = (
        "cost must .*'best'; observe must .*'all'; precision must .*'low'; batch_size .* 0; "
        "max_examples .* 0"
    )
    with pytest.raises(ValueError, match=message):
        activation_matching(spec, a, a, labelled(x), **wrong)
    with pytest.raises(ValueError, match=r"layer3\.bias has shape"):
        activation_matching(spec, a, MLP(12, (16, 14, 15), 5), labelled(x))
    broken = x.clone()
    broken[7] = float("nan")
    with pytest.raises(ValueError, match="activations at 'layer1:input' must be finite"):
        activation_matching(spec, a, a, labelled(broken))
    steady, moody = Moody(skips=False), Moody(skips=True)
    spec = trace(steady, x[:, :4])
    activation_matching(spec, steady, steady, labelled(x[:, :4]))
    with pytest.raises(ValueError, match="must compute alike, but what passes 'second:input'"):
        activation_matching(spec, steady, moody, labelled(x[:, :4]))


def test_one_pass_over_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = 0
    observe = activations._Pair.observe

    def counted(pair: activations._Pair, x: Tensor) -> None:
        nonlocal passes
        passes += len(x)
        observe(pair, x)

    monkeypatch.setattr(activations._Pair, "observe", counted)
    a, spec, x = resnet()
    activation_matching(spec, a, a, (labelled(x), labelled(x[:5])), batch_size=10)
    assert passes == len(x) + 5
