"""Points at which a group's units pass: inputs and outputs of the layers that own them.

A layer's weight says which of its axes are units of which group; its input and output carry the
same units on their channel axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor, nn

from fastrebasin import layout, nesting
from fastrebasin.layout import Layout
from fastrebasin.spec import PermutationSpec

__all__ = ["Kind", "Observe", "Point", "asked_points", "points_of"]

Side = Literal["input", "output"]
Kind = Literal["input", "output", "normalized"]
Observe: TypeAlias = Kind | Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Point:
    """The input or output of a module, and how its units are laid out on one axis."""

    module: str
    side: Side
    axis: int | None  # None: where channels usually are
    layout: Layout
    kind: Kind

    def axis_in(self, tensor: Tensor) -> int:
        """Return the axis of the units: of images the second, of vectors and tokens the last."""
        if self.axis is not None:
            return self.axis
        return 1 if tensor.ndim > 3 else -1

    def fits(self, tensor: object, extents: Mapping[str, int]) -> bool:
        """Tell whether a tensor can be what passes here."""
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.ndim < 2:
            return False
        axis = self.axis_in(tensor)
        length = layout.length(self.layout, extents)
        return -tensor.ndim <= axis < tensor.ndim and tensor.shape[axis] == length

    def cut(
        self, tensor: Tensor, extents: Mapping[str, int]
    ) -> list[tuple[Tensor, tuple[str | None, ...]]]:
        """Return the blocks of a tensor, and the group of each axis, or None."""
        layouts: list[Layout | None] = [None] * tensor.ndim
        layouts[self.axis_in(tensor)] = self.layout
        return list(layout.blocks(tensor, layouts, extents))


def points_of(spec: PermutationSpec, model: nn.Module) -> Iterator[Point]:
    """Yield where modules that own tensors of the spec carry units."""
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        layouts = spec.layouts(f"{name}.weight" if name else "weight", weight.ndim)
        rule = _rule(module, weight)
        if rule is None:
            continue
        reads, makes, axis = rule
        into = None if reads is None else layouts[reads]
        out = None if makes is None else layouts[makes]
        if into is not None:
            yield Point(name, "input", axis, into, "input")
        if out is not None:
            kind: Kind = "normalized" if weight.ndim == 1 else "output"
            yield Point(name, "output", axis, out, kind)


def _rule(module: nn.Module, weight: Tensor) -> tuple[int | None, int | None, int] | None:
    """Return the weight's axis that reads units, the one that makes them, and where they pass.

    It may be wrong of a class that derives from these: a trial run follows. The weight of a
    grouped convolution doesn't tell all that it reads (or, transposed, makes).
    """
    rule: tuple[int | None, int | None, int] | None = None
    match module:
        case nn.Linear():
            rule = 1, 0, -1
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            rule = (1 if module.groups == 1 else None), 0, 1 - weight.ndim
        case nn.ConvTranspose1d() | nn.ConvTranspose2d() | nn.ConvTranspose3d():
            rule = 0, (1 if module.groups == 1 else None), 1 - weight.ndim
        case nn.Embedding():
            rule = None, 1, -1
        case nn.modules.batchnorm._NormBase() | nn.GroupNorm():
            rule = None, 0, 1
        case _ if weight.ndim == 1 and type(module).__name__.endswith("Norm"):
            rule = None, 0, -1
        case _ if weight.ndim == 2 and type(module).__name__ == "Conv1D":  # of transformers
            rule = 0, 1, -1
    return rule


def asked_points(
    spec: PermutationSpec, model: nn.Module, given: Mapping[str, Sequence[str]]
) -> dict[str, list[Point]]:
    """Return the points that a user gave for some groups."""
    known = {f"{point.module}:{point.side}": point for point in points_of(spec, model)}
    modules = dict(model.named_modules())
    problems = [
        f"the spec has no group {group!r}, but {', '.join(spec.groups)}"
        for group in given
        if group not in spec.groups
    ]
    asked: dict[str, list[Point]] = {}
    for group, names in given.items():
        parents = nesting.parents_of(group, spec.within)
        units = layout.product([layout.Units(g) for g in (*parents, group)])
        for name in [names] if isinstance(names, str) else names:
            module, _, side = name.rpartition(":")
            if module not in modules or side not in ("input", "output"):
                problems.append(f"{group!r} must have 'module:input' or 'module:output': {name!r}")
                continue
            point = known.get(name)
            if point is None or group not in layout.groups_of(point.layout):
                place: Side = "input" if side == "input" else "output"
                point = Point(module, place, None, units, "input")
            asked.setdefault(group, []).append(point)
    if problems:
        raise ValueError("observe doesn't fit: " + "; ".join(problems))
    return asked
