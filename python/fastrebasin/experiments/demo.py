"""The demonstration: two networks trained on different data become one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import fastrebasin
from fastrebasin.checkpoints import save_checkpoint
from fastrebasin.experiments.comparison import Comparison, compare
from fastrebasin.experiments.pairs import Pair, load_pair
from fastrebasin.experiments.report import require_matplotlib, write_curves, write_report
from fastrebasin.merging import interpolate

__all__ = ["run_demo"]

_BEST = "straight-through, all data"


def run_demo(
    output: Path,
    *,
    pair_name: str = "rotated",
    data_dir: Path | None = None,
    seeds: Sequence[int] = (0,),
    train_epochs: int | None = None,
    progress: bool = True,
) -> tuple[Pair, list[Comparison]]:
    """Run a comparison for each seed and write its files into the folder `output`.

    The folder gets the first seed's `model_a.safetensors`, `model_b.safetensors` and
    `merged.safetensors` (straight-through matching on all data), and `report.json` and
    `curves.png` over all seeds.

    Args:
        output: made if it doesn't exist; files of the same names are replaced.
        pair_name, data_dir: see `load_pair`.
        seeds: one comparison each.
        train_epochs: of the end models, instead of the recipe's.
        progress: show bars on a terminal.

    Raises:
        ImportError: an optional dependency is missing.
        ValueError, FileNotFoundError: see `load_pair`.
    """
    require_matplotlib()
    if not seeds:
        raise ValueError("seeds must not be empty")
    if train_epochs is not None and train_epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {train_epochs}")
    output.mkdir(parents=True, exist_ok=True)  # find out now if it can't be written
    pair = load_pair(pair_name, data_dir)
    if train_epochs is not None:
        recipe = dataclasses.replace(pair.recipe, train_epochs=(train_epochs, train_epochs))
        pair = dataclasses.replace(pair, recipe=recipe)
    runs = [compare(pair, seed=seed, progress=progress) for seed in seeds]
    _save_models(output, runs[0])
    write_report(output / "report.json", pair, runs)
    write_curves(output / "curves.png", pair, runs)
    return pair, runs


def _save_models(output: Path, run: Comparison) -> None:
    params_a = run.model_a.state_dict()
    models = {
        "model_a": params_a,
        "model_b": run.model_b.state_dict(),
        "merged": interpolate(params_a, run.aligned[_BEST]),
    }
    for name, params in models.items():
        metadata = {"fastrebasin": fastrebasin.__version__, "seed": str(run.seed)}
        save_checkpoint(params, output / f"{name}.safetensors", metadata)
