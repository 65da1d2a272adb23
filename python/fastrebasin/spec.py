"""Which axes of which tensors share a permutation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import nn

from fastrebasin import verification
from fastrebasin.permutation import Permutation, random_permutation

__all__ = ["PermutationSpec", "is_running_statistic"]

Axes = Mapping[str, tuple[str | None, ...]]


def is_running_statistic(name: str) -> bool:
    """Whether a state-dict entry is a statistic of BatchNorm, moved along but never matched."""
    return name.rpartition(".")[2] in {"running_mean", "running_var", "num_batches_tracked"}


@dataclass(frozen=True)
class PermutationSpec:
    """Which axes of which tensors share a permutation, by the name of a group of units.

    Attributes:
        axes: for each tensor name, one group name (or None for a fixed axis) for each axis.
            Tensors that aren't named are fixed.
        sizes: number of units of each group; empty until the spec is bound to parameters.

    Example:
        >>> spec = PermutationSpec.from_axes({"a.weight": ("P0", None), "b.weight": (None, "P0")})
        >>> spec.groups["P0"]
        (('a.weight', 0), ('b.weight', 1))

    Source: Yamada et al., ACML 2024, section 3; the dictionary form is git-re-basin's.
    """

    axes: Axes
    sizes: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_axes(
        cls,
        axes: Mapping[str, Sequence[str | None]],
        params: Mapping[str, torch.Tensor] | None = None,
    ) -> PermutationSpec:
        """Build a spec from `{tensor name: (group or None for each axis)}`.

        Args:
            axes: e.g. `{"fc1.weight": ("P0", None), "fc1.bias": ("P0",)}`.
            params: a state dict to check the axes against and to take the sizes from.

        Raises:
            TypeError: an entry is not a sequence of names and None.
            ValueError: `params` doesn't fit.
        """
        for name, groups in axes.items():
            if isinstance(groups, str) or not all(g is None or isinstance(g, str) for g in groups):
                raise TypeError(
                    f"axes[{name!r}] must be a sequence of group names and None, got {groups!r}"
                )
        spec = cls(MappingProxyType({name: tuple(groups) for name, groups in axes.items()}))
        return spec if params is None else spec.bind(params)

    @property
    def groups(self) -> dict[str, tuple[tuple[str, int], ...]]:
        """The axes of each group, as (tensor name, axis), in the order of the spec."""
        groups: dict[str, tuple[tuple[str, int], ...]] = {}
        for name, axis_groups in self.axes.items():
            for axis, group in enumerate(axis_groups):
                if group is not None:
                    groups[group] = (*groups.get(group, ()), (name, axis))
        return groups

    def bind(self, params: Mapping[str, torch.Tensor]) -> PermutationSpec:
        """Return the spec with the sizes of its groups, taken from a state dict.

        Raises:
            ValueError: every missing tensor, wrong number of axes and differing size, in one
                message.
        """
        problems: list[str] = []
        for name, groups in self.axes.items():
            if name not in params:
                problems.append(f"{name} is missing")
            elif params[name].ndim != len(groups):
                problems.append(
                    f"{name} has {len(groups)} axes in the spec, but shape "
                    f"{tuple(params[name].shape)}"
                )
        if problems:
            raise ValueError("the parameters don't fit the spec: " + "; ".join(problems))
        sizes: dict[str, int] = {}
        for group, axes in self.groups.items():
            found = {f"{name} axis {axis}": params[name].shape[axis] for name, axis in axes}
            sizes[group] = next(iter(found.values()))
            if len(set(found.values())) > 1:
                problems.append(f"group {group!r} has several sizes: {found}")
        if problems:
            raise ValueError("the parameters don't fit the spec: " + "; ".join(problems))
        return PermutationSpec(self.axes, MappingProxyType(sizes))

    def random_permutation(self, seed: int = 0) -> Permutation:
        """Draw every group's permutation uniformly at random.

        Raises:
            ValueError: the spec isn't bound, so that sizes are unknown.
        """
        if not self.sizes and self.groups:
            raise ValueError(
                "sizes are unknown: bind the spec to parameters first, spec.bind(params)"
            )
        return random_permutation(self.sizes, seed)

    def verify(
        self, model: nn.Module, example_inputs: torch.Tensor | tuple[object, ...], *, seed: int = 0
    ) -> float:
        """Prove that permuting by this spec leaves the model's outputs unchanged.

        A float64 copy of the model in eval mode, its parameters and BatchNorm statistics made
        random so that no error hides behind equal values, must give the same outputs after every
        group was permuted.

        Args:
            model: any module; not changed.
            example_inputs: a tensor, or a tuple of arguments of `forward`.
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
        return json.dumps({"axes": dict(self.axes), "sizes": dict(self.sizes)}, indent=1)

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
        axes, sizes = content["axes"], content.get("sizes", {})
        if not isinstance(sizes, dict) or not all(isinstance(n, int) for n in sizes.values()):
            raise ValueError('"sizes" of a spec in JSON must be an object of integers')
        if not all(isinstance(groups, list) for groups in axes.values()):
            raise ValueError('"axes" of a spec in JSON must hold a list for each tensor')
        return cls(cls.from_axes(axes).axes, MappingProxyType(sizes))
