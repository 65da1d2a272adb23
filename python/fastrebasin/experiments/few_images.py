"""How good one network of two becomes with a few images per class, and which part helps how much.

The pairs, end models and surrogates are those of Yamada et al., ACML 2024, table 2; the ways to
merge are ours. Nothing but the images serves to merge, no label of them, and no test image.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from fastrebasin.augmentation import augmented
from fastrebasin.data import Batch, sources
from fastrebasin.evaluation import Evaluation, evaluate
from fastrebasin.experiments.pairs import Pair
from fastrebasin.experiments.steps import coreset, end_model, timed, trained
from fastrebasin.matching import activation_matching, weight_matching
from fastrebasin.merging import distil, interpolate, least_squares
from fastrebasin.normalization import has_batch_norm, reset_batch_norm
from fastrebasin.permutation import Permutation, apply_permutation
from fastrebasin.spec import PermutationSpec
from fastrebasin.tracing import trace

__all__ = ["FewImages", "few_images"]


@dataclass
class FewImages:
    """What one seed gave.

    Attributes:
        seed: of end models, images, and merges.
        oracle: scores on both test sets of a network that was trained on both training sets, the
            same for all seeds; None if none was asked for.
        scores: of what each way to merge makes, for each number of images per class.
        seconds: that each way took by itself; averages take none.
    """

    seed: int
    oracle: Evaluation | None = None
    scores: dict[int, dict[str, Evaluation]] = field(default_factory=dict)
    seconds: dict[int, dict[str, float]] = field(default_factory=dict)


def few_images(
    pair: Pair,
    *,
    per_class: Sequence[int] = (1, 10, 100),
    oracle: bool = True,
    quick: bool = False,
    seed: int = 0,
    keep: Path | None = None,
    progress: bool = True,
) -> FewImages:
    """Train two networks, and merge them by a few images of each data set.

    Args:
        pair: data sets and recipe.
        per_class: numbers of images of each class of each data set, drawn at random.
        oracle: train one on both data sets, too.
        quick: neither warp images nor distil, which takes large networks hours on a few cores.
        seed: everything random derives from it.
        keep: a folder for the trained networks: those that are there aren't trained again.
        progress: show bars on a terminal.
    """
    few = {  # drawn first: too few images show before anything is trained
        count: (coreset(pair.a, count, 2 * seed), coreset(pair.b, count, 2 * seed + 1))
        for count in per_class
    }
    model_a, model_b = (end_model(pair, side, 2 * seed + side, keep, progress) for side in (0, 1))
    result = FewImages(seed)
    if oracle:
        path = None if keep is None else keep / f"{pair.name}-both-0.safetensors"
        epochs, both = min(pair.recipe.train_epochs), (pair.a.train, pair.b.train)
        model = trained(pair.recipe, both, epochs, 0, path, "train both", progress)
        result.oracle = _score(model, pair)
    for count, data in few.items():
        seconds: dict[str, float] = {}
        ways = _ways(model_a, model_b, data, quick, seed, seconds, progress)
        result.scores[count] = {name: _score(merged, pair) for name, merged in ways}
        result.seconds[count] = seconds
    return result


def _score(model: nn.Module, pair: Pair) -> Evaluation:
    """Evaluate in the precision of training."""
    device = next(model.parameters()).device.type
    with torch.autocast(device, torch.bfloat16, enabled=pair.recipe.train_bfloat16):
        return evaluate(model, (pair.a.test, pair.b.test))


def _ways(
    model_a: nn.Module,
    model_b: nn.Module,
    data: tuple[Batch, Batch],
    quick: bool,
    seed: int,
    seconds: dict[str, float],
    progress: bool,
) -> Iterator[tuple[str, nn.Module]]:
    """Yield what each way makes of the models, and note how long it takes."""

    def averages(way: str, aligned: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        average = copy.deepcopy(model_a)
        average.load_state_dict(interpolate(model_a.state_dict(), aligned.state_dict()))
        yield way, average
        if has_batch_norm(average):
            name = f"{way}, BatchNorm reset"
            with timed(seconds, name):
                reset = reset_batch_norm(average, data, seed=seed, progress=progress)
            yield name, reset

    yield from averages("average", model_b)
    spec = trace(model_a, data[0][0][:8])
    with timed(seconds, "weight matching"):
        found = weight_matching(spec, model_a.state_dict(), model_b.state_dict(), seed=seed)
    yield from averages("weight matching", _moved(model_b, spec, found.permutation))
    with timed(seconds, "activation matching"):
        more = tuple(augmented(part, None if quick else "auto", seed) for part in sources(data))
        found = activation_matching(spec, model_a, model_b, more, seed=seed, progress=progress)
    aligned = _moved(model_b, spec, found.permutation)
    yield from averages("activation matching", aligned)
    name = "least squares, images as they are"
    with timed(seconds, name):
        plain = least_squares(model_a, aligned, data, augment=None, seed=seed, progress=progress)
    yield name, plain
    if quick:
        return
    with timed(seconds, "least squares"):
        solved = least_squares(model_a, aligned, data, seed=seed, progress=progress)
    yield "least squares", solved
    with timed(seconds, "distillation"):
        learned = distil(solved, [model_a, aligned], data, seed=seed, progress=progress)
    yield "distillation", learned


def _moved(model: nn.Module, spec: PermutationSpec, permutation: Permutation) -> nn.Module:
    moved = copy.deepcopy(model)
    moved.load_state_dict(apply_permutation(spec, permutation, model.state_dict()))
    return moved
