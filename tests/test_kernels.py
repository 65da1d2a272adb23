"""Kernels of infinitely wide networks, against wide random ones."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.func import jacrev

from fastrebasin.reduction.condensation import NetworkKernel, nngp_kernel, ntk_kernel

WEIGHTS, BIASES = 1.7, 0.3


def wide_network(params: dict[str, Tensor], x: Tensor) -> Tensor:
    """Return the outputs (n,) of a network in NTK parametrisation."""
    depth = len(params) // 2
    for k in range(depth):
        weight, bias = params[f"w{k}"], params[f"b{k}"]
        x = torch.relu(x) if k else x
        x = math.sqrt(WEIGHTS / weight.shape[1]) * x @ weight.T + math.sqrt(BIASES) * bias
    return x[:, 0]


def options(depth: int) -> dict[str, float]:
    return {"depth": depth, "weight_variance": WEIGHTS, "bias_variance": BIASES}


def examples(device: str = "cpu") -> tuple[Tensor, Tensor]:
    return torch.randn(4, 3, device=device), 2 * torch.rand(6, 3, device=device)


@pytest.mark.parametrize("depth", [1, 3])
def test_nngp_is_the_covariance_of_random_networks(depth: int) -> None:
    x, count, width = torch.randn(5, 3), 2000, 100
    signals = x.expand(count, -1, -1)
    for k in range(depth + 1):  # all networks at once; the last layer has one unit
        fan_in, fan_out = signals.shape[2], 1 if k == depth else width
        signals = torch.relu(signals) if k else signals
        weights = torch.randn(count, fan_in, fan_out) * math.sqrt(WEIGHTS / fan_in)
        signals = signals @ weights + math.sqrt(BIASES) * torch.randn(count, 1, fan_out)
    found = (signals[..., 0].T @ signals[..., 0] / count).double()
    expected = nngp_kernel(x, x, **options(depth))  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, atol=0.1 * float(expected.max()), rtol=0)
    assert (found - expected).norm() < 0.06 * expected.norm()


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_ntk_is_the_product_of_gradients_of_wide_networks(depth: int) -> None:
    x, draws = torch.randn(4, 3), 6
    found = torch.zeros(4, 4)
    sizes = [3, *[1000] * depth, 1]
    for _ in range(draws):
        params = {}
        for k in range(depth + 1):
            params[f"w{k}"] = torch.randn(sizes[k + 1], sizes[k])
            params[f"b{k}"] = torch.randn(sizes[k + 1])
        gradients = jacrev(wide_network)(params, x)
        found += sum(g.flatten(1) @ g.flatten(1).T for g in gradients.values()) / draws
    expected = ntk_kernel(x, x, **options(depth)).float()  # type: ignore[arg-type]
    assert (found - expected).norm() < 0.08 * expected.norm()


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("depth", [0, 1, 5])
def test_is_a_kernel(kind: str, depth: int, device: str) -> None:
    kernel = NetworkKernel(kind, depth, WEIGHTS, BIASES)
    x, y = examples(device)
    both = torch.cat([x, y])
    whole = kernel(both, both)
    assert whole.dtype == torch.float64
    assert whole.device == x.device
    torch.testing.assert_close(whole, whole.T)
    assert torch.linalg.eigvalsh(whole).min() > -1e-9
    torch.testing.assert_close(whole[:4, 4:], kernel(x, y))


@pytest.mark.parametrize("kernel", [nngp_kernel, ntk_kernel])
def test_without_hidden_layers_is_linear(kernel: object) -> None:
    x, y = (t.double() for t in examples())
    assert callable(kernel)
    torch.testing.assert_close(kernel(x, y, **options(0)), WEIGHTS * x @ y.T / 3 + BIASES)


def test_he_variance_keeps_the_scale() -> None:
    x = torch.randn(5, 8)
    squares = nngp_kernel(x, x, depth=7, weight_variance=2.0, bias_variance=0.0).diagonal()
    torch.testing.assert_close(squares, 2 * x.double().square().mean(1))


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("biases", [0.0, 0.3])
def test_gradient_is_finite_at_equal_opposite_and_zero_examples(kind: str, biases: float) -> None:
    x = torch.tensor([[1.0, 2, 3], [1, 2, 3], [-1, -2, -3], [0, 0, 0], [1e-20, 0, 0], [3, 1, 2]])
    x = x.double().requires_grad_()
    kernel = NetworkKernel(kind, 3, 2.0, biases)
    values = kernel(x, x)
    (gradient,) = torch.autograd.grad(values.sum(), x)
    assert torch.isfinite(values).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_gradient_is_the_slope(kind: str) -> None:
    kernel = NetworkKernel(kind, 3)
    x, y = (t.double().requires_grad_() for t in examples())
    assert torch.autograd.gradcheck(kernel, (x, y))
    # Each example with itself is smooth too.
    assert torch.autograd.gradcheck(lambda t: kernel(t, t).diagonal(), x, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32])
def test_takes_images_of_any_dtype(dtype: torch.dtype) -> None:
    images = (9 * torch.rand(5, 2, 4, 4)).to(dtype)
    expected = ntk_kernel(images.double().flatten(1), images.double().flatten(1))
    assert torch.equal(ntk_kernel(images, images.flatten(1)), expected)


def test_product_goes_by_blocks() -> None:
    kernel, (x, y), coefficients = NetworkKernel(), examples(), torch.randn(6, 2)
    whole = kernel(x, y) @ coefficients.double()
    for size in (1, 3, 100):
        found = kernel.product(x, y, coefficients, block_size=size)
        torch.testing.assert_close(found, whole)
    assert kernel.product(x[:0], y, coefficients).shape == (0, 2)


def test_errors_name_everything_wrong() -> None:
    wrong = r"one of nngp, ntk, got 'rbf'; depth .* -1; weight_variance .* 0; bias_variance .* -2"
    with pytest.raises(ValueError, match=wrong):
        NetworkKernel("rbf", -1, 0, -2)
    with pytest.raises(ValueError, match=r"of one size, got \(2, 3\) and \(2, 4\)"):
        ntk_kernel(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="of one size"):
        ntk_kernel(torch.zeros(2, 0), torch.zeros(2, 0))
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        NetworkKernel().product(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2), block_size=0)
