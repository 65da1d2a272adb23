"""Proof by example that a permutation spec preserves a model's function.

Permuting hidden units consistently cannot change what a network computes. So we permute every
group of a float64 copy at once and compare outputs: a spec that forgets an axis, or ties axes that
don't belong together, fails.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastrebasin import nesting
from fastrebasin._calls import ExampleInputs, arguments, call, tensors_in
from fastrebasin.permutation import Permutation, invert, permute_units

if TYPE_CHECKING:
    from fastrebasin.spec import PermutationSpec

# Rounding of a deep network stays below so many units in the last place of its narrowest numbers:
# some models compute in float32 inside, whatever their parameters are. A wrong spec is off by whole
# units, and whatever is off by more than the limit is taken for one.
_ROUNDING = 1000
_LARGEST_TOLERANCE = 1e-2
_TOLERANCE = 1e-8


def verify(
    spec: PermutationSpec,
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    outputs: Callable[[Any], object] | None,
    seed: int,
) -> float:
    """See `PermutationSpec.verify`."""
    spec = spec.bind(model.state_dict())
    twin, expected = _running_twin(model, example_inputs, outputs, seed)
    _check_informative(expected)

    def deviation(groups: Iterable[str]) -> float:
        generator = torch.Generator().manual_seed(seed)
        found = 0.0
        # Units inside others move everywhere at once, and then only inside of every second one:
        # a mistake may spare either.
        for share in (1, 2) if spec.within else (1,):
            permutation = _moving(spec, groups, share, generator)
            twin.permute(spec, permutation)
            found = max(found, _deviation(expected, twin.outputs()))
            twin.permute(spec, invert(permutation))
        return found

    worst = deviation(spec.groups)
    if worst <= twin.tolerance:
        return worst
    culprits = {group: d for group in spec.groups if (d := deviation([group])) > twin.tolerance}
    axes = spec.groups
    details = "; ".join(
        f"permuting {group!r} changes the outputs by {alone:.1e} relative to the largest "
        f"(its axes: {', '.join(f'{name}[{axis}]' for name, axis in axes[group])})"
        for group, alone in culprits.items()
    )
    raise ValueError(
        "the spec does not preserve the model's function: "
        + (details or f"permuting all groups at once changes the outputs by {worst:.1e}")
    )


def preserves(
    rebuild: Callable[[nn.Module], nn.Module],
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    outputs: Callable[[Any], object] | None = None,
    seed: int = 0,
) -> bool:
    """Tell whether what is built from a model computes the same, on a copy as `verify` makes it."""
    twin, expected = _running_twin(model, example_inputs, outputs, seed)
    _check_informative(expected)
    try:
        twin.become(rebuild)
        found = twin.outputs()
    except ValueError:
        return False
    return _deviation(expected, found) <= twin.tolerance


def _running_twin(
    model: nn.Module,
    example_inputs: ExampleInputs,
    outputs: Callable[[Any], object] | None,
    seed: int,
) -> tuple[_Twin, list[torch.Tensor]]:
    """Return a twin that runs, in float64 or else in the model's own dtype, and its outputs."""
    for wide in (True, False):
        generator = torch.Generator().manual_seed(seed)
        twin = _Twin(model, example_inputs, outputs, generator, wide=wide)
        try:
            return twin, twin.outputs()
        except ValueError:
            if not wide:  # some models cast inside, so that float64 parameters don't fit
                raise
    raise AssertionError


