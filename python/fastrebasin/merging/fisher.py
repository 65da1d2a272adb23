"""Average two models, each weight by how much each model's predictions depend on it.

Matena and Raffel, "Merging Models with Fisher-Weighted Averaging", NeurIPS 2022. The diagonal of
the Fisher information is the mean of squared gradients of single examples, not the square of a mean
gradient, which is near zero for a trained model. The two models' Fisher information is added, as
the minimum of the summed quadratic approximations demands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fastrebasin._example_gradients import example_gradients, widened
from fastrebasin._progress import bar
from fastrebasin.checkpoints import check_finite, misfits
from fastrebasin.data import Data, mixture_length, some, sources, weighted_batches

__all__ = ["fisher_information", "fisher_mean"]


def fisher_information(
    model: nn.Module,
    data: Data,
    *,
    labels: str = "model",
    batch_size: int = 32,
    max_examples: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Tensor]:
    """Return the diagonal of a classifier's Fisher information over `data`.

    Args:
        model: returns logits or log-probabilities (batch, classes); runs in eval mode, so that
            BatchNorm's statistics are fixed; not changed. Of a model that `torch.func` can't map
            over examples, each runs by itself.
        data: one source, or several that weigh the same whatever their sizes; batches go to the
            model's device.
        labels: "model" draws them from what the model predicts: the Fisher information. "data"
            takes those of the data: what is called the empirical Fisher.
        batch_size: examples whose gradients are held at a time, each as large as the model.
        max_examples: look at so many of each source, drawn at random; all by default.
        seed: of the examples and labels that are drawn.
        progress: show a bar on a terminal.

    Returns:
        For each tensor of the state dict the mean of its squared gradients, of its shape: float32,
        or float64 for such models; zeros for buffers. It permutes as the model does: that of B is
        aligned by `apply_permutation`, or computed of the aligned B.

    Raises:
        ValueError: an option is out of range, `data` is empty, the model isn't a classifier, labels
            aren't classes, or weights or gradients aren't finite.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> data = torch.eye(3), torch.tensor([0, 1, 1])
        >>> fisher = fisher_information(model, data)
        >>> fisher["weight"].shape, bool((fisher["bias"] > 0).all())
        (torch.Size([2, 3]), True)

    Source: Matena and Raffel, NeurIPS 2022, section 3.2; Kunstner et al., NeurIPS 2019, on the two
    kinds of labels.
    """
    _check_options(labels, batch_size, max_examples)
    check_finite({"model": model.state_dict()})
    wide = widened(model)
    params = {name: parameter.detach() for name, parameter in wide.named_parameters()}
    first = next(iter(params.values()), torch.zeros(0))
    sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in params.items()}
    generator, total = torch.Generator().manual_seed(seed), 0.0
    parts = [some(part, max_examples, generator) for part in sources(data)]
    count = min(mixture_length(parts, batch_size), max(map(len, parts)))
    stream = weighted_batches(parts, batch_size, generator)
    for x, y, weights in bar(stream, "Fisher", progress=progress, total=count, unit="batch"):
        x = x.to(first.device, first.dtype if x.is_floating_point() else None)
        y = _labels(wide, x, y if labels == "data" else None, generator)
        total += weights.sum().item()
        for name, gradient in example_gradients(wide, params, x, y).items():
            shares = weights.to(gradient)
            sums[name] += torch.tensordot(shares, gradient.square(), dims=1)
    fisher = {n: torch.zeros_like(t, dtype=first.dtype) for n, t in model.state_dict().items()}
    owners = {id(parameter): name for name, parameter in wide.named_parameters()}
    for name, parameter in wide.named_parameters(remove_duplicate=False):
        fisher[name] = (sums[owners[id(parameter)]] / total).to(first.dtype)
    broken = [name for name, tensor in fisher.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError("gradients must be finite, but these aren't: " + ", ".join(broken))
    return fisher


def fisher_mean(
    params_a: Mapping[str, Tensor],
    params_b: Mapping[str, Tensor],
    fisher_a: Mapping[str, Tensor],
    fisher_b: Mapping[str, Tensor],
    weight: float = 0.5,
    *,
    floor: float = 1e-6,
) -> dict[str, Tensor]:
    """Return (F_A a + F_B b) / (F_A + F_B), entry by entry; integer tensors are A's.

    Args:
        params_a, params_b: state dicts of equal names and shapes, on equal devices, B aligned.
        fisher_a, fisher_b: what `fisher_information` returned of A and of the aligned B.
        weight: share of B: F_B is multiplied by it, F_A by 1 - weight; in [0, 1].
        floor: the least information of an entry, as a share of the mean over all entries of both
            models. Entries that no example depends on are averaged.

    Returns:
        New tensors of A's dtypes. BatchNorm's running statistics, of which there is no Fisher
        information, are interpolated.

    Raises:
        ValueError: names or shapes differ, weights aren't finite, Fisher information is negative
            or not finite, or an option is out of range; everything wrong is named.

    Example:
        >>> a, b = {"w": torch.tensor([0.0, 0.0])}, {"w": torch.tensor([1.0, 1.0])}
        >>> fisher_mean(a, b, {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([3.0, 0.0])})
        {'w': tensor([0.7500, 0.5000])}

    Source: Matena and Raffel, NeurIPS 2022, equation 2.
    """
    problems = misfits(params_a, params_b)
    problems += misfits(params_a, fisher_a, ("A", "fisher_a"))
    problems += misfits(params_a, fisher_b, ("A", "fisher_b"))
    if not 0 <= weight <= 1:
        problems.append(f"weight must be in [0, 1], got {weight}")
    if not 0 < floor < math.inf:
        problems.append(f"floor must be positive and finite, got {floor}")
    for label, fisher in (("fisher_a", fisher_a), ("fisher_b", fisher_b)):
        negative = [name for name, tensor in fisher.items() if (tensor < 0).any()]
        problems += [f"{name} of {label} must not be negative" for name in negative]
    if problems:
        raise ValueError("; ".join(problems))
    check_finite({"A": params_a, "B": params_b, "fisher_a": fisher_a, "fisher_b": fisher_b})
    least = floor * _mean_entry(fisher_a, fisher_b)
    merged = {}
    for name, a in params_a.items():
        if not a.is_floating_point():
            merged[name] = a.clone()
            continue
        b, dtype = params_b[name].detach(), torch.promote_types(a.dtype, torch.float32)
        mine = (1 - weight) * fisher_a[name].double().clamp(min=least)
        theirs = weight * fisher_b[name].double().clamp(min=least)
        share = (theirs / (mine + theirs)).to(dtype)
        merged[name] = torch.lerp(a.detach().to(dtype), b.to(dtype), share).to(a.dtype)
    return merged


def _labels(model: nn.Module, x: Tensor, y: Tensor | None, generator: torch.Generator) -> Tensor:
    """Return labels, checked, or drawn from what the model predicts."""
    with torch.no_grad():
        logits = model(x)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"model must return logits (batch, classes), got {shape}")
    if y is None:
        probabilities = logits.double().softmax(1).cpu()
        if not torch.isfinite(probabilities).all():
            raise ValueError("model must return finite logits")
        return torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(x.device)
    classes = logits.shape[1]
    if y.ndim != 1 or y.is_floating_point() or y.min() < 0 or y.max() >= classes:
        raise ValueError(
            f"data must have integer labels (n,) below {classes}, got {y.dtype} of shape "
            f"{tuple(y.shape)} from {y.min().item()} to {y.max().item()}"
        )
    return y.long().to(x.device)


def _mean_entry(*fishers: Mapping[str, Tensor]) -> float:
    tensors = [tensor for fisher in fishers for tensor in fisher.values()]
    count = sum(tensor.numel() for tensor in tensors)
    mean = sum(tensor.sum(dtype=torch.float64).item() for tensor in tensors) / max(1, count)
    return mean or 1.0  # no information at all: every entry is averaged


def _check_options(labels: str, batch_size: int, max_examples: int | None) -> None:
    problems = []
    if labels not in ("model", "data"):
        problems.append(f"labels must be model or data, got {labels!r}")
    if batch_size < 1:
        problems.append(f"batch_size must be at least 1, got {batch_size}")
    if max_examples is not None and max_examples < 1:
        problems.append(f"max_examples must be at least 1, got {max_examples}")
    if problems:
        raise ValueError("; ".join(problems))
