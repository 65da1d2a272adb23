"""How alike examples of a class are, block by block: never n x n at once."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from fastrebasin.reduction.coreset.vectors import Index, Vectors

__all__ = ["Cosine", "Kept", "Nearness", "Similarity"]


class Similarity(ABC):
    """A symmetric matrix (n, n), not negative, of which blocks can be computed."""

    vectors: Vectors

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of blocks."""
        return self.vectors.right.dtype

    @property
    def device(self) -> torch.device:
        """The device of blocks."""
        return self.vectors.right.device

    @property
    @abstractmethod
    def largest(self) -> float:
        """The largest similarity that there may be."""

    @abstractmethod
    def block(self, rows: Tensor, columns: Index) -> Tensor:
        """Return the similarities of some with some others, (rows, columns)."""

    @abstractmethod
    def sums(self) -> Tensor:
        """Return the sum of each row, float64 (n,)."""

    @property
    def rounding(self) -> float:
        """How far sums of n similarities that are equal may seem apart."""
        return 4 * math.sqrt(len(self)) * torch.finfo(self.dtype).eps * self.largest


class Cosine(Similarity):
    """1/2 + 1/2 cos of two vectors; the cosine with a zero vector is 0.

    Example:
        >>> alike = Cosine(Vectors(torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])))
        >>> alike.block(torch.arange(3), slice(None)).tolist(), alike.sums().tolist()
        ([[1.0, 0.5, 0.0], [0.5, 1.0, 0.5], [0.0, 0.5, 1.0]], [1.5, 2.0, 1.5])
    """

    largest = 1.0

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors.unit()

    def block(self, rows: Tensor, columns: Index) -> Tensor:
        """Return the similarities of some with some others, (rows, columns)."""
        return self.vectors.products(rows, columns).mul_(0.5).add_(0.5)

    def sums(self) -> Tensor:
        """Return the sum of each row, float64 (n,), without looking at pairs."""
        every = torch.ones(len(self))
        return 0.5 * len(self) + 0.5 * self.vectors.against(every)


class Nearness(Similarity):
    """The largest distance that occurs, less the distance of two vectors.

    Distances are differences of products: vectors should be float64. What rounding can't tell from
    0 is 0.

    Args:
        vectors: of which distances are taken.
        cells: entries of a block that is held at a time.

    Example:
        >>> near = Nearness(Vectors(torch.tensor([[0.0], [3.0], [4.0]]).double()))
        >>> near.block(torch.arange(3), slice(None)).tolist()
        [[4.0, 1.0, 0.0], [1.0, 4.0, 3.0], [0.0, 3.0, 4.0]]
    """

    def __init__(self, vectors: Vectors, cells: int = 2**22) -> None:
        self.vectors, self.cells, self.squares = vectors, cells, vectors.squares()

    @property
    def largest(self) -> float:
        """The largest distance."""
        return self._distances[0]

    def distances(self, rows: Tensor, columns: Index) -> Tensor:
        """Return the distances of some from some others, (rows, columns)."""
        sizes = self.squares[rows][:, None] + self.squares[columns]
        squares = sizes - self.vectors.products(rows, columns).mul_(2)
        return squares.where(squares > 8 * torch.finfo(self.dtype).eps * sizes, 0).sqrt()

    def block(self, rows: Tensor, columns: Index) -> Tensor:
        """Return the similarities of some with some others, (rows, columns)."""
        return self.largest - self.distances(rows, columns)

    def sums(self) -> Tensor:
        """Return the sum of each row, float64 (n,)."""
        return len(self) * self.largest - self._distances[1]

    @functools.cached_property
    def _distances(self) -> tuple[float, Tensor]:
        """The largest distance and each row's sum, in one pass over all pairs."""
        largest, sums = 0.0, []
        step = max(1, self.cells // len(self))
        for rows in torch.arange(len(self), device=self.device).split(step):
            distances = self.distances(rows, slice(None))
            largest = max(largest, float(distances.max()))
            sums.append(distances.sum(1, dtype=torch.float64))
        return largest, torch.cat(sums)


class Kept(Similarity):
    """Another similarity, of which whole rows are kept once they were asked for.

    Args:
        similarity: computes what isn't kept.
        memory: bytes for rows; whichever come first. Rows of all examples fit only if this is as
            large as the matrix.
    """

    def __init__(self, similarity: Similarity, memory: int) -> None:
        n = len(similarity)
        self.similarity, self.vectors = similarity, similarity.vectors
        self.slots = torch.full((n,), -1, device=self.device)
        room = min(n, memory // (n * self.dtype.itemsize))
        self.rows = torch.empty(room, n, dtype=self.dtype, device=self.device)
        self.used = 0

    @property
    def largest(self) -> float:
        """The largest similarity that there may be."""
        return self.similarity.largest

    def sums(self) -> Tensor:
        """Return the sum of each row, float64 (n,)."""
        return self.similarity.sums()

    def block(self, rows: Tensor, columns: Index) -> Tensor:
        """Return the similarities of some with some others, (rows, columns)."""
        slots = self.slots[rows]
        known = slots >= 0
        if known.all():
            return self.rows[slots if isinstance(columns, slice) else slots[:, None], columns]
        if known.any():
            some, others = (self.block(rows[which], columns) for which in (known, ~known))
            block = some.new_empty(len(rows), some.shape[1])
            block[known], block[~known] = some, others
            return block
        block = self.similarity.block(rows, columns)
        if isinstance(columns, slice):
            new = rows[: len(self.rows) - self.used]
            self.slots[new] = torch.arange(self.used, self.used + len(new), device=self.device)
            self.rows[self.used : self.used + len(new)] = block[: len(new)]
            self.used += len(new)
        return block
