"""Selection by chance, which Yamada et al., ACML 2024, use for tables 2 and 3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastrebasin.reduction.coreset.candidates import Candidates
from fastrebasin.reduction.coreset.selector import Chosen, Selector, for_each_class

__all__ = ["Random", "Uniform"]


@dataclass(frozen=True)
class Random(Selector):
    """Draw uniformly and without replacement; scores are 0.

    Source: Yamada et al., ACML 2024, section 3.6.

    Example:
        >>> from fastrebasin.reduction import select_coreset
        >>> data = torch.arange(5.0)[:, None], torch.tensor([0, 1, 0, 1, 0])
        >>> select_coreset(data, Random(), per_class=2).labels.tolist()
        [0, 0, 1, 1]
    """

    looks: ClassVar[bool] = False

    def select(
        self, candidates: Candidates, counts: Mapping[int, int], generator: torch.Generator
    ) -> Chosen:
        """Draw so many examples of each class."""

        def draw(members: Tensor, count: int) -> Chosen:
            order = torch.randperm(len(members), generator=generator)
            return Chosen(order[:count], torch.zeros(count))

        return for_each_class(candidates.labels, counts, draw)


@dataclass(frozen=True)
class Uniform(Random):
    """Draw as many of every class, even where a fraction is asked for and classes differ in size.

    Source: "Uniform" of Guo et al., "DeepCore" (DEXA 2022), balanced.

    Example:
        >>> from fastrebasin.reduction import select_coreset
        >>> data = torch.arange(6.0)[:, None], torch.tensor([0, 0, 0, 0, 1, 1])
        >>> select_coreset(data, Uniform(), fraction=0.67).labels.tolist()
        [0, 0, 1, 1]
    """

    even: ClassVar[bool] = True
