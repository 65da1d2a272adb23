"""Which permutation of a search on data is the best: three ways to score them.

The published way takes the lowest loss on a single batch (Yamada et al., ACML 2024, algorithm 1):
exact where the data fit one batch, else won by lucky batches. The two others are ours.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from fastrebasin.data import WeightedBatch
from fastrebasin.matching.midpoint import Midpoint
from fastrebasin.matching.readings import Number
from fastrebasin.permutation import Permutation

__all__ = ["SELECTIONS", "Select", "Selection"]

Select = Literal["batch", "average", "surrogate"]

_WINDOW = 10  # batches that an average reaches back


class Selection:
    """Select by the loss on a single batch, as published.

    What is observed counts as soon as its numbers are read; see `readings`.

    Attributes:
        permutation: the best so far.
        score: its loss.
    """

    def __init__(self, midpoint: Midpoint, data: Callable[[], Sequence[WeightedBatch]]) -> None:
        self._midpoint, self._data = midpoint, data
        self.score = math.inf
        self.permutation: Permutation = dict(midpoint.permutation)

    def observe(self, kept: Number, batch_loss: Callable[[], Number]) -> None:
        """Take one step into account.

        Args:
            kept: share of the units that have the partners of the step before.
            batch_loss: gives the loss under the midpoint's permutation on this step's batch.
        """
        del kept  # every batch is a draw of its own
        self._offer_later(batch_loss())

    def finish(self) -> None:
        """Take what is still pending into account, after the last step."""

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to go on from here."""
        return {"score": self.score, "permutation": dict(self.permutation)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.score, self.permutation = state["score"], state["permutation"]

    def _offer_later(self, score: Number) -> None:
        permutation = self._midpoint.permutation
        self._midpoint.readings.later([score], lambda read: self._offer(read, permutation))

    def _offer(self, score: float, permutation: Permutation) -> None:
        if score < self.score:
            self.score, self.permutation = score, dict(permutation)


class _AverageSelection(Selection):
    """Select by an exponential moving average of the losses on batches.

    A permutation's losses are averaged over its own batches, each weighing 1/10 at the least. When
    units change partners, what was averaged keeps as much of its weight as the share of units that
    didn't: after a small change it is evidence still, after a new start it is none. A permutation
    is scored when it is left, by the last and best known value of its average.
    """

    def __init__(self, midpoint: Midpoint, data: Callable[[], Sequence[WeightedBatch]]) -> None:
        super().__init__(midpoint, data)
        self._average, self._weight = 0.0, 0.0
        self._current = dict(midpoint.permutation)

    def observe(self, kept: Number, batch_loss: Callable[[], Number]) -> None:
        take = functools.partial(self._take, self._midpoint.permutation)
        self._midpoint.readings.later([kept, batch_loss()], take)

    def _take(self, permutation: Permutation, kept: float, loss: float) -> None:
        if kept < 1:
            self.finish()
            self._current = dict(permutation)
        self._weight = min(self._weight * kept, _WINDOW - 1) + 1
        self._average += (loss - self._average) / self._weight

    def finish(self) -> None:
        if self._weight:
            self._offer(self._average, self._current)

    def state(self) -> dict[str, Any]:
        current = {"average": self._average, "weight": self._weight, "current": self._current}
        return {**super().state(), **current}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self._average, self._weight = state["average"], state["weight"]
        self._current = state["current"]


class _SurrogateSelection(Selection):
    """Select by the loss on all the data, evaluated whenever the permutation has changed."""

    def __init__(self, midpoint: Midpoint, data: Callable[[], Sequence[WeightedBatch]]) -> None:
        super().__init__(midpoint, data)
        self._is_first = True

    def observe(self, kept: Number, batch_loss: Callable[[], Number]) -> None:
        del batch_loss
        if self._is_first or self._midpoint.readings.known(kept) != 1:
            self._is_first = False
            self._offer_later(self._midpoint.mean_loss(self._data()))

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self._is_first = math.isinf(self.score)


SELECTIONS: Mapping[Select, type[Selection]] = {
    "batch": Selection,
    "average": _AverageSelection,
    "surrogate": _SurrogateSelection,
}
