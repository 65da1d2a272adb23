"""Alignment and merging of more than two models: planted answers, brute force, real triples."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import pytest
import scipy.optimize
import torch
from nested_specs import CASES
from torch import nn

from fastrebasin import (
    Evaluation,
    PermutationSpec,
    apply_permutation,
    architectures,
    compose,
    evaluate,
    identity_permutation,
    invert,
    merge,
    weight_matching,
)
from fastrebasin.experiments.data_sets import DataSet, idx_folder, only_classes, rotated
from fastrebasin.experiments.models import MLP, mnist_mlp, resnet20
from fastrebasin.experiments.training import train
from fastrebasin.matching import frank_wolfe, synchronised_matching
from fastrebasin.matching.synchronised import Synchronisation
from fastrebasin.merging import merge_many
from fastrebasin.permutation import Permutation

Params = dict[str, torch.Tensor]
METHODS: tuple[Synchronisation, ...] = get_args(Synchronisation)
X = torch.randn(16, 20, generator=torch.Generator().manual_seed(0))


def independent(count: int, seed: int = 0, width: int = 24) -> tuple[PermutationSpec, list[Params]]:
    """Return untrained networks that are no copies of each other."""
    torch.manual_seed(seed)
    models = [MLP(12, (width, width), 5).double().state_dict() for _ in range(count)]
    return architectures.mlp(2).bind(models[0]), models


def sum_over_pairs(
    spec: PermutationSpec, params: Sequence[Params], permutations: Sequence[Permutation]
) -> float:
    moved = [apply_permutation(spec, p, m) for p, m in zip(permutations, params, strict=True)]
    return sum(
        torch.sum(one[name].double() * other[name].double()).item()
        for one, other in itertools.combinations(moved, 2)
        for name in one
    )


def noisy_resnet() -> nn.Module:
    model = resnet20().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return model


def copies(model: nn.Module, spec: PermutationSpec, count: int, device: str) -> list[nn.Module]:
    """Return permuted copies of a model; the first is the model as it is."""
    spec = spec.bind(model.state_dict())
    found: list[nn.Module] = []
    for seed in range(count):
        copy = type(model)(20, (32, 24, 16), 10) if isinstance(model, MLP) else resnet20()
        move = spec.random_permutation(seed) if seed else identity_permutation(spec.sizes)
        copy.load_state_dict(apply_permutation(spec, move, model.state_dict()))
        found.append(copy.eval().to(device))
    return found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 3, 5])
def test_permuted_copies_merge_to_the_model(
    method: Synchronisation, count: int, device: str
) -> None:
    spec = architectures.mlp(3)
    model = MLP(20, (32, 24, 16), 10)
    models = copies(model, spec, count, device)
    result = merge_many(
        models, method=method, spec=spec, example_inputs=X[:2].to(device), progress=False
    )
    assert len(result.permutations) == count
    bound = spec.bind(model.state_dict())
    for seed, found in enumerate(result.permutations):
        answer = invert(bound.random_permutation(seed))
        if seed == 0:
            answer = identity_permutation(bound.sizes)
        assert all(torch.equal(found[group], answer[group]) for group in answer)
    for name, tensor in model.state_dict().items():
        assert torch.allclose(result.params[name].cpu(), tensor, atol=1e-6)
    assert all(tensor.device.type == device for tensor in result.params.values())


@pytest.mark.parametrize("method", METHODS)
def test_networks_with_batch_norm_merge_with_their_statistics(method: Synchronisation) -> None:
    model = noisy_resnet()
    result = merge_many(
        copies(model, architectures.resnet(), 3, "cpu"),
        method=method, spec=architectures.resnet(), example_inputs=torch.randn(2, 3, 32, 32),
        progress=False,
    )  # fmt: skip
    assert result.report["normalize"] == "none"
    x = torch.randn(4, 3, 32, 32)
    assert torch.allclose(result.model(x), model(x), atol=1e-4)


@pytest.mark.parametrize("name", ["multi-head attention", "LSTM", "grouped convolution", "experts"])
def test_structured_groups_are_recovered(name: str) -> None:
    spec, params = CASES[name].spec(), CASES[name].params(1)
    moves = [spec.random_permutation(seed) for seed in range(3)]
    models = [apply_permutation(spec, move, params) for move in moves]
    found = synchronised_matching(spec, models, progress=False)
    for k, move in enumerate(moves):
        answer = compose(invert(move), moves[0])
        assert all(torch.equal(found.permutations[k][group], answer[group]) for group in answer)


@pytest.mark.parametrize("method", METHODS)
def test_the_objective_is_the_sum_over_pairs_and_never_falls(method: Synchronisation) -> None:
    for seed in range(2):
        spec, params = independent(4, seed)
        found = synchronised_matching(spec, params, method=method, seed=seed, progress=False)
        expected = sum_over_pairs(spec, params, found.permutations)
        assert found.objective == pytest.approx(expected, rel=1e-9)
        steps = list(found.objectives)
        assert steps == sorted(steps)
        if method == "merge-many":
            assert found.sweeps == len(steps) > 2
        if steps:
            assert steps[-1] == found.objective


def test_cycle_consistent_matching_is_never_worse_than_the_others_and_mostly_better() -> None:
    gains = []
    for seed in range(5):
        spec, params = independent(3, seed, width=16)
        best, *others = (
            synchronised_matching(spec, params, method=m, seed=seed, progress=False).objective
            for m in ("cycle-consistent", "merge-many", "anchor")
        )
        assert best >= max(others)
        gains.append(best / max(others) - 1)
    assert sum(gain > 0.01 for gain in gains) >= 3


@pytest.mark.parametrize("seed", range(3))
def test_no_exhaustive_search_finds_much_better(seed: int) -> None:
    torch.manual_seed(seed)
    models = [MLP(3, (3, 3), 2).double().state_dict() for _ in range(3)]
    spec = architectures.mlp(2).bind(models[0])
    orders = [torch.tensor(order) for order in itertools.permutations(range(3))]
    moves = [{"P0": p, "P1": q} for p in orders for q in orders]
    at = [[apply_permutation(spec, move, model) for move in moves] for model in models]
    flat = [torch.stack([torch.cat([t.flatten() for t in m.values()]) for m in ms]) for ms in at]
    fixed = flat[0][:1]
    every = (fixed @ flat[1].T)[..., None] + (fixed @ flat[2].T)[:, None] + flat[1] @ flat[2].T
    found = synchronised_matching(spec, models, progress=False).objective
    assert found <= every.max().item() + 1e-9
    values = every.flatten().sort(descending=True).values
    assert (values > found + 1e-9).sum() < 0.01 * len(values)


@pytest.mark.parametrize("method", METHODS)
def test_maps_around_any_cycle_compose_to_the_identity(method: Synchronisation) -> None:
    spec, params = independent(4, width=16)
    found = synchronised_matching(spec, params, method=method, anchor=2, progress=False)
    identity = identity_permutation(spec.sizes)
    assert all(torch.equal(found.permutations[2][g], identity[g]) for g in identity)
    for length in (1, 2, 3, 4):
        for cycle in itertools.permutations(range(4), length):
            around = identity
            for source, target in itertools.pairwise([*cycle, cycle[0]]):
                around = compose(around, found.between(target, source))
            assert all(torch.equal(around[group], identity[group]) for group in identity)
    onto = apply_permutation(spec, found.between(0, 3), params[3])
    basis = apply_permutation(spec, found.permutations[0], onto)
    straight = apply_permutation(spec, found.permutations[3], params[3])
    assert all(torch.equal(basis[name], straight[name]) for name in straight)


def test_pairwise_matching_is_not_cycle_consistent() -> None:
    spec, params = independent(3)
    around = identity_permutation(spec.sizes)
    for source, target in ((0, 1), (1, 2), (2, 0)):
        found = weight_matching(spec, params[target], params[source])
        around = compose(around, found.permutation)
    assert any(not torch.equal(p, torch.arange(len(p))) for p in around.values())


def test_restarts_only_help() -> None:
    spec, params = independent(3, width=16)
    for method in ("merge-many", "cycle-consistent"):
        once, more = (
            synchronised_matching(spec, params, method=method, restarts=n, progress=False)
            for n in (0, 4)
        )
        assert more.sweeps > once.sweeps
        assert more.objective >= once.objective
        if method == "merge-many":
            assert more.objective > once.objective
        assert more.objective == pytest.approx(sum_over_pairs(spec, params, more.permutations))


def test_frank_wolfe_climbs_and_leaves_nested_groups() -> None:
    spec, params = independent(3)
    start = sum_over_pairs(spec, params, [identity_permutation(spec.sizes)] * 3)
    values = [
        sum_over_pairs(spec, params, frank_wolfe.frank_wolfe(spec, params, steps=n, progress=False))
        for n in (0, 1, 100)
    ]
    assert values[0] == pytest.approx(start)
    assert values[2] > max(values[1], start + 1)
    case = CASES["multi-head attention"]
    models = [case.params(seed) for seed in range(3)]
    found = frank_wolfe.frank_wolfe(case.spec(), models, steps=20, progress=False)
    for permutation in found:
        assert all(torch.equal(permutation[g], torch.arange(24)) for g in ("QK",))
    assert any(not torch.equal(p["S"], torch.arange(20)) for p in found)
    nothing = [{n: torch.zeros_like(t) for n, t in params[0].items()}] * 2
    (zero, _) = frank_wolfe.frank_wolfe(spec, nothing, steps=5, progress=False)
    assert torch.equal(zero["P0"], torch.arange(24))


def test_frank_wolfe_steps_to_the_best_point_before_the_gradients_vertex() -> None:
    axes = {
        "w": ("P", None),
        "v": ("Q", "P", None),
        "r": ("Q", "Q"),
        "b": ("Q",),
        "out": (None, "Q"),
    }
    shapes = {"w": (6, 4), "v": (5, 6, 3), "r": (5, 5), "b": (5,), "out": (2, 5)}
    params = [{n: torch.randn(s, dtype=torch.float64) for n, s in shapes.items()} for _ in "abc"]
    relaxation = frank_wolfe._Relaxation(PermutationSpec.from_axes(axes, params[0]), params)

    def value(matrices: Sequence[Params]) -> torch.Tensor:
        moved = [
            torch.cat([
                (m["P"] @ p["w"]).flatten(),
                torch.einsum("qx,pz,xzk->qpk", m["Q"], m["P"], p["v"]).flatten(),
                (m["Q"] @ p["r"] @ m["Q"].T).flatten(),
                m["Q"] @ p["b"],
                (p["out"] @ m["Q"].T).flatten(),
            ])
            for m, p in zip(matrices, params, strict=True)
        ]  # fmt: skip
        return torch.stack([x @ y for x, y in itertools.combinations(moved, 2)]).sum()

    for _ in range(5):
        before = [
            {g: m.clone().requires_grad_() for g, m in ms.items()} for ms in relaxation.matrices
        ]
        flat = [m for ms in before for m in ms.values()]
        vertices = [
            torch.eye(len(g), dtype=g.dtype)[
                scipy.optimize.linear_sum_assignment(g, maximize=True)[1]
            ]
            for g in torch.autograd.grad(value(before), flat)
        ]
        grid = [
            value([
                {g: torch.lerp(m, next(turns), share) for g, m in ms.items()} for ms in before
            ]).item()
            for share in torch.linspace(0, 1, 201).tolist()
            for turns in [iter(vertices)]
        ]  # fmt: skip
        relaxation.step()
        assert value(relaxation.matrices).item() >= max(grid) - 1e-9
        assert value(relaxation.matrices).item() == pytest.approx(max(grid), rel=1e-2)


def test_two_models_merge_as_well_as_a_pair() -> None:
    for seed in range(2):
        spec, (a, b) = independent(2, seed, width=16)
        pair = weight_matching(spec, a, b, seed=seed)
        found = synchronised_matching(spec, [a, b], seed=seed, progress=False)
        assert found.objective >= pair.objective - 1e-9
    one, two, spec = MLP(20, (8, 8), 3), MLP(20, (8, 8), 3), architectures.mlp(2)
    many = merge_many([one, two], method="anchor", spec=spec, example_inputs=X, progress=False)
    pairwise = merge(one, two, spec=spec, example_inputs=X)
    assert all(torch.equal(many.permutations[1][g], p) for g, p in pairwise.permutation.items())
    for name, tensor in pairwise.params.items():
        assert torch.allclose(many.params[name], tensor, atol=1e-7)


def normalised() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def test_the_mean_is_even_and_integers_are_the_anchors() -> None:
    models = [normalised() for _ in range(3)]
    for k, model in enumerate(models):
        model.state_dict()["1.num_batches_tracked"].fill_(k)
    axes: dict[str, tuple[str | None, ...]] = {"0.weight": ("P", None), "3.weight": (None, "P")}
    vectors = ("0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var")
    axes |= dict.fromkeys(vectors, ("P",))
    result = merge_many(
        models, anchor=1, spec=PermutationSpec.from_axes(axes), example_inputs=torch.randn(2, 6),
        progress=False,
    )  # fmt: skip
    assert result.params["1.num_batches_tracked"] == 1
    orders = [permutation["P"] for permutation in result.permutations]
    assert torch.equal(orders[1], torch.arange(16))
    weights = [model.state_dict()["3.weight"] for model in models]
    expected = torch.stack([w[:, p] for w, p in zip(weights, orders, strict=True)]).mean(0)
    assert torch.allclose(result.params["3.weight"], expected, atol=1e-7)
    before = result.params["3.weight"].clone()
    for weight in weights:
        weight.zero_()
    assert torch.equal(result.params["3.weight"], before)


def test_statistics_are_reset_on_all_sources() -> None:
    models = [normalised() for _ in range(3)]
    x, y = torch.randn(60, 6), torch.arange(60) % 3
    data = [(x, y), (x[:20] + 1, y[:20]), (x - 1, y)]
    states = [{n: t.clone() for n, t in m.state_dict().items()} for m in models]
    result = merge_many(models, data, progress=False)
    assert result.report["normalize"] == "reset"
    assert result.params["1.running_mean"].any()
    assert len(evaluate(result.model, data).sets) == 3
    kept = merge_many(models, data, normalize="none", progress=False)
    assert kept.report["normalize"] == "none"
    assert not kept.params["1.running_mean"].any()
    for state, model in zip(states, models, strict=True):
        assert model.training
        assert all(torch.equal(state[n], t) for n, t in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_result_has_the_models_dtype(dtype: torch.dtype) -> None:
    spec = architectures.mlp(3)
    models = copies(MLP(20, (32, 24, 16), 10).to(dtype).float(), spec, 3, "cpu")
    found = merge_many(
        [model.to(dtype) for model in models], spec=spec, example_inputs=X.to(dtype),
        progress=False,
    )  # fmt: skip
    for name, tensor in models[0].state_dict().items():
        assert found.params[name].dtype == dtype
        assert torch.equal(found.params[name], tensor)


def test_what_is_wrong_is_named_all_at_once() -> None:
    models = [MLP(20, (8,), 3), MLP(20, (9,), 3), MLP(20, (8, 8), 3), MLP(20, (8,), 3)]
    models[3].state_dict()["layer1.bias"][0] = torch.nan
    expected = (
        r"layer0.weight has shape \(8, 20\) in model 0 and \(9, 20\) in model 1; .*"
        r"model 2 has layer2.weight, model 0 has not; .*layer1.bias of model 3 is not finite"
    )
    with pytest.raises(ValueError, match=expected):
        merge_many(models, example_inputs=X)
    with pytest.raises(ValueError, match=r"model 1 lacks layer1\.bias"):
        synchronised_matching(
            architectures.mlp(1),
            [m.state_dict() for m in models[:1]] + [{"layer0.weight": torch.zeros(8, 20)}],
        )
    with pytest.raises(ValueError, match="at least one model, got none"):
        merge_many([], example_inputs=X)
    one = [models[0]]
    with pytest.raises(ValueError, match=r"method must be one of.*normalize must.*anchor must"):
        merge_many(one, method="magic", normalize="never", anchor=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"anchor must be.*0 to 0, got -1; restarts .*max_sweeps"):
        synchronised_matching(
            architectures.mlp(1), [one[0].state_dict()], anchor=-1, restarts=-1, max_sweeps=-1
        )
    with pytest.raises(ValueError, match='normalize="reset" needs data'):
        merge_many([resnet20()], normalize="reset")
    with pytest.raises(ValueError, match="give example_inputs or data"):
        merge_many(one)
    wrong = dict(architectures.mlp(1).axes) | {"layer0.bias": (None,)}
    with pytest.raises(ValueError, match="does not preserve the model's function"):
        merge_many(one * 2, spec=PermutationSpec.from_axes(wrong), example_inputs=X)


def triples(data_dir: Path) -> dict[str, list[tuple[DataSet, int]]]:
    """Return data sets and seeds of three models that become one."""
    mnist = idx_folder(data_dir, "MNIST")
    return {
        "three data sets": [
            (mnist, 0), (rotated(mnist), 1), (idx_folder(data_dir, "FashionMNIST"), 2)
        ],
        "three seeds": [(mnist, seed) for seed in (0, 3, 4)],
        "three splits": [
            (only_classes(mnist, classes), seed)
            for seed, classes in ((5, range(4)), (6, range(4, 7)), (7, range(7, 10)))
        ],
    }  # fmt: skip


def scores_of(triple: list[tuple[DataSet, int]]) -> dict[str, Evaluation]:
    """Return the scores of each model, of their mean as they are, and of all ways to merge them."""
    models = [train(mnist_mlp, data.train, epochs=5, seed=seed) for data, seed in triple]
    tests = tuple(data.test for data, _ in triple)
    scores = {f"model {k}": evaluate(model, tests) for k, model in enumerate(models)}
    mean = mnist_mlp()
    states = [model.state_dict() for model in models]
    mean.load_state_dict({n: torch.stack([s[n] for s in states]).mean(0) for n in states[0]})
    scores["naive mean"] = evaluate(mean, tests)
    for method in METHODS:
        merged = merge_many(models, method=method, example_inputs=tests[0][0][:4])
        scores[method] = evaluate(merged.model, tests)
    return scores


@pytest.mark.slow
def test_cycle_consistent_merging_of_real_networks(
    data_dir: Path, record_property: Callable[[str, object], None]
) -> None:
    won = 0
    for name, triple in triples(data_dir).items():
        scores = {label: score.mixture for label, score in scores_of(triple).items()}
        for label, score in scores.items():
            record_property(f"{name}: {label}", score)
            print(f"{name:16s} {label:17s} {100 * score.accuracy:6.2f} % {score.loss:.3f}")
        assert scores["cycle-consistent"].accuracy > scores["naive mean"].accuracy
        won += scores["cycle-consistent"].accuracy >= scores["merge-many"].accuracy
    assert won >= 2
