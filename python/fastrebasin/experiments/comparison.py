"""Train A and B on a pair of data sets and compare the ways of making one model of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from fastrebasin.evaluation import Ensemble, Evaluation, evaluate, interpolation_curve
from fastrebasin.experiments.pairs import Pair
from fastrebasin.experiments.steps import coreset, end_model, timed
from fastrebasin.matching import Matching, straight_through_matching, weight_matching
from fastrebasin.permutation import apply_permutation
from fastrebasin.tracing import trace

__all__ = ["CURVE_POINTS", "Comparison", "compare"]

CURVE_POINTS = 25
_MIDPOINT = CURVE_POINTS // 2


@dataclass
class Comparison:
    """What one seed of an experiment gave.

    Attributes:
        seed: of the end models, the coresets and the matching.
        model_a, model_b: the end models.
        scores: test accuracy and loss of each method.
        curves: test accuracy and loss along the way from A to B, for each merging method.
        aligned: B's parameters, aligned by each merging method.
        seconds: spent on each step.
    """

    seed: int
    model_a: nn.Module
    model_b: nn.Module
    scores: dict[str, Evaluation] = field(default_factory=dict)
    curves: dict[str, list[Evaluation]] = field(default_factory=dict)
    aligned: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def compare(pair: Pair, *, seed: int = 0, progress: bool = True) -> Comparison:
    """Train two end models and score A, B, their ensemble and their merges on the test sets.

    Args:
        pair: data sets and recipe.
        seed: everything random derives from it.
        progress: show bars on a terminal.

    Source: Yamada et al., ACML 2024, table 2.
    """
    seconds: dict[str, float] = {}
    with timed(seconds, "train A"):
        model_a = end_model(pair, 0, 2 * seed, progress=progress)
    with timed(seconds, "train B"):
        model_b = end_model(pair, 1, 2 * seed + 1, progress=progress)
    result = Comparison(seed, model_a, model_b, seconds=seconds)
    tests = (pair.a.test, pair.b.test)
    result.scores["model A"] = evaluate(model_a, tests)
    result.scores["model B"] = evaluate(model_b, tests)
    result.scores["ensemble"] = evaluate(Ensemble([model_a, model_b], [0.5, 0.5]), tests)
    for name, params_b in _alignments(result, pair, progress):
        result.aligned[name] = params_b
        result.curves[name] = interpolation_curve(
            model_a, model_a.state_dict(), params_b, tests, points=CURVE_POINTS, progress=progress
        )
        result.scores[name] = result.curves[name][_MIDPOINT]
    return result


def _alignments(
    result: Comparison, pair: Pair, progress: bool
) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Yield B's parameters as each method aligns them."""
    model_a, model_b, seed, recipe = result.model_a, result.model_b, result.seed, pair.recipe
    params_a, params_b = model_a.state_dict(), model_b.state_dict()
    spec = trace(model_a, pair.a.test[0][:8])

    def aligned(matching: Matching) -> Mapping[str, Tensor]:
        return apply_permutation(spec, matching.permutation, params_b)

    yield "naive average", params_b
    with timed(result.seconds, "weight matching"):
        matching = weight_matching(
            spec, params_a, params_b, init="identity", order="serial", seed=seed
        )
    yield "weight matching", aligned(matching)
    name = "straight-through, all data"
    with timed(result.seconds, name):
        matching = straight_through_matching(
            spec, model_a, model_b, (pair.a.train, pair.b.train),
            epochs=recipe.full_epochs, lr=recipe.full_lr, seed=seed, progress=progress,
        )  # fmt: skip
    yield name, aligned(matching)
    name = f"straight-through, {recipe.per_class} per class"
    with timed(result.seconds, name):
        small = (coreset(pair.a, recipe.per_class, 2 * seed),
                 coreset(pair.b, recipe.per_class, 2 * seed + 1))  # fmt: skip
        matching = straight_through_matching(
            spec, model_a, model_b, small, schedule="multistep",
            epochs=recipe.coreset_epochs, lr=recipe.coreset_lr, seed=seed, progress=progress,
        )  # fmt: skip
    yield name, aligned(matching)
