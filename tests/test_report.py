"""Comparisons of models, what alignments moved, and reports as tables and JSON."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path

import pytest
import reports
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

from fastrebasin import (
    Ensemble,
    Evaluation,
    PermutationSpec,
    Score,
    apply_permutation,
    evaluate,
    interpolate,
    invert,
    merge,
)
from fastrebasin.evaluation import (
    MergeReport,
    calibration,
    compare_models,
    distance,
    layer_moves,
    sharpness,
    unit_moves,
)
from fastrebasin.experiments.models import MLP


def aligned(name: str) -> dict[str, Tensor]:
    b = reports.models()[1].state_dict()
    return apply_permutation(reports.SPEC, reports.merges()[name].permutation, b)


def test_rows_are_what_each_model_scores() -> None:
    found, (a, b), average = reports.report(), reports.models(), MLP(6, (12, 9), 3)
    average.load_state_dict(interpolate(a.state_dict(), b.state_dict()))
    models = {"model A": a, "model B": b, "ensemble": Ensemble([a, b], [0.5, 0.5])}
    models |= {"plain average": average} | {n: r.model for n, r in reports.merges().items()}
    assert list(found.rows) == list(models)
    for name, model in models.items():
        assert found.rows[name] == evaluate(model, reports.DATA)
        assert found.calibrations[name] == calibration(model, reports.DATA)
    assert found.merges == ("plain average", *reports.MERGES)


def test_alignments_are_measured_on_the_way_to_b_as_each_merge_aligned_it() -> None:
    found, (a, b) = reports.report(), reports.models()
    ways = {"not aligned": b.state_dict()} | {name: aligned(name) for name in reports.MERGES}
    assert list(found.alignments) == list(ways)
    for name, params in ways.items():
        alignment = found.alignments[name]
        assert alignment.curve[0] == found.rows["model A"]
        middle = "plain average" if name == "not aligned" else name
        assert alignment.curve[2] == found.rows[middle]
        assert alignment.midpoint_loss == found.rows[middle].mixture.loss
        assert alignment.distance == distance(a.state_dict(), params)
        assert alignment.sharpness == sharpness(a, a.state_dict(), params, reports.DATA)


def test_pictures_show_the_most_accurate_merge() -> None:
    found = reports.report()
    accuracy = {name: found.rows[name].mixture.accuracy for name in reports.MERGES}
    assert found.focus == max(accuracy, key=lambda name: accuracy[name])
    assert found.plane is not None
    corners = [corner.evaluation for corner in found.plane.corners]
    assert corners[:2] == [found.rows["model A"], found.rows["model B"]]
    assert corners[2] == found.alignments[found.focus].curve[-1]
    assert [move.group for move in found.units] == ["P0", "P1"]
    assert {move.name for move in found.layers} == set(aligned(found.focus)) - {"layer2.bias"}


def test_partners_of_a_permuted_copy_correlate_fully() -> None:
    a = MLP(6, (200, 7), 3)
    spec = reports.SPEC.bind(a.state_dict())
    permutation = spec.random_permutation(3)
    b = MLP(6, (200, 7), 3)
    b.load_state_dict(apply_permutation(spec, invert(permutation), a.state_dict()))
    wide, narrow = unit_moves(spec, a, b, permutation, reports.DATA[0])
    params = a.state_dict()
    hidden = functional.relu(reports.X @ params["layer0.weight"].T + params["layer0.bias"])
    varies = (hidden.var(0) > 0).double()
    assert wide.after == pytest.approx(varies.mean().item(), abs=1e-6)
    assert wide.before < 0.5
    moved = (permutation["P0"] != torch.arange(200)).double().mean().item()
    assert (wide.units, wide.moved) == (200, moved)
    assert (len(wide.shown), wide.shown[0], wide.shown[-1]) == (64, 0, 199)
    assert (len(narrow.shown), len(narrow.picture_after[0])) == (7, 7)
    shown = list(wide.shown)
    expected = torch.corrcoef(hidden.double().T).nan_to_num(0)
    after = torch.tensor(wide.picture_after, dtype=torch.float64)
    assert torch.allclose(after, expected[shown][:, shown], atol=1e-3)
    before = torch.tensor(wide.picture_before, dtype=torch.float64)
    places = invert(permutation)["P0"][shown]
    assert torch.allclose(before, expected[shown][:, places], atol=1e-3)


def test_attention_heads_take_their_units_along() -> None:
    spec = PermutationSpec.from_axes(
        {"0.weight": ("H*Q", None), "1.weight": (None, "H*Q"), "h": ("H",)}, within={"Q": ["H"]}
    )

    class Heads(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(6, 12, bias=False), nn.Linear(12, 3))
            self.h = nn.Parameter(torch.ones(3))

    a, b = Heads(), Heads()
    bound = spec.bind(a.state_dict())
    permutation = bound.random_permutation(2)
    b.load_state_dict(apply_permutation(bound, invert(permutation), a.state_dict()))
    (found,) = unit_moves(spec, a, b, permutation, reports.DATA[0])
    assert (found.group, found.units) == ("H*Q", 12)
    assert found.after == pytest.approx(1, abs=1e-5)
    assert found.before < 0.9


def test_spectra_are_those_of_the_difference() -> None:
    axes = {"w": ("P", None, None), "thin": ("P", None), "b": ("P",), "n.running_mean": ("P",)}
    a, b = (
        {"w": torch.randn(5, 3, 2), "thin": torch.randn(5, 40), "b": torch.randn(5),
         "n.running_mean": torch.randn(5)}
        for _ in range(2)
    )  # fmt: skip
    permutation = torch.tensor([4, 2, 0, 1, 3])
    found = {
        m.name: m for m in layer_moves(PermutationSpec.from_axes(axes), a, b, {"P": permutation})
    }
    assert list(found) == ["w", "thin", "b"]
    for name, move in found.items():
        for other, relative, spectrum in (
            (b[name], move.before, move.spectrum_before),
            (b[name][permutation], move.after, move.spectrum_after),
        ):
            step = a[name].double() - other.double()
            assert relative == pytest.approx((step.norm() / a[name].double().norm()).item())
            expected = torch.linalg.svdvals(step.flatten(1)).tolist() if name != "b" else []
            assert spectrum == pytest.approx(expected, rel=1e-4)


def test_one_data_set_and_nothing_aligned() -> None:
    a, b = reports.models()
    plain = merge(a, b, align="none")
    found = compare_models(a, b, reports.DATA[0], {"mean": plain}, points=4)
    assert list(found.rows) == ["model A", "model B", "ensemble", "mean"]
    assert list(found.alignments) == ["not aligned"]
    way = found.alignments["not aligned"]
    assert (way.sharpness, way.midpoint_loss) == (None, None)
    assert (found.focus, found.plane, found.units, found.layers) == ("", None, (), ())
    assert found.data_names == ("data 1",)


def test_data_that_can_be_read_once_will_do() -> None:
    a, b = reports.models()
    batches = ((x, y) for x, y in [reports.DATA[0]] * 2)
    found = compare_models(
        a, b, batches, reports.merges(), spec=reports.SPEC, points=3, plane_points=2
    )
    assert found.rows["model A"].mixture.loss == pytest.approx(
        evaluate(a, reports.DATA[0]).mixture.loss
    )
    assert found.plane is not None


class Bare(nn.Module):
    """Units that pass no module, behind BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.first, self.last = (nn.Parameter(torch.randn(s)) for s in ((8, 6), (3, 8)))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.norm(x) @ self.first.T) @ self.last.T


