"""Which axes of which tensors share a permutation."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from fastrebasin import description, nesting, verification
from fastrebasin._calls import ExampleInputs
from fastrebasin.extents import solve_extents
from fastrebasin.layout import Layout, groups_of, parse
from fastrebasin.permutation import Permutation

__all__ = ["PermutationSpec", "is_running_statistic"]

Axes = Mapping[str, tuple[str | None, ...]]


def is_running_statistic(name: str) -> bool:
    """Whether a state-dict entry is a statistic of BatchNorm, moved along but never matched."""
    return name.rpartition(".")[2] in {"running_mean", "running_var", "num_batches_tracked"}


@dataclass(frozen=True)
class PermutationSpec:
    """Which axes of which tensors share a permutation, by the name of a group of units.

    Attributes:
        axes: for each tensor name, the layout of each axis: a group's name, or None for a fixed
            axis, or a sum of products as `fastrebasin.layout` explains, such as `"P0*49"` (a
            flattened convolution) or `"P0 + P1"` (a concatenation). Tensors that aren't named are
            fixed.
        sizes: number of units of each group; empty until the spec is bound to parameters.
        within: for a group that has a permutation of its own for every unit of other groups (the
            queries of each attention head), those groups, outermost first.
        notes: what to know of how the spec came about: operations that tracing has no rule for.

    Example:
        >>> spec = PermutationSpec.from_axes({"a.weight": ("P0", None), "b.weight": (None, "P0")})
        >>> spec.groups["P0"]
        (('a.weight', 0), ('b.weight', 1))

    Source: Yamada et al., ACML 2024, section 3; the dictionary form is git-re-basin's.
    """

    axes: Axes
    sizes: Mapping[str, int] = field(default_factory=dict)
    within: nesting.Within = field(default_factory=dict)
    notes: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def from_axes(
        cls,
        axes: Mapping[str, Sequence[str | None]],
        params: Mapping[str, torch.Tensor] | None = None,
        *,
        within: Mapping[str, Sequence[str]] | None = None,
        sizes: Mapping[str, int] | None = None,
        notes: Sequence[str] = (),
    ) -> PermutationSpec:
        """Build a spec from `{tensor name: (layout or None for each axis)}`.

        Args:
            axes: e.g. `{"fc1.weight": ("P0", None), "fc1.bias": ("P0",)}`.
            params: a state dict to check the axes against and to take the sizes from.
            within: the groups that a group lies within, outermost first.
            sizes: numbers of units, where the tensors alone can't tell: how many heads there are.
            notes: what to know of how the spec came about.

        Raises:
            TypeError: an entry is not a sequence of layouts and None.
            ValueError: a layout is malformed, `within` names what isn't a group, or `params`
                doesn't fit.
        """
        for name, groups in axes.items():
            if isinstance(groups, str) or not all(g is None or isinstance(g, str) for g in groups):
                raise TypeError(
                    f"axes[{name!r}] must be a sequence of layouts (str) and None, got {groups!r}"
                )
        spec = cls(
            MappingProxyType({name: tuple(groups) for name, groups in axes.items()}),
            MappingProxyType(dict(sizes or {})),
            MappingProxyType({group: tuple(p) for group, p in (within or {}).items() if p}),
            tuple(notes),
        )
        spec._check_nesting()
        return spec if params is None else spec.bind(params)

    def _check_nesting(self) -> None:
        known = self.groups
        problems = [
            f"{group!r} within {parent!r}: {name!r} is on no axis"
            for group, parents in self.within.items()
            for parent in parents
            for name in (group, parent)
            if name not in known
        ]
        problems += [
            f"{group!r} lies within {parent!r}, so it must also name what that lies within"
            for group, parents in self.within.items()
            for parent in parents
            if not set(self.within.get(parent, ())) < set(parents)
        ]
        if problems:
            raise ValueError("the spec's nesting is wrong: " + "; ".join(problems))

    @functools.cached_property
    def groups(self) -> dict[str, tuple[tuple[str, int], ...]]:
        """The axes of each group, as (tensor name, axis), in the order of the spec."""
        groups: dict[str, list[tuple[str, int]]] = {}
        for name, axis_layouts in self.axes.items():
            for axis, text in enumerate(axis_layouts):
                for group in dict.fromkeys(groups_of(parse(text)) if text else ()):
                    groups.setdefault(group, []).append((name, axis))
        return {group: tuple(axes) for group, axes in groups.items()}

    @functools.cached_property
    def extents(self) -> dict[str, int]:
        """The number of units of each group for one combination of its parents' units."""
        return nesting.extents(self.sizes, self.within)

    @functools.cached_property
    def _layouts(self) -> dict[str, tuple[Layout | None, ...]]:
        return {
            name: tuple(parse(t) if t else None for t in texts) for name, texts in self.axes.items()
        }

    def layouts(self, name: str, ndim: int) -> tuple[Layout | None, ...]:
        """Return the layout of each axis of a tensor, None for a fixed one."""
        return self._layouts.get(name, (None,) * ndim)

    def bind(self, params: Mapping[str, torch.Tensor]) -> PermutationSpec:
        """Return the spec with the sizes of its groups, taken from a state dict.

        Raises:
            ValueError: every missing tensor, wrong number of axes and differing size, in one
                message.
        """
        problems: list[str] = []
        for name, axis_layouts in self.axes.items():
            if name not in params:
                problems.append(f"{name} is missing")
            elif params[name].ndim != len(axis_layouts):
                problems.append(
                    f"{name} has {len(axis_layouts)} axes in the spec, but shape "
                    f"{tuple(params[name].shape)}"
                )
        if not problems:
            axes = [
                (f"{name} axis {axis}", layout, params[name].shape[axis])
                for name in self.axes
                for axis, layout in enumerate(self._layouts[name])
                if layout is not None
            ]
            own, problems = solve_extents(axes, self.groups, self.extents)
        if problems:
            raise ValueError("the parameters don't fit the spec: " + "; ".join(problems))
        sizes = {
            group: own[group] * math.prod(own[p] for p in nesting.parents_of(group, self.within))
            for group in self.groups
        }
        return PermutationSpec(self.axes, MappingProxyType(sizes), self.within, self.notes)

    def random_permutation(self, seed: int = 0) -> Permutation:
        """Draw every group's permutation uniformly at random, the same for the same seed.

        Raises:
            ValueError: the spec isn't bound, so that sizes are unknown.
        """
        if self.groups and not self.sizes:
            raise ValueError(
                "sizes are unknown: bind the spec to parameters first, spec.bind(params)"
            )
        generator = torch.Generator().manual_seed(seed)
        inner = {
            group: torch.stack(
                [torch.randperm(own, generator=generator) for _ in range(self.sizes[group] // own)]
            )
            for group, own in self.extents.items()
        }
        return nesting.combine(inner, self.extents, self.within)

    def verify(
        self,
        model: nn.Module,
        example_inputs: ExampleInputs,
        *,
        outputs: Callable[[Any], object] | None = None,
        seed: int = 0,
    ) -> float:
        """Prove that permuting by this spec leaves the model's outputs unchanged.

        A float64 copy of the model in eval mode, its parameters and BatchNorm statistics made
        random so that no error hides behind equal values, must give the same outputs after every
        group was permuted.

        Args:
            model: any module; not changed.
            example_inputs: a tensor, a tuple of arguments of `forward`, or a dict of its keyword
                arguments.
            outputs: what to compare of the model's output; all tensors in it by default.
            seed: of the permutations and the random parameters.

        Returns:
            The largest deviation found, relative to the largest output.

        Raises:
            ValueError: outputs change; names the groups at fault.

        Example:
            >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
            >>> axes = {"0.weight": ("P", None), "0.bias": ("P",), "2.weight": (None, "P")}
            >>> PermutationSpec.from_axes(axes).verify(model, torch.randn(4, 3)) < 1e-12
            True
        """
        return verification.verify(self, model, example_inputs, outputs=outputs, seed=seed)

    def share(self, params: Mapping[str, torch.Tensor]) -> float:
        """Return the share of the parameters' entries that lie in tensors with a moving axis.

        Statistics of BatchNorm and integers don't count.
        """
        counted = {
            name: tensor.numel()
            for name, tensor in params.items()
            if tensor.is_floating_point() and not is_running_statistic(name)
        }
        moving = sum(n for name, n in counted.items() if any(self.axes.get(name, ())))
        return moving / max(1, sum(counted.values()))

    def describe(self) -> str:
        """Return the groups as a table: name, number of units, and the axes that move together.

        Layers that differ in their number alone share a line.

        Example:
            >>> axes = {"0.weight": ("P", None), "0.bias": ("P",), "2.weight": (None, "P")}
            >>> print(PermutationSpec.from_axes(axes).describe())
            group  units  axes
            P          ?  0.weight[0], 0.bias[0], 2.weight[1]
        """
        return description.table(self)

    def to_dot(self) -> str:
        """Return a drawing of which layers move together, as text for Graphviz.

        Boxes are layers, ellipses groups; arrows lead from the layers that make a group's units to
        those that read them.
        """
        return description.dot(self)

    def to_json(self) -> str:
        """Return the spec as JSON text; `from_json` reads it back."""
        content = {
            "axes": dict(self.axes),
            "sizes": dict(self.sizes),
            "within": dict(self.within),
            "notes": list(self.notes),
        }
        return json.dumps(content, indent=1)

    def __reduce__(self) -> tuple[object, ...]:
        return PermutationSpec.from_json, (self.to_json(),)  # the mappings can't be pickled

    @classmethod
    def from_json(cls, text: str) -> PermutationSpec:
        """Read a spec that `to_json` wrote.

        Raises:
            ValueError: the text is not such JSON.

        Example:
            >>> spec = PermutationSpec.from_axes({"a.weight": ("P0", None)})
            >>> PermutationSpec.from_json(spec.to_json()) == spec
            True
        """
        content = json.loads(text)
        if not isinstance(content, dict) or not isinstance(content.get("axes"), dict):
            raise ValueError('a spec in JSON must be an object with "axes": {tensor: [group, ...]}')
        tables = {key: content.get(key, {}) for key in ("axes", "sizes", "within")}
        for key, kind in {"axes": list, "sizes": int, "within": list}.items():
            table = tables[key]
            if not isinstance(table, dict) or not all(isinstance(v, kind) for v in table.values()):
                what = "integers" if kind is int else "lists"
                raise ValueError(f'"{key}" of a spec in JSON must be an object of {what}')
        notes = content.get("notes", [])
        if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
            raise ValueError('"notes" of a spec in JSON must be a list of texts')
        return cls.from_axes(
            tables["axes"], within=tables["within"], sizes=tables["sizes"], notes=notes
        )
