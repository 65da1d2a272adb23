"""Vectors that stand for the examples of one class: features, or gradients of the last layer.

The gradient of the cross-entropy in the last layer's weights and bias is the outer product of two
short vectors, error and [feature, 1]. Inner products and sums of such gradients follow from the two
factors; the outer products, of (classes x features) numbers each, are never formed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastrebasin.reduction.coreset.candidates import Candidates

__all__ = ["KINDS", "LastLayer", "Vectors", "last_layer", "vectors_of"]

KINDS = ("auto", "gradients", "features")
_ROWS = 4096  # converted to float64 at a time

Index = Tensor | slice


@dataclass(frozen=True)
class Vectors:
    """Vectors known by their inner products: rows of `right`, or `left[i]` (x) `right[i]`.

    Attributes:
        right: (n, d), at least float32.
        left: (n, c), of the same dtype on the same device; None for rows of `right` alone.

    Example:
        >>> two = Vectors(torch.eye(2), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> two.products(torch.arange(2), slice(None)).tolist(), two.against(torch.ones(2)).tolist()
        ([[5.0, 0.0], [0.0, 25.0]], [5.0, 25.0])
    """

    right: Tensor
    left: Tensor | None = None

    def __len__(self) -> int:
        return len(self.right)

    def products(self, rows: Tensor, columns: Index) -> Tensor:
        """Return the inner products of some with some others, (rows, columns)."""
        inner = self.right[rows] @ self.right[columns].T
        return inner if self.left is None else inner.mul_(self.left[rows] @ self.left[columns].T)

    def squares(self) -> Tensor:
        """Return the squared norms, (n,)."""
        norms = self.right.square().sum(1)
        return norms if self.left is None else norms * self.left.square().sum(1)

    def against(self, weights: Tensor) -> Tensor:
        """Return every vector's inner product with the weighted sum of all, float64 (n,).

        Args:
            weights: (n,); vectors of weight 0 cost nothing in the sum.
        """
        used = weights.nonzero().flatten().to(self.right.device)
        weights = weights.to(self.right.device, torch.float64)
        total = torch.zeros((), dtype=torch.float64, device=self.right.device)
        for part in used.split(_ROWS):
            left, right = self._factors(part)
            total = total + (left * weights[part, None]).T @ right
        every = torch.arange(len(self), device=self.right.device).split(_ROWS)
        factors = (self._factors(part) for part in every)
        return torch.cat([(left @ total * right).sum(1) for left, right in factors])

    def unit(self) -> Vectors:
        """Return them at length 1; zero stays zero."""
        return Vectors(_unit(self.right), None if self.left is None else _unit(self.left))

    def _factors(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        right = self.right[rows].double()
        return right.new_ones(len(right), 1) if self.left is None else self.left[
            rows
        ].double(), right


@dataclass(frozen=True)
class LastLayer:
    """What the last layer sees and says of the examples of one class.

    Attributes:
        inputs: float64 (n, d + 1), features and a one for the bias.
        logits: float64 (n, classes).
        target: the class's place among the logits.
    """

    inputs: Tensor
    logits: Tensor
    target: int

    def errors(self, logits: Tensor | None = None) -> Tensor:
        """Return the loss's gradient in the logits: these, or others that came of a step."""
        errors = (self.logits if logits is None else logits).softmax(1)
        errors[:, self.target] -= 1
        return errors

    def gradients(self) -> Vectors:
        """Return the gradients of the loss in weights and bias."""
        return Vectors(self.inputs, self.errors())


def last_layer(candidates: Candidates, members: Tensor) -> LastLayer:
    """Return what the last layer makes of one class.

    Without a model it is an untrained linear layer on the features, which finds all classes that
    occur, and at least two, equally likely. All members then have the same error.

    Args:
        candidates: all examples, of all classes.
        members: int64 indices of the class's, at least one.

    Raises:
        ValueError: the model knows no such class.

    Example:
        >>> seen = Candidates((torch.tensor([[3.0], [4.0]]), torch.tensor([5, 7])))
        >>> layer = last_layer(seen, torch.tensor([1]))
        >>> layer.inputs.tolist(), layer.errors().tolist()
        ([[4.0, 1.0]], [[0.5, -0.5]])
    """
    features, label = candidates.features[members], int(candidates.labels[members[0]])
    features = features.double()
    inputs = torch.cat([features, features.new_ones(len(features), 1)], 1)
    if candidates.model is None:
        known = candidates.labels.unique()
        logits = features.new_zeros(len(features), max(2, len(known)))
        return LastLayer(inputs, logits, int((known < label).sum()))
    logits = candidates.logits[members].double()
    if not 0 <= label < logits.shape[1]:
        raise ValueError(
            f"labels must be in [0, {logits.shape[1]}), which the model tells apart, got {label}"
        )
    return LastLayer(inputs, logits, label)


def vectors_of(candidates: Candidates, members: Tensor, kind: str) -> Vectors:
    """Return features or gradients of one class, in the features' dtype.

    Args:
        candidates: all examples, of all classes.
        members: int64 indices of the class's, at least one.
        kind: of `KINDS`; "auto" is gradients with a model, and features without.
    """
    if kind == "auto":
        kind = "features" if candidates.model is None else "gradients"
    if kind == "features":
        return Vectors(candidates.features[members])
    layer, dtype = last_layer(candidates, members), candidates.features.dtype
    return Vectors(layer.inputs.to(dtype), layer.errors().to(dtype))


def _unit(rows: Tensor) -> Tensor:
    """Return rows of length 1; the largest entry comes out first, lest squares overflow."""
    largest = rows.abs().amax(1, keepdim=True)
    rows = rows / largest.where(largest > 0, 1)
    return rows / rows.square().sum(1, keepdim=True).sqrt().clamp(min=1)
