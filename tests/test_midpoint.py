"""The network halfway between two follows the permutation of the second, by few units or many."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from nested_specs import CASES, Case
from torch import Tensor, nn

from fastrebasin import PermutationSpec, apply_permutation, nesting
from fastrebasin.matching.midpoint import Midpoint
from fastrebasin.permutation import Permutation, compose, identity_permutation


class Holder(nn.Module):
    """A module that is nothing but its parameters."""

    def __init__(self, params: dict[str, Tensor], device: str) -> None:
        super().__init__()
        for name, tensor in params.items():
            self.register_parameter(name, nn.Parameter(tensor.to(device)))


def swap(spec: PermutationSpec, group: str) -> Permutation:
    """Return the permutation that swaps two units of one group and, inside them, nothing."""
    inner = {
        g: torch.arange(own).repeat(spec.sizes[g] // own, 1) for g, own in spec.extents.items()
    }
    inner[group][0, :2] = inner[group][0, :2].flip(0)
    return nesting.combine(inner, spec.extents, spec.within)


def share_kept(before: Permutation, now: Permutation) -> float:
    """Return the share of units that keep their partner."""
    kept = [before[group] == order for group, order in now.items()]
    return torch.cat(kept).double().mean().item()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_midpoint_is_the_mean_with_the_permuted_network(case: Case, device: str) -> None:
    axes = {name.replace(".", "_"): groups for name, groups in case.axes.items()}
    case = dataclasses.replace(case, axes=axes)  # a parameter's name has no dots
    spec, a, b = case.spec(), case.params(0), case.params(1)
    midpoint = Midpoint(spec, Holder(a, device), Holder(b, device))
    few = [swap(spec, group) for group, own in spec.extents.items() if own > 1]
    many = [spec.random_permutation(seed) for seed in range(2)]
    now = identity_permutation(spec.sizes)
    for step in [*few, many[0], *few, many[1], *few]:
        before, now = now, compose(now, step)
        assert float(midpoint.move_to(now)) == pytest.approx(share_kept(before, now))
        moved = apply_permutation(spec, now, b)
        for name, found in midpoint.merged.items():
            assert torch.equal(found.detach().cpu(), torch.lerp(a[name], moved[name], 0.5)), name
    assert midpoint.move_to(now) == 1
