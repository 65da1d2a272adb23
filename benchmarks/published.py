"""The published loops, restated plainly from the papers: what our times are compared with.

Ainsworth et al., ICLR 2023, algorithm 1; Yamada et al., ACML 2024, section 3. Every matrix product
is computed anew from gathered copies, SciPy solves, groups go one after another. `bookkeeping` adds
what implementations do besides: both scores by products with one-hot matrices, and after every
assignment the whole of B permuted for a norm that is only logged.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence

import scipy.optimize
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from fastrebasin import PermutationSpec
from fastrebasin.permutation import Permutation, identity_permutation

__all__ = ["straight_through", "weight_matching"]

Params = Mapping[str, Tensor]


def weight_matching(
    spec: PermutationSpec,
    a: Params,
    b: Params,
    start: Permutation,
    generator: torch.Generator,
    *,
    max_sweeps: int = 1000,
    bookkeeping: bool = False,
) -> tuple[Permutation, int]:
    """Return the permutation and the number of sweeps; specs of flat groups only."""
    perm = dict(start)
    groups = list(spec.groups)
    matched = {n: [(k, axis) for k, axis in spec.groups[n] if "running_" not in k] for n in groups}
    sweeps, progress = 0, True
    while progress and sweeps < max_sweeps:
        sweeps, progress = sweeps + 1, False
        for index in torch.randperm(len(groups), generator=generator).tolist():
            group = groups[index]
            n = len(perm[group])
            cost = torch.zeros(n, n, dtype=a[matched[group][0][0]].dtype)
            for name, axis in matched[group]:
                moved = permuted(spec, name, perm, b[name], but=axis)
                u, v = (t.movedim(axis, 0).reshape(n, -1) for t in (a[name], moved))
                cost += u @ v.T
            best = torch.as_tensor(
                scipy.optimize.linear_sum_assignment(cost.numpy(), maximize=True)[1]
            )
            old, new = (score(cost, p, one_hot=bookkeeping) for p in (perm[group], best))
            progress |= new > old + 1e-12
            perm[group] = best
            if bookkeeping:
                distance(spec, a, b, perm)
    return perm, sweeps


def permuted(
    spec: PermutationSpec, name: str, perm: Permutation, tensor: Tensor, *, but: int | None = None
) -> Tensor:
    """Return a tensor with all its axes permuted, but one."""
    for axis, group in enumerate(spec.axes.get(name, ())):
        if group is not None and axis != but:
            tensor = torch.index_select(tensor, axis, perm[group])
    return tensor


def score(cost: Tensor, perm: Tensor, *, one_hot: bool) -> float:
    """Return the sum of the costs of an assignment."""
    if not one_hot:
        return cost[torch.arange(len(perm)), perm].double().sum().item()
    chosen = torch.eye(len(perm), dtype=cost.dtype)[perm]
    return torch.einsum("ij,ij->i", cost, chosen).sum().item()


def distance(spec: PermutationSpec, a: Params, b: Params, perm: Permutation) -> float:
    """Return the distance of all weights."""
    moved = {name: permuted(spec, name, perm, tensor) for name, tensor in b.items()}
    differences = [(a[n] - moved[n]).flatten() for n in a if a[n].is_floating_point()]
    return float(torch.cat(differences).norm())


def straight_through(
    spec: PermutationSpec,
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Sequence[tuple[Tensor, Tensor]],
    *,
    lr: float,
    seed: int,
    reset_on: Sequence[Tensor] = (),
    bookkeeping: bool = False,
) -> tuple[list[float], list[float]]:
    """Take a step on each batch; return the losses and the wall seconds of the steps.

    Every step copies both models, matches from the last permutation until a sweep changes nothing,
    and, where there is BatchNorm, runs the merged model over all of `reset_on` to reset statistics
    that the step doesn't read.
    """
    a, b = model_a.state_dict(), model_b.state_dict()
    trained = {name: a[name].clone().requires_grad_() for name, _ in model_a.named_parameters()}
    optimizer = torch.optim.SGD(list(trained.values()), lr=lr, momentum=0.9, weight_decay=1e-4)
    perm = identity_permutation(spec.bind(a).sizes)
    generator = torch.Generator().manual_seed(seed)
    losses, seconds = [], []
    for x, y in batches:
        start = time.perf_counter()
        latent = {
            n: trained[n].detach().clone() if n in trained else t.clone() for n, t in a.items()
        }
        source = {name: tensor.clone() for name, tensor in b.items()}
        perm, _ = weight_matching(
            spec, latent, source, perm, generator, max_sweeps=100, bookkeeping=bookkeeping
        )
        moved = {name: permuted(spec, name, perm, tensor) for name, tensor in source.items()}
        model = copy.deepcopy(model_a).train()
        merged = {n: (0.5 * a[n] + 0.5 * moved[n]).detach().requires_grad_() for n in trained}
        if reset_on:
            reset(copy.deepcopy(model), merged, reset_on)
        loss = functional.cross_entropy(functional_call(model, merged, (x,)), y)
        gradients = torch.autograd.grad(loss, list(merged.values()))
        for tensor, gradient in zip(trained.values(), gradients, strict=True):
            tensor.grad = 0.5 * gradient
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    return losses, seconds


@torch.no_grad()
def reset(model: nn.Module, params: Params, data: Sequence[Tensor]) -> None:
    """Run a model over all data in train mode."""
    model.load_state_dict({**model.state_dict(), **params})
    for x in data:
        model(x)
