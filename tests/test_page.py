"""The page of a report: well-formed, escaped, self-contained, and shown by a browser as meant."""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import math
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
import reports
from PIL import Image

from fastrebasin import Evaluation, Score
from fastrebasin.evaluation import Calibration, MergeReport, Reliability
from fastrebasin.evaluation.page import html_page
from fastrebasin.evaluation.page.charts import Row, row_chart
from fastrebasin.evaluation.page.contours import contour
from fastrebasin.evaluation.page.raster import data_uri
from fastrebasin.evaluation.page.scales import Scale, scale_for

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def parse(report: MergeReport) -> ElementTree.Element:
    return ElementTree.fromstring(html_page(report).removeprefix("<!DOCTYPE html>"))


def texts(root: ElementTree.Element) -> str:
    return " ".join(root.itertext())


def test_a_page_is_well_formed_and_holds_every_number() -> None:
    found, root = reports.report(), parse(reports.report())
    shown = texts(root)
    for name, evaluation in found.rows.items():
        assert name in shown
        assert f"{evaluation.mixture.loss:.4f}" in shown
        for score in (*evaluation.sets, evaluation.mixture):
            assert f"{100 * score.accuracy:.2f} %" in shown
    for value in (*reports.NAMES, found.title, "P0: 12 units", "layer1.weight 9x12"):
        assert value in shown
    headings = [heading.text for heading in root.iter("h2")]
    assert len(headings) == 7
    for section in root.iter("section"):
        assert [child.tag for child in section][:2] == ["h2", "p"]


def test_names_are_escaped_wherever_they_appear() -> None:
    hostile = "\"'><img src=x onerror=alert(1)>&amp;\x00\x1b"
    found = reports.report()
    report = dataclasses.replace(
        found,
        title=hostile,
        data_names=(hostile, hostile + "2"),
        rows={hostile: found.rows["model A"]},
        merges=(hostile,),
        calibrations={hostile: found.calibrations["model A"]},
        alignments={hostile: found.alignments["not aligned"]},
        focus=hostile,
        units=tuple(dataclasses.replace(move, group=hostile) for move in found.units),
        layers=tuple(dataclasses.replace(move, name=hostile) for move in found.layers),
        options={hostile: {hostile: hostile}},
        notes=(hostile,),
    )
    root = parse(report)
    tags = {node.tag for node in root.iter()}
    assert not tags & {"script", "img", "iframe", "link", "b", "object"}
    assert not any(key.startswith("on") for node in root.iter() for key in node.attrib)
    assert "<img src=x onerror=alert(1)>&amp;" in texts(root)


def test_a_page_needs_nothing_but_itself() -> None:
    page = html_page(reports.report())
    assert not re.search(
        r"https?:|//|url\(|@import|<script|<link", re.sub(r'href="data:[^"]*"', "", page)
    )
    addresses = [node.get("href") for node in ElementTree.fromstring(page[15:]).iter("image")]
    assert len(addresses) == 6
    assert all(address and address.startswith("data:image/png;base64,") for address in addresses)


def test_every_figure_says_what_it_shows() -> None:
    figures = list(parse(reports.report()).iter("figure"))
    assert len(figures) == 14  # bars, 4 curves, a plane, 3 of units, 4 of layers, confidence
    for figure in figures:
        svg = figure.find("svg")
        assert svg is not None
        title, description = svg.find("title"), svg.find("desc")
        assert title is not None
        assert description is not None
        assert figure.findtext("figcaption") == title.text
        assert description.text
        assert svg.get("aria-label") == f"{title.text}. {description.text}"
        assert svg.get("role") == "img"
        drawn = [node.get("d", "") for node in svg.iter("path")]
        assert not any("nan" in path or "inf" in path for path in drawn)


def test_values_that_are_not_finite_leave_gaps() -> None:
    found = reports.report()
    way = found.alignments["not aligned"]
    lost = Evaluation((Score(0.1, math.inf), Score(0.1, math.nan)))
    broken = dataclasses.replace(way, curve=(*way.curve[:2], lost, *way.curve[3:]))
    assert found.plane is not None
    grid = (tuple(lost for _ in found.plane.x), *found.plane.grid[1:])
    report = dataclasses.replace(
        found,
        rows=found.rows | {"model A": lost},
        alignments={"not aligned": broken},
        plane=dataclasses.replace(found.plane, grid=grid),
    )
    loss = next(
        f for f in parse(report).iter("figure") if f.findtext("figcaption") == "Loss on mixture"
    )
    paths = [node.get("d", "") for node in loss.iter("path")]
    assert [path.count("M") for path in paths] == [2]
    assert "nan" not in "".join(paths)


def test_marks_keep_their_kind_where_others_are_missing() -> None:
    whole, part = (
        row_chart("t", "d", [Row("r", None, marks, "")], ["p", "q"], scale=(0, 1), joined=True)
        for marks in ([0.2, 0.7], [math.nan, 0.7])
    )
    marks = [re.findall(r'cx="([^"]*)"[^>]*class="(mark [^"]*)"', chart) for chart in (whole, part)]
    assert marks[1] == [*marks[0][:2], marks[0][3]]
    assert [chart.count('class="joint"') for chart in (whole, part)] == [1, 0]


