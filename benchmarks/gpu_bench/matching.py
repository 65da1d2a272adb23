"""Whole methods on networks: weight, straight-through and activation matching."""

from __future__ import annotations

import copy
import itertools
import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import torch
from bench_activation_matching import TOLERANCE, largest_error, ours, pairs

import fastrebasin
from fastrebasin.matching import straight_through
from gpu_bench.context import Context, Mark
from gpu_bench.host import threads
from gpu_bench.networks import Networks, networks
from gpu_bench.row import Row, at_least, at_most

__all__ = ["activation_matching", "straight_through_step", "weight_matching"]

WIDTH, NARROW = 16, 1
WARM, STEPS = 3, 12  # those that don't count, and all
GAIN = 1e-6  # of the objective, that one more sweep may bring
LOSS = 1e-4  # of the loss, that the first one may be off


def weight_matching(context: Context) -> Iterator[Row]:
    """Measure weight matching of two wide networks, from nothing to the end."""
    here = networks(context, WIDTH)
    there = here.to(context.device)
    on_device, on_host = (
        partial(fastrebasin.weight_matching, each.spec, *each.states) for each in (there, here)
    )
    found = on_device()
    gain = _gain(here, found.permutation)
    yield replace(
        _beside_the_cpu(context, f"weight matching, {here.name}", on_device, on_host),
        checked=f"one more sweep on the CPU gains {gain:.1e} (at most {GAIN:.1e})",
        wrong=not gain <= GAIN,
        facts={"sweeps": found.sweeps},
    )


def _gain(here: Networks, permutation: fastrebasin.Permutation) -> float:
    """Return by what share one more sweep on the CPU raises the objective."""
    init = {group: indices.cpu() for group, indices in permutation.items()}
    before, after = (
        fastrebasin.weight_matching(here.spec, *here.states, init=init, max_sweeps=sweeps).objective
        for sweeps in (0, 1)
    )
    return (after - before) / abs(before)


def straight_through_step(context: Context) -> Iterator[Row]:
    """Measure the share of matching in a step that trains two wide networks' midpoint."""
    off = _first_loss_off(context)
    there, batch = networks(context, WIDTH).to(context.device), context.pick(250, 4)
    projections: list[tuple[Mark, Mark]] = []
    with _marked(context, straight_through._StraightThrough, "project", projections):
        there.search(batch, context.pick(STEPS, 3))
    context.wait()
    starts = [start for start, _ in projections]
    steps = [context.between(*marks) for marks in itertools.pairwise(starts)]
    matching = [context.between(*marks) for marks in projections]
    step, match = (statistics.median(x[min(WARM, len(x) // 2) :]) for x in (steps, matching))
    yield Row(
        f"straight-through step, {there.name}, batch {batch}", step,
        checked=f"first loss of narrow networks off by {off:.1e} (at most {LOSS:.1e})",
        wrong=not off <= LOSS,
        targets=(at_most("share of matching", match / step, 0.25),),
        facts={"matching seconds": match, "steps": steps, "matching": matching},
    )  # fmt: skip


def _first_loss_off(context: Context) -> float:
    """Return how far the first loss of narrow networks is from that on the CPU in float64."""
    narrow = networks(context, NARROW)
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        found = narrow.to(context.device).search(16, 1).losses[0]
    finally:
        torch.backends.cudnn.allow_tf32 = before
    expected = narrow.to("cpu", torch.float64).search(16, 1).losses[0]
    return abs(found - expected) / expected


@contextmanager
def _marked(
    context: Context, owner: type, name: str, marks: list[tuple[Mark, Mark]]
) -> Iterator[None]:
    """Note when each call of a method begins and ends on the device."""
    method: Callable[..., Any] = getattr(owner, name)

    def marked(*arguments: Any) -> Any:
        start = context.mark()
        result = method(*arguments)
        marks.append((start, context.mark()))
        return result

    with mock.patch.object(owner, name, marked):
        yield


def activation_matching(context: Context) -> Iterator[Row]:
    """Measure activation matching of all layers in one pass over the data."""
    made = pairs(context.pick(1, 16), context.pick(400, 8))
    for make in list(made.values())[: context.pick(2, 1)]:
        here = make()
        a, b = (copy.deepcopy(model).to(context.device) for model in (here.a, here.b))
        there = replace(here, a=a, b=b, images=here.images.to(context.device))
        error = largest_error(there)
        name = f"activation matching, {here.name}, {len(here.images)} images"
        yield replace(
            _beside_the_cpu(context, name, partial(ours, there), partial(ours, here)),
            checked=f"correlations off by {error:.1e} (at most {TOLERANCE:.1e})",
            wrong=not error <= TOLERANCE,
        )


def _beside_the_cpu(
    context: Context, name: str, on_device: Callable[[], Any], on_host: Callable[[], Any]
) -> Row:
    """Return a row of a method's time, which should be less than on all of the CPU's threads."""
    on_device()  # warm
    seconds, count = context.host_seconds(on_device), os.cpu_count() or 1
    with threads(count):
        cpu = context.host_seconds(on_host, repeats=1)
    return Row(
        name, seconds, peers={f"CPU, {count} threads": cpu},
        targets=(at_least("CPU / ours", cpu / seconds, 1.0),),
    )  # fmt: skip
