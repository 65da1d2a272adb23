"""Weight matching: align units by their weights alone.

Ainsworth, Hayase and Srinivasa, "Git Re-Basin", ICLR 2023, algorithm 1; Yamada et al., ACML 2024,
section 3: coordinate descent on the groups (see `descent`), which ends in a local optimum. Our own
are the groups inside groups and those on two axes of one tensor (see `families`), further starts,
and a first start that grows from the fixed axes: scrambled networks whose groups all meet in one,
such as a transformer's stream, leave the descent from the identity in poor optima.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Literal

import torch

from fastrebasin.matching.descent import Order, WeightMatcher
from fastrebasin.matching.result import Matching
from fastrebasin.permutation import (
    Permutation,
    check_permutation,
    identity_permutation,
    permutation_on,
)
from fastrebasin.spec import PermutationSpec

__all__ = ["weight_matching"]

_MAX_SWEEPS = 1000
_HOST = torch.device("cpu")  # where permutations are the caller's


def weight_matching(
    spec: PermutationSpec,
    params_a: Mapping[str, torch.Tensor],
    params_b: Mapping[str, torch.Tensor],
    *,
    init: Matching | Mapping[str, object] | Literal["anchored", "identity"] | None = None,
    order: Order = "colour",
    restarts: int = 0,
    seed: int = 0,
    max_sweeps: int = _MAX_SWEEPS,
    callback: Callable[[int, Permutation, float], object] | None = None,
) -> Matching:
    """Align B's units with A's so that the inner product of their weights is (locally) largest.

    Args:
        spec: which axes share a permutation.
        params_a, params_b: state dicts of equal shapes on one device, which they don't leave;
            float32 or wider is computed in its own dtype, narrower in float32, sums in float64.
            BatchNorm statistics take no part.
        init: where to start: "anchored", the default, where each group is first matched by the
            blocks that only fixed axes and groups matched before touch besides, the group of which
            most is known first; "identity", as published; a permutation; or a former `Matching` of
            similar weights, whose duals then save time.
        order: "colour" solves groups that share no tensor as one batch, "serial" one after another,
            as published; with the same result, as both visit them in the same random order.
        restarts: how many more times to start, from random permutations; the best result counts.
        seed: of the order and of the restarts.
        max_sweeps: stop after so many passes over all groups even if some would still move.
        callback: called after each sweep with its number, the permutation and what the objective
            gained.

    Returns:
        The permutation that moves B onto A, its objective, the number of sweeps over all starts,
        the objective after each sweep from the best start, and the last assignments. The last sweep
        of a start only confirms that no group moves.

    Raises:
        ValueError: shapes of A, B and the spec don't fit together, or lie on several devices,
            `init` doesn't fit, an option is out of range, or weights are not finite.

    Example:
        >>> from fastrebasin import PermutationSpec, apply_permutation
        >>> spec = PermutationSpec.from_axes({"w1": ("P0", None), "w2": (None, "P0")})
        >>> a = {"w1": torch.randn(8, 4), "w2": torch.randn(2, 8)}
        >>> b = apply_permutation(spec, spec.bind(a).random_permutation(seed=1), a)
        >>> found = weight_matching(spec, a, b).permutation
        >>> torch.equal(apply_permutation(spec, found, b)["w1"], a["w1"])
        True

    Source: Ainsworth et al., ICLR 2023, algorithm 1; Yamada et al., ACML 2024, section 3.
    """
    _check_options(order, restarts, max_sweeps)
    matcher = WeightMatcher(spec, params_a, params_b)
    generator = torch.Generator().manual_seed(seed)
    numbers = itertools.count(1)

    def note(permutation: Permutation, gain: float) -> None:
        if callback is not None:
            callback(next(numbers), permutation_on(permutation, _HOST), gain)

    found = []
    for start in _starts(matcher, init, restarts, generator):
        sweeps = itertools.islice(matcher.sweeps(start, generator, order), max_sweeps)
        found.append(_descend(matcher, start, sweeps, note))
    best = max(found, key=lambda matching: matching.objective)
    return replace(best, sweeps=sum(matching.sweeps for matching in found))


def _descend(
    matcher: WeightMatcher,
    start: Permutation,
    sweeps: Iterator[tuple[Permutation, float]],
    note: Callable[[Permutation, float], None],
) -> Matching:
    """Make the sweeps from one start."""
    permutation, gains = start, []
    for permutation, gain in sweeps:
        gains.append(gain)
        note(permutation, gain)
    objective = matcher.objective(permutation)
    return Matching(
        permutation_on(permutation, _HOST),
        objective,
        len(gains),
        objectives=tuple(objective - sum(gains[k + 1 :]) for k in range(len(gains))),
        assignments=matcher.assignments,
    )


def _starts(
    matcher: WeightMatcher,
    init: Matching | Mapping[str, object] | str | None,
    restarts: int,
    generator: torch.Generator,
) -> Iterator[Permutation]:
    yield _first_start(matcher, init)
    for _ in range(restarts):
        seed = int(torch.randint(2**31, (), generator=generator))
        yield matcher.spec.random_permutation(seed)


def _first_start(
    matcher: WeightMatcher, init: Matching | Mapping[str, object] | str | None
) -> Permutation:
    if init == "identity":
        return identity_permutation(matcher.sizes)
    if init is None or init == "anchored":
        return matcher.anchored()
    if isinstance(init, Matching):
        matcher.assignments = init.assignments
        init = init.permutation
    if not isinstance(init, Mapping):
        raise ValueError(
            'init must be "identity", "anchored", a permutation or a Matching, '
            f"got {type(init).__name__ if not isinstance(init, str) else repr(init)}"
        )
    return check_permutation(init, matcher.sizes, matcher.spec.within)


def _check_options(order: str, restarts: int, max_sweeps: int) -> None:
    problems = []
    if order not in ("colour", "serial"):
        problems.append(f'order must be "colour" or "serial", got {order!r}')
    if restarts < 0:
        problems.append(f"restarts must not be negative, got {restarts}")
    if max_sweeps < 0:
        problems.append(f"max_sweeps must not be negative, got {max_sweeps}")
    if problems:
        raise ValueError("; ".join(problems))
