"""Commands that train networks and merge them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from fastrebasin.cli.console import Quiet, Seed, console, errors, score_table
from fastrebasin.experiments.demo import run_demo
from fastrebasin.experiments.few_images import few_images
from fastrebasin.experiments.pairs import load_pair, pair_names
from fastrebasin.experiments.report import (
    accuracy_table,
    few_images_table,
    write_few_images,
    write_outcomes,
)
from fastrebasin.experiments.surrogates import surrogates
from fastrebasin.experiments.widths import widths
from fastrebasin.merging.partial import width_problems
from fastrebasin.reduction.coreset import SELECTORS

__all__ = ["demo", "reproduce"]


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")] = Path(
        "demo-output"
    ),
    pair: Annotated[str, typer.Option(help=f"One of {', '.join(pair_names())}.")] = "rotated",
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder with MNIST/raw, as torchvision keeps it; digits without it."),
    ] = None,
    seed: Seed = 0,
    seeds: Annotated[int, typer.Option(help="How many seeds, from --seed up.", min=1)] = 1,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of the end models' training.", min=1)
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train two networks, merge them, and show that it worked."""
    with errors():
        loaded, runs = run_demo(
            output,
            pair_name=pair,
            data_dir=data_dir,
            seeds=range(seed, seed + seeds),
            train_epochs=epochs,
            progress=not quiet,
        )
    table = score_table(f"A: {loaded.a.name}   B: {loaded.b.name}", "test accuracy, %")
    for row in accuracy_table(runs):
        table.add_row(*row)
    console.print(table)
    seconds = sum(sum(run.seconds.values()) for run in runs)
    console.print(f"Training and matching took {seconds:.0f} s. In {output}/:")
    console.print("  merged.safetensors   straight-through matching, all data")
    console.print("  model_a.safetensors, model_b.safetensors   what was merged")
    console.print("  report.json, curves.png   every number; accuracy between A and B")


def reproduce(
    pair: Annotated[str, typer.Argument(help=f"One of {', '.join(pair_names())}.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the trained networks and numbers.")
    ] = Path("reproduction"),
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder with MNIST/raw, as torchvision keeps it; digits without it."),
    ] = None,
    per_class: Annotated[
        list[int] | None, typer.Option(help="Images of each class; once for each number.", min=1)
    ] = None,
    oracle: Annotated[bool, typer.Option(help="Train one network on all data, too.")] = True,
    quick: Annotated[
        bool, typer.Option("--quick", help="Neither warp images nor distil: for large networks.")
    ] = False,
    surrogate: Annotated[
        list[str] | None,
        typer.Option(
            help="Only match, straight-through, by these: condensed, or a coreset; once for each "
            f"kind. Coresets: {', '.join(SELECTORS)}."
        ),
    ] = None,
    iterations: Annotated[
        int, typer.Option(help="Of condensation, each one step of the images.", min=0)
    ] = 100,
    width: Annotated[
        list[float] | None,
        typer.Option(
            help="Only merge in part, into a network this many times as wide, from 1 to 2; once "
            "for each width."
        ),
    ] = None,
    seed: Seed = 0,
    seeds: Annotated[int, typer.Option(help="How many seeds, from --seed up.", min=1)] = 1,
    quiet: Quiet = False,
) -> None:
    """Merge two networks by a few images of each class, and show what each step gives.

    Networks in the folder aren't trained again.
    """
    with errors():
        loaded = load_pair(pair, data_dir)
        _check_modes(surrogate, width, per_class)
        output.mkdir(parents=True, exist_ok=True)
        every, shown = range(seed, seed + seeds), not quiet
        if surrogate or width:
            path = output / f"{pair}-{'surrogates' if surrogate else 'widths'}.json"
            run = (
                functools.partial(surrogates, loaded, surrogate, iterations=iterations)
                if surrogate
                else functools.partial(widths, loaded, width or ())
            )
            count = (per_class or [10])[0]
            outcomes = [run(per_class=count, seed=k, keep=output, progress=shown) for k in every]
            write_outcomes(path, loaded, outcomes)
            table = score_table("", "test accuracy, %")
            rows: Sequence[tuple[str, ...]] = accuracy_table(outcomes)
        else:
            path, counts = output / f"{pair}.json", per_class or [1, 10, 100]
            runs = [
                few_images(loaded, per_class=counts, oracle=oracle, quick=quick, seed=k,
                           keep=output, progress=shown)
                for k in every
            ]  # fmt: skip
            write_few_images(path, loaded, runs)
            table = Table("test accuracy on the mixture, %", box=box.SIMPLE)
            for count in counts:
                table.add_column(f"{count} per class", justify="right")
            rows = few_images_table(runs)
    table.title, table.title_justify = f"A: {loaded.a.name}   B: {loaded.b.name}", "left"
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"wrote {path}")


def _check_modes(
    surrogate: list[str] | None, width: list[float] | None, per_class: list[int] | None
) -> None:
    if surrogate and width:
        raise ValueError("--surrogate and --width don't go together")
    if (surrogate or width) and len(per_class or ()) > 1:
        raise ValueError(f"--surrogate and --width take one --per-class, got {per_class}")
    if problems := [problem for each in width or () for problem in width_problems(each)]:
        raise ValueError("--" + "; ".join(problems))
