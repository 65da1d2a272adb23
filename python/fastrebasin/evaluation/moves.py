"""What an alignment moved: how units correlate, and how the weights differ, before and after.

Correlations of units: Li et al., "Convergent Learning", 2015, and Ainsworth et al., "Git Re-Basin",
ICLR 2023. The spectra of A - B are our own way to look at a layer: what is left of them after the
alignment is the disagreement that averaging has to bridge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastrebasin import nesting
from fastrebasin._precision import full_precision
from fastrebasin._progress import bar
from fastrebasin.checkpoints import check_finite, check_same_shapes
from fastrebasin.data import Data
from fastrebasin.evaluation.geometry import counted
from fastrebasin.matching.activations import unit_similarity
from fastrebasin.permutation import Permutation, apply_permutation, check_permutation
from fastrebasin.spec import PermutationSpec

__all__ = ["LayerMove", "UnitMove", "layer_moves", "unit_moves"]

# Units that a picture of correlations shows, singular values that one of a spectrum shows, and the
# side of the largest matrix that is decomposed.
_SHOWN_UNITS = 64
_SHOWN_VALUES = 128
_LARGEST = 2048


@dataclass(frozen=True)
class UnitMove:
    """How alike A's and B's units of a group respond, before and after the alignment.

    Attributes:
        group: its name, or those of groups that are seen together, joined by "*".
        units: how many there are.
        moved: the share of units whose partner isn't the one at the same place.
        before, after: mean correlation of partners.
        shown: the units of A in the pictures: all of them, or evenly spaced ones.
        picture_before, picture_after: correlations of those units of A (rows) with the units of B
            at the same places (columns).
    """

    group: str
    units: int
    moved: float
    before: float
    after: float
    shown: tuple[int, ...]
    picture_before: tuple[tuple[float, ...], ...]
    picture_after: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class LayerMove:
    """How a tensor's A and B differ, before and after the alignment.

    Attributes:
        name: of the tensor.
        shape: its shape.
        before, after: the norm of A - B, over that of A; zero where A is zero.
        spectrum_before, spectrum_after: singular values of A - B as a matrix (first axis by all
            others), largest first, 128 at most; none for vectors, and for matrices with more than
            2048 rows and columns.
    """

    name: str
    shape: tuple[int, ...]
    before: float
    after: float
    spectrum_before: tuple[float, ...]
    spectrum_after: tuple[float, ...]


def unit_moves(
    spec: PermutationSpec,
    model_a: nn.Module,
    model_b: nn.Module,
    permutation: Mapping[str, object],
    data: Data,
    *,
    max_examples: int | None = 1000,
    progress: bool = True,
) -> tuple[UnitMove, ...]:
    """Correlate A's units with B's on the same data, before and after an alignment.

    Args:
        spec: which axes share a permutation.
        model_a, model_b: modules of one architecture on one device; not changed.
        permutation: what moves B onto A.
        data: one source or several, each of which weighs the same.
        max_examples: of each source; None for all.
        progress: show a bar on a terminal.

    Returns:
        One entry for each group.

    Raises:
        ValueError: the models, the spec and the permutation don't fit each other, or groups can't
            be observed.

    Example:
        >>> from fastrebasin import architectures
        >>> from fastrebasin.experiments.models import MLP
        >>> model, spec = MLP(4, (8,), 2), architectures.mlp(1)
        >>> data = torch.randn(100, 4), torch.zeros(100)
        >>> (found,) = unit_moves(spec, model, model, {"P0": range(8)}, data)
        >>> found.moved
        0.0

    Source: Li et al., 2015.
    """
    spec = spec.bind(model_a.state_dict())
    checked = check_permutation(permutation, spec.sizes, spec.within)
    found = unit_similarity(
        spec, model_a, model_b, data, max_examples=max_examples, progress=progress
    )
    return tuple(_unit_move(spec, groups, matrix, checked) for groups, matrix in found.items())


def _unit_move(
    spec: PermutationSpec, groups: tuple[str, ...], matrix: Tensor, permutation: Permutation
) -> UnitMove:
    units = len(matrix)
    places = torch.arange(units)
    block = places.reshape([spec.extents[group] for group in groups])
    partners = nesting.gather(block, groups, permutation, spec.within).flatten()
    shown = places
    if units > _SHOWN_UNITS:
        shown = torch.linspace(0, units - 1, _SHOWN_UNITS, dtype=torch.float64).round().long()
    rows = matrix[shown]
    return UnitMove(
        "*".join(groups),
        units,
        (partners != places).double().mean().item(),
        matrix.diagonal().mean().item(),
        matrix[places, partners].mean().item(),
        tuple(shown.tolist()),
        _picture(rows[:, shown]),
        _picture(rows[:, partners[shown]]),
    )


def layer_moves(
    spec: PermutationSpec,
    params_a: Mapping[str, Tensor],
    params_b: Mapping[str, Tensor],
    permutation: Mapping[str, object],
    *,
    progress: bool = True,
) -> tuple[LayerMove, ...]:
    """Compare the weights of A and B, tensor by tensor, before and after an alignment.

    Args:
        spec: which axes share a permutation.
        params_a, params_b: state dicts; B as it was trained, not yet aligned.
        permutation: what moves B onto A.
        progress: show a bar on a terminal.

    Returns:
        One entry for each tensor of the spec that has an axis of units, statistics of BatchNorm
        excluded.

    Raises:
        ValueError: the state dicts, the spec and the permutation don't fit each other, or weights
            aren't finite.

    Example:
        >>> spec = PermutationSpec.from_axes({"w": ("P", None)})
        >>> a, b = {"w": torch.eye(2)}, {"w": torch.eye(2).flip(0)}
        >>> (found,) = layer_moves(spec, a, b, {"P": [1, 0]})
        >>> round(found.before, 4), found.after
        (1.4142, 0.0)
    """
    check_same_shapes(params_a, params_b)
    check_finite({"A": params_a, "B": params_b})
    names = [name for name in counted(params_a) if any(spec.axes.get(name, ()))]
    aligned = apply_permutation(spec, permutation, params_b)
    return tuple(
        _layer_move(name, params_a[name], params_b[name], aligned[name])
        for name in bar(names, "layers", progress=progress)
    )


@torch.no_grad()
def _layer_move(name: str, a: Tensor, b: Tensor, aligned: Tensor) -> LayerMove:
    dtype = torch.promote_types(a.dtype, torch.float32)
    wide = a.to(dtype)
    steps = [wide - other.to(wide) for other in (b, aligned)]
    norm = wide.double().norm().item()
    before, after = (step.double().norm().item() / norm if norm else 0.0 for step in steps)
    first, second = (_spectrum(step) for step in steps)
    return LayerMove(name, tuple(a.shape), before, after, first, second)


def _spectrum(step: Tensor) -> tuple[float, ...]:
    if step.ndim < 2:
        return ()
    matrix = step.flatten(1)
    if min(matrix.shape) > _LARGEST:
        return ()
    if max(matrix.shape) > 4 * min(matrix.shape):  # thin: a smaller matrix has the same values
        thin = matrix if matrix.shape[0] > matrix.shape[1] else matrix.T
        with full_precision(step.device):
            matrix = torch.linalg.qr(thin, mode="r").R
    return tuple(torch.linalg.svdvals(matrix)[:_SHOWN_VALUES].tolist())


def _picture(matrix: Tensor) -> tuple[tuple[float, ...], ...]:
    # Three digits are more than a picture can show, and keep files small.
    return tuple(tuple(round(value, 3) for value in row) for row in matrix.tolist())
