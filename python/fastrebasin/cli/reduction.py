"""Commands that make a few examples out of a data set."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from fastrebasin.cli.console import Quiet, Seed, console, errors
from fastrebasin.cli.inputs import load_model, make_model, training_examples
from fastrebasin.reduction import ReducedSet, select_coreset
from fastrebasin.reduction.condensation import (
    distribution_matching,
    gradient_matching,
    kernel_inducing_points,
)
from fastrebasin.reduction.coreset import SELECTORS

__all__ = ["condense_command", "coreset_command"]

_CONDENSATIONS: Mapping[str, Callable[..., ReducedSet]] = {
    "gradient-matching": gradient_matching,
    "distribution-matching": distribution_matching,
    "kernel-inducing-points": kernel_inducing_points,
}

Source = Annotated[
    Path,
    typer.Argument(
        help="Examples: .safetensors or .npz of images and labels, or a folder as torchvision "
        "keeps it: MNIST, FashionMNIST, cifar-10-batches-bin."
    ),
]
Picture = Annotated[
    Path | None, typer.Option(help="PNG to draw the images into, a row for each class.")
]


def coreset_command(
    data: Source,
    method: Annotated[str, typer.Option(help=f"One of {', '.join(SELECTORS)}.")] = "random",
    per_class: Annotated[int | None, typer.Option(help="Examples of each class.")] = None,
    fraction: Annotated[
        float | None, typer.Option(help="Or so large a part of all examples.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="package.module:factory of the model that the method looks through."),
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="The model's weights.")] = None,
    layer: Annotated[
        str | None, typer.Option(help="Module whose output is the features; by default the last.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path(
        "coreset.safetensors"
    ),
    picture: Picture = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Choose a few examples of each class that stand in for a data set."""
    with errors():
        if (model is None) != (checkpoint is None):
            raise ValueError("--model and --checkpoint go together")
        chosen = select_coreset(
            training_examples(data),
            method,
            model=None if model is None or checkpoint is None else load_model(model, checkpoint),
            per_class=per_class,
            fraction=fraction,
            layer=layer,
            seed=seed,
            progress=not quiet,
        )
        chosen.provenance["data"] = data.name
        _write(chosen, output, picture)


def condense_command(
    data: Source,
    method: Annotated[
        str, typer.Option(help=f"One of {', '.join(_CONDENSATIONS)}.")
    ] = "gradient-matching",
    model: Annotated[
        str | None,
        typer.Option(
            help="package.module:factory, which makes a fresh network; kernels need none."
        ),
    ] = None,
    per_class: Annotated[int, typer.Option(help="Images of each class.")] = 10,
    iterations: Annotated[
        int | None, typer.Option(help="How many; as many as published by default.")
    ] = None,
    init: Annotated[str | None, typer.Option(help="Where images start: noise or real.")] = None,
    augment: Annotated[
        str | None,
        typer.Option(help="Transforms of real and made images, as color_crop_cutout_scale_rotate."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="File that keeps the state; where it exists, the run goes on from it."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path(
        "condensed.safetensors"
    ),
    picture: Picture = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Make a few images of each class that stand in for a data set."""
    with errors():
        if method not in _CONDENSATIONS:
            known = ", ".join(_CONDENSATIONS)
            raise ValueError(f"--method must be one of {known}, got {method!r}")
        kernel = method == "kernel-inducing-points"
        if kernel and (model is not None or augment is not None):
            raise ValueError(f"--method {method} takes neither --model nor --augment")
        if not kernel and model is None:
            raise ValueError(f"--method {method} needs --model")
        given = {"iterations": iterations, "init": init, "augment": augment}
        options = {name: value for name, value in given.items() if value is not None}
        factory = () if model is None else (functools.partial(make_model, model),)
        made = _CONDENSATIONS[method](
            *factory, training_examples(data), per_class=per_class, checkpoint=checkpoint,
            seed=seed, progress=not quiet, **options,
        )  # fmt: skip
        made.provenance["data"] = data.name
        _write(made, output, picture)


def _write(reduced: ReducedSet, output: Path, picture: Path | None) -> None:
    """Write the set, and its picture if one is asked for, and say what was written."""
    drawn = None if picture is None else reduced.picture()  # refused before anything is written
    reduced.save(output)
    if picture is not None and drawn is not None:
        reduced.save_picture(picture)
    labels, counts = reduced.labels.unique(return_counts=True)
    console.print(f"{len(reduced)} examples of {len(labels)} classes:")
    console.print(
        "  " + ", ".join(f"{k}: {n}" for k, n in zip(labels.tolist(), counts.tolist(), strict=True))
    )
    for path in filter(None, (output, picture)):
        console.print(f"wrote {path}")
