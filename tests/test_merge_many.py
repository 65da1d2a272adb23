"""Merging of more than two models: planted answers, dtypes, refusals, real triples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from fastrebasin import (
    Evaluation,
    PermutationSpec,
    apply_permutation,
    architectures,
    evaluate,
    identity_permutation,
    invert,
    merge,
)
from fastrebasin.experiments.data_sets import DataSet, idx_folder, only_classes, rotated
from fastrebasin.experiments.models import MLP, mnist_mlp, resnet20
from fastrebasin.experiments.training import train
from fastrebasin.matching import synchronised_matching
from fastrebasin.matching.synchronised import Synchronisation
from fastrebasin.merging import merge_many

METHODS: tuple[Synchronisation, ...] = get_args(Synchronisation)
X = torch.randn(16, 20, generator=torch.Generator().manual_seed(0))


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


def test_two_models_merge_as_a_pair() -> None:
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
        r"layer2.weight is only in model 2; .*must be finite, but these are not: layer1.bias of "
        r"model 3"
    )
    with pytest.raises(ValueError, match=expected):
        merge_many(models, example_inputs=X)
    with pytest.raises(ValueError, match=r"layer1\.bias is only in model 0"):
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
