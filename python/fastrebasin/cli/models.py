"""Commands on checkpoints and modules of the user's."""

from __future__ import annotations

import operator
import warnings
from pathlib import Path
from typing import Annotated

import typer

import fastrebasin
from fastrebasin._calls import ExampleInputs, example_of
from fastrebasin.checkpoints import atomic_output, load_checkpoint, save_checkpoint
from fastrebasin.cli.console import Quiet, Seed, console, errors, print_scores
from fastrebasin.cli.inputs import (
    Inputs,
    Outputs,
    examples,
    load_model,
    make_model,
    random_inputs,
)
from fastrebasin.data import Data
from fastrebasin.evaluation import compare_models, evaluate
from fastrebasin.merging import MergeResult, interpolate, merge
from fastrebasin.merging.combination import COMBINATIONS
from fastrebasin.programs import save_program
from fastrebasin.spec import PermutationSpec
from fastrebasin.tracing import TracingWarning, trace

__all__ = ["merge_command", "spec_command"]


def merge_command(
    a: Annotated[Path, typer.Argument(help="Checkpoint of A: .safetensors, or .pt of tensors.")],
    b: Annotated[Path, typer.Argument(help="Checkpoint of B.")],
    model: Annotated[
        str, typer.Option(help="package.module:factory, which makes the module of both.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="File to write: tensors, or, as .pt2, a program for plain torch."
        ),
    ] = Path("merged.safetensors"),
    align: Annotated[
        str, typer.Option(help="weights, activations, straight-through, sinkhorn or none.")
    ] = "weights",
    combine: Annotated[str, typer.Option(help=f"One of {', '.join(COMBINATIONS)}.")] = "mean",
    normalize: Annotated[str, typer.Option(help="auto, reset, repair or none.")] = "auto",
    base: Annotated[
        Path | None, typer.Option(help="Checkpoint of what both were trained from.")
    ] = None,
    augment: Annotated[
        int | None, typer.Option(help="Warped copies of each image; as many as help by default.")
    ] = None,
    width: Annotated[
        float, typer.Option(help="Of --combine partial, in widths of A, from 1 to 2.")
    ] = 1.25,
    data_a: Annotated[
        Path | None, typer.Option(help="A's examples: .safetensors or .npz, images and labels.")
    ] = None,
    data_b: Annotated[Path | None, typer.Option(help="B's examples.")] = None,
    inputs: Inputs = None,
    outputs: Outputs = None,
    spec: Annotated[
        Path | None, typer.Option(help="Permutation spec in JSON; traced by default.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Page to write: curves, and what alignment moved.")
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Merge two checkpoints of one architecture."""
    with errors():
        model_a, model_b = (load_model(model, path) for path in (a, b))
        data = examples(data_a, data_b)
        if html is not None and data is None:
            raise ValueError("--html needs --data-a and --data-b")
        example = random_inputs(inputs, seed) if inputs else None
        if output.suffix == ".pt2" and example is None and data is None:
            raise ValueError("a .pt2 file needs --input, or --data-a and --data-b")
        result = merge(
            model_a,
            model_b,
            data,
            align=align,
            combine=combine,
            normalize=normalize,
            base=None if base is None else load_checkpoint(base),
            augment="auto" if augment is None else augment,
            width=width,
            spec=None if spec is None else PermutationSpec.from_json(spec.read_text()),
            example_inputs=example,
            outputs=None if outputs is None else operator.attrgetter(outputs),
            seed=seed,
            progress=not quiet,
        )
        _write_merged(result, output, example, data)
        if data is not None:
            naive = load_model(model, a)
            naive.load_state_dict(interpolate(model_a.state_dict(), model_b.state_dict()))
            models = {"A": model_a, "B": model_b, "naive average": naive, "merged": result.model}
            print_scores({name: evaluate(module, data) for name, module in models.items()})
        if html is not None:
            page = compare_models(model_a, model_b, data, {combine: result}, progress=not quiet)
            page.save_html(html)
    for key, value in result.report.items():
        console.print(f"{key}: {value:.6g}" if isinstance(value, float) else f"{key}: {value}")
    for path in filter(None, (output, html)):
        console.print(f"wrote {path}")


def _write_merged(
    result: MergeResult, output: Path, example: ExampleInputs | None, data: Data | None
) -> None:
    if output.suffix == ".pt2":
        save_program(result.model, example_of(example, data, result.model), output)
        return
    metadata = {key: str(value) for key, value in result.report.items()}
    save_checkpoint(result.params, output, {"fastrebasin": fastrebasin.__version__, **metadata})


def spec_command(
    model: Annotated[str, typer.Option(help="package.module:factory, which makes the module.")],
    inputs: Inputs = None,
    outputs: Outputs = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write the spec to, as JSON.")
    ] = None,
    dot: Annotated[
        Path | None, typer.Option(help="File to write a drawing to, for Graphviz.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Trace which units of a model may change places, prove it, and print it."""
    with errors(), warnings.catch_warnings():
        warnings.simplefilter("ignore", TracingWarning)  # the table says the same
        if not inputs:
            raise ValueError("--input is needed: the shape of something that the model takes")
        module = make_model(model)
        example = random_inputs(inputs, seed)
        kept = None if outputs is None else operator.attrgetter(outputs)
        traced = trace(module, example, outputs=kept, verify=False)
        deviation = traced.verify(module, example, outputs=kept, seed=seed)
        for path, text in ((output, traced.to_json), (dot, traced.to_dot)):
            if path is not None:
                _write_text(path, text() + "\n")
    typer.echo(traced.describe())
    typer.echo(
        f"{100 * traced.share(module.state_dict()):.2f} % of the parameters are in tensors that "
        f"move. Outputs after random permutations differ by {deviation:.1e}."
    )
    for path in (output, dot):
        if path is not None:
            typer.echo(f"wrote {path}")


def _write_text(path: Path, text: str) -> None:
    with atomic_output(path) as temporary:
        temporary.write_text(text)
