"""The door to all rules of selection: a data set becomes a coreset."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import version

import torch
from torch import nn

from fastrebasin.data import Data
from fastrebasin.reduction.coreset.candidates import Candidates
from fastrebasin.reduction.coreset.chance import Random, Uniform
from fastrebasin.reduction.coreset.dynamics import EL2N, Forgetting, GraNd
from fastrebasin.reduction.coreset.geometry import Herding, KCenter
from fastrebasin.reduction.coreset.gradients import Craig, Glister, GradMatch
from fastrebasin.reduction.coreset.selector import Selector, class_counts
from fastrebasin.reduction.coreset.submodular import FacilityLocation, GraphCut
from fastrebasin.reduction.coreset.uncertainty import Uncertainty
from fastrebasin.reduction.reduced import ReducedSet

__all__ = ["SELECTORS", "select_coreset"]

SELECTORS: Mapping[str, Callable[[], Selector]] = {
    "craig": Craig,
    "el2n": EL2N,
    "facility-location": FacilityLocation,
    "forgetting": Forgetting,
    "glister": Glister,
    "gradmatch": GradMatch,
    "grand": GraNd,
    "graph-cut": GraphCut,
    "herding": Herding,
    "k-center": KCenter,
    "random": Random,
    "uncertainty": Uncertainty,
    "uniform": Uniform,
}
"""Rules of selection by name, with the settings that they have by default."""


def select_coreset(
    data: Data,
    method: str | Selector = "random",
    *,
    model: nn.Module | None = None,
    per_class: int | None = None,
    fraction: float | None = None,
    classes: Collection[int] | None = None,
    layer: str | None = None,
    batch_size: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> ReducedSet:
    """Choose a few examples of each class that stand in for a data set.

    Args:
        data: one source of labelled examples, or features and labels.
        method: a name in `SELECTORS`, or a selector with settings of its own.
        model: whose features, logits and gradients the method looks at; runs in eval mode on its
            own device, batch by batch, and isn't changed. Without one the examples, flattened, are
            their own features and logits.
        per_class: so many of every class.
        fraction: or so large a part of all, each class its share.
        classes: labels that must occur; by default those that do.
        layer: the module of `model` whose output is the features; by default the input of the last
            `nn.Linear` that runs.
        batch_size: examples in one pass of the model.
        seed: of everything that the method draws.
        progress: show bars on a terminal.

    Returns:
        The chosen examples, grouped by class in ascending order and, within a class, in the order
        of choice; `extras` has their "indices", "scores" and "weights".

    Raises:
        ValueError: labels, features, budgets or options are wrong; says which, and how.

    Example:
        >>> data = torch.arange(5.0)[:, None], torch.tensor([0, 1, 0, 1, 0])
        >>> coreset = select_coreset(data, "random", per_class=1)
        >>> coreset.labels.tolist(), len(coreset.extras["indices"])
        ([0, 1], 2)

    Source: Yamada et al., ACML 2024, section 3.6; each selector names its own.
    """
    selector = _selector(method)
    seen = Candidates(data, model, layer=layer, batch_size=batch_size, progress=progress)
    if selector.looks:
        _ = seen.features  # with the labels, in one pass
    counts = class_counts(
        seen.labels, per_class=per_class, fraction=fraction, classes=classes, even=selector.even
    )
    chosen = selector.select(seen, counts, torch.Generator().manual_seed(seed))
    images, labels = seen.source.take(chosen.indices)
    budget = {"per_class": per_class} if fraction is None else {"fraction": fraction}
    provenance = {
        "made by": f"fastrebasin {version('fastrebasin')}",
        "method": type(selector).__name__,
        "settings": json.dumps(_settings(selector)),
        "budget": json.dumps(budget),
        "chosen from": f"{len(seen)} examples",
        "model": "none" if model is None else type(model).__name__,
        "layer": str(layer),
        "seed": str(seed),
    }
    extras = {"indices": chosen.indices, "scores": chosen.scores}
    if chosen.weights is not None:
        extras["weights"] = chosen.weights
    return ReducedSet(images.clone(), labels.long().clone(), provenance, extras)


def _selector(method: str | Selector) -> Selector:
    if isinstance(method, Selector):
        return method
    if method not in SELECTORS:
        raise ValueError(
            f"method must be a selector or one of {', '.join(SELECTORS)}, got {method!r}"
        )
    return SELECTORS[method]()


def _settings(selector: Selector) -> dict[str, str]:
    return {
        name: getattr(value, "__qualname__", str(value)) for name, value in vars(selector).items()
    }
