"""Kernels of infinitely wide, fully connected ReLU networks, in closed form.

A layer is x -> sqrt(weight_variance / fan_in) W x + sqrt(bias_variance) b with W and b standard
normal. Where all hidden layers are infinitely wide, random networks are a Gaussian process, whose
covariance is the NNGP kernel (Lee et al., "Deep neural networks as Gaussian processes", ICLR 2018);
gradient descent on all layers is kernel regression with the neural tangent kernel (Jacot et al.,
"Neural tangent kernel", NeurIPS 2018). Expectations over a ReLU are the arc-cosine kernels of Cho
and Saul, "Kernel methods for deep learning", NeurIPS 2009. Everything is float64 inside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["KERNELS", "NetworkKernel", "nngp_kernel", "ntk_kernel"]

_PARALLEL = 1e-14  # cosines so near to 1 belong to equal examples, but for rounding


def nngp_kernel(
    x: Tensor,
    y: Tensor,
    *,
    depth: int = 1,
    weight_variance: float = 2.0,
    bias_variance: float = 0.01,
) -> Tensor:
    """Return the covariance of an infinitely wide random network's outputs at x and at y.

    Args:
        x: (n, ...), any real dtype; each example is flattened.
        y: (m, ...), as long when flattened, on the device of x.
        depth: hidden layers; without any the kernel is the linear one.
        weight_variance: of the weights, times fan-in; 2 keeps activations at the inputs' scale.
        bias_variance: of the biases.

    Returns:
        float64 (n, m), differentiable in x and y, also where two examples are equal or zero.

    Raises:
        ValueError: shapes don't fit, or an option is out of range.

    Example:
        >>> x = torch.eye(2)
        >>> nngp_kernel(x, x, depth=0, weight_variance=2.0, bias_variance=0.0).tolist()
        [[1.0, 0.0], [0.0, 1.0]]

    Source: Lee et al., ICLR 2018, equations 5 and 11; Cho and Saul, NeurIPS 2009, equation 6.
    """
    return NetworkKernel("nngp", depth, weight_variance, bias_variance)(x, y)


def ntk_kernel(
    x: Tensor,
    y: Tensor,
    *,
    depth: int = 1,
    weight_variance: float = 2.0,
    bias_variance: float = 0.01,
) -> Tensor:
    """Return the inner products of an infinitely wide network's gradients at x and at y.

    Gradients are those of its output in all parameters W and b.

    Args:
        x: (n, ...), any real dtype; each example is flattened.
        y: (m, ...), as long when flattened, on the device of x.
        depth: hidden layers; without any the kernel is the linear one.
        weight_variance: of the weights, times fan-in.
        bias_variance: of the biases.

    Returns:
        float64 (n, m), differentiable in x and y; where two examples are equal, the kernel has an
        edge, and the gradient is that of its middle.

    Raises:
        ValueError: shapes don't fit, or an option is out of range.

    Example:
        >>> x = torch.eye(2)
        >>> ntk_kernel(x, x, weight_variance=2.0, bias_variance=0.0).diagonal().tolist()
        [2.0, 2.0]

    Source: Jacot et al., NeurIPS 2018, theorem 1.
    """
    return NetworkKernel("ntk", depth, weight_variance, bias_variance)(x, y)


@dataclass(frozen=True)
class NetworkKernel:
    """A kernel with its options, as a function of two batches.

    Attributes:
        kind: "nngp" or "ntk".
        depth: hidden layers.
        weight_variance: of the weights, times fan-in.
        bias_variance: of the biases.

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> kernel = NetworkKernel("ntk", depth=2)
        >>> x, y = torch.randn(5, 3), torch.randn(7, 3)
        >>> kernel(x, y).shape, kernel.product(x, y, torch.ones(7, 2), block_size=2).shape
        (torch.Size([5, 7]), torch.Size([5, 2]))
    """

    kind: str = "ntk"
    depth: int = 1
    weight_variance: float = 2.0
    bias_variance: float = 0.01

    def __post_init__(self) -> None:
        problems = []
        if self.kind not in KERNELS:
            problems.append(f"kernel must be one of {', '.join(KERNELS)}, got {self.kind!r}")
        if self.depth < 0:
            problems.append(f"depth must not be negative, got {self.depth}")
        if not 0 < self.weight_variance < math.inf:
            problems.append(
                f"weight_variance must be positive and finite, got {self.weight_variance}"
            )
        if not 0 <= self.bias_variance < math.inf:
            problems.append(
                f"bias_variance must be finite and not negative, got {self.bias_variance}"
            )
        if problems:
            raise ValueError("; ".join(problems))

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the kernel of every example of x with every one of y, float64 (n, m)."""
        x, y = _flat(x, y)
        weights, biases = self.weight_variance, self.bias_variance
        scale = weights / x.shape[1]
        kernel = scale * (x @ y.T) + biases
        squares_x, squares_y = (scale * t.square().sum(1) + biases for t in (x, y))
        tangent = kernel
        for _ in range(self.depth):
            ramps, steps = _expectations(kernel, squares_x, squares_y)
            kernel = weights * ramps + biases
            squares_x, squares_y = (weights * t / 2 + biases for t in (squares_x, squares_y))
            if self.kind == "ntk":
                tangent = kernel + weights * steps * tangent
        return tangent if self.kind == "ntk" else kernel

    def product(
        self, x: Tensor, y: Tensor, coefficients: Tensor, *, block_size: int = 1000
    ) -> Tensor:
        """Return kernel(x, y) times coefficients (m, k), with so many rows of it at a time."""
        if block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {block_size}")
        coefficients = coefficients.double()
        return torch.cat([self(block, y) @ coefficients for block in x.split(block_size)])


KERNELS = ("nngp", "ntk")
"""The kinds of kernels."""


def _flat(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    shapes = f"got {tuple(x.shape)} and {tuple(y.shape)}"
    sizes = {t.shape[1:].numel() if t.ndim > 1 else 0 for t in (x, y)}
    if len(sizes) > 1 or 0 in sizes:
        raise ValueError(f"x and y must be examples (n, ...) and (m, ...) of one size, {shapes}")
    size = sizes.pop()
    return x.double().reshape(-1, size), y.double().reshape(-1, size)


def _expectations(kernel: Tensor, squares_x: Tensor, squares_y: Tensor) -> tuple[Tensor, Tensor]:
    """Return E[relu(u) relu(v)] and E[relu'(u) relu'(v)] for u, v normal with these covariances.

    The derivatives of arccos and of the square root are infinite at parallel examples and at zero,
    where they meet factors of zero; there the operands are replaced by constants.
    """
    norms = _root(squares_x)[:, None] * _root(squares_y)
    cosine = kernel / torch.where(norms > 0, norms, 1.0)
    oblique = cosine.abs() < 1 - _PARALLEL
    inner = torch.where(oblique, cosine, 0.0)
    angle = torch.where(oblique, inner.arccos(), torch.where(cosine < 0, math.pi, 0.0))
    sine = torch.where(oblique, (1 - inner.square()).sqrt(), 0.0)
    ramps = norms * (sine + (math.pi - angle) * cosine.clamp(-1, 1)) / (2 * math.pi)
    return ramps, (math.pi - angle) / (2 * math.pi)


def _root(squares: Tensor) -> Tensor:
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), squares)
