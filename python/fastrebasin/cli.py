"""The command `fastrebasin`: parses, calls, prints."""

from __future__ import annotations

import contextlib
import importlib
import operator
import platform
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

import fastrebasin
from fastrebasin import _native
from fastrebasin.checkpoints import atomic_output, check_fit, load_checkpoint, save_checkpoint
from fastrebasin.data import Data, load_examples
from fastrebasin.evaluation import Evaluation, evaluate
from fastrebasin.experiments.demo import run_demo
from fastrebasin.experiments.pairs import pair_names
from fastrebasin.experiments.report import accuracy_table
from fastrebasin.merging import interpolate, merge
from fastrebasin.spec import PermutationSpec
from fastrebasin.tracing import TracingWarning, trace

__all__ = ["app"]

app = typer.Typer(
    help="Merge neural networks that were trained apart, on different data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = Console(highlight=False)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress bars.")]
Seed = Annotated[int, typer.Option(help="Everything random derives from it.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        help="Shape of an input, as 1,3,32,32, or input_ids=1,16:int64 for a keyword argument of "
        "integers; once for each input.",
    ),
]

Outputs = Annotated[
    str | None, typer.Option(help="Attribute of the model's output that counts, as logits.")
]


@app.command()
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
    with _errors():
        loaded, runs = run_demo(
            output,
            pair_name=pair,
            data_dir=data_dir,
            seeds=range(seed, seed + seeds),
            train_epochs=epochs,
            progress=not quiet,
        )
    table = _table(f"A: {loaded.a.name}   B: {loaded.b.name}", "test accuracy, %")
    for row in accuracy_table(runs):
        table.add_row(*row)
    console.print(table)
    seconds = sum(sum(run.seconds.values()) for run in runs)
    console.print(f"Training and matching took {seconds:.0f} s. In {output}/:")
    console.print("  merged.safetensors   straight-through matching, all data")
    console.print("  model_a.safetensors, model_b.safetensors   what was merged")
    console.print("  report.json, curves.png   every number; accuracy between A and B")


