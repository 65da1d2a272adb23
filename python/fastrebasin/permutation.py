"""Permutations of unit groups: build, check, invert and compose them.

Direction: `perm[i] = j` says unit `i` of A pairs with unit `j` of B. Applying a permutation moves
B onto A: `out[i] = b[perm[i]]`, the convention of git-re-basin (Ainsworth et al., 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import torch

from fastrebasin import layout, nesting
from fastrebasin._transfer import sent

if TYPE_CHECKING:
    from fastrebasin.spec import PermutationSpec

__all__ = [
    "Permutation",
    "apply_permutation",
    "check_permutation",
    "compose",
    "identity_permutation",
    "invert",
    "permutation_on",
    "random_permutation",
]

Permutation: TypeAlias = dict[str, torch.Tensor]
"""One int64 index vector of shape (n,) for each group of units, by the group's name.

That of a group within others (attention heads) runs over all their units; see `nesting`.
"""

_INTEGERS = {torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8}


def identity_permutation(sizes: Mapping[str, int]) -> Permutation:
    """Return the permutation that moves nothing.

    Example:
        >>> identity_permutation({"P0": 3})
        {'P0': tensor([0, 1, 2])}
    """
    return {group: torch.arange(size) for group, size in sizes.items()}


def random_permutation(sizes: Mapping[str, int], seed: int = 0) -> Permutation:
    """Draw every group's permutation uniformly at random, the same for the same seed.

    Example:
        >>> sorted(random_permutation({"P0": 3}, seed=1)["P0"].tolist())
        [0, 1, 2]
    """
    generator = torch.Generator().manual_seed(seed)
    return {group: torch.randperm(size, generator=generator) for group, size in sizes.items()}


def check_permutation(
    permutation: Mapping[str, object],
    sizes: Mapping[str, int],
    within: nesting.Within | None = None,
) -> Permutation:
    """Return `permutation` as int64 vectors, one for each group of `sizes`, or say what is wrong.

    Args:
        permutation: anything torch makes integer vectors of, by group.
        sizes: number of units of each group.
        within: the groups that a group lies within, outermost first.

    Raises:
        ValueError: every group that is missing, unknown, of the wrong dtype or length, not a
            permutation of 0..n-1, or not in step with the groups that it lies within, in one
            message.

    Example:
        >>> check_permutation({"P0": [1, 0]}, {"P0": 2})
        {'P0': tensor([1, 0])}
        >>> check_permutation({"P0": [1, 1]}, {"P0": 2})
        Traceback (most recent call last):
            ...
        ValueError: permutation doesn't fit: group 'P0' is not a permutation of 0..1
    """
    problems = [f"group {g!r} is missing" for g in sizes if g not in permutation]
    problems += [f"group {g!r} is unknown" for g in permutation if g not in sizes]
    checked: Permutation = {}
    for group, size in sizes.items():
        if group not in permutation:
            continue
        indices = torch.as_tensor(permutation[group])
        if indices.dtype not in _INTEGERS:
            problems.append(f"group {group!r} must hold integers, got {indices.dtype}")
        elif indices.shape != (size,):
            problems.append(
                f"group {group!r} must have shape ({size},), got {tuple(indices.shape)}"
            )
        elif not torch.equal(indices.sort().values, torch.arange(size).to(indices)):
            problems.append(f"group {group!r} is not a permutation of 0..{size - 1}")
        else:
            checked[group] = indices.to(torch.int64, copy=True)
    problems = problems or _out_of_step(checked, sizes, within or {})
    if problems:
        raise ValueError("permutation doesn't fit: " + "; ".join(problems))
    return checked


def _out_of_step(
    permutation: Permutation, sizes: Mapping[str, int], within: nesting.Within
) -> list[str]:
    """Name the groups whose units leave the unit of the parent group that they belong to."""
    own = nesting.extents(sizes, within)
    cpu = {group: indices.cpu() for group, indices in permutation.items()}
    return [
        f"group {group!r} doesn't move with {', '.join(map(repr, parents))}, which it lies within"
        for group, parents in within.items()
        if not torch.equal(
            cpu[group] // own[group],
            nesting.parents_pairing(group, cpu, own, within).repeat_interleave(own[group]),
        )
    ]


def invert(permutation: Mapping[str, torch.Tensor]) -> Permutation:
    """Return the permutation that undoes `permutation`.

    Example:
        >>> invert({"P0": torch.tensor([2, 0, 1])})
        {'P0': tensor([1, 2, 0])}
    """
    return {group: torch.argsort(indices) for group, indices in permutation.items()}


def compose(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> Permutation:
    """Return the permutation that applies `first` and then `second`.

    Raises:
        ValueError: the two don't have the same groups and sizes.

    Example:
        >>> compose({"P0": torch.tensor([2, 0, 1])}, {"P0": torch.tensor([1, 2, 0])})
        {'P0': tensor([0, 1, 2])}
    """
    sizes_first = {group: len(indices) for group, indices in first.items()}
    sizes_second = {group: len(indices) for group, indices in second.items()}
    if sizes_first != sizes_second:
        raise ValueError(
            "first and second must have the same groups and sizes, "
            f"got {sizes_first} and {sizes_second}"
        )
    return {group: first[group][second[group]] for group in first}


def apply_permutation(
    spec: PermutationSpec,
    permutation: Mapping[str, object],
    params: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Return a copy of `params` with every permuted axis gathered: `out[i] = b[perm[i]]`.

    Args:
        spec: which axes of which tensors share a permutation.
        permutation: one index vector for each group of `spec`.
        params: a state dict; tensors that the spec doesn't name are copied as they are.

    Returns:
        New tensors of the same dtypes, on the same devices.

    Raises:
        ValueError: `params` doesn't fit the spec, or `permutation` doesn't fit `params`; every
            problem in one message.

    Example:
        >>> from fastrebasin import PermutationSpec
        >>> spec = PermutationSpec.from_axes({"fc.weight": ("P0", None)})
        >>> params = {"fc.weight": torch.tensor([[1.0], [2.0]])}
        >>> apply_permutation(spec, {"P0": [1, 0]}, params)["fc.weight"].flatten()
        tensor([2., 1.])
    """
    bound = spec.bind(params)
    checked = check_permutation(permutation, bound.sizes, bound.within)
    return {
        name: permute_units(tensor.detach(), bound, name, checked)
        for name, tensor in params.items()
    }


