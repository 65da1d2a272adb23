"""Selection by where features lie: herding, and centres that leave no example far away.

Herding is Welling's, ICML 2009: each choice brings the running mean as near to the class mean as
one example can. DeepCore (Guo et al., DEXA 2022), whose sets Yamada et al. use, takes the example
that leaves it farthest, and so collects outliers.

Both hold one class in float64 and a number for each of its examples, never a matrix of distances.
Features are centred first, and distances are sums of squared differences: an offset that all
examples share costs no digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastrebasin.reduction.coreset.candidates import Candidates
from fastrebasin.reduction.coreset.selector import ByClass, Chosen

__all__ = ["Herding", "KCenter"]


@dataclass(frozen=True)
class Herding(ByClass):
    """Choose examples whose running mean stays nearest to the mean of their class.

    The first is the example nearest to the mean. Scores are the distance from the mean of all
    chosen so far to the class mean. Ties go to the lower index.

    Source: Welling, "Herding dynamical weights to learn", ICML 2009; for choosing examples,
    Rebuffi et al., "iCaRL", CVPR 2017, algorithm 4.

    Example:
        >>> from fastrebasin.reduction import select_coreset
        >>> data = torch.tensor([[0.0], [2.0], [3.0], [7.0]]), torch.zeros(4, dtype=torch.int64)
        >>> chosen = select_coreset(data, Herding(), per_class=3)
        >>> chosen.images.flatten().tolist(), chosen.extras["scores"].tolist()
        ([3.0, 2.0, 7.0], [0.0, 0.5, 1.0])
    """

    def choose(self, candidates: Candidates, members: Tensor, count: int) -> Chosen:
        """Choose among the members of one class, greedily."""
        features = _centred(candidates, members)
        # |sum + x|^2 less |sum|^2, which is the same for all; infinite where x is chosen already.
        norms = features.square().sum(1)
        total = torch.zeros_like(features[0])
        chosen, scores = _room(count, features)
        for k in range(count):
            best = (norms + 2 * (features @ total)).argmin()
            total = total + features[best]
            norms[best] = torch.inf
            chosen[k], scores[k] = best, torch.linalg.vector_norm(total) / (k + 1)
        return Chosen(chosen, scores)


@dataclass(frozen=True)
class KCenter(ByClass):
    """Choose centres one by one, each the example farthest from all centres before it.

    The first is the example nearest to the mean of its class, and its score the distance between
    them; other scores are the distance to the nearest centre before, and never grow. No example is
    then farther from a centre than twice what the best centres could do. Ties go to the lower
    index.

    Source: Gonzalez, Theoretical Computer Science 38, 1985; for choosing examples, Sener and
    Savarese, "Active learning for convolutional neural networks", ICLR 2018, algorithm 1.

    Example:
        >>> from fastrebasin.reduction import select_coreset
        >>> data = torch.tensor([[0.0], [2.0], [3.0], [7.0]]), torch.zeros(4, dtype=torch.int64)
        >>> chosen = select_coreset(data, KCenter(), per_class=3)
        >>> chosen.images.flatten().tolist(), chosen.extras["scores"].tolist()
        ([3.0, 7.0, 0.0], [0.0, 4.0, 3.0])
    """

    def choose(self, candidates: Candidates, members: Tensor, count: int) -> Chosen:
        """Choose among the members of one class, greedily."""
        features = _centred(candidates, members)
        norms = torch.linalg.vector_norm(features, dim=1)
        nearest = torch.full_like(norms, torch.inf)
        chosen, scores = _room(count, features)
        for k in range(count):
            best = nearest.argmax() if k else norms.argmin()
            chosen[k], scores[k] = best, nearest[best] if k else norms[best]
            nearest = nearest.minimum(_distances(features, features[best]))
            nearest[best] = -1  # below all distances: never again, even among duplicates
        return Chosen(chosen, scores)


def _centred(candidates: Candidates, members: Tensor) -> Tensor:
    """Return the features of one class less their mean, float64."""
    features = candidates.features
    own = features[members.to(features.device)].double()
    return own.sub_(own.mean(0))


def _room(count: int, features: Tensor) -> tuple[Tensor, Tensor]:
    """Return where `count` choices and their scores go."""
    device = features.device
    return torch.zeros(count, dtype=torch.int64, device=device), features.new_zeros(count)


def _distances(features: Tensor, centre: Tensor) -> Tensor:
    exact = "donot_use_mm_for_euclid_dist"  # whose rounding would hide small distances
    return torch.cdist(features, centre[None], compute_mode=exact)[:, 0]