@app.command("merge")
def merge_command(
    a: Annotated[Path, typer.Argument(help="Checkpoint of A: .safetensors, or .pt of tensors.")],
    b: Annotated[Path, typer.Argument(help="Checkpoint of B.")],
    model: Annotated[
        str, typer.Option(help="package.module:factory, which makes the module of both.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path(
        "merged.safetensors"
    ),
    align: Annotated[
        str, typer.Option(help="weights, activations, straight-through, sinkhorn or none.")
    ] = "weights",
    normalize: Annotated[str, typer.Option(help="auto, reset or none.")] = "auto",
    data_a: Annotated[
        Path | None, typer.Option(help="A's examples: .safetensors or .npz, images and labels.")
    ] = None,
    data_b: Annotated[Path | None, typer.Option(help="B's examples.")] = None,
    inputs: Inputs = None,
    outputs: Outputs = None,
    spec: Annotated[
        Path | None, typer.Option(help="Permutation spec in JSON; traced by default.")
    ] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Merge two checkpoints of one architecture."""
    with _errors():
        model_a, model_b = (_load_model(model, path) for path in (a, b))
        data = _data(data_a, data_b)
        result = merge(
            model_a,
            model_b,
            data,
            align=align,
            normalize=normalize,
            spec=None if spec is None else PermutationSpec.from_json(spec.read_text()),
            example_inputs=_random_inputs(inputs, seed) if inputs else None,
            outputs=None if outputs is None else operator.attrgetter(outputs),
            seed=seed,
            progress=not quiet,
        )
        metadata = {key: str(value) for key, value in result.report.items()}
        save_checkpoint(result.params, output, {"fastrebasin": fastrebasin.__version__, **metadata})
        if data is not None:
            naive = _load_model(model, a)
            naive.load_state_dict(interpolate(model_a.state_dict(), model_b.state_dict()))
            models = {"A": model_a, "B": model_b, "naive average": naive, "merged": result.model}
            _print_scores({name: evaluate(module, data) for name, module in models.items()})
    for key, value in result.report.items():
        console.print(f"{key}: {value:.6g}" if isinstance(value, float) else f"{key}: {value}")
    console.print(f"wrote {output}")


@app.command("spec")
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
    with _errors(), warnings.catch_warnings():
        warnings.simplefilter("ignore", TracingWarning)  # the table says the same
        if not inputs:
            raise ValueError("--input is needed: the shape of something that the model takes")
        module = _make_model(model)
        example = _random_inputs(inputs, seed)
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


@app.command()
def info() -> None:
    """Print versions, and what was built and found."""
    kernels = "CPU and CUDA" if _native.cuda_built() else "CPU"
    console.print(f"fastrebasin {fastrebasin.__version__} ({kernels} kernels)")
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    console.print(f"CUDA device: {'yes' if torch.cuda.is_available() else 'none found'}")
    console.print(f"Python {platform.python_version()} on {platform.platform()}")


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Turn the errors that users cause into one message and exit status 1."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        typer.echo(f"fastrebasin: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("fastrebasin: interrupted", err=True)
        raise typer.Exit(130) from None


def _load_model(target: str, checkpoint: Path) -> nn.Module:
    """Make the module that `target` names and load the checkpoint into it."""
    model = _make_model(target)
    params = load_checkpoint(checkpoint)
    check_fit(params, model, str(checkpoint))
    model.load_state_dict(params)
    return model.eval()


def _make_model(target: str) -> nn.Module:
    model = _factory(target)()
    if not isinstance(model, nn.Module):
        raise TypeError(f"--model {target} must return a torch module, got {type(model).__name__}")
    return model


def _factory(target: str) -> Callable[[], object]:
    module_name, separator, name = target.partition(":")
    if not separator or not module_name or not name:
        raise ValueError(f"--model must be package.module:factory, got {target!r}")
    sys.path.insert(0, "")  # the user's own modules, as `python -m` finds them
    try:
        module = importlib.import_module(module_name)
    finally:
        sys.path.remove("")
    factory = getattr(module, name, None)
    if not callable(factory):
        raise ValueError(f"--model: module {module_name} has no callable {name!r}")
    return factory  # type: ignore[no-any-return]


def _data(data_a: Path | None, data_b: Path | None) -> Data | None:
    if data_a is None and data_b is None:
        return None
    if data_a is None or data_b is None:
        raise ValueError("--data-a and --data-b go together")
    return load_examples(data_a), load_examples(data_b)


def _write_text(path: Path, text: str) -> None:
    with atomic_output(path) as temporary:
        temporary.write_text(text)


def _random_inputs(
    texts: list[str], seed: int
) -> tuple[torch.Tensor, ...] | dict[str, torch.Tensor]:
    """Make inputs of the shapes given, as positional or as keyword arguments."""
    generator = torch.Generator().manual_seed(seed)
    named = [text.rpartition("=")[::2] for text in texts]
    tensors = [_random_input(text, generator) for _, text in named]
    names = [name for name, _ in named]
    if not any(names):
        return tuple(tensors)
    if not all(names) or len(set(names)) < len(names):
        raise ValueError(f"--input must name all inputs, each once, or none, got {texts}")
    return dict(zip(names, tensors, strict=True))


def _random_input(text: str, generator: torch.Generator) -> torch.Tensor:
    shape_text, _, kind = text.partition(":")
    try:
        shape = [int(part) for part in shape_text.split(",")]
    except ValueError:
        raise ValueError(f"--input must be a shape such as 1,3,32,32, got {text!r}") from None
    if any(size < 1 for size in shape):
        raise ValueError(f"--input must have positive sizes, got {text!r}")
    if kind == "int64":
        return torch.randint(10, shape, generator=generator)
    if kind not in {"", "float32"}:
        raise ValueError(f"--input must be of float32 or int64, got {text!r}")
    return torch.rand(shape, generator=generator)


def _print_scores(scores: dict[str, Evaluation]) -> None:
    table = _table("", "accuracy on the data given, %")
    for name, evaluation in scores.items():
        columns = (*evaluation.sets, evaluation.mixture)
        table.add_row(name, *(f"{100 * score.accuracy:.2f}" for score in columns))
    console.print(table)


def _table(title: str, what: str) -> Table:
    table = Table(what, box=box.SIMPLE, title=title or None, title_justify="left", title_style="")
    for column in ("on A", "on B", "mixture"):
        table.add_column(column, justify="right")
    return table