def test_what_is_left_out_is_noted() -> None:
    spec = PermutationSpec.from_axes({"first": ("P", None), "last": (None, "P")})
    a, b, data = Bare(), Bare(), reports.DATA[0]
    results = {"weights": merge(a, b, spec=spec, example_inputs=data[0])}
    found = compare_models(a, b, data, results, spec=spec, points=3, plane_points=0)
    assert "BatchNorm's statistics are interpolated" in found.notes[0]
    assert "Correlations of units are left out: groups can't be observed" in found.notes[1]
    assert found.units == ()
    assert found.plane is None
    assert [move.name for move in found.layers] == ["first", "last"]
    reset = compare_models(
        a, b, data, results, spec=spec, points=3, plane_points=0, normalize=lambda _: a
    )
    assert len(reset.notes) == 1
    assert set(reset.alignments["weights"].curve) == {found.rows["model A"]}
    assert reset.rows["plain average"] == found.rows["model A"]


def test_options_are_checked_together() -> None:
    a, b = reports.models()
    with pytest.raises(ValueError, match=r"'ensemble'.*data_names must be 2 .*points.*plane_poin"):
        compare_models(a, b, reports.DATA, {"ensemble": reports.merges()[reports.MERGES[0]]},
                       data_names=["x"], points=1, plane_points=1)  # fmt: skip


