"""What a page says of a report, section by section: a sentence, then a table or charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastrebasin.evaluation.page.charts import (
    Line,
    Row,
    line_chart,
    plain_number,
    row_chart,
    two_digits,
)
from fastrebasin.evaluation.page.maps import correlation_map, plane_map
from fastrebasin.evaluation.page.markup import element, text
from fastrebasin.evaluation.page.tables import table
from fastrebasin.evaluation.scores import Evaluation, Score

if TYPE_CHECKING:
    from fastrebasin.evaluation.moves import LayerMove, UnitMove
    from fastrebasin.evaluation.report import MergeReport

__all__ = ["alignments", "best_merge", "confidence", "layers", "plane", "runs", "scores", "units"]

# Charts that are open on the page, the others unfold; and rows that are as high as a chart.
_OPEN = 6
_ROWS = 6
_ENDS = [(0.0, "A"), (0.25, "1/4"), (0.5, "half"), (0.75, "3/4"), (1.0, "B")]


def best_merge(report: MergeReport) -> str:
    """Return the merge that is the most accurate on the mixture, "" if there is none."""
    return max(report.merges, key=lambda name: report.rows[name].mixture.accuracy, default="")


def scores(report: MergeReport) -> str:
    """Return how accurate each model is."""
    several = len(report.data_names) > 1
    best = best_merge(report)
    columns = ["model", *report.data_names, *(["mixture"] if several else []), "loss",
               "calibration error"]  # fmt: skip
    rows, bars = {}, []
    for name, evaluation in report.rows.items():
        mixture, error = evaluation.mixture, report.calibrations[name].mixture.error
        shown = [_percent(score.accuracy) for score in _scores(evaluation)]
        rows[name] = [*shown, f"{mixture.loss:.4f}", _percent(error)]
        marks = [score.accuracy for score in evaluation.sets] if several else []
        bars.append(Row(name, mixture.accuracy, marks, _percent(mixture.accuracy), name == best))
    description = "; ".join(f"{row.name}: {row.label}" for row in bars)
    said = (
        "A bar is a model's accuracy on the mixture, in which every data set counts the same; the "
        "marks are its accuracy on each data set alone. A good merge is good on all of them."
        if several
        else "How many of the examples each model gets right."
    )
    return _section(
        "How good the models are",
        said,
        table("Accuracy; mean negative log-likelihood (nats); expected calibration error",
              columns, rows, best=[best]),
        _charts([row_chart("Accuracy", description, bars, report.data_names if several else [],
                           scale=(0, 1))]),
    )  # fmt: skip


def alignments(report: MergeReport) -> str:
    """Return what lies between A and B, before and after their units were aligned."""
    several = len(report.data_names) > 1
    rows = {
        name: [
            f"{found.barrier:.4f}",
            "-" if found.midpoint_loss is None else f"{found.midpoint_loss:.4f}",
            plain_number(found.distance),
            "-" if found.sharpness is None else plain_number(found.sharpness),
        ]
        for name, found in report.alignments.items()
    }
    places = [*report.data_names, *(["mixture"] if several else [])]
    charts = [_curves(report, -1, places[-1], "loss")]
    charts += [_curves(report, k, places[k], "accuracy") for k in (-1, *range(len(places) - 1))]
    return _section(
        "On the straight way from A to B",
        "Weights are mixed from all A (left) to all B (right). Without alignment the loss usually "
        "rises in between; an alignment is good if it stays low. The barrier is how far it rises "
        "above the line between both ends: nothing where A and B are bad at each other's data, so "
        "look at the loss halfway, too.",
        table(
            "Loss barrier and loss halfway (nats); distance of the weights over their number; "
            "sharpness, the slope of both losses towards the other network",
            ["alignment", "barrier", "loss halfway", "distance", "sharpness"], rows,
        ),
        _charts(charts),
    )  # fmt: skip


def _curves(report: MergeReport, place: int, name: str, what: str) -> str:
    lines = []
    for style, (alignment, found) in enumerate(report.alignments.items()):
        y = [float(getattr(_scores(point)[place], what)) for point in found.curve]
        x = [k / (len(y) - 1) for k in range(len(y))]
        lines.append(Line(alignment, x, y, style))
    halves = "; ".join(f"{line.name}: {line.y[len(line.y) // 2]:.3f} halfway" for line in lines)
    return line_chart(
        f"{what.capitalize()} on {name}", halves, lines, x_label="share of B in the weights",
        y_label=what, x_names=_ENDS, y_range=(0, 1) if what == "accuracy" else None,
    )  # fmt: skip


def plane(report: MergeReport) -> str:
    """Return the loss around A, B and B aligned."""
    if report.plane is None:
        return ""
    names = ("A", "B", "B aligned")
    losses = [corner.evaluation.mixture.loss for corner in report.plane.corners]
    description = "; ".join(
        f"{name}: loss {plain_number(loss)}" for name, loss in zip(names, losses, strict=True)
    )
    return _section(
        "The loss around A, B and B aligned",
        f"Every point is a network: the plane goes through A, B, and B as {report.focus} aligned "
        "it. Stronger blue is a higher loss; a number on a line is the loss all along it. B and B "
        "aligned compute the same; what differs is what lies between them and A (dashed: not "
        "aligned).",
        _charts([plane_map(report.plane, names, title="Loss on the mixture",
                           description=description)]),
    )  # fmt: skip


def units(report: MergeReport) -> str:
    """Return how alike partners respond, before and after the alignment."""
    if not report.units:
        return ""
    bars = [
        Row(move.group, None, [move.before, move.after], _change(move)) for move in report.units
    ]
    low = min(0.0, *(value for bar in bars for value in bar.marks))
    summary = row_chart(
        "Mean correlation of partners", "; ".join(f"{b.name}: {b.label}" for b in bars), bars,
        ["before", "after"], scale=(low, 1), joined=True,
    )  # fmt: skip
    return _section(
        "Which units found a partner",
        f"Each picture shows how alike A's units (rows) and B's (columns) respond to the same "
        f"examples: blue alike, orange opposite. Before {report.focus}, partners stand at the same "
        "place by chance; after it, alike ones should form the diagonal.",
        _beside(summary, len(bars), [correlation_map(move) for move in report.units], "groups"),
    )


def layers(report: MergeReport) -> str:
    """Return how much weights differ, before and after the alignment."""
    matrices = [move for move in report.layers if len(move.shape) > 1]
    if not matrices:
        return ""
    bars = [
        Row(f"{move.name} {'x'.join(map(str, move.shape))}", None, [move.before, move.after],
            _change(move))
        for move in matrices
    ]  # fmt: skip
    summary = row_chart(
        "Size of the difference, relative to A", "; ".join(f"{b.name}: {b.label}" for b in bars),
        bars, ["before", "after"], joined=True,
    )  # fmt: skip
    spectra = [
        line_chart(
            f"{move.name}: singular values of the difference",
            f"The largest is {plain_number(move.spectrum_before[0])} before the alignment and "
            f"{plain_number(move.spectrum_after[0])} after it.",
            [
                Line(name, [k + 1 for k in range(len(values))], values, style)
                for style, (name, values) in enumerate(
                    (("before", move.spectrum_before), ("after", move.spectrum_after))
                )
            ],
            x_label="number of the singular value", y_label="singular value", height=150,
        )
        for move in matrices
        if len(move.spectrum_before) > 1
    ]  # fmt: skip
    return _section(
        "How much of the weights' difference is left",
        "Averaging has to bridge the difference between A's and B's weights. The first chart shows "
        f"its size in each layer before and after {report.focus} aligned B; the spectra show where "
        "it went down: large singular values are differences that many units share.",
        _beside(summary, len(bars), spectra, "layers"),
    )


def confidence(report: MergeReport) -> str:
    """Return how far each model's confidence can be trusted."""
    lines, errors = [], []
    # A merge has the colour of its alignment.
    styles = {name: k for k, name in enumerate(dict.fromkeys([*report.alignments, *report.rows]))}
    for name, found in report.calibrations.items():
        # Bins with next to no examples are noise.
        bins = [one for one in found.mixture.bins if one.share >= 0.005]
        lines.append(
            Line(name, [b.confidence for b in bins], [b.accuracy for b in bins], styles[name])
        )
        errors.append(f"{name}: calibration error {_percent(found.mixture.error)}")
    chart = line_chart(
        "Accuracy by confidence", "; ".join(errors), lines, x_label="confidence",
        y_label="accuracy", y_range=(0, 1), guide=Line("", [0, 1], [0, 1], 0), height=260,
        x_range=(0, 1),
    )  # fmt: skip
    return _section(
        "Whether confidence can be trusted",
        "A model that says 0.8 should be right four times out of five: on the dotted line "
        "confidence and accuracy agree. Below it a model is too sure of itself.",
        _charts([chart]),
    )


