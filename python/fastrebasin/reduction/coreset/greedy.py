"""Greedy maximisation of facility location, f(S) = sum_j max_{i in S} K_ij, and greedy's ties.

Greedy comes within 1 - 1/e of the best set: Nemhauser, Wolsey & Fisher, "An analysis of
approximations for maximizing submodular set functions" (Mathematical Programming 14, 1978). What is
added never gains more later than now, so that gains computed earlier bound those of today, and only
the most promising are computed again: Minoux, "Accelerated greedy algorithms for maximizing
submodular set functions" (1978). The choice is plain greedy's; we differ from Minoux in two ways.

Gains are computed for many candidates at once, as products of matrices. And a gain is brought up to
date, not computed afresh: an example counts only if since then another was chosen that it resembles
more. Those get fewer and fewer, as a new one is the nearest of few.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastrebasin._progress import bar
from fastrebasin.reduction.coreset.similarity import Kept, Similarity

__all__ = ["facility_location", "first_largest"]

_BATCH = 32  # gains at a time, at first
_FEW = 64  # rows of a product that takes as long as to gather the vectors of its columns


def first_largest(values: Tensor, among: Tensor, rounding: float) -> int:
    """Return the lowest index of the largest value; what rounding can't tell apart is equal.

    Args:
        values: (n,).
        among: bool (n,), indices that count; at least one does.
        rounding: differences up to this are none.

    Example:
        >>> first_largest(torch.tensor([9.0, 1.0, 2.0, 2.0]), torch.arange(4) > 0, 0.0)
        2
    """
    values = values.where(among, -torch.inf)
    return int((values >= values.max() - rounding).to(torch.uint8).argmax())


def facility_location(
    similarity: Similarity,
    count: int,
    *,
    cells: int = 2**22,
    memory: int = 2**29,
    progress: bool = False,
) -> tuple[Tensor, Tensor]:
    """Choose examples that represent all, one after another, each the one that gains most.

    Args:
        similarity: (n, n), of which blocks are asked for.
        count: how many to choose, at most n.
        cells: entries of a block that is held at a time.
        memory: bytes for rows of the matrix that were computed, and a quarter as many for how well
            all were represented earlier. What isn't kept is computed again: neither changes the
            choice.
        progress: show a bar on a terminal.

    Returns:
        Indices in the order of choice, int64 (count,), and their gains, float64 (count,), which
        never rise. Equal gains go to the lowest index.

    Example:
        >>> from fastrebasin.reduction.coreset.similarity import Nearness
        >>> from fastrebasin.reduction.coreset.vectors import Vectors
        >>> points = torch.tensor([[0.0], [1.0], [2.0], [8.0], [9.0]]).double()
        >>> chosen, gains = facility_location(Nearness(Vectors(points)), 2)
        >>> chosen.tolist(), gains.tolist()
        ([2, 3], [29.0, 12.0])
    """
    state = _Representation(Kept(similarity, memory), count, cells, memory // 4)
    chosen, gains = [], []
    for _ in bar(range(count), "facility location", progress=progress, total=count):
        chosen.append(state.most_gaining())
        gains.append(float(state.gains[chosen[-1]]))
        state.add(chosen[-1])
    # Of equal gains the first may be the smaller one, by rounding.
    falling = torch.tensor(gains, dtype=torch.float64)
    return torch.tensor(chosen, dtype=torch.int64), falling.cummin(0).values if count else falling


class _Representation:
    """How well the chosen represent every example, and what others would gain.

    `best[j]` is the similarity of j with its nearest chosen one. It has versions: `risen[j]` is the
    last one in which it rose, `computed[i]` that of which `gains[i]` holds; the current gain is at
    most that.
    """

    def __init__(self, similarity: Similarity, count: int, cells: int, history: int) -> None:
        n, device, dtype = len(similarity), similarity.device, similarity.dtype
        self.similarity, self.cells = similarity, cells
        self.gains = similarity.sums()
        self.free = torch.ones(n, dtype=torch.bool, device=device)
        self.version, self.batch = 0, _BATCH
        self.computed, self.risen = torch.zeros(2, n, dtype=torch.int64, device=device)
        kept = max(1, min(count + 1, history // (n * dtype.itemsize)))
        self.versions = torch.zeros(kept, n, dtype=dtype, device=device)  # a ring

    @property
    def best(self) -> Tensor:
        return self.versions[self.version % len(self.versions)]

    def most_gaining(self) -> int:
        """Return the example that gains most, after all that might were brought up to date."""
        batch, updated = self.batch, 0
        while len(stale := self._stale(batch)):
            self._update(stale)
            updated += len(stale)
            batch *= 2
        self.batch = max(_BATCH, updated // 2)  # the next step needs about as many
        current = self.free & (self.computed == self.version)
        return first_largest(self.gains, current, self.similarity.rounding)

    def add(self, index: int) -> None:
        """Choose an example."""
        self.free[index] = False
        row = self.similarity.block(torch.tensor([index], device=self.free.device), slice(None))[0]
        rises = row > self.best
        if rises.any():
            best = row.maximum(self.best)
            self.version += 1
            self.best.copy_(best)
            self.risen[rises] = self.version

    def _stale(self, batch: int) -> Tensor:
        """Return those with the largest bounds, of all whose bound reaches the largest gain."""
        current = self.computed == self.version
        top = self.gains.where(self.free & current, -torch.inf).max()
        bounds = self.gains.where(self.free & ~current, -torch.inf)
        values, indices = bounds.topk(min(batch, len(bounds)))
        return indices[(values >= top - self.similarity.rounding) & (values > -torch.inf)]

    def _update(self, rows: Tensor) -> None:
        """Compute the gains of some: what they lost since their versions, or afresh."""
        computed, n = self.computed[rows], len(self.gains)
        afresh = torch.zeros_like(rows, dtype=torch.bool)
        for version in computed.unique().tolist():
            which = computed == version
            same, columns = rows[which], (self.risen > version).nonzero().flatten()
            forgotten = self.version - version >= len(self.versions)
            if forgotten or len(columns) * (len(same) + _FEW) > len(same) * n:
                afresh |= which
                continue
            for part in same.split(max(1, self.cells // max(1, len(columns)))):
                self.gains[part] -= self._loss(part, columns, version)
        for part in rows[afresh].split(max(1, self.cells // n)):
            self.gains[part] = self._gain(part)
        self.computed[rows] = self.version

    def _gain(self, rows: Tensor) -> Tensor:
        """Return how much is gained."""
        return _sums(self.similarity.block(rows, slice(None)).sub_(self.best).clamp_(min=0))

    def _loss(self, rows: Tensor, columns: Tensor, version: int) -> Tensor:
        """Return how much less is gained, of examples that have risen, than in a version."""
        block = self.similarity.block(rows, columns)
        earlier = self.versions[version % len(self.versions)]
        before = (block - earlier[columns]).clamp_(min=0)
        return _sums(before.sub_(block.sub_(self.best[columns]).clamp_(min=0)))


def _sums(rows: Tensor) -> Tensor:
    """Return the sum of each row in float64; short pieces in their own dtype, which is faster."""
    total = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    for piece in rows.split(1024, 1):
        total += piece.sum(1)
    return total
