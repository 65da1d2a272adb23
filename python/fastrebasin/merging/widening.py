"""Networks in which some units of two aligned ones stay apart, so that their layers are wider.

After Stoica et al., "ZipIt!", ICLR 2024, and Nasery et al., "PLeaS", CVPR 2025: of a pair of units
that don't do the same work both stay, A's where it was and B's behind all others. Layers that make
units give each kept one its own model's weights; layers that read them take half of what each model
made of its own. Published code has rules for a few kinds of layers; here axes come from the spec,
as `fastrebasin.trace` finds it, and a trial run proves which groups can be widened: a network and
its own copy, merged so, must compute what the network does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastrebasin import verification
from fastrebasin._calls import ExampleInputs
from fastrebasin.layout import Concatenation, Fixed, Layout, Product, Units, groups_of, length
from fastrebasin.merging.interpolation import interpolate
from fastrebasin.merging.widths import fit_widths, roles
from fastrebasin.spec import PermutationSpec

__all__ = ["Widening", "widenable"]

BOTH, A, B = -1, 0, 1  # whose a unit is


class _Entries(NamedTuple):
    """The entries of a wider axis.

    Attributes:
        origin: of each entry, the entry of the old axis that it comes from.
        owner: of each entry, whose it is.
    """

    origin: Tensor
    owner: Tensor


class _Axis(NamedTuple):
    """An axis that gets wider, by its number, and whether its layer makes or reads the units."""

    number: int
    entries: _Entries
    makes: bool

    def shares(self, model: int) -> Tensor:
        """Return how much of each entry comes from a model's tensor."""
        own, shared = (self.entries.owner == owner for owner in (model, BOTH))
        return own + (0.5 if self.makes else 1.0) * shared


@dataclass(frozen=True)
class Widening:
    """Which units of two aligned networks stay apart; none by default.

    Attributes:
        axes: those that get wider, of each parameter.
    """

    axes: Mapping[str, Sequence[_Axis]] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: PermutationSpec, model: nn.Module, apart: Mapping[str, Tensor]) -> Widening:
        """Keep units apart.

        Args:
            spec: bound to the networks' parameters.
            model: one of the networks.
            apart: indices of units, of groups that `widenable` names.
        """
        role = roles(model)
        axes: dict[str, list[_Axis]] = {}
        for name, texts in spec.axes.items():
            for number, layout in enumerate(spec.layouts(name, len(texts))):
                if layout is not None and any(len(apart.get(g, ())) for g in groups_of(layout)):
                    entries = _entries(layout, spec, apart)
                    axes.setdefault(name, []).append(_Axis(number, entries, role[name, number]))
        return cls(axes)

    def network(self, model_a: nn.Module, model_b: nn.Module) -> nn.Module:
        """Return the wider network, in eval mode: averages, but for the units that stay apart."""
        a, b = model_a.state_dict(), model_b.state_dict()
        params = interpolate(a, b)
        for name in self.axes:
            params[name] = self.blend(name, a[name].double(), b[name].double()).to(a[name].dtype)
        return fit_widths(model_a, params).eval()

    def blend(self, name: str, a: Tensor, b: Tensor) -> Tensor:
        """Return the wider tensor of two of the shape of a parameter."""
        axes = self.axes.get(name, [])
        share = 1.0 if any(axis.makes for axis in axes) else 0.5
        halves = []
        for model, tensor in ((A, a), (B, b)):
            for axis in axes:
                shape = [-1 if k == axis.number else 1 for k in range(tensor.ndim)]
                weights = axis.shares(model).to(tensor).view(shape)
                origin = axis.entries.origin.to(tensor.device)
                tensor = tensor.index_select(axis.number, origin) * weights
            halves.append(share * tensor)
        return halves[0] + halves[1]

    def keeps_apart(self, name: str) -> bool:
        """Tell whether the layer with this weight makes units that stay apart."""
        return any(axis.makes for axis in self.axes.get(name, ()))

    def wanted(self, name: str, outputs: tuple[Tensor, Tensor], model: int, dim: int) -> Tensor:
        """Return what a wider layer is to give for examples of one of the models.

        Args:
            name: of the layer's weight.
            outputs: what A's layer gives and what B's does.
            model: whose the examples are; units of both are to do as its do.
            dim: the axis of the units.
        """
        entries = next(axis.entries for axis in self.axes[name] if axis.makes)
        owner = torch.where(entries.owner == BOTH, model, entries.owner)
        offset = owner * outputs[A].shape[dim]
        chosen = (entries.origin + offset).to(outputs[A].device)
        return torch.cat(outputs, dim).index_select(dim, chosen)


