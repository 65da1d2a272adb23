"""Comparisons as files: numbers as JSON, interpolation curves as PNG."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.util
import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import fastrebasin
from fastrebasin.checkpoints import atomic_output
from fastrebasin.evaluation import Evaluation, Score
from fastrebasin.experiments.comparison import CURVE_POINTS, Comparison
from fastrebasin.experiments.few_images import FewImages
from fastrebasin.experiments.pairs import Pair
from fastrebasin.experiments.steps import Outcome

__all__ = [
    "accuracy_table",
    "few_images_table",
    "require_matplotlib",
    "write_curves",
    "write_few_images",
    "write_outcomes",
    "write_report",
]


def accuracy_table(
    runs: Sequence[Comparison | Outcome],
) -> list[tuple[str, str, str, str]]:
    """Return rows (method, on A's test set, on B's, on the mixture): percent, over all runs."""
    rows = []
    for method in runs[0].scores:
        scores = [run.scores[method] for run in runs]
        columns = (
            [score.sets[0].accuracy for score in scores],
            [score.sets[1].accuracy for score in scores],
            [score.mixture.accuracy for score in scores],
        )
        on_a, on_b, on_mixture = (_percent(column) for column in columns)
        rows.append((method, on_a, on_b, on_mixture))
    return rows


def write_report(path: Path, pair: Pair, runs: Sequence[Comparison]) -> None:
    """Write every number, seed, time and version as JSON."""
    _write(path, pair, [_run(run) for run in runs])


def write_few_images(path: Path, pair: Pair, runs: Sequence[FewImages]) -> None:
    """Write every number, seed, time and version as JSON."""
    _write(
        path,
        pair,
        [
            {
                "seed": run.seed,
                "trained on both": None if run.oracle is None else _numbers(run.oracle),
                "per class": {
                    count: {
                        way: {"seconds": run.seconds[count].get(way), **_numbers(score)}
                        for way, score in scores.items()
                    }
                    for count, scores in run.scores.items()
                },
            }
            for run in runs
        ],
    )


def write_outcomes(path: Path, pair: Pair, runs: Sequence[Outcome]) -> None:
    """Write every number, seed, time and version as JSON."""
    _write(
        path,
        pair,
        [
            {
                "seed": run.seed,
                "seconds": run.seconds,
                "scores": {way: _numbers(score) for way, score in run.scores.items()},
            }
            for run in runs
        ],
    )


def few_images_table(runs: Sequence[FewImages]) -> list[tuple[str, ...]]:
    """Return rows (way, then for each number of images per class the mixture's accuracy, %).

    Then what a network trained on all data of both reaches, and the mean seconds of each way by
    itself: least squares starts from activation matching, and distillation from least squares.
    """
    counts = list(runs[0].scores)
    rows = [
        (way, *(_percent([r.scores[k][way].mixture.accuracy for r in runs]) for k in counts))
        for way in runs[0].scores[counts[0]]
    ]
    oracles = [run.oracle.mixture.accuracy for run in runs if run.oracle is not None]
    if oracles:
        rows.append(("one network trained on all data", *[_percent(oracles)] * len(counts)))
    rows += [
        (f"seconds, {way}", *(f"{_mean(runs, k, way):.0f}" for k in counts))
        for way in ("weight matching", "activation matching", "least squares", "distillation")
        if way in runs[0].seconds[counts[0]]
    ]
    return rows


def require_matplotlib() -> None:
    """Raise ImportError, saying what to install, unless the curves can be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("the curves need matplotlib: pip install 'fastrebasin[plots]'")


def write_curves(path: Path, pair: Pair, runs: Sequence[Comparison]) -> None:
    """Draw accuracy along the way from A to B: on A's test set, on B's and on the mixture."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - optional

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    weights = [k / (CURVE_POINTS - 1) for k in range(CURVE_POINTS)]
    titles = (f"{pair.a.name} (A's test set)", f"{pair.b.name} (B's test set)", "mixture")
    for panel, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        for method in runs[0].curves:
            axis.plot(weights, _mean_curve(runs, method, panel), label=method)
        ensemble = statistics.mean(_score(r.scores["ensemble"], panel).accuracy for r in runs)
        axis.axhline(100 * ensemble, color="gray", linestyle=":", label="ensemble at 1/2")
        axis.set(title=title, xlabel="share of B", ylim=(0, 100), xlim=(0, 1))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("test accuracy, %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    with atomic_output(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _mean(runs: Sequence[FewImages], count: int, way: str) -> float:
    return statistics.mean(run.seconds[count][way] for run in runs)


def _write(path: Path, pair: Pair, runs: Sequence[Mapping[str, Any]]) -> None:
    with atomic_output(path) as temporary:
        temporary.write_text(json.dumps(_provenance(pair) | {"runs": runs}, indent=1) + "\n")


def _provenance(pair: Pair) -> dict[str, Any]:
    """Return what was run, where and when."""
    values = {f.name: getattr(pair.recipe, f.name) for f in dataclasses.fields(pair.recipe)}
    recipe = {
        name: value.__name__ if callable(value) else value
        for name, value in values.items()
        if name != "factory"
    }
    return {
        "fastrebasin": fastrebasin.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
        },
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "pair": {"name": pair.name, "a": pair.a.name, "b": pair.b.name},
        "model": pair.recipe.factory.__name__,
        "recipe": recipe,
    }


def _mean_curve(runs: Sequence[Comparison], method: str, panel: int) -> list[float]:
    return [
        100 * statistics.mean(_score(run.curves[method][k], panel).accuracy for run in runs)
        for k in range(CURVE_POINTS)
    ]


def _score(evaluation: Evaluation, panel: int) -> Score:
    return (*evaluation.sets, evaluation.mixture)[panel]


def _percent(fractions: Sequence[float]) -> str:
    mean = f"{100 * statistics.mean(fractions):.2f}"
    if len(fractions) == 1:
        return mean
    return f"{mean} ± {100 * statistics.stdev(fractions):.2f}"


def _run(run: Comparison) -> dict[str, Any]:
    return {
        "seed": run.seed,
        "seconds": {label: round(seconds, 3) for label, seconds in run.seconds.items()},
        "scores": {method: _numbers(score) for method, score in run.scores.items()},
        "curves": {
            method: [
                {"share_of_b": k / (CURVE_POINTS - 1), **_numbers(score)}
                for k, score in enumerate(curve)
            ]
            for method, curve in run.curves.items()
        },
    }


def _numbers(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    names = ("a", "b", "mixture")
    return {name: dataclasses.asdict(_score(evaluation, k)) for k, name in enumerate(names)}
