"""Facility location and graph cut: sets that represent a class, chosen greedily.

Facility location: f(S) = sum_j max_{i in S} K_ij; Cornuejols, Fisher & Nemhauser, "Location of
bank accounts to optimize float" (Management Science, 1977). Graph cut: f(S) = lam sum_j sum_{i in
S} K_ij - sum_{i, j in S} K_ij; Iyer et al., "Submodular combinatorial information measures" (ALT
2021). K is 1/2 + 1/2 cos of last-layer gradients, per class, as Yamada et al., ACML 2024, section
3.6 have it from Guo et al., "DeepCore" (DEXA 2022). There K is a matrix of all pairs; here it is
computed in blocks, and sums of its rows without looking at pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastrebasin._progress import bar
from fastrebasin.reduction.coreset.candidates import Candidates
from fastrebasin.reduction.coreset.greedy import facility_location, first_largest
from fastrebasin.reduction.coreset.selector import ByClass, Chosen
from fastrebasin.reduction.coreset.similarity import Cosine
from fastrebasin.reduction.coreset.vectors import KINDS, vectors_of

__all__ = ["FacilityLocation", "GraphCut"]


@dataclass(frozen=True, kw_only=True)
class FacilityLocation(ByClass):
    """Choose so that every example of a class has a chosen one like it; exact greedy.

    Scores are the gains: by how much the similarities of all examples of the class with their most
    similar chosen one grew, in sum. They never rise. Time is mostly that of one product of all
    vectors with all.

    Args:
        of: what is compared: "gradients" of the last layer, "features", or "auto", which is
            gradients with a model and features without.
        memory: bytes for similarities that are kept, and a quarter as many for earlier states. A
            class's whole matrix is in memory only if it fits; the choice is the same.

    Raises:
        ValueError: an option is out of range; everything wrong is named.

    Example:
        >>> from fastrebasin.reduction import select_coreset
        >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.8, 0.0], [0.0, 1.0], [0.1, 1.0]])
        >>> data = x, torch.zeros(5, dtype=torch.int64)
        >>> select_coreset(data, FacilityLocation(), per_class=2).extras["indices"].tolist()
        [1, 3]

    Source: Cornuejols, Fisher & Nemhauser, 1977; greedy: Nemhauser, Wolsey & Fisher, 1978.
    """

    of: str = "auto"
    memory: int = 2**29

    def __post_init__(self) -> None:
        problems = _problems(self.of)
        if self.memory < 0:
            problems.append(f"memory must not be negative, got {self.memory}")
        if problems:
            raise ValueError("; ".join(problems))

    def choose(self, candidates: Candidates, members: Tensor, count: int) -> Chosen:
        """Choose among the members of one class."""
        similarity = Cosine(vectors_of(candidates, members, self.of))
        chosen, gains = facility_location(
            similarity, count, memory=self.memory, progress=candidates.progress
        )
        return Chosen(chosen, gains)


@dataclass(frozen=True, kw_only=True)
class GraphCut(ByClass):
    """Choose what is like the rest of a class and unlike what was chosen; exact greedy.

    Scores are the gains, lam sum_j K_ij - 2 sum_{j in S} K_ij with S chosen before; they never
    rise. The function itself gains K_ii less: the same for all but zero vectors, whose K_ii is 1/2
    instead of 1, so that the order of all others is that of the function. With a large `lam` the
    most typical are chosen, whatever they have in common.

    Args:
        lam: weight of likeness to the class.
        of: what is compared: "gradients" of the last layer, "features", or "auto", which is
            gradients with a model and features without.

    Raises:
        ValueError: an option is out of range; everything wrong is named.

    Example:
        >>> from fastrebasin.reduction import select_coreset
        >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.8, 0.0], [0.0, 1.0], [0.1, 1.0]])
        >>> data = x, torch.zeros(5, dtype=torch.int64)
        >>> select_coreset(data, GraphCut(lam=2), per_class=2).extras["indices"].tolist()
        [1, 4]

    Source: Yamada et al., ACML 2024, section 3.6; Iyer et al., ALT 2021.
    """

    lam: float = 1.0
    of: str = "auto"

    def __post_init__(self) -> None:
        problems = _problems(self.of)
        if not (math.isfinite(self.lam) and self.lam >= 0):
            problems.append(f"lam must be finite and not negative, got {self.lam}")
        if problems:
            raise ValueError("; ".join(problems))

    def choose(self, candidates: Candidates, members: Tensor, count: int) -> Chosen:
        """Choose among the members of one class."""
        similarity = Cosine(vectors_of(candidates, members, self.of))
        gains = self.lam * similarity.sums()
        rounding = max(1, self.lam) * similarity.rounding
        free = torch.ones_like(gains, dtype=torch.bool)
        chosen, scores = torch.zeros(count, dtype=torch.int64), gains.new_zeros(count)
        for k in bar(range(count), "graph cut", progress=candidates.progress):
            index = first_largest(gains, free, rounding)
            chosen[k], scores[k], free[index] = index, gains[index], False
            gains -= 2 * similarity.block(chosen[k : k + 1].to(gains.device), slice(None))[0]
        # Of equal gains the first may be the smaller one, by rounding.
        return Chosen(chosen, scores.cummin(0).values)


def _problems(of: str) -> list[str]:
    return [] if of in KINDS else [f"of must be one of {', '.join(KINDS)}, got {of!r}"]
