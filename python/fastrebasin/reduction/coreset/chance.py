"""Selection by chance, which Yamada et al., ACML 2024, use for tables 2 and 3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastrebasin.reduction.coreset.candidates import Candidates
from fastrebasin.reduction.coreset.selector import ByClass, Chosen

__all__ = ["Random", "Uniform"]


@dataclass(frozen=True)
class Random(ByClass):
    """Draw uniformly and without replacement; scores are 0.

    Source: Yamada et al., ACML 2024, section 3.6.

    Example:
        >>> from fastrebasin.reduction import select_coreset
        >>> data = torch.arange(5.0)[:, None], torch.tensor([0, 1, 0, 1, 0])
        >>> select_coreset(data, Random(), per_class=2).labels.tolist()
        [0, 0, 1, 1]
    """

    looks: ClassVar[bool] = False

    def choose(
        self,
        candidates: Candidates,  # noqa: ARG002
        members: Tensor,
        count: int,
        generator: torch.Generator,
    ) -> Chosen:
        """Draw among the members of one class."""
        return Chosen(torch.randperm(len(members), generator=generator)[:count], torch.zeros(count))


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
