"""The command `fastrebasin`: parses, calls, prints."""

from __future__ import annotations

import platform

import torch
import typer

import fastrebasin
from fastrebasin.cli.console import console
from fastrebasin.cli.experiments import demo, reproduce
from fastrebasin.cli.machine import built_for, devices, driver
from fastrebasin.cli.models import merge_command, spec_command
from fastrebasin.cli.reduction import condense_command, coreset_command

__all__ = ["app"]

app = typer.Typer(
    help="Merge neural networks that were trained apart, on different data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(demo)
app.command("merge")(merge_command)
app.command("spec")(spec_command)
app.command("coreset")(coreset_command)
app.command("condense")(condense_command)
app.command()(reproduce)


@app.command()
def info() -> None:
    """Print versions, and what was built and found."""
    console.print(f"fastrebasin {fastrebasin.__version__}, kernels for {built_for()}")
    cuda = torch.version.cuda or "none"
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, CUDA: {cuda}")
    console.print(f"NVIDIA driver: {driver()}")
    for device in devices() or ["none found"]:
        console.print(f"CUDA device: {device}")
    console.print(f"Python {platform.python_version()} on {platform.platform()}")
