"""git-re-basin's spec, a pair of dicts, and its way to ours and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from fastrebasin import spec as native
from fastrebasin.compat.git_re_basin.arrays import Params, as_array
from fastrebasin.layout import Fixed, Units, groups_of, parse

__all__ = [
    "PermutationSpec", "fit", "from_git_re_basin", "permutation_spec_from_axes_to_perm",
    "to_git_re_basin",
]  # fmt: skip

_Axes: TypeAlias = dict[str, tuple[str | None, ...]]


class PermutationSpec(NamedTuple):
    """Which axes of which tensors share a permutation, looked up from either side.

    Attributes:
        perm_to_axes: for each permutation, the axes it moves, as (tensor name, axis).
        axes_to_perm: for each tensor, the permutation of each axis, None for a fixed one. Fixed
            axes at the end may be left out, or be more than the tensor has.

    Source: git-re-basin. Its own class is accepted wherever this one is.
    """

    perm_to_axes: dict[str, list[tuple[str, int]]]
    axes_to_perm: dict[str, tuple[str | None, ...]]


def permutation_spec_from_axes_to_perm(
    axes_to_perm: Mapping[str, Sequence[str | None]],
) -> PermutationSpec:
    """Return the spec of a table from tensors to the permutations of their axes.

    Args:
        axes_to_perm: e.g. `{"fc1.weight": ("P_0", None), "fc1.bias": ("P_0",)}`.

    Raises:
        ValueError: every entry that is not a sequence of names and None; `("P_0")`, which lacks a
            comma, is a plain string.

    Example:
        >>> ps = permutation_spec_from_axes_to_perm({"a.w": ("P_0", None), "b.w": (None, "P_0")})
        >>> ps.perm_to_axes
        {'P_0': [('a.w', 0), ('b.w', 1)]}

    Source: git-re-basin.
    """
    problems = [
        f"axes_to_perm[{name!r}] must be a sequence of names and None, got {groups!r}"
        for name, groups in axes_to_perm.items()
        if isinstance(groups, str) or not all(g is None or isinstance(g, str) for g in groups)
    ]
    if problems:
        raise ValueError("; ".join(problems))
    perm_to_axes: dict[str, list[tuple[str, int]]] = {}
    for name, groups in axes_to_perm.items():
        for axis, group in enumerate(groups):
            if group is not None:
                perm_to_axes.setdefault(group, []).append((name, axis))
    return PermutationSpec(perm_to_axes, {n: tuple(groups) for n, groups in axes_to_perm.items()})


def to_git_re_basin(spec: native.PermutationSpec) -> PermutationSpec:
    """Return a fastrebasin spec in git-re-basin's form.

    Raises:
        ValueError: names every axis that has no counterpart there: blocks of entries for each
            unit, concatenations, and groups within others.

    Example:
        >>> from fastrebasin import architectures
        >>> to_git_re_basin(architectures.mlp(1)).perm_to_axes["P0"]
        [('layer0.weight', 0), ('layer0.bias', 0), ('layer1.weight', 1)]
    """
    table: _Axes = {}
    problems: list[str] = []
    for name, texts in spec.axes.items():
        groups: list[str | None] = []
        for axis, text in enumerate(texts):
            layout = Fixed(1) if text is None else parse(text)
            nested = [group for group in groups_of(layout) if group in spec.within]
            groups.append(layout.group if isinstance(layout, Units) else None)
            if nested:
                inner = " and ".join(f"{g!r} lies within {spec.within[g]}" for g in nested)
                problems.append(f"{name} axis {axis} is {text!r}, and {inner}")
            elif groups[-1] is None and any(True for _ in groups_of(layout)):
                problems.append(f"{name} axis {axis} is {text!r}")
        table[name] = tuple(groups)
    if problems:
        raise ValueError(
            "git-re-basin's specs have one permutation or None for each axis, but "
            + "; ".join(problems)
        )
    return permutation_spec_from_axes_to_perm(table)


def from_git_re_basin(ps: PermutationSpec, params: Params | None = None) -> native.PermutationSpec:
    """Return a spec of git-re-basin's as a fastrebasin one, which `verify` can prove.

    Args:
        ps: a pair of dicts, ours or git-re-basin's.
        params: parameters to take the sizes from. Entries of `ps` then get as many axes as their
            tensors have, and those without a permutation whose tensors aren't there are dropped.

    Raises:
        ValueError: the two dicts disagree, a permutation's name would be read as a layout
            ("P*2", "16"), or `params` doesn't fit; every problem of one kind in one message.

    Example:
        >>> import torch
        >>> ps = permutation_spec_from_axes_to_perm({"bn.weight": ("P_0", None)})
        >>> from_git_re_basin(ps, {"bn.weight": torch.ones(8)}).axes["bn.weight"]
        ('P_0',)
    """
    table = _table(ps)
    if params is None:
        return native.PermutationSpec.from_axes(table)
    arrays = {name: as_array(params[name]) for name in table if name in params}
    absent = {name: groups for name, groups in table.items() if name not in arrays and any(groups)}
    axes = fit(table, arrays) | absent
    return native.PermutationSpec.from_axes({n: axes[n] for n in table if n in axes}, arrays)


def _table(ps: PermutationSpec) -> _Axes:
    """Return `axes_to_perm`, its tuples whole, if it and `perm_to_axes` agree on what they mean."""
    theirs, derived = ps.perm_to_axes, permutation_spec_from_axes_to_perm(ps.axes_to_perm)
    problems = _misread(derived.perm_to_axes)
    for group in dict.fromkeys((*theirs, *derived.perm_to_axes)):
        counts = Counter((name, axis) for name, axis in theirs.get(group, ()))
        axes = derived.perm_to_axes.get(group, [])
        where = "{0!r} on {1} axis {2}".format
        problems += [f"{where(group, *a)} is listed {n} times" for a, n in counts.items() if n > 1]
        problems += [f"{where(group, *a)} is only in perm_to_axes" for a in counts if a not in axes]
        problems += [f"{where(group, *a)} is only in axes_to_perm" for a in axes if a not in counts]
    if problems:
        raise ValueError("the spec is wrong: " + "; ".join(problems))
    return derived.axes_to_perm


def _misread(groups: Iterable[str]) -> list[str]:
    """Name the groups whose names our notation of layouts would read as something else."""
    return [f"{g!r} can't be a name: it reads as a layout" for g in groups if not _is_name(g)]


def _is_name(group: str) -> bool:
    try:
        return parse(group) == Units(group)
    except ValueError:
        return False


def fit(table: Mapping[str, Sequence[str | None]], arrays: Mapping[str, Any]) -> _Axes:
    """Return a permutation or None for every axis of the arrays."""
    axes: _Axes = {}
    problems: list[str] = []
    for name, array in arrays.items():
        groups = table.get(name, ())
        if name not in table and array.ndim > 0:
            problems.append(f"{name} is not in the spec")
        if any(groups[array.ndim :]):
            problems.append(f"{name} has shape {tuple(array.shape)}, but axes {tuple(groups)}")
        axes[name] = (*groups, *[None] * array.ndim)[: array.ndim]
    problems += _misread(
        dict.fromkeys(g for groups in axes.values() for g in groups if g is not None)
    )
    if problems:
        raise ValueError("the parameters don't fit the spec: " + "; ".join(problems))
    return axes
