"""Sinkhorn matching: soft permutations against their definition, hard ones against a plant."""

from __future__ import annotations

import pytest
import torch
from search_problems import assert_same, problem, search
from torch import Tensor, nn
from torch.nn import functional

from fastrebasin import (
    PermutationSpec,
    apply_permutation,
    architectures,
    evaluate,
    interpolate,
    invert,
    merge,
    sinkhorn_matching,
    trace,
    weight_matching,
)
from fastrebasin.experiments.models import MLP, resnet20
from fastrebasin.matching.soft import mix_units, soft_permutation


def unrolled(logits: Tensor, iterations: int) -> Tensor:
    """Balance by plain operations that autograd follows."""
    for _ in range(iterations):
        logits = logits - logits.logsumexp(1, keepdim=True)
        logits = logits - logits.logsumexp(0, keepdim=True)
    return logits.exp()


@pytest.mark.parametrize("spread", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_soft_permutations_are_doubly_stochastic(spread: float, dtype: torch.dtype) -> None:
    logits = spread * torch.randn(40, 40, dtype=dtype)
    soft, potential = soft_permutation(logits, torch.zeros(40, dtype=dtype), 10000)
    tolerance = 2 * torch.finfo(dtype).eps ** 0.5
    assert (soft >= 0).all()
    assert torch.allclose(soft.sum(0), torch.ones(40, dtype=dtype), atol=tolerance)
    assert torch.allclose(soft.sum(1), torch.ones(40, dtype=dtype), atol=tolerance)
    again, _ = soft_permutation(logits, potential, 2)  # from there it is a step or two
    assert torch.allclose(again, soft, atol=tolerance)


def test_extreme_logits_give_the_hard_permutation() -> None:
    permutation = torch.randperm(50)
    logits = torch.zeros(50, 50)
    logits[torch.arange(50), permutation] = 1e4
    soft, _ = soft_permutation(logits.requires_grad_(), torch.zeros(50), 20)
    assert torch.equal(soft, torch.eye(50)[permutation])
    (gradient,) = torch.autograd.grad((soft * torch.randn(50, 50)).sum(), logits)
    assert torch.allclose(gradient, torch.zeros(50, 50), atol=1e-5)


@pytest.mark.parametrize("spread", [0.3, 2.0])
def test_the_gradient_is_that_of_the_unrolled_iteration(spread: float) -> None:
    logits = (spread * torch.randn(12, 12, dtype=torch.float64)).requires_grad_()
    direction = torch.randn(12, 12, dtype=torch.float64)
    soft, _ = soft_permutation(logits, torch.zeros(12, dtype=torch.float64), 100000)
    expected = unrolled(logits, 5000)
    assert torch.allclose(soft, expected, atol=1e-7)
    (found,) = torch.autograd.grad((soft**2 * direction).sum(), logits)
    (wanted,) = torch.autograd.grad((expected**2 * direction).sum(), logits)
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-7)


def test_the_gradient_is_exact_for_the_sums_that_were_reached() -> None:
    """Scale rows and columns to the sums of an unfinished balancing: differences of that."""
    logits = 2 * torch.randn(6, 6, dtype=torch.float64)
    soft, _ = soft_permutation(logits.requires_grad_(), torch.zeros(6, dtype=torch.float64), 1)
    rows, columns = soft.detach().sum(1), soft.detach().sum(0)
    assert (rows - 1).abs().max() > 1e-2
    direction = torch.randn(6, 6, dtype=torch.float64)
    (found,) = torch.autograd.grad((soft * direction).sum(), logits)

    def balanced(changed: Tensor) -> Tensor:  # (36, 6, 6), every entry changed in one of them
        for _ in range(1000):
            changed = changed - changed.logsumexp(2, keepdim=True) + rows.log()[:, None]
            changed = changed - changed.logsumexp(1, keepdim=True) + columns.log()
        return (changed.exp() * direction).sum((1, 2))

    step = 1e-5
    changes = step * torch.eye(36, dtype=torch.float64).reshape(36, 6, 6)
    differences = balanced(logits.detach() + changes) - balanced(logits.detach() - changes)
    wanted = (differences / (2 * step)).reshape(6, 6)
    assert torch.allclose(found, wanted, atol=1e-8)


def test_hard_matrices_mix_units_as_permutations_move_them() -> None:
    params = {"w": torch.randn(12, 9, 2), "v": torch.randn(7), "fixed": torch.randn(3)}
    axes = {"w": ("P*2 + Q", "Q + P + Q", None), "v": ("3 + P",)}
    spec = PermutationSpec.from_axes(axes | {"fixed": (None,)}, sizes={"P": 4}).bind(
        params | {"w": torch.randn(10, 8, 2)}
    )
    params["w"] = params["w"][:10, :8]
    permutation = spec.random_permutation(2)
    hard = {group: torch.eye(len(p))[p] for group, p in permutation.items()}
    moved = apply_permutation(spec, permutation, params)
    for name, tensor in params.items():
        assert torch.equal(mix_units(tensor, spec, name, hard), moved[name])
    soft = [torch.rand(n, n, dtype=torch.float64, requires_grad=True) for n in (4, 2)]

    def mixed(p: Tensor, q: Tensor) -> Tensor:
        return mix_units(params["w"].double(), spec, "w", {"P": p, "Q": q})

    assert torch.autograd.gradcheck(mixed, soft)


