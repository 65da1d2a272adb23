"""Which axes of which tensors share a permutation."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import nn

from fastrebasin import nesting, verification
from fastrebasin._calls import ExampleInputs
from fastrebasin.layout import Layout, groups_of, length, parse
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

    Example:
        >>> spec = PermutationSpec.from_axes({"a.weight": ("P0", None), "b.weight": (None, "P0")})
        >>> spec.groups["P0"]
        (('a.weight', 0), ('b.weight', 1))

    Source: Yamada et al., ACML 2024, section 3; the dictionary form is git-re-basin's.
    """

    axes: Axes
    sizes: Mapping[str, int] = field(default_factory=dict)
    within: nesting.Within = field(default_factory=dict)

    @classmethod
    def from_axes(
        cls,
        axes: Mapping[str, Sequence[str | None]],
        params: Mapping[str, torch.Tensor] | None = None,
        *,
        within: Mapping[str, Sequence[str]] | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> PermutationSpec:
        """Build a spec from `{tensor name: (layout or None for each axis)}`.

        Args:
            axes: e.g. `{"fc1.weight": ("P0", None), "fc1.bias": ("P0",)}`.
            params: a state dict to check the axes against and to take the sizes from.
            within: the groups that a group lies within, outermost first.
            sizes: numbers of units, where the tensors alone can't tell: how many heads there are.

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
            own, problems = self._extents_in(params)
        if problems:
            raise ValueError("the parameters don't fit the spec: " + "; ".join(problems))
        sizes = {
            group: own[group] * math.prod(own[p] for p in nesting.parents_of(group, self.within))
            for group in self.groups
        }
        return PermutationSpec(self.axes, MappingProxyType(sizes), self.within)

    def _extents_in(self, params: Mapping[str, torch.Tensor]) -> tuple[dict[str, int], list[str]]:
        """Solve the lengths of all axes for the groups' extents; what doesn't fit goes second."""
        axes = [
            (f"{name} axis {axis}", layout, params[name].shape[axis])
            for name in self.axes
            for axis, layout in enumerate(self._layouts[name])
            if layout is not None
        ]
        own: dict[str, int] = {}
        hints = self.extents
        pending = axes
        while pending:
            unsolved = []
            for axis in pending:
                unknown = set(groups_of(axis[1])) - set(own)
                if len(unknown) == 1:
                    group = unknown.pop()
                    own[group] = _solve(axis[1], axis[2], group, own)
                elif unknown:
                    unsolved.append(axis)
            if len(unsolved) == len(pending):
                unknown = {g for _, layout, _ in unsolved for g in groups_of(layout)} - set(own)
                hinted = next((g for g in self.groups if g in unknown and g in hints), None)
                if hinted is None:
                    names = ", ".join(map(repr, sorted(unknown)))
                    return own, [f"the sizes of {names} can't be told from the tensors: give sizes"]
                own[hinted] = hints[hinted]
            pending = unsolved
        problems: list[str] = []
        for group in self.groups:
            found = [axis for axis in axes if group in groups_of(axis[1])]
            if any(length(layout, own) != size for _, layout, size in found):
                listed = {where: size for where, _, size in found}
                problems.append(f"group {group!r} has several sizes: {listed}")
        return own, problems

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

    def verify(self, model: nn.Module, example_inputs: ExampleInputs, *, seed: int = 0) -> float:
        """Prove that permuting by this spec leaves the model's outputs unchanged.

        A float64 copy of the model in eval mode, its parameters and BatchNorm statistics made
        random so that no error hides behind equal values, must give the same outputs after every
        group was permuted.

        Args:
            model: any module; not changed.
            example_inputs: a tensor, a tuple of arguments of `forward`, or a dict of its keyword
                arguments.
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
        return verification.verify(self, model, example_inputs, seed=seed)

    def describe(self) -> str:
        """Return the groups as a table: name, number of units, and the axes that move together."""
        groups = self.groups
        if not groups:
            return "no group: every axis is fixed"
        width = max(5, *(len(group) for group in groups))
        lines = [f"{'group':<{width}}  units  axes"]
        for group, axes in groups.items():
            listed = ", ".join(f"{name}[{axis}]" for name, axis in axes)
            lines.append(f"{group:<{width}}  {self.sizes.get(group, '?'):>5}  {listed}")
        return "\n".join(lines)

    def to_json(self) -> str:
        """Return the spec as JSON text; `from_json` reads it back."""
        content = {"axes": self.axes, "sizes": self.sizes, "within": self.within}
        return json.dumps({key: dict(value) for key, value in content.items()}, indent=1)

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
        checks = {"axes": list, "sizes": int, "within": list}
        for key, kind in checks.items():
            table = tables[key]
            if not isinstance(table, dict) or not all(isinstance(v, kind) for v in table.values()):
                raise ValueError(f'"{key}" of a spec in JSON must be an object of {kind.__name__}s')
        return cls.from_axes(tables["axes"], within=tables["within"], sizes=tables["sizes"])


def _solve(layout: Layout, size: int, group: str, own: Mapping[str, int]) -> int:
    """Return how many units `group` has if the layout has `size` entries; 1 if none fits."""
    fixed = length(layout, {**own, group: 0})
    each = length(layout, {**own, group: 1}) - fixed
    return max(1, (size - fixed) // each)
