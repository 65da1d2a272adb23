"""Compare two networks and their merges, as Yamada et al., ACML 2024, compare them: tables 1 and 2.

Beyond the paper: calibration, a plane through the networks, and what the alignment moved.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from fastrebasin._errors import first_line
from fastrebasin._progress import bar
from fastrebasin.data import Data, Examples, held_tensors
from fastrebasin.evaluation.calibration import Calibration, calibration
from fastrebasin.evaluation.curves import interpolation_curve
from fastrebasin.evaluation.geometry import distance, sharpness
from fastrebasin.evaluation.landscape import Landscape, landscape
from fastrebasin.evaluation.moves import LayerMove, UnitMove, layer_moves, unit_moves
from fastrebasin.evaluation.predictions import device_of, resident_sources
from fastrebasin.evaluation.report import Alignment, MergeReport
from fastrebasin.evaluation.scores import Ensemble, Evaluation, evaluate
from fastrebasin.evaluation.serialization import plain
from fastrebasin.merging import MergeResult, interpolate
from fastrebasin.normalization import has_batch_norm
from fastrebasin.permutation import Permutation, apply_permutation
from fastrebasin.spec import PermutationSpec
from fastrebasin.tracing import trace

__all__ = ["compare_models"]

_PLAIN = "plain average"
_UNALIGNED = "not aligned"
_OURS = ("model A", "model B", "ensemble", _PLAIN, _UNALIGNED)

Normalize = Callable[[nn.Module], nn.Module]


def compare_models(
    model_a: nn.Module,
    model_b: nn.Module,
    data: Data,
    results: Mapping[str, MergeResult],
    *,
    spec: PermutationSpec | None = None,
    data_names: Sequence[str] = (),
    title: str = "Two networks and their merges",
    normalize: Normalize | None = None,
    points: int = 25,
    plane_points: int = 13,
    max_examples: int | None = 1000,
    progress: bool = True,
) -> MergeReport:
    """Evaluate two networks, their ensemble and their merges, and what alignment did to them.

    Args:
        model_a, model_b: the networks that were merged, on one device; not changed.
        data: labelled examples to evaluate on: one source or several. Test data for a fair
            comparison, training data for the paper's loss barrier.
        results: what `merge` returned, by the name to show.
        spec: which axes share a permutation; traced from A on the first examples by default.
        data_names: what to call the sources; "data 1", "data 2", ... by default.
        title: of the page.
        normalize: applied to every network between A and B, for instance a BatchNorm reset; the
            merges themselves are shown as they are.
        points: on each way from A to B; an odd number, so that one is halfway.
        plane_points: along each axis of the plane through A, B and B aligned; 0 for no plane.
        max_examples: of each source, for the correlations of units; None for all.
        progress: show bars on a terminal.

    Returns:
        The report. Pictures of the plane, of units and of layers show the merge that is the most
        accurate on the mixture among those that permuted units.

    Raises:
        ValueError: names are taken or don't fit the sources, the models or an option don't fit.

    Example:
        >>> from fastrebasin import merge
        >>> from fastrebasin.experiments.models import MLP
        >>> a, b = MLP(4, (8, 8), 2), MLP(4, (8, 8), 2)
        >>> data = torch.randn(50, 4), torch.arange(50) % 2
        >>> report = compare_models(a, b, data, {"weights": merge(a, b, data)}, plane_points=3)
        >>> list(report.rows)
        ['model A', 'model B', 'ensemble', 'plain average', 'weights']
        >>> len(report.alignments["weights"].curve)
        25

    Source: Yamada et al., ACML 2024, tables 1 and 2.
    """
    setting = _Setting(model_a, model_b, data, normalize, progress)
    names = tuple(data_names) or tuple(f"data {k + 1}" for k in range(len(setting.parts)))
    _check(results, names, len(setting.parts), points, plane_points)
    rows, calibrations = setting.scores(results)
    aligning = [name for name, result in results.items() if result.permutation]
    focus = max(aligning, key=lambda name: rows[name].mixture.accuracy, default="")
    ways, pictures = {_UNALIGNED: setting.params_b}, _Pictures()
    if focus:
        bound = setting.bind(spec)
        ways |= {
            name: apply_permutation(bound, results[name].permutation, setting.params_b)
            for name in aligning
        }
        permutation = results[focus].permutation
        pictures = setting.pictures(bound, permutation, plane_points, max_examples)
    notes = [*setting.notes(), *pictures.notes]
    return MergeReport(
        title=title,
        data_names=names,
        rows=rows,
        merges=tuple(name for name in rows if name in results or name == _PLAIN),
        calibrations=calibrations,
        alignments={name: setting.alignment(params, points) for name, params in ways.items()},
        focus=focus,
        plane=pictures.plane,
        units=pictures.units,
        layers=pictures.layers,
        options={name: plain(result.report) for name, result in results.items()},
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Pictures:
    """What only one alignment is drawn of."""

    plane: Landscape | None = None
    units: tuple[UnitMove, ...] = ()
    layers: tuple[LayerMove, ...] = ()
    notes: tuple[str, ...] = ()


class _Setting:
    """Two networks and the data that everything is evaluated on."""

    def __init__(
        self,
        model_a: nn.Module,
        model_b: nn.Module,
        data: Data,
        normalize: Normalize | None,
        progress: bool,
    ) -> None:
        self._a, self._b = model_a, model_b
        self.parts = resident_sources(data, model_a)
        self._data = _kept(data, self.parts)
        self._normalize, self._progress = normalize, progress
        self._params_a, self.params_b = model_a.state_dict(), model_b.state_dict()

    def bind(self, spec: PermutationSpec | None) -> PermutationSpec:
        """Return a spec with sizes, traced if none is given."""
        if spec is None:
            x, _ = self.parts[0].take(torch.arange(min(8, len(self.parts[0]))))
            spec = trace(self._a, x.to(device_of(self._a)))
        return spec.bind(self._params_a)

    def scores(
        self, results: Mapping[str, MergeResult]
    ) -> tuple[dict[str, Evaluation], dict[str, Calibration]]:
        """Return how good each model is, and how calibrated."""
        models = {
            "model A": self._a,
            "model B": self._b,
            "ensemble": Ensemble([self._a, self._b], [0.5, 0.5]),
        }
        if all(result.permutation for result in results.values()):
            models[_PLAIN] = self._plain_average()
        models |= {name: result.model for name, result in results.items()}
        rows, calibrations = {}, {}
        for name, model in bar(models.items(), "models", progress=self._progress):
            rows[name] = evaluate(model, self._data)
            try:
                calibrations[name] = calibration(model, self._data)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        return rows, calibrations

    def _plain_average(self) -> nn.Module:
        average = copy.deepcopy(self._a)
        average.load_state_dict(interpolate(self._params_a, self.params_b))
        return self._normalize(average) if self._normalize else average

    def alignment(self, params_b: Mapping[str, Tensor], points: int) -> Alignment:
        """Return what lies between A and B as it is aligned."""
        pair = len(self.parts) == 2
        curve = interpolation_curve(
            self._a, self._params_a, params_b, self._data, points=points,
            normalize=self._normalize, progress=self._progress,
        )  # fmt: skip
        return Alignment(
            tuple(curve),
            distance(self._params_a, params_b),
            sharpness(self._a, self._params_a, params_b, self._data) if pair else None,
        )

    def pictures(
        self,
        spec: PermutationSpec,
        permutation: Permutation,
        plane_points: int,
        max_examples: int | None,
    ) -> _Pictures:
        """Return what an alignment moved, and the plane that it spans with A and B."""
        plane, notes = None, []
        units: tuple[UnitMove, ...] = ()
        aligned = apply_permutation(spec, permutation, self.params_b)
        moved = any(not torch.equal(aligned[n], t) for n, t in self.params_b.items())
        if plane_points and moved:
            plane = landscape(
                self._a, self._params_a, self.params_b, aligned, self._data, points=plane_points,
                normalize=self._normalize, progress=self._progress,
            )  # fmt: skip
        try:
            units = unit_moves(
                spec, self._a, self._b, permutation, self._data, max_examples=max_examples,
                progress=self._progress,
            )  # fmt: skip
        except ValueError as error:  # attention heads, for one, pass no module
            notes.append(f"Correlations of units are left out: {first_line(error)}")
        layers = layer_moves(
            spec, self._params_a, self.params_b, permutation, progress=self._progress
        )
        return _Pictures(plane, units, layers, tuple(notes))

    def notes(self) -> list[str]:
        """Return what a reader should know of the way that networks were evaluated."""
        if self._normalize is not None or not has_batch_norm(self._a):
            return []
        return [
            "Between A and B, BatchNorm's statistics are interpolated like weights; pass normalize "
            "to compare_models to reset them."
        ]


def _kept(data: Data, parts: Sequence[Examples]) -> Data:
    """Return `data`, with what could be read only once as the tensors that were read."""
    entries = cast(Sequence[object], data) if len(parts) > 1 else [data]
    kept = tuple(held_tensors(part) or entry for part, entry in zip(parts, entries, strict=True))
    return kept if len(kept) > 1 else kept[0]


def _check(
    results: Mapping[str, MergeResult],
    data_names: Sequence[str],
    sources: int,
    points: int,
    plane_points: int,
) -> None:
    problems = [
        f"results must not be called {name!r}, which names a row of its own"
        for name in results
        if name in _OURS
    ]
    if len(data_names) != sources or len(set(data_names)) != sources:
        problems.append(f"data_names must be {sources} different ones, got {list(data_names)}")
    if points < 2:
        problems.append(f"points must be at least 2, got {points}")
    if plane_points == 1 or plane_points < 0:
        problems.append(f"plane_points must be 0 or at least 2, got {plane_points}")
    if problems:
        raise ValueError("; ".join(problems))
