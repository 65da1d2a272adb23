"""What one merge, or a comparison of several, gave: tables, a JSON file, a page to read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from fastrebasin.checkpoints import atomic_output
from fastrebasin.evaluation.calibration import Calibration
from fastrebasin.evaluation.curves import barrier, midpoint_loss
from fastrebasin.evaluation.landscape import Landscape
from fastrebasin.evaluation.moves import LayerMove, UnitMove
from fastrebasin.evaluation.page import html_page
from fastrebasin.evaluation.scores import Evaluation
from fastrebasin.evaluation.serialization import plain, restore

__all__ = ["Alignment", "MergeReport"]


@dataclass(frozen=True)
class Alignment:
    """The straight way from A to B under one alignment of B.

    Attributes:
        curve: evaluations at evenly spaced shares of B, from 0 to 1.
        distance: norm of A - B over the number of parameters.
        sharpness: slope of the losses of A and B towards each other; None unless there are two
            data sets.
    """

    curve: tuple[Evaluation, ...]
    distance: float
    sharpness: float | None

    @property
    def barrier(self) -> float:
        """The most by which the mixture's loss rises above the line between the ends."""
        return barrier(self.curve)

    @property
    def midpoint_loss(self) -> float | None:
        """The mixture's loss halfway; None if no point of the curve is there."""
        return midpoint_loss(self.curve) if len(self.curve) % 2 else None


@dataclass(frozen=True)
class MergeReport:
    """What is worth knowing of two networks and their merges; `compare_models` makes it.

    It prints itself as tables (`rich.print(report)`), and writes itself as JSON and as a page.

    Attributes:
        title: of the page.
        data_names: the data sets', in the order of the evaluations' scores.
        rows: the evaluation of each model: A, B, their ensemble, merges.
        merges: which of the rows are merges.
        calibrations: how far the confidence of each row can be trusted.
        alignments: the way from A to B without alignment, and under that of each merge.
        focus: the merge whose alignment the following show; "" if none aligned anything.
        plane: evaluations around A, B and B aligned; None if nothing moved, or if not wanted.
        units: how alike units respond, before and after.
        layers: how much weights differ, before and after.
        options: what each merge was asked for, and what it reported.
        notes: what a reader should know.
    """

    title: str
    data_names: tuple[str, ...]
    rows: dict[str, Evaluation]
    merges: tuple[str, ...]
    calibrations: dict[str, Calibration]
    alignments: dict[str, Alignment]
    focus: str
    plane: Landscape | None
    units: tuple[UnitMove, ...]
    layers: tuple[LayerMove, ...]
    options: dict[str, dict[str, object]]
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        problems = [
            f"rows.{name} must have {len(self.data_names)} scores, got {len(row.sets)}"
            for name, row in self.rows.items()
            if len(row.sets) != len(self.data_names)
        ]
        problems += [
            f"alignments.{name}.curve must have at least 2 points of {len(self.data_names)} scores"
            for name, found in self.alignments.items()
            if len(found.curve) < 2
            or any(len(point.sets) != len(self.data_names) for point in found.curve)
        ]
        if list(self.calibrations) != list(self.rows) or not self.rows:
            problems.append("calibrations must be of the same models as rows")
        if not set(self.merges) <= set(self.rows):
            problems.append(f"merges must be among the rows, got {list(self.merges)}")
        if problems:
            raise ValueError("the report doesn't fit together: " + "; ".join(problems))

    def __rich__(self) -> Group:
        notes = [Text(note, style="dim") for note in self.notes]
        return Group(self.table(), self.alignment_table(), *notes)

    def table(self) -> Table:
        """Return the scores of all models: accuracy on each data set, and on the mixture."""
        table = _table(self.title, "model")
        several = len(self.data_names) > 1
        for name in self.data_names:
            table.add_column(Text(name), justify="right")
        for name in (*(["mixture"] if several else []), "loss", "calibration error"):
            table.add_column(name, justify="right")
        for name, evaluation in self.rows.items():
            mixture = evaluation.mixture
            scores = (*evaluation.sets, *([mixture] if several else []))
            error = self.calibrations[name].mixture.error
            cells = [f"{100 * score.accuracy:.2f} %" for score in scores]
            table.add_row(Text(name), *cells, f"{mixture.loss:.4f}", f"{100 * error:.2f} %")
        return table

    def alignment_table(self) -> Table:
        """Return the barriers, distances and sharpness of all alignments."""
        table = _table("From A to B", "alignment")
        for name in ("barrier", "loss halfway", "distance", "sharpness"):
            table.add_column(name, justify="right")
        for name, found in self.alignments.items():
            numbers = (found.barrier, found.midpoint_loss)
            small = (found.distance, found.sharpness)
            table.add_row(
                Text(name),
                *("-" if x is None else f"{x:.4f}" for x in numbers),
                *("-" if x is None else f"{x:.3g}" for x in small),
            )
        return table

    def to_json(self) -> str:
        """Return everything as JSON text; `from_json` reads it back."""
        return json.dumps(plain(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> MergeReport:
        """Read a report that `to_json` wrote.

        Raises:
            ValueError: the text is not such JSON; says where.
        """
        report: MergeReport = restore(cls, json.loads(text), "report")
        return report

    def save_json(self, path: str | Path) -> None:
        """Write everything as JSON; the file appears whole or not at all."""
        _write(path, self.to_json())

    def save_html(self, path: str | Path) -> None:
        """Write one page with all tables and figures, which needs no other file and no network."""
        _write(path, html_page(self))


def _table(title: str, first: str) -> Table:
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column(first)
    return table


def _write(path: str | Path, text: str) -> None:
    with atomic_output(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
