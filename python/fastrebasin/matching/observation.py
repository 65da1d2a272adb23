"""What to watch of a network so that every group of units is seen, and how to watch it.

That a point carries a group's units is a guess until a trial run on an example has proved it: the
same network with its units permuted must show the same there, in the permuted order.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastrebasin import nesting
from fastrebasin.matching.points import Kind, Observe, Point, asked_points, points_of
from fastrebasin.permutation import apply_permutation
from fastrebasin.spec import PermutationSpec

__all__ = ["Block", "choose_blocks", "hooked", "units_first"]

# In this order a group is observed where it can be: after its activation, as made, normalised.
_KINDS: tuple[Kind, ...] = ("input", "output", "normalized")
# Far above the rounding of narrow numbers, far below what misplaced units differ by.
_TOLERANCE = 0.05


class Block(NamedTuple):
    """One block of a point, by its number, and the groups whose units it holds, outermost first."""

    point: Point
    number: int
    groups: tuple[str, ...]


def choose_blocks(
    spec: PermutationSpec, model: nn.Module, x: Tensor, observe: Observe
) -> list[Block]:
    """Return the blocks to observe so that every group is seen.

    Args:
        spec: bound to the model.
        model: in eval mode; it and a copy run once.
        x: examples to run it on.
        observe: see `activation_matching`.

    Raises:
        ValueError: groups that can't be observed, and points or groups that don't exist.
    """
    given = {} if isinstance(observe, str) else observe
    asked = asked_points(spec, model, given)
    kinds = dict.fromkeys([observe, *_KINDS] if isinstance(observe, str) else _KINDS)
    points = dict.fromkeys([*points_of(spec, model), *itertools.chain(*asked.values())])
    seen = _blocks_seen(spec, model, x, list(points))
    chosen: dict[Block, None] = {}
    problems = []
    for group in spec.groups:
        mine = [block for block in seen if group in block.groups]
        if group in asked:
            found = [block for block in mine if block.point in asked[group]]
            problems += [
                f"{group!r} isn't seen at '{point.module}:{point.side}'"
                for point in asked[group]
                if point not in {block.point for block in found}
            ]
        else:
            choices = ([block for block in mine if block.point.kind == kind] for kind in kinds)
            found = next(filter(None, choices), [])
            axes = ", ".join(name for name, _ in spec.groups[group])
            problems += [] if found else [f"{group!r} (of {axes}) is seen nowhere"]
        # Queries, keys and values read one tensor: it counts once.
        chosen |= dict.fromkeys({(seen[block], block.number): block for block in found}.values())
    if problems:
        raise ValueError(
            "groups can't be observed; give observe={group: ['module:input' or 'module:output']} "
            f"with modules that carry their units: {'; '.join(problems)}"
        )
    return list(chosen)


def units_first(block: Tensor, groups: Sequence[str | None]) -> Tensor:
    """Return a block with its units as one axis in front of all that is observed of them."""
    units = [axis for axis, group in enumerate(groups) if group is not None]
    front = block.movedim(units, list(range(len(units))))
    return front.flatten(0, len(units) - 1)


@contextlib.contextmanager
def hooked(
    model: nn.Module, points: Iterable[Point], see: Callable[[Point, object], None]
) -> Iterator[None]:
    """Call `see` with each point and what passes there whenever the model runs in the block."""
    handles = []
    try:
        for point in points:
            module = model.get_submodule(point.module)
            if point.side == "input":
                handles.append(
                    module.register_forward_pre_hook(_on_input(point, see), with_kwargs=True)
                )
            else:
                handles.append(module.register_forward_hook(_on_output(point, see)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _on_input(
    point: Point, see: Callable[[Point, object], None]
) -> Callable[[nn.Module, tuple[object, ...], dict[str, object]], None]:
    def hook(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        see(point, next(iter((*args, *kwargs.values())), None))

    return hook


def _on_output(
    point: Point, see: Callable[[Point, object], None]
) -> Callable[[nn.Module, object, object], None]:
    def hook(_: nn.Module, __: object, output: object) -> None:
        see(point, output)

    return hook


class _Sight(NamedTuple):
    """What passed a block in a trial run."""

    tensor: object  # the whole tensor, held so that no other gets its id
    version: int
    block: Tensor
    groups: tuple[str | None, ...]

    def source(self, point: Point) -> object:
        """Return what blocks of one tensor have in common."""
        return id(self.tensor), self.version, point.layout, point.axis


def _blocks_seen(
    spec: PermutationSpec, model: nn.Module, x: Tensor, points: Sequence[Point]
) -> dict[Block, object]:
    """Return the blocks that a run reaches and whose units move as the spec says, by their source.

    When all units of the model are permuted, what passes must be permuted on the units' axis and
    nowhere else: a second axis of units would pair A's observations with others of B.
    """
    permutation = spec.random_permutation()
    twin = copy.deepcopy(model)
    twin.load_state_dict(apply_permutation(spec, permutation, model.state_dict()))
    before, after = (_sights(spec, each, x, points) for each in (model, twin))
    found: dict[Block, object] = {}
    for block, sight in before.items():
        if block not in after or after[block].block.shape != sight.block.shape:
            continue
        expected = nesting.gather(sight.block, sight.groups, permutation, spec.within).double()
        deviation = (after[block].block - expected).norm()
        if not deviation > _TOLERANCE * expected.norm():  # what isn't finite is reported later
            found[block] = sight.source(block.point)
    return found


def _sights(
    spec: PermutationSpec, model: nn.Module, x: Tensor, points: Sequence[Point]
) -> dict[Block, _Sight]:
    """Return what passes the blocks of some points first in a run of the model."""
    found: dict[Block, _Sight] = {}

    def see(point: Point, tensor: object) -> None:
        if not isinstance(tensor, Tensor) or not point.fits(tensor, spec.extents):
            return
        for number, (view, groups) in enumerate(point.cut(tensor, spec.extents)):
            block = Block(point, number, tuple(group for group in groups if group is not None))
            if block.groups and block not in found:
                # A copy of the block: what comes behind may work in place.
                found[block] = _Sight(tensor, tensor._version, view.clone(), groups)

    with torch.no_grad(), hooked(model, points, see):
        model(x)
    return found