def test_three_data_sets_one_and_none_of_the_pictures() -> None:
    found = reports.report()
    for count in (1, 3):
        score = Evaluation((Score(0.25, 1.0),) * count)
        table = Calibration((Reliability(found.calibrations["model A"].sets[0].bins),) * count)
        way = dataclasses.replace(found.alignments["not aligned"], curve=(score,) * 3)
        report = dataclasses.replace(
            found, data_names=("x", "y", "z")[:count], rows=dict.fromkeys(found.rows, score),
            calibrations=dict.fromkeys(found.rows, table), alignments={"not aligned": way},
            plane=None, units=(), layers=(), focus="", notes=(), merges=(),
        )  # fmt: skip
        root = parse(report)
        (head, *_) = root.iter("thead")
        titles = [cell.text for cell in head.iter("th")]
        mixture = ["mixture"] if count > 1 else []
        assert titles == ["model", *report.data_names, *mixture, "loss", "calibration error"]
        assert len(list(root.iter("figure"))) == 1 + 1 + count + len(mixture) + 1


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 17), (1e-5, 3e-5), (0, 93456), (5, 5.01)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    ticks = Scale(low, high, 0, 100).ticks()
    assert 3 <= len(ticks) <= 9
    assert all(low - 1e-9 * high <= tick <= high * (1 + 1e-9) for tick in ticks)
    steps = {round((b - a) / (ticks[1] - ticks[0]), 6) for a, b in itertools.pairwise(ticks)}
    assert steps == {1.0}
    step = ticks[1] - ticks[0]
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1, 2, 5)


@pytest.mark.parametrize(
    "values", [[], [3.0, 3.0], [0.0], [-2.0], [math.nan, 1.0], [1e300, -1e300]]
)
def test_scales_of_any_values_have_a_length(values: list[float]) -> None:
    for zero in (False, True):
        scale = scale_for(values, 0, 100, zero=zero)
        assert scale.low < scale.high
        assert all(0 <= scale(value) <= 100 for value in values if math.isfinite(value))


def test_pictures_are_png_whose_opacity_is_the_size() -> None:
    address = data_uri([[0.0, 0.5, 2.0], [-1.0, -0.2, math.nan]], (1, 2, 3), (4, 5, 6))
    image = Image.open(io.BytesIO(base64.b64decode(address.split(",")[1])))
    assert (image.size, image.mode) == ((3, 2), "RGBA")
    pixels = [image.getpixel((x, y)) for y in range(2) for x in range(3)]
    assert [p[3] for p in pixels if isinstance(p, tuple)] == [0, 128, 255, 255, 51, 0]
    assert pixels[1] == (1, 2, 3, 128)
    assert pixels[3] == (4, 5, 6, 255)


def test_contours_of_a_cone_are_circles() -> None:
    size = 41
    grid = [[math.hypot(r - 20, c - 20) for c in range(size)] for r in range(size)]
    pieces = list(contour(grid, 12.3))
    assert all(
        math.hypot(r - 20, c - 20) == pytest.approx(12.3, abs=0.05) for p in pieces for r, c in p
    )
    length = sum(math.dist(*piece) for piece in pieces)
    assert length == pytest.approx(2 * math.pi * 12.3, rel=0.01)
    ends = [end for piece in pieces for end in piece]
    assert all(ends.count(end) == 2 for end in ends)  # closed


@pytest.mark.parametrize("middle", [0.4, 0.6])
def test_contours_part_a_saddle_at_its_lower_or_upper_corners(middle: float) -> None:
    high = 4 * middle - 1  # with 0, 0 and 1 the mean is `middle`
    pieces = list(contour([[1, 0], [0, high]], 0.5))
    assert len(pieces) == 2
    apart = [(0, 0), (1, 1)] if middle < 0.5 else [(0, 1), (1, 0)]
    for corner in apart:
        assert any(
            all(abs(r - corner[0]) < 1e-9 or abs(c - corner[1]) < 1e-9 for r, c in p)
            for p in pieces
        )


def browse(path: Path, tmp_path: Path) -> tuple[str, list[str]]:
    """Return the document as a browser built it, and what it wrote to its console."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser found on PATH: {', '.join(BROWSERS)}")
    run = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--no-first-run", "--enable-logging=stderr",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return run.stdout, [line for line in run.stderr.splitlines() if "CONSOLE" in line]


def test_a_browser_shows_the_page_without_complaint(tmp_path: Path) -> None:
    path = tmp_path / "page & more.html"
    reports.report().save_html(path)
    document, complaints = browse(path, tmp_path)
    assert complaints == []
    for tag in ("figure", "figcaption", "table", "section", "image"):
        count = len(list(parse(reports.report()).iter(tag)))
        assert len(re.findall(rf"<{tag}[ >]", document)) == count > 0
    assert "<script" not in document


def test_a_browser_fetches_and_runs_nothing_from_a_page(tmp_path: Path) -> None:
    page = html_page(reports.report())
    path = tmp_path / "tampered.html"
    path.write_text(
        page.replace("</h1>", '</h1><img src="http://localhost:9/x.png"/><script>1</script>'),
        encoding="utf-8",
    )
    _, complaints = browse(path, tmp_path)
    assert any("localhost:9/x.png" in line and "blocked" in line for line in complaints)
    assert any("inline script" in line for line in complaints)
