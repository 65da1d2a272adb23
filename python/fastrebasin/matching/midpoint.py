"""The network halfway between A and permuted B: what the searches on data evaluate and train.

Yamada et al., ACML 2024, section 3.2. We differ from the published code where that costs nothing:
BatchNorm normalises by the batch, so no pass over the data resets statistics that such a forward
pass doesn't read; and only what a permutation changed is gathered and averaged again.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from fastrebasin import layout, nesting
from fastrebasin._transfer import sent
from fastrebasin.checkpoints import check_same_shapes
from fastrebasin.data import WeightedBatch
from fastrebasin.matching.readings import Number, Readings, common_device
from fastrebasin.permutation import Permutation, identity_permutation, permutation_on
from fastrebasin.spec import PermutationSpec

__all__ = ["Midpoint"]

_FEW = 0.1  # of all units: where more have moved, to average all takes as long


class Midpoint:
    """(A + permuted B) / 2 as a function of its parameters, and as buffers that follow B.

    Attributes:
        spec: bound to the models' parameters.
        permutation: of B's units, on the models' device; `move_to` changes it.
        a, b: the parameters, each tied one once; the caller's, never written to.
        params_b: all of B's state dict.
        merged: their mean under `permutation`, leaves of autograd's graph.
        device: of the models.
        readings: of what is computed there.
    """

    def __init__(
        self,
        spec: PermutationSpec,
        model_a: nn.Module,
        model_b: nn.Module,
        *,
        autocast: torch.dtype | None = None,
        compile: bool = False,  # noqa: A002 - torch's name
    ) -> None:
        params_a, params_b = model_a.state_dict(), model_b.state_dict()
        self.params_b = params_b
        check_same_shapes(params_a, params_b)
        self.spec = spec.bind(params_a)
        self._model = _with_batch_statistics(copy.deepcopy(model_a))
        self.a = {
            n: params_a[n] for n, p in self._model.named_parameters() if p.is_floating_point()
        }
        self.b = {name: params_b[name].to(a.dtype) for name, a in self.a.items()}
        self._tied = _tied(self._model)
        self._others = {
            name: tensor.clone()
            for name, tensor in params_a.items()
            if name not in self.a and name not in self._tied
        }
        self.device = common_device([*self.a.values(), *self.b.values()])
        self.readings = Readings(self.device)
        self._autocast = autocast
        self._call = torch.compile(self._functional) if compile else self._functional
        self.permutation: Permutation = {}
        means = {name: torch.empty_like(a) for name, a in self.a.items()}
        self.merged = {name: mean.detach().requires_grad_() for name, mean in means.items()}
        self._parts = [part for n in self.a for part in _parts(self.spec, n, self.a, self.b, means)]
        self.move_to(identity_permutation(self.spec.sizes))

    def move_to(self, permutation: Permutation) -> Number:
        """Permute B by `permutation`; return the share of all units that keep their partner.

        It is the number 1 where no unit is known to change its partner.
        """
        before, self.permutation = self.permutation, permutation_on(permutation, self.device)
        if not before:
            for part in self._parts:
                part.average(self.permutation, self.spec.within)
            return 0.0
        changed = {
            group: order != before[group]
            for group, order in self.permutation.items()
            if not self.readings.same(order, before[group])
        }
        if not changed:
            return 1.0
        lost = torch.stack([units.sum() for units in changed.values()]).sum()
        total = sum(map(len, before.values()))
        known = self.readings.known(lost)
        are_few = known is not None and known < _FEW * total
        for part in self._parts:
            if are_few and self.spec.within.keys().isdisjoint(part.groups):
                part.average_again(self.permutation, changed)
            elif not changed.keys().isdisjoint(part.groups):
                part.average(self.permutation, self.spec.within)
        return (total - lost.double()) / total

    def state_dict(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict of the models: `parameters`, and else what A has."""
        tied = {alias: parameters[name] for alias, name in self._tied.items()}
        return {**self._others, **parameters, **tied}

    def loss(
        self, parameters: Mapping[str, Tensor], x: Tensor, y: Tensor, reduction: str = "mean"
    ) -> Tensor:
        """Return the cross-entropy of the network with such parameters, in at least float32."""
        x, y = sent(x, self.device), sent(y, self.device)
        wide = self._autocast is None
        with torch.autocast(self.device.type, self._autocast, enabled=not wide):
            output = self._call({**self._others, **parameters}, x)
        return functional.cross_entropy(output if wide else output.float(), y, reduction=reduction)

    @torch.no_grad()
    def hard_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss under `permutation` on one batch."""
        return self.loss(self.merged, x, y)

    @torch.no_grad()
    def mean_loss(self, data: Iterable[WeightedBatch]) -> Tensor:
        """Return the loss under `permutation` on all of `data`, summed in float64."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for x, y, weight in data:
            losses = self.loss(self.merged, x, y, "none")
            total += (losses.double() * sent(weight, self.device)).sum()
        return total

    def _functional(self, tensors: dict[str, Tensor], x: Tensor) -> Tensor:
        output: Tensor = functional_call(self._model, tensors, (x,))
        return output


def _with_batch_statistics(model: nn.Module) -> nn.Module:
    """Normalise by the batch, as the merged model's own statistics are unknown; no dropout."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
    return model


def _tied(model: nn.Module) -> dict[str, str]:
    """Return the other names of parameters that have several, and the first name of each."""
    first: dict[int, str] = {}
    names = model.named_parameters(remove_duplicate=False)
    found = {name: first.setdefault(id(parameter), name) for name, parameter in names}
    return {name: original for name, original in found.items() if name != original}


@dataclass(frozen=True)
class _Part:
    """A parameter, or a piece of one, whose every axis is one group or fixed: views."""

    a: Tensor
    b: Tensor
    mean: Tensor
    groups: tuple[str | None, ...]

    def average(self, permutation: Permutation, within: nesting.Within) -> None:
        """Set the mean of A and the permuted B."""
        moved = nesting.gather(self.b, self.groups, permutation, within)
        torch.lerp(self.a, moved, 0.5, out=self.mean)

    def average_again(self, permutation: Permutation, changed: Mapping[str, Tensor]) -> None:
        """Set the mean where units of flat groups have changed: for each, whether it has."""
        for axis, group in enumerate(self.groups):
            if group is None or group not in changed:
                continue
            units = changed[group].nonzero().flatten()
            others = [None if k == axis else g for k, g in enumerate(self.groups)]
            b = self.b.index_select(axis, permutation[group][units])
            moved = nesting.gather(b, others, permutation, {})
            mean = torch.lerp(self.a.index_select(axis, units), moved, 0.5)
            self.mean.index_copy_(axis, units, mean)


def _parts(
    spec: PermutationSpec,
    name: str,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    means: Mapping[str, Tensor],
) -> Iterator[_Part]:
    layouts, extents = spec.layouts(name, a[name].ndim), spec.extents
    cut = (layout.blocks(tensors[name], layouts, extents) for tensors in (a, b, means))
    for (of_a, groups), (of_b, _), (mean, _) in zip(*cut, strict=True):
        yield _Part(of_a, of_b, mean, groups)
