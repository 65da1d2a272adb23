"""Assignment problems to time solvers on: of networks trained here, and synthetic ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from fastrebasin.experiments.data_sets import DataSet, digits, idx_folder
from fastrebasin.experiments.models import MLP
from fastrebasin.experiments.training import train

Matrix = npt.NDArray[np.float32]

# Training grows with the square of the width: wide networks see less.
WIDE = 2048
IMAGES, WIDE_IMAGES = 5000, 1000
EARLY, LATE, WIDE_LATE = 1, 15, 5


class Case(NamedTuple):
    """A problem to minimise, by name; `trained` marks those that matching networks meets."""

    name: str
    trained: bool
    cost: Matrix


def cases(
    n: int, kinds: list[str], data_dir: Path | None, device: str | torch.device = "cpu"
) -> Iterator[Case]:
    """Yield the problems of size n, one at a time: the largest take a gigabyte each.

    Networks are trained on `device`.
    """
    for kind in kinds:
        if kind in SYNTHETIC:
            yield Case(kind, False, SYNTHETIC[kind](np.random.default_rng(n), n))
        elif kind == "digits":
            yield from _trained(n, digits(), device)
        elif data_dir is not None:
            yield from _trained(n, idx_folder(data_dir, "MNIST"), device)


def _trained(n: int, data: DataSet, device: str | torch.device) -> Iterator[Case]:
    """Yield the problems of two networks of width n, early and late in their training."""
    images = WIDE_IMAGES if n >= WIDE else IMAGES
    x, y = (part[:images].to(device) for part in data.train)
    x = x.flatten(1)
    for epochs in (EARLY, WIDE_LATE if n >= WIDE else LATE):
        a, b = (
            train(
                lambda: MLP(x.shape[1], (n, n)).to(device),
                (x, y), epochs=epochs, batch_size=200, seed=seed,
            )
            for seed in (0, 1)
        )  # fmt: skip
        for layer in (0, 1):
            name = f"{data.name}, {len(x)} images, {epochs} epochs, layer {layer + 1}"
            yield Case(f"{name}, correlation", True, _correlation(a, b, x, layer))
            yield Case(f"{name}, weights", True, _weight_products(a, b, layer))


def _activations(model: torch.nn.Module, x: torch.Tensor, layer: int) -> torch.Tensor:
    """Return the units of a hidden layer on the images, (images, units), centred, of norm one."""
    with torch.no_grad():
        for i in range(layer + 1):
            x = torch.relu(model.get_submodule(f"layer{i}")(x))
    centred = x - x.mean(0)
    unit: torch.Tensor = centred / centred.norm(dim=0).clamp_min(1e-9)
    return unit


def _correlation(a: torch.nn.Module, b: torch.nn.Module, x: torch.Tensor, layer: int) -> Matrix:
    """Return the correlations of A's units with B's, negated; dead units have none."""
    of_a, of_b = (_activations(model, x, layer) for model in (a, b))
    return np.asarray((-of_a.T @ of_b).cpu().numpy(), dtype=np.float32)


def _weight_products(a: torch.nn.Module, b: torch.nn.Module, layer: int) -> Matrix:
    """Return the first problem of weight matching, from the identity, negated."""
    pa, pb = a.state_dict(), b.state_dict()
    here, after = f"layer{layer}", f"layer{layer + 1}.weight"
    product = pa[f"{here}.weight"] @ pb[f"{here}.weight"].T + pa[after].T @ pb[after]
    product += torch.outer(pa[f"{here}.bias"], pb[f"{here}.bias"])
    return np.asarray((-product).cpu().numpy(), dtype=np.float32)


def low_rank(
    rng: np.random.Generator, n: int, dead_rows: float = 0.0, dead_cols: float = 0.0
) -> Matrix:
    """Return correlations of units that have 64 causes in common; a share of units is dead."""
    a, b = (rng.standard_normal((n, 64), np.float32) for _ in range(2))
    a[rng.random(n) < dead_rows] = 0.0
    b[rng.random(n) < dead_cols] = 0.0
    cost: Matrix = a @ b.T
    return cost


def _duplicates(rng: np.random.Generator, n: int) -> Matrix:
    """Return a matrix of few different rows and columns, such as compressed networks have."""
    few = rng.random((8, 8), np.float32)
    return few[rng.integers(0, 8, n)[:, None], rng.integers(0, 8, n)[None, :]]


def _planted(rng: np.random.Generator, n: int) -> Matrix:
    cost = rng.random((n, n), np.float32)
    cost[np.arange(n), rng.permutation(n)] -= 2.0
    return cost


def _distances(rng: np.random.Generator, n: int) -> Matrix:
    x, y = (rng.random((n, 1), np.float32) - rng.random(n, np.float32) for _ in range(2))
    return np.asarray(np.hypot(x, y), dtype=np.float32)


SYNTHETIC: dict[str, Callable[[np.random.Generator, int], Matrix]] = {
    "low rank": low_rank,
    "dead units": lambda rng, n: low_rank(rng, n, 0.25, 0.25),
    "dead rows": lambda rng, n: low_rank(rng, n, 0.8, 0.1),
    "dead columns": lambda rng, n: low_rank(rng, n, 0.1, 0.8),
    "duplicates": _duplicates,
    "uniform": lambda rng, n: rng.random((n, n), np.float32),
    "planted": _planted,
    "integer ties": lambda rng, n: rng.integers(0, 100, (n, n)).astype(np.float32),
    "rank 1": lambda rng, n: np.outer(rng.random(n, np.float32), rng.random(n, np.float32)),
    "2-D distances": _distances,
}
KINDS = ["digits", "mnist", *SYNTHETIC]