def widenable(
    spec: PermutationSpec,
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    outputs: Callable[[Any], object] | None = None,
    seed: int = 0,
) -> list[str]:
    """Return the groups of which units can stay apart, as a trial run proves.

    Those are groups whose every axis belongs to a fully connected layer, a convolution (of one
    group, or depthwise), BatchNorm, InstanceNorm, PReLU or an embedding. What takes statistics
    across units, such as LayerNorm, would see those that stay apart twice. All that are named were
    wider at once in a run.
    """

    def proved(groups: Iterable[str]) -> bool:
        generator = torch.Generator().manual_seed(seed)
        apart = {
            group: torch.randperm(size, generator=generator)[: -(-size // 2)]
            for group, size in ((group, spec.sizes[group]) for group in groups)
        }
        widening = Widening.of(spec, model, apart)
        return verification.preserves(
            lambda twin: widening.network(twin, twin), model, example_inputs,
            outputs=outputs, seed=seed,
        )  # fmt: skip

    role = roles(model)
    parents = {parent for above in spec.within.values() for parent in above}
    nested = {*spec.within, *parents}
    candidates = [
        group
        for group, axes in spec.groups.items()
        if group not in nested
        and all((name, axis) in role and _is_flat(spec, name, axis) for name, axis in axes)
    ]
    if not candidates or proved(candidates):
        return candidates
    found: list[str] = []
    for group in candidates:
        if proved([*found, group]):
            found.append(group)
    return found


def _is_flat(spec: PermutationSpec, name: str, axis: int) -> bool:
    """Tell whether every entry of an axis is of one group at most."""
    layout = spec.layouts(name, 0)[axis]
    return layout is not None and _depth(layout) < 2


def _depth(layout: Layout) -> int:
    match layout:
        case Units():
            return 1
        case Product(factors):
            return sum(map(_depth, factors))
        case Concatenation(parts):
            return max(map(_depth, parts))
    return 0


def _entries(layout: Layout, spec: PermutationSpec, apart: Mapping[str, Tensor]) -> _Entries:
    """Return the entries of an axis of some layout, if some units stay apart."""
    match layout:
        case Units(group):
            units = torch.arange(spec.extents[group])
            owner, more = torch.full_like(units, BOTH), apart.get(group, units[:0])
            owner[more] = A
            return _Entries(torch.cat([units, more]), torch.cat([owner, torch.full_like(more, B)]))
        case Fixed(size):
            return _Entries(torch.arange(size), torch.full((size,), BOTH))
        case Product(factors):
            found = _entries(factors[0], spec, apart)
            for factor in factors[1:]:
                inner = _entries(factor, spec, apart)
                origin = found.origin[:, None] * length(factor, spec.extents) + inner.origin
                owner = torch.maximum(found.owner[:, None], inner.owner)
                found = _Entries(origin.flatten(), owner.flatten())
            return found
        case Concatenation(parts):
            pieces, start = [], 0
            for part in parts:
                piece = _entries(part, spec, apart)
                pieces.append(piece._replace(origin=piece.origin + start))
                start += length(part, spec.extents)
            return _Entries(*(torch.cat(column) for column in zip(*pieces, strict=True)))
