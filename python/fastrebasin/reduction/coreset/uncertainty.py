"""Selection of what a trained model is least sure of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastrebasin.reduction.coreset.candidates import Candidates
from fastrebasin.reduction.coreset.selector import Scored

__all__ = ["Uncertainty"]

_SCORES = ("margin", "entropy", "least-confidence")
_ROWS = 8192  # examples whose probabilities are held at a time


@dataclass(frozen=True)
class Uncertainty(Scored):
    """Choose what the model is least sure of, the most uncertain first; labels say only the class.

    Without a model the examples are the logits. Probabilities are float64, which tells a sure model
    from a surer one.

    Args:
        score: "margin", the second largest probability less the largest, from -1 to 0; "entropy" of
            the probabilities, in nats; or "least-confidence", 1 less the largest.

    Source: Scheffer et al., IDA 2001 (margin), and Lewis and Gale, SIGIR 1994 (least confidence);
    Coleman et al., "Selection via proxy", ICLR 2020, choose by such scores what to train on. The
    margin is what Yamada et al., ACML 2024, take.

    Example:
        >>> from fastrebasin.reduction import select_coreset
        >>> logits = torch.tensor([[0.0, 5.0], [2.0, 1.0], [1.0, 1.0]])
        >>> data = logits, torch.zeros(3, dtype=torch.int64)
        >>> select_coreset(data, Uncertainty("margin"), per_class=2).extras["indices"].tolist()
        [2, 1]
    """

    score: str = "margin"

    def __post_init__(self) -> None:
        if self.score not in _SCORES:
            raise ValueError(f"score must be one of {', '.join(_SCORES)}, got {self.score!r}")

    def scores(
        self,
        candidates: Candidates,
        generator: torch.Generator,  # noqa: ARG002
    ) -> Tensor:
        """Return how unsure the model is of each candidate, (n,)."""
        if candidates.logits.shape[1] < 2:
            raise ValueError(
                "logits must be of two classes or more to be unsure of, "
                f"got shape {tuple(candidates.logits.shape)}"
            )
        return torch.cat([self._uncertainty(part) for part in candidates.logits.split(_ROWS)])

    def _uncertainty(self, logits: Tensor) -> Tensor:
        logs = logits.double().log_softmax(1)  # idempotent: log-probabilities stay as they are
        if self.score == "entropy":
            return -(logs.exp() * logs).sum(1)
        first, second = logs.topk(2).values.unbind(1)
        if self.score == "margin":
            return second.exp() - first.exp()
        return -torch.expm1(first)  # more digits than 1 less the exponential
