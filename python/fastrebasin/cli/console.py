"""What all commands share: options, the console, tables, and errors as one message."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from fastrebasin.evaluation import Evaluation

__all__ = ["Quiet", "Seed", "console", "errors", "print_scores", "score_table"]

console = Console(highlight=False)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress bars.")]
Seed = Annotated[int, typer.Option(help="Everything random derives from it.")]


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """Turn the errors that users cause into one message and exit status 1."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        typer.echo(f"fastrebasin: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("fastrebasin: interrupted", err=True)
        raise typer.Exit(130) from None


def print_scores(scores: dict[str, Evaluation]) -> None:
    """Print accuracy on the data given."""
    table = score_table("", "accuracy on the data given, %")
    for name, evaluation in scores.items():
        columns = (*evaluation.sets, evaluation.mixture)
        table.add_row(name, *(f"{100 * score.accuracy:.2f}" for score in columns))
    console.print(table)


def score_table(title: str, what: str) -> Table:
    """Return an empty table of scores on A, on B and on their mixture."""
    table = Table(what, box=box.SIMPLE, title=title or None, title_justify="left", title_style="")
    for column in ("on A", "on B", "mixture"):
        table.add_column(column, justify="right")
    return table