def runs(report: MergeReport) -> str:
    """Return what each merge was asked for and what it reported, and notes."""
    notes = [element("p", text(note), class_="note") for note in report.notes]
    if not report.options:
        return _section("What to know", "", *notes) if notes else ""
    every = dict.fromkeys(key for options in report.options.values() for key in options)
    rows = {
        key.replace("_", " "): [
            _shown(options.get(key, "-")) for options in report.options.values()
        ]
        for key in every
    }
    return _section(
        "How the merges were made",
        "What each merge was asked for, and what it reported of itself.",
        table("Options, and what came of them", ["", *report.options], rows),
        *notes,
    )


def _section(heading: str, said: str, *body: str) -> str:
    return element("section", element("h2", text(heading)), element("p", text(said)), *body)


def _charts(charts: Sequence[str]) -> str:
    return element("div", *charts, class_="charts")


def _beside(summary: str, rows: int, charts: Sequence[str], what: str) -> str:
    """Return a chart of rows with as many others at its side as are as high, and the rest below."""
    near = max(1, rows // _ROWS)
    far = max(near, _OPEN)
    top = _charts([summary, element("div", *charts[:near], class_="stack")])
    below = _charts(charts[near:far]) if len(charts) > near else ""
    if len(charts) <= far:
        return top + below
    more = element("summary", text(f"{len(charts) - far} more {what}"))
    return top + below + element("details", more, _charts(charts[far:]))


def _scores(evaluation: Evaluation) -> tuple[Score, ...]:
    """Return the scores of the data sets, and that of the mixture behind if there are several."""
    sets = evaluation.sets
    return (*sets, evaluation.mixture) if len(sets) > 1 else sets


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def _change(move: UnitMove | LayerMove) -> str:
    return f"{two_digits(move.before)} → {two_digits(move.after)}"


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
