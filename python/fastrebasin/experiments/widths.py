"""What a merge gains from being wider than one network: units that differ most stay apart.

End models as in Yamada et al., ACML 2024, table 2; the merges are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastrebasin.evaluation import Ensemble, evaluate
from fastrebasin.experiments.pairs import Pair
from fastrebasin.experiments.steps import Outcome, coreset, end_model, timed
from fastrebasin.merging import MergeResult, merge

__all__ = ["widths"]


def widths(
    pair: Pair,
    wanted: Sequence[float],
    *,
    per_class: int = 10,
    seed: int = 0,
    keep: Path | None = None,
    progress: bool = True,
) -> Outcome:
    """Train two networks, and merge them in part, for each width.

    Once without any data, aligned by weights and averaged; once by a few images of each class,
    aligned by activations and by least squares. Two networks side by side are the ensemble.

    Args:
        pair: data sets and recipe.
        wanted: how many times as many units the merges have, from 1 to 2.
        per_class: images of each class of each data set, drawn at random.
        seed: everything random derives from it.
        keep: a folder for the trained networks: those that are there aren't trained again.
        progress: show bars on a terminal.
    """
    data = coreset(pair.a, per_class, 2 * seed), coreset(pair.b, per_class, 2 * seed + 1)
    model_a, model_b = (end_model(pair, side, 2 * seed + side, keep, progress) for side in (0, 1))
    example, result = data[0][0][:8], Outcome(seed)

    def note(way: str, width: float, merged: MergeResult) -> None:
        name = f"{way}, {width:g} times the units, {merged.report['parameters']:.2f} the parameters"
        result.scores[name] = evaluate(merged.model, (pair.a.test, pair.b.test))

    for width in wanted:
        with timed(result.seconds, f"no data, {width:g}"):
            merged = merge(model_a, model_b, combine="partial", width=width,
                           example_inputs=example, seed=seed, progress=progress)  # fmt: skip
        note("no data", width, merged)
    for width in wanted:
        with timed(result.seconds, f"few images, {width:g}"):
            merged = merge(model_a, model_b, data, align="activations", combine="partial",
                           width=width, seed=seed, progress=progress)  # fmt: skip
        note("few images", width, merged)
    ensemble = Ensemble([model_a, model_b], [0.5, 0.5])
    result.scores["ensemble"] = evaluate(ensemble, (pair.a.test, pair.b.test))
    return result
