"""Fisher information against gradients of single examples, and the mean that it weighs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import fastrebasin as fr
from fastrebasin import architectures, interpolate
from fastrebasin.experiments.models import MLP, vgg11
from fastrebasin.merging import fisher_information, fisher_mean

Params = dict[str, Tensor]
X = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(30) % 3


def one_by_one(model: nn.Module, x: Tensor, y: Tensor) -> Params:
    """Return the mean of squared gradients, an example at a time."""
    model.eval()
    found = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for i in range(len(x)):
        model.zero_grad()
        nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                found[name] += parameter.grad.square() / len(x)
    return found


def vgg() -> nn.Module:
    model = vgg11(width=1 / 16)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = 0.1 * torch.randn_like(module.weight)
            module.running_var = 1 + torch.rand_like(module.weight)
    return model


@pytest.mark.parametrize("batch_size", [1, 7, 30])
def test_labels_of_the_data_give_the_mean_of_squared_gradients(
    batch_size: int, device: str
) -> None:
    model = MLP(6, (5,), 3).to(device).train()
    found = fisher_information(model, (X, Y), labels="data", batch_size=batch_size)
    assert model.training
    assert list(found) == list(model.state_dict())
    for name, expected in one_by_one(model, X.to(device), Y.to(device)).items():
        assert found[name].device.type == device
        assert torch.allclose(found[name], expected, rtol=1e-4, atol=1e-8)


def test_convolutions_and_batch_norm_are_differentiated_with_fixed_statistics() -> None:
    model, x = vgg(), torch.randn(6, 3, 32, 32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = fisher_information(model, (x, Y[:6]), labels="data")
    for name, expected in one_by_one(model, x, Y[:6]).items():
        assert torch.allclose(found[name], expected, rtol=1e-3, atol=1e-7)
    assert not any(found[name].any() for name in found if "running" in name)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_labels_of_the_model_are_drawn_from_what_it_predicts() -> None:
    model, x = nn.Linear(6, 3), X[:1].expand(4000, 6)
    found = fisher_information(model, (x, torch.zeros(4000)), batch_size=500)
    p = model(X[:1]).softmax(1)[0]
    # Over labels, the mean of (p - label)^2 is that of a Bernoulli variable.
    assert torch.allclose(found["bias"], p * (1 - p), rtol=0.1)
    assert torch.allclose(found["weight"], (p * (1 - p))[:, None] * X[0].square(), rtol=0.1)
    again = fisher_information(model, (x, torch.zeros(4000)), batch_size=500)
    other = fisher_information(model, (x, torch.zeros(4000)), batch_size=500, seed=1)
    assert torch.equal(found["bias"], again["bias"])
    assert not torch.equal(found["bias"], other["bias"])


def test_log_probabilities_count_as_logits() -> None:
    model = nn.Linear(6, 3)
    first = fisher_information(nn.Sequential(model), (X, Y), labels="data")
    second = fisher_information(nn.Sequential(model, nn.LogSoftmax(1)), (X, Y), labels="data")
    assert all(torch.allclose(first[name], second[name], atol=1e-7) for name in first)


def test_two_sources_weigh_the_same() -> None:
    model = MLP(6, (5,), 3)
    parts = [(X[:24], Y[:24]), (X[24:], Y[24:])]
    both = fisher_information(model, tuple(parts), labels="data", batch_size=9)
    alone = [fisher_information(model, part, labels="data") for part in parts]
    for name, tensor in both.items():
        assert torch.allclose(tensor, (alone[0][name] + alone[1][name]) / 2, rtol=1e-4, atol=1e-8)


def test_so_many_examples_are_drawn() -> None:
    x = torch.diag(torch.arange(1.0, 31))  # what is drawn leaves a mark of its own
    found = fisher_information(nn.Linear(30, 3), (x, Y), max_examples=7, batch_size=2)
    assert found["weight"].any(0).sum() == 7


class Branch(nn.Module):
    """A model whose path depends on the values that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (self.one if x.sum() > 0 else self.two)(x)
        return out


def test_models_that_cannot_be_mapped_run_example_by_example() -> None:
    model = Branch()
    found = fisher_information(model, (X, Y), labels="data")
    expected = one_by_one(model, X, Y)
    assert all(tensor.any() for tensor in expected.values())
    assert all(torch.allclose(found[name], expected[name], rtol=1e-4) for name in expected)