def test_a_model_that_broke_is_named() -> None:
    broken = merge(*reports.models(), align="none")
    with torch.no_grad():
        next(broken.model.parameters()).fill_(math.nan)
    with pytest.raises(ValueError, match="lost: the model's outputs on data must be finite"):
        compare_models(*reports.models(), reports.DATA, {"lost": broken})


def test_reports_that_contradict_themselves_are_refused() -> None:
    found = reports.report()
    lone = dataclasses.replace(found.alignments["not aligned"], curve=())
    with pytest.raises(ValueError, match=r"curve must have at least 2.*calibrations.*merges must"):
        dataclasses.replace(found, alignments={"x": lone}, calibrations={}, merges=("z",))
    with pytest.raises(ValueError, match=r"rows.model A must have 1 scores, got 2"):
        dataclasses.replace(found, data_names=("one",))


def test_json_gives_the_same_report_back(tmp_path: Path) -> None:
    found = reports.report()
    lost = Evaluation((Score(0.1, math.inf), Score(0.2, 3.0)))
    broken = dataclasses.replace(found, rows={**found.rows, "model A": lost}, plane=None)
    for report in (found, broken):
        path = tmp_path / "report.json"
        report.save_json(path)
        assert MergeReport.from_json(path.read_text(encoding="utf-8")) == report
    content = json.loads(path.read_text(encoding="utf-8"))  # plain JSON, as others read it
    assert content["rows"]["model B"]["sets"][0]["loss"] == found.rows["model B"].sets[0].loss
    assert content["rows"]["model A"]["sets"][0]["loss"] == "inf"


def test_json_of_something_else_is_refused() -> None:
    found = json.loads(reports.report().to_json())
    with pytest.raises(ValueError, match=r"report must be an object with \['alignments'.*got list"):
        MergeReport.from_json("[]")
    for change, message in (
        ({"title": 3}, "title must be str, got 3"),
        ({"rows": {"m": {"sets": 1}}}, "rows.m.sets must be"),
        ({"plane": {**found["plane"], "corners": []}}, "plane.corners must be"),
        ({"plane": {**found["plane"], "x": ["wide"]}}, "must be float, got 'wide'"),
    ):
        with pytest.raises(ValueError, match=message):
            MergeReport.from_json(json.dumps(found | change))


def test_tables_show_every_model_in_plain_text() -> None:
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(reports.report())
    text = console.export_text()
    for name, evaluation in reports.report().rows.items():
        (line,) = (line for line in text.splitlines() if f"  {name} " in line and "%" in line)
        assert all(f"{100 * score.accuracy:.2f} %" in line for score in evaluation.sets)
        assert f"{evaluation.mixture.loss:.4f}" in line
    assert all(name in text for name in (*reports.NAMES, "mixture", "calibration error", "barrier"))
