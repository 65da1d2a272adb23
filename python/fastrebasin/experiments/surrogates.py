"""How well straight-through matching does on examples that stand in for all data.

Yamada et al., ACML 2024, figure 9: coresets and condensed sets of a few images per class.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from fastrebasin.evaluation import evaluate
from fastrebasin.experiments.data_sets import DataSet
from fastrebasin.experiments.pairs import Pair
from fastrebasin.experiments.steps import Outcome, end_model, timed
from fastrebasin.matching import straight_through_matching
from fastrebasin.merging import interpolate
from fastrebasin.permutation import apply_permutation
from fastrebasin.reduction import ReducedSet, select_coreset
from fastrebasin.reduction.condensation import gradient_matching
from fastrebasin.reduction.coreset import SELECTORS
from fastrebasin.tracing import trace

__all__ = ["CONDENSED", "surrogates"]

CONDENSED = "condensed"


def surrogates(
    pair: Pair,
    kinds: Sequence[str],
    *,
    per_class: int = 10,
    iterations: int = 100,
    seed: int = 0,
    keep: Path | None = None,
    progress: bool = True,
) -> Outcome:
    """Train two networks, and match them by few images of each data set, for each kind of image.

    Args:
        pair: data sets and recipe.
        kinds: names in `SELECTORS`, which look through the network that was trained on the data,
            and "condensed": images made by gradient matching.
        per_class: images of each class of each data set.
        iterations: of gradient matching, each one step of the images in a network that isn't
            trained; the paper has 1000 of ten steps each, between which the network is.
        seed: everything random derives from it.
        keep: a folder for the trained networks and surrogates: those that are there aren't made
            again.
        progress: show bars on a terminal.

    Raises:
        ValueError: a kind isn't known.

    Source: Yamada et al., ACML 2024, figure 9.
    """
    unknown = [kind for kind in kinds if kind not in (*SELECTORS, CONDENSED)]
    if unknown:
        known = ", ".join((*SELECTORS, CONDENSED))
        raise ValueError(f"kinds of surrogate must be among {known}, got {', '.join(unknown)}")
    recipe, result = pair.recipe, Outcome(seed)
    model_a, model_b = (end_model(pair, side, 2 * seed + side, keep, progress) for side in (0, 1))
    params_a, params_b = model_a.state_dict(), model_b.state_dict()
    spec = trace(model_a, pair.a.test[0][:8])
    for kind in kinds:
        with timed(result.seconds, f"{kind}, images"):
            few = [
                _surrogate(kind, pair, side, model, per_class, iterations, seed, keep, progress)
                for side, model in enumerate((model_a, model_b))
            ]  # fmt: skip
        with timed(result.seconds, f"{kind}, matching"):
            found = straight_through_matching(
                spec, model_a, model_b, tuple(few), schedule="multistep",
                epochs=recipe.coreset_epochs,
                lr=recipe.coreset_lr, seed=seed, progress=progress,
            )  # fmt: skip
        midpoint = copy.deepcopy(model_a)
        midpoint.load_state_dict(
            interpolate(params_a, apply_permutation(spec, found.permutation, params_b))
        )
        result.scores[kind] = evaluate(midpoint, (pair.a.test, pair.b.test))
    return result


def _surrogate(
    kind: str,
    pair: Pair,
    side: int,
    model: nn.Module,
    per_class: int,
    iterations: int,
    seed: int,
    keep: Path | None,
    progress: bool,
) -> ReducedSet:
    data: DataSet = (pair.a, pair.b)[side]
    own = 2 * seed + side
    if kind != CONDENSED:
        return select_coreset(
            data.train, kind, model=model, per_class=per_class, seed=own, progress=progress
        )
    name = f"{pair.name}-{'AB'[side]}-condensed-{per_class}-{iterations}-{own}.safetensors"
    path = None if keep is None else keep / name
    if path is not None and path.exists():
        return ReducedSet.load(path)
    made = gradient_matching(
        pair.recipe.factory, data.train, per_class=per_class, iterations=iterations,
        outer_loops=1, lr=0.1 * per_class, seed=own, progress=progress,
    )  # fmt: skip
    if path is not None:
        made.save(path)
    return made
