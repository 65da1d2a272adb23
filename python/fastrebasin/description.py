"""Specs for people: a table of groups, and a drawing of which layers move together."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastrebasin.spec import PermutationSpec

_WIDTH = 100
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")  # a part of a dotted name that is a number


def table(spec: PermutationSpec) -> str:
    """See `PermutationSpec.describe`."""
    groups = spec.groups
    if not groups:
        return "\n".join(["no group: every axis is fixed", *_notes(spec)])
    names = {group: _label(spec, group) for group in groups}
    width = max(5, *map(len, names.values()))
    lines = [f"{'group':<{width}}  units  axes"]
    for group, axes in groups.items():
        listed = (_axis(spec, name, axis) for name, axis in axes)
        text = ", ".join(_abbreviated(listed))
        indent = " " * (width + 9)
        wrapped = textwrap.wrap(
            text, _WIDTH - width - 9, break_long_words=False, break_on_hyphens=False
        )
        units = spec.sizes.get(group, "?")
        lines.append(f"{names[group]:<{width}}  {units:>5}  {wrapped[0]}")
        lines += [indent + line for line in wrapped[1:]]
    return "\n".join([*lines, *_notes(spec)])


def _label(spec: PermutationSpec, group: str) -> str:
    parents = spec.within.get(group, ())
    return f"{group} in {'*'.join(parents)}" if parents else group


def _notes(spec: PermutationSpec) -> list[str]:
    return [f"note: {note}" for note in spec.notes]


def _axis(spec: PermutationSpec, name: str, axis: int) -> str:
    """Return a tensor's axis, with its layout unless that is one group alone."""
    layout = spec.axes[name][axis]
    plain = layout is not None and layout in spec.groups
    return f"{name}[{axis}]" if plain else f"{name}[{axis}] as {layout}"


def _abbreviated(names: Iterable[str]) -> Iterator[str]:
    """Yield names, those that differ in one number alone as one: `blocks.0-11.mlp.weight[0]`."""
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(_NUMBER.sub("#", name), []).append(name)
    for pattern, members in families.items():
        numbers = list(zip(*(map(int, _NUMBER.findall(m)) for m in members), strict=True))
        varying = [k for k, column in enumerate(numbers) if len(set(column)) > 1]
        if len(varying) != 1:
            yield from members
            continue
        texts = iter(
            _ranges(column) if k in varying else str(column[0]) for k, column in enumerate(numbers)
        )
        yield re.sub("#", lambda _, texts=texts: next(texts), pattern)  # type: ignore[misc]


def _ranges(numbers: Iterable[int]) -> str:
    """Return increasing numbers as text: 0-3,7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{low}-{high}" if high > low else str(low) for low, high in runs)


def dot(spec: PermutationSpec) -> str:
    """See `PermutationSpec.to_dot`."""
    lines = ["digraph spec {", "  rankdir=LR;", "  node [fontname=Helvetica];"]
    for group in spec.groups:
        units = spec.sizes.get(group, "?")
        label = json.dumps(f"{_label(spec, group)}\n{units} units")
        lines.append(f"  {json.dumps(group)} [shape=ellipse, style=filled, label={label}];")
    arrows: dict[str, None] = {}
    for group, axes in spec.groups.items():
        for name, axis in axes:
            layer = name.rpartition(".")[0] or name
            ends = (group, layer) if axis > 0 else (layer, group)
            vector = len(spec.axes[name]) == 1
            head = " [arrowhead=none]" if vector else ""
            arrow = f"  {json.dumps(ends[0])} -> {json.dumps(ends[1])}"
            if not (vector and arrow in arrows):
                arrows.setdefault(arrow + head)
    layers = {name.rpartition(".")[0] or name for name, axes in spec.axes.items() if any(axes)}
    lines += [f"  {json.dumps(layer)} [shape=box];" for layer in sorted(layers)]
    return "\n".join([*lines, *(f"{arrow};" for arrow in arrows), "}"])
