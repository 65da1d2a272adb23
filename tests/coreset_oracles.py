"""Greedy selection spelled out: whole matrices, whole gradients, every example in every step."""

from __future__ import annotations

import torch
from torch import Tensor

COUNT = 60


def examples() -> tuple[Tensor, Tensor]:
    labels = torch.arange(COUNT) % 2
    noise = torch.randn(COUNT, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return noise + labels[:, None], labels


def gradients(model: torch.nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return every example's gradient in the last layer's weights and bias, by autograd."""
    last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    rows = []
    for one, label in zip(x, y, strict=True):
        loss = torch.nn.functional.cross_entropy(model(one[None]), label[None])
        weight, bias = torch.autograd.grad(loss, [last.weight, last.bias])
        rows.append(torch.cat([weight, bias[:, None]], 1).flatten())
    return torch.stack(rows)


def cosine(vectors: Tensor) -> Tensor:
    norms = vectors.norm(dim=1, keepdim=True)
    unit = torch.where(norms > 0, vectors / norms, torch.zeros(()).double())
    return 0.5 + 0.5 * unit @ unit.T


def value(kind: str, K: Tensor, chosen: list[int], lam: float = 1.0) -> float:
    if kind == "facility":
        return float(K[chosen].amax(0).sum()) if chosen else 0.0
    inside = K[chosen][:, chosen]
    return float(lam * K[chosen].sum() - inside.sum())


def greedy(kind: str, K: Tensor, count: int, lam: float = 1.0) -> tuple[list[int], list[float]]:
    """Try every example in every step; the first of the best is chosen."""
    chosen: list[int] = []
    gains: list[float] = []
    for _ in range(count):
        before = value(kind, K, chosen, lam)
        step = {
            i: value(kind, K, [*chosen, i], lam) - before for i in range(len(K)) if i not in chosen
        }
        best = max(step.values())
        chosen.append(next(i for i, gain in step.items() if gain > best - 1e-9))
        gains.append(step[chosen[-1]])
    return chosen, gains