def test_tied_weights_have_the_information_of_both_uses() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    model[4].weight = model[2].weight
    found = fisher_information(model, (X, Y), labels="data")
    assert torch.equal(found["2.weight"], found["4.weight"])
    assert torch.allclose(found["2.weight"], one_by_one(model, X, Y)["2.weight"], rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_narrow_models_are_squared_in_wide_numbers(dtype: torch.dtype) -> None:
    model = MLP(6, (5,), 3).to(dtype)
    found = fisher_information(model, (X, Y), labels="data")
    expected = one_by_one(model.to(torch.promote_types(dtype, torch.float32)), X.to(
        torch.promote_types(dtype, torch.float32)), Y)  # fmt: skip
    for name, tensor in expected.items():
        assert found[name].dtype == torch.promote_types(dtype, torch.float32)
        assert torch.allclose(found[name], tensor, rtol=1e-4)


def test_information_permutes_as_the_model_does() -> None:
    model, x = vgg(), torch.randn(8, 3, 32, 32)
    params = model.state_dict()
    spec = architectures.vgg().bind(params)
    permutation = spec.random_permutation(1)
    data = x, Y[:8]
    moved = fr.apply_permutation(spec, permutation, fisher_information(model, data, seed=3))
    model.load_state_dict(fr.apply_permutation(spec, permutation, params))
    for name, tensor in fisher_information(model, data, seed=3).items():
        assert torch.allclose(tensor, moved[name], rtol=1e-3, atol=1e-7)


def information(params: Params) -> Params:
    return {name: torch.rand(t.shape, dtype=torch.float64) for name, t in params.items()}


def test_the_mean_minimises_both_quadratic_approximations(device: str) -> None:
    a, b, fisher_a, fisher_b = (
        {"w": torch.rand(40, dtype=torch.float64).to(device)} for _ in range(4)
    )
    for weight in (0.0, 0.3, 0.5, 1.0):
        merged = fisher_mean(a, b, fisher_a, fisher_b, weight)["w"].requires_grad_()
        pull_a = (1 - weight) * fisher_a["w"] * (merged - a["w"]).square()
        pull_b = weight * fisher_b["w"] * (merged - b["w"]).square()
        (slope,) = torch.autograd.grad((pull_a + pull_b).sum(), merged)
        assert slope.abs().max() < 1e-12
        assert merged.device.type == device


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_model_and_its_copy_give_the_model(dtype: torch.dtype) -> None:
    a = vgg().to(dtype).state_dict()
    merged = fisher_mean(a, a, information(a), information(a), 0.3)
    assert all(torch.equal(tensor, a[name]) for name, tensor in merged.items())
    assert all(tensor.dtype == a[name].dtype for name, tensor in merged.items())


def test_what_no_example_touches_is_interpolated() -> None:
    a, b = vgg().state_dict(), vgg().state_dict()
    fisher_a, fisher_b = information(a), information(b)
    for fisher in (fisher_a, fisher_b):
        fisher["classifier.weight"][:, 0] = 0
        for name in fisher:
            if "running" in name:
                fisher[name].zero_()
    fisher_b["classifier.weight"][:, 1] = 0
    merged, mean = fisher_mean(a, b, fisher_a, fisher_b, 0.3), interpolate(a, b, 0.3)
    column = merged["classifier.weight"]
    assert torch.allclose(column[:, 0], mean["classifier.weight"][:, 0], atol=1e-6)
    assert torch.allclose(column[:, 1], a["classifier.weight"][:, 1], atol=1e-3)
    for name in merged:
        if "running" in name or "tracked" in name:
            assert torch.allclose(merged[name], mean[name], atol=1e-6)
    nothing = {name: torch.zeros(tensor.shape) for name, tensor in a.items()}
    for name, tensor in fisher_mean(a, b, nothing, nothing, 0.3).items():
        assert torch.allclose(tensor, mean[name], atol=1e-6)


def test_what_does_not_fit_is_named() -> None:
    a = {"w": torch.ones(2)}
    with pytest.raises(ValueError, match=r"w is only in A; v is only in fisher_b; weight must be"):
        fisher_mean(a, a, a, {"v": torch.ones(2)}, 2)
    with pytest.raises(ValueError, match=r"floor must be positive.*w of fisher_a must not be neg"):
        fisher_mean(a, a, {"w": -torch.ones(2)}, a, floor=0)
    with pytest.raises(ValueError, match="not: w of B, w of fisher_a"):
        fisher_mean(a, {"w": torch.tensor([math.nan, 1])}, {"w": torch.tensor([math.inf, 1])}, a)
    model = MLP(6, (5,), 3)
    with pytest.raises(ValueError, match=r"labels must be.*batch_size must.*max_examples must"):
        fisher_information(model, (X, Y), labels="magic", batch_size=0, max_examples=0)
    with pytest.raises(ValueError, match=r"integer labels .* below 3, got .* from 0 to 3"):
        fisher_information(model, (X, torch.arange(30) % 4), labels="data")
    with pytest.raises(ValueError, match=r"must return logits \(batch, classes\), got \(30,\)"):
        fisher_information(nn.Flatten(0), (X[:, 0], Y))
    with torch.no_grad():
        model.get_parameter("layer0.bias")[0] = math.nan
    with pytest.raises(ValueError, match=r"not: layer0\.bias of model"):
        fisher_information(model, (X, Y))