class _Twin:
    """A copy of a model in eval mode, with random parameters, whose units can be moved."""

    def __init__(
        self,
        model: nn.Module,
        example_inputs: ExampleInputs,
        outputs: Callable[[Any], object] | None,
        generator: torch.Generator,
        *,
        wide: bool,
    ) -> None:
        self._model = _copy(model, wide=wide).eval()
        _scramble(self._model, generator)
        self.params: Mapping[str, torch.Tensor] = self._model.state_dict()
        args, kwargs = arguments(example_inputs)
        convert = _as_double if wide else (lambda argument: argument)
        self._args = tuple(map(convert, args))
        self._kwargs = {name: convert(value) for name, value in kwargs.items()}
        self._kept = outputs
        self.precision = 0.0  # of the narrowest floating-point numbers that the model computes

    @property
    def tolerance(self) -> float:
        return min(_LARGEST_TOLERANCE, max(_TOLERANCE, _ROUNDING * self.precision))

    def become(self, rebuild: Callable[[nn.Module], nn.Module]) -> None:
        self._model = rebuild(self._model)

    def outputs(self) -> list[torch.Tensor]:
        with torch.no_grad(), _Precision() as precision:
            output = call(self._model, self._args, self._kwargs, self._kept)
        self.precision = precision.eps
        return [tensor.double() for tensor in tensors_in(output)]

    def permute(self, spec: PermutationSpec, permutation: Permutation) -> None:
        """Move the units in place, a tensor at a time; tied tensors move once."""
        moved = set()
        for name, tensor in self.params.items():
            if name in spec.axes and tensor.data_ptr() not in moved:
                tensor.copy_(permute_units(tensor, spec, name, permutation))
                moved.add(tensor.data_ptr())


def _copy(model: nn.Module, *, wide: bool) -> nn.Module:
    """Return a copy of a model, in float64 if `wide`, without a second copy on the way."""
    memo: dict[int, object] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        if wide and tensor.is_floating_point():
            twin = tensor.detach().to(torch.float64, copy=True)
            memo[id(tensor)] = (
                nn.Parameter(twin, requires_grad=False)
                if isinstance(tensor, nn.Parameter)
                else twin
            )
    return copy.deepcopy(model, memo)


class _Precision(TorchDispatchMode):
    """Watches the floating-point tensors of a computation for the narrowest kind."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.eps = 0.0

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            if tensor.is_floating_point() and tensor.ndim:
                self.eps = max(self.eps, torch.finfo(tensor.dtype).eps)
        return result


def _moving(
    spec: PermutationSpec, groups: Iterable[str], share: int, generator: torch.Generator
) -> Permutation:
    """Return a permutation that moves all units of some groups, and no unit of the others.

    Those of a group inside others move inside of one in `share` of the others' combinations.
    """
    chosen = set(groups)
    inner = {}
    for group, own in spec.extents.items():
        count = spec.sizes[group] // own
        moving = torch.randperm(count, generator=generator) * share < count
        inner[group] = torch.stack(
            [
                _cycle(own, generator) if group in chosen and moves else torch.arange(own)
                for moves in moving.tolist()
            ]
        )
    return nesting.combine(inner, spec.extents, spec.within)


def _scramble(model: nn.Module, generator: torch.Generator) -> None:
    """Make parameters and BatchNorm statistics random: fresh ones are constant and hide errors."""
    tensors: list[torch.Tensor] = list(model.parameters())
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            tensors += [t for t in (module.running_mean, module.running_var) if t is not None]
    with torch.no_grad():
        for tensor in tensors:
            # Never negative, because variances aren't; not zero, because fresh biases are.
            tensor.mul_(_random(tensor, generator).add_(0.5))
            tensor.add_(_random(tensor, generator), alpha=0.02)


def _random(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return numbers from 0 to 1 of a tensor's shape, the same whatever its dtype and device."""
    return torch.rand(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)


def _cycle(size: int, generator: torch.Generator) -> torch.Tensor:
    """Return a random permutation that is one cycle: it moves every unit (if there are two)."""
    order = torch.randperm(size, generator=generator)
    cycle = torch.empty_like(order)
    cycle[order] = order.roll(1)
    return cycle


def _as_double(argument: object) -> object:
    if isinstance(argument, torch.Tensor) and argument.is_floating_point():
        return argument.double()
    return argument


def _check_informative(expected: list[torch.Tensor]) -> None:
    if not expected:
        raise ValueError("verify: the model returns no tensor to compare")
    if not all(torch.isfinite(t).all() for t in expected):
        raise ValueError("verify: the model's outputs on example_inputs are not finite")
    if all(t.numel() == 0 or t.min() == t.max() for t in expected):
        raise ValueError(
            "verify: all outputs on example_inputs are equal, which proves nothing; "
            "give inputs that the model answers differently"
        )


def _deviation(expected: list[torch.Tensor], found: list[torch.Tensor]) -> float:
    worst = 0.0
    for before, after in zip(expected, found, strict=True):
        if before.numel():
            scale = max(before.abs().max().item(), 1e-300)
            worst = max(worst, (before - after).abs().max().item() / scale)
    return worst