def permutation_on(permutation: Mapping[str, torch.Tensor], device: torch.device) -> Permutation:
    """Return a permutation on a device, moved there in one piece; nothing is copied that is there.

    Example:
        >>> permutation_on({"P0": torch.tensor([1, 0])}, torch.device("cpu"))
        {'P0': tensor([1, 0])}
    """
    away = {group: order for group, order in permutation.items() if order.device != device}
    if not away:
        return dict(permutation)
    moved = sent(torch.cat(list(away.values())), device)
    pieces = moved.split([len(order) for order in away.values()])
    return {**permutation, **dict(zip(away, pieces, strict=True))}


def permute_units(
    tensor: torch.Tensor, spec: PermutationSpec, name: str, permutation: Permutation
) -> torch.Tensor:
    """Return the tensor `name` of a bound spec, its units moved; nothing is checked."""
    layouts = spec.layouts(name, tensor.ndim)
    if not any(layouts):
        return tensor.clone()
    sources = list(layout.blocks(tensor, layouts, spec.extents))
    if len(sources) == 1:
        block, groups = sources[0]
        return nesting.gather(block, groups, permutation, spec.within).reshape(tensor.shape)
    moved = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    targets = layout.blocks(moved, layouts, spec.extents)
    for (source, groups), (target, _) in zip(sources, targets, strict=True):
        target.copy_(nesting.gather(source, groups, permutation, spec.within))
    return moved