class Joined(nn.Module):
    """Two convolutions side by side, flattened, with some of the input behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 6, 3), nn.Conv2d(1, 5, 3)
        self.hidden, self.out = nn.Linear(11 * 9 + 4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.cat([self.left(x).relu(), self.right(x).relu()], 1)
        known = torch.cat([maps.flatten(1), x.flatten(1)[:, :4]], 1)
        logits: Tensor = self.out(self.hidden(known).relu())
        return logits


def test_blocks_and_concatenations_are_descended_on() -> None:
    torch.manual_seed(2)
    a, b, x = Joined(), Joined(), torch.randn(50, 1, 5, 5)
    data = (x, (x[:, 0, 0, 0] > 0).long() + (x[:, 0, 1, 1] > 0).long())
    spec = trace(a, x[:4])
    assert spec.axes["hidden.weight"] == ("P2", "P0*9 + P1*9 + 4")
    found = sinkhorn_matching(spec, a, b, data, epochs=40, progress=False)
    assert found.losses[-1] < found.losses[0]


def trained(model: nn.Module, data: tuple[Tensor, Tensor], steps: int = 150) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(model(data[0]), data[1]).backward()
        optimizer.step()
    return model


def planted(
    spec: PermutationSpec, a: nn.Module, b: nn.Module
) -> tuple[PermutationSpec, dict[str, Tensor]]:
    """Make B a scrambled A, and return what unscrambles it."""
    spec = spec.bind(a.state_dict())
    answer = spec.random_permutation(1)
    b.load_state_dict(apply_permutation(spec, invert(answer), a.state_dict()))
    return spec, answer


def test_a_planted_permutation_of_an_mlp_is_found_from_the_identity() -> None:
    x = torch.randn(300, 8)
    data = (x, x[:, :4].argmax(1))
    a, b = trained(MLP(8, (12, 12), 4), data), MLP(8, (12, 12), 4)
    spec, answer = planted(architectures.mlp(2), a, b)
    found = sinkhorn_matching(
        spec, a, b, data, epochs=150, init="identity", match_every=5, lr=0.3, progress=False
    )
    merged = MLP(8, (12, 12), 4)
    moved = apply_permutation(spec, found.permutation, b.state_dict())
    merged.load_state_dict(interpolate(a.state_dict(), moved))
    own = evaluate(a, data).mixture.loss
    share = torch.cat([found.permutation[g] == answer[g] for g in answer]).float().mean()
    assert evaluate(merged, data).mixture.loss < own + 0.05
    assert share > 0.9


def test_a_planted_permutation_of_a_convolution_is_found() -> None:
    data = (torch.randn(12, 3, 8, 8), torch.arange(12) % 10)
    a, b = resnet20(), resnet20()
    spec, answer = planted(architectures.resnet(), a, b)
    found = sinkhorn_matching(spec, a, b, data, epochs=2, progress=False)
    assert all(torch.equal(found.permutation[g], p) for g, p in answer.items())


@pytest.mark.parametrize("init", ["identity", "weights"])
def test_the_result_is_never_worse_than_the_start(init: str) -> None:
    spec, a, b, data = problem()
    found = search((spec, a, b, data), sinkhorn_matching, init=init, select="surrogate")
    params_a, params_b = a.state_dict(), b.state_dict()
    if init == "weights":
        start = weight_matching(spec, params_a, params_b).permutation
        params_b = apply_permutation(spec, start, params_b)
    losses = []
    moved = apply_permutation(spec, found.permutation, b.state_dict())
    for aligned in (moved, params_b):
        merged = MLP(6, (16, 16), 3)
        merged.load_state_dict(interpolate(params_a, aligned))
        losses.append(evaluate(merged, data).mixture.loss)
    assert losses[0] <= losses[1] + 1e-6


def test_the_soft_loss_falls_and_the_models_stay() -> None:
    spec, a, b, data = problem()
    before = [{n: t.clone() for n, t in m.state_dict().items()} for m in (a, b)]
    found = search((spec, a, b, data), sinkhorn_matching, epochs=30, batch_size=60)
    assert found.losses[-1] < found.losses[0] - 0.05
    assert found.sweeps == 4  # steps 0, 10, 20 and the last
    for state, model in zip(before, (a, b), strict=True):
        assert all(p.grad is None for p in model.parameters())
        assert all(torch.equal(state[n], t) for n, t in model.state_dict().items())
    assert_same(found, search((spec, a, b, data), sinkhorn_matching, epochs=30, batch_size=60))


def test_merging_takes_it_as_a_way_to_align() -> None:
    spec, a, b, data = problem()
    result = merge(a, b, data, align="sinkhorn", spec=spec, progress=False)
    expected = sinkhorn_matching(spec, a, b, data, progress=False).permutation
    assert all(torch.equal(result.permutation[g], p) for g, p in expected.items())
    with pytest.raises(ValueError, match='align="sinkhorn" needs data'):
        merge(a, b, align="sinkhorn", spec=spec)


def test_what_it_cannot_take_is_named() -> None:
    spec, a, b, data = problem()
    with pytest.raises(ValueError, match=r"lr must be.*temperature must be.*iterations must be"):
        search((spec, a, b, data), sinkhorn_matching, lr=0, temperature=-1.0, iterations=0)
    with pytest.raises(ValueError, match="init must be"):
        search((spec, a, b, data), sinkhorn_matching, init="guess")
    with pytest.raises(ValueError, match="group 'P1' is missing"):
        search((spec, a, b, data), sinkhorn_matching, init={"P0": torch.arange(16)})
    nested = PermutationSpec.from_axes(
        {"layer0.weight": ("H*U", None), "layer0.bias": ("H*U",), "layer1.weight": (None, "H*U")},
        within={"U": ("H",)}, sizes={"H": 4, "U": 16},
    )  # fmt: skip
    with pytest.raises(ValueError, match="needs flat groups, but these lie inside others: 'U'"):
        search((nested, a, b, data), sinkhorn_matching)
