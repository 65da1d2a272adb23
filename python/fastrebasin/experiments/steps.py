"""Steps that several experiments take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from fastrebasin.checkpoints import check_fit, load_checkpoint, save_checkpoint
from fastrebasin.data import Data
from fastrebasin.evaluation import Evaluation
from fastrebasin.experiments.data_sets import DataSet
from fastrebasin.experiments.pairs import Pair, Recipe
from fastrebasin.experiments.training import train
from fastrebasin.reduction import select_coreset

__all__ = ["Outcome", "coreset", "end_model", "timed", "trained"]


@dataclass
class Outcome:
    """What one seed of an experiment gave.

    Attributes:
        seed: of everything random.
        scores: on both test sets, of each network that was made, by how.
        seconds: that each step took, by its name.
    """

    seed: int
    scores: dict[str, Evaluation] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def end_model(
    pair: Pair, side: int, seed: int, keep: Path | None = None, progress: bool = True
) -> nn.Module:
    """Return A (side 0) or B (side 1), trained by the pair's recipe; see `trained`."""
    data, label = (pair.a, pair.b)[side].train, "AB"[side]
    path = None if keep is None else keep / f"{pair.name}-{label}-{seed}.safetensors"
    epochs = pair.recipe.train_epochs[side]
    return trained(pair.recipe, data, epochs, seed, path, f"train {label}", progress)


def trained(
    recipe: Recipe, data: Data, epochs: int, seed: int, path: Path | None, label: str,
    progress: bool,
) -> nn.Module:  # fmt: skip
    """Return a network from its file, or train it and write the file, if one is named."""
    if path is not None and path.exists():
        model, params = recipe.factory(), load_checkpoint(path)
        check_fit(params, model, str(path))
        model.load_state_dict(params)
        return model.eval()
    model = train(
        recipe.factory, data, epochs=epochs, lr=recipe.train_lr, batch_size=recipe.train_batch,
        weight_decay=recipe.train_weight_decay, one_cycle=recipe.train_one_cycle,
        transform=recipe.train_transform, bfloat16=recipe.train_bfloat16, seed=seed, label=label,
        progress=progress,
    )  # fmt: skip
    if path is not None:
        save_checkpoint(model.state_dict(), path)
    return model


def coreset(data: DataSet, per_class: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return so many training images of each class, drawn at random, and their labels."""
    chosen = select_coreset(data.train, "random", per_class=per_class, seed=seed, progress=False)
    return chosen.images, chosen.labels


@contextmanager
def timed(seconds: dict[str, float], label: str) -> Iterator[None]:
    """Note the wall seconds that a block takes."""
    start = time.perf_counter()
    yield
    seconds[label] = time.perf_counter() - start
