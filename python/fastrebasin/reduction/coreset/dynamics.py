"""Selection of what fresh models find hard: while they learn, before, and soon after they began.

The gradient's norm is of the gradient in all parameters, as Paul et al. define it; DeepCore (Guo
et al., DEXA 2022) takes that in the last layer for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from fastrebasin._example_gradients import example_gradients
from fastrebasin._progress import bar
from fastrebasin.reduction.coreset.candidates import Candidates
from fastrebasin.reduction.coreset.selector import Scored
from fastrebasin.reduction.coreset.training import Factory, Task

__all__ = ["EL2N", "Forgetting", "GraNd"]

_GRADIENT_NUMBERS = 2**25  # in the gradients of the examples that are differentiated at a time
_EXAMPLES = 64  # differentiated at a time, at most
_ROWS = 1000  # examples in a pass of a trained model


@dataclass(frozen=True)
class Forgetting(Scored):
    """Choose what a model forgets most often: the times an example goes from right to wrong.

    Each epoch looks at an example once, just before the step of its batch. The whole part of a
    score is how often the example was forgotten; of what was never right, it's `epochs`, more than
    anything else can have. The fraction breaks ties: the mean probability, over the epochs, of
    the wrong classes.

    Args:
        factory: makes the model; by default the given model drawn anew by `reset_parameters`,
            without one a linear classifier of the flattened examples.
        epochs, lr, batch_size: of its training by stochastic gradient descent, momentum 0.9.

    Source: Toneva et al., "An empirical study of example forgetting", ICLR 2019, algorithm 1.

    Example:
        >>> from fastrebasin.reduction import select_coreset
        >>> data = torch.tensor([[3.0], [-1.0], [2.0], [-2.0]]), torch.tensor([0, 1, 1, 1])
        >>> chosen = select_coreset(data, Forgetting(lr=0.1), per_class=1)
        >>> chosen.extras["indices"].tolist()
        [0, 2]
    """

    looks: ClassVar[bool] = False
    factory: Factory | None = None
    epochs: int = 10
    lr: float = 0.01
    batch_size: int = 128

    def __post_init__(self) -> None:
        _check(self)

    def scores(self, candidates: Candidates, generator: torch.Generator) -> Tensor:
        """Return how often each candidate is forgotten, (n,)."""
        task = Task(candidates, self.factory, generator)
        was_right = torch.zeros(len(task.labels), dtype=torch.bool)
        learned, forgotten = was_right.clone(), torch.zeros(len(was_right), dtype=torch.float64)
        doubt = torch.zeros_like(forgotten)

        def observe(indices: Tensor, logits: Tensor) -> None:
            logits, labels = logits.double().cpu(), task.labels[indices]
            right = logits.argmax(1) == labels
            forgotten[indices] += (was_right[indices] & ~right).double()
            doubt[indices] += 1 - logits.softmax(1).gather(1, labels[:, None])[:, 0]
            learned[indices] |= right
            was_right[indices] = right

        task.train(
            task.fresh(),
            "forgetting",
            epochs=self.epochs,
            lr=self.lr,
            batch_size=self.batch_size,
            observe=observe,
        )
        whole = torch.where(learned, forgotten, self.epochs)
        return whole + (doubt / self.epochs).clamp(max=1 - 2**-20)


@dataclass(frozen=True)
class GraNd(Scored):
    """Choose examples of large gradients: the norm of the loss's in all parameters, at the start.

    Scores are means over models that nothing has trained, in eval mode, so that BatchNorm has the
    statistics of its start. Memory for the gradients of a few examples at a time, 128 MiB in
    float32 or those of a single one.

    Args:
        factory: makes the models; by default the given model drawn anew by `reset_parameters`,
            without one a linear classifier of the flattened examples.
        models: how many; Paul et al. average over 10.

    Source: Paul et al., "Deep learning on a data diet", NeurIPS 2021, section 2.

    Example:
        >>> from fastrebasin.reduction import select_coreset
        >>> data = torch.tensor([[0.1], [-5.0], [9.0], [0.2]]), torch.tensor([0, 0, 1, 1])
        >>> select_coreset(data, GraNd(models=20), per_class=1).extras["indices"].tolist()
        [1, 2]
    """

    looks: ClassVar[bool] = False
    factory: Factory | None = None
    models: int = 3

    def __post_init__(self) -> None:
        _check(self)

    def scores(self, candidates: Candidates, generator: torch.Generator) -> Tensor:
        """Return the mean norm of each candidate's gradients, (n,)."""
        task = Task(candidates, self.factory, generator)
        scores = torch.zeros(len(task.labels), dtype=torch.float64)
        for number in range(self.models):
            model = task.fresh()
            params = {name: parameter.detach() for name, parameter in model.named_parameters()}
            size = sum(parameter.numel() for parameter in params.values())
            rows = min(_EXAMPLES, max(1, _GRADIENT_NUMBERS // size))
            for indices in _chunks(task, f"GraNd {number + 1}/{self.models}", rows):
                gradients = example_gradients(model, params, *task.batch(model, indices))
                norms = [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients.values()]
                norm = torch.linalg.vector_norm(torch.stack(norms), dim=0, dtype=torch.float64)
                scores[indices] += _finite("gradients", norm, indices) / self.models
        return scores


@dataclass(frozen=True)
class EL2N(Scored):
    """Choose what models soon get most wrong: the norm of probabilities less the label's indicator.

    Scores are means over models, each trained for a few epochs, and at most the root of 2.

    Args:
        factory: makes the models; by default the given model drawn anew by `reset_parameters`,
            without one a linear classifier of the flattened examples.
        models: how many; Paul et al. average over 10.
        epochs, lr, batch_size: of their training by stochastic gradient descent, momentum 0.9; 0
            epochs leave them as they are made.

    Source: Paul et al., "Deep learning on a data diet", NeurIPS 2021, section 2.

    Example:
        >>> from fastrebasin.reduction import select_coreset
        >>> data = torch.tensor([[1.0], [2.0], [-1.0], [3.0]]), torch.tensor([0, 1, 1, 1])
        >>> select_coreset(data, EL2N(lr=0.1), per_class=1).extras["indices"].tolist()
        [0, 2]
    """

    looks: ClassVar[bool] = False
    factory: Factory | None = None
    models: int = 3
    epochs: int = 5
    lr: float = 0.01
    batch_size: int = 128

    def __post_init__(self) -> None:
        _check(self, least_epochs=0)

    def scores(self, candidates: Candidates, generator: torch.Generator) -> Tensor:
        """Return the mean norm of each candidate's errors, (n,)."""
        task = Task(candidates, self.factory, generator)
        scores = torch.zeros(len(task.labels), dtype=torch.float64)
        for number in range(self.models):
            model, label = task.fresh(), f"EL2N {number + 1}/{self.models}"
            task.train(model, label, epochs=self.epochs, lr=self.lr, batch_size=self.batch_size)
            for indices in _chunks(task, label, _ROWS):
                norms = _error_norms(model, *task.batch(model, indices))
                scores[indices] += _finite("logits", norms, indices) / self.models
        return scores


def _error_norms(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        probabilities: Tensor = model(x).double().softmax(1)
    errors = probabilities - one_hot(y, probabilities.shape[1])
    return errors.square().sum(1).sqrt()


def _chunks(task: Task, label: str, rows: int) -> Iterable[Tensor]:
    chunks = torch.arange(len(task.labels)).split(rows)
    return bar(chunks, label, progress=task.progress, total=len(chunks), unit="batch")


def _finite(what: str, norms: Tensor, indices: Tensor) -> Tensor:
    norms = norms.cpu()
    broken = indices[~torch.isfinite(norms)]
    if len(broken):
        raise ValueError(f"{what} must be finite, but those of example {int(broken[0])} aren't")
    return norms


def _check(rule: Forgetting | GraNd | EL2N, least_epochs: int = 1) -> None:
    options, problems = vars(rule), []
    if options["factory"] is not None and not callable(options["factory"]):
        problems.append(f"factory must make a model when called, got {options['factory']!r}")
    for name, least in (("models", 1), ("epochs", least_epochs), ("batch_size", 1)):
        if options.get(name, least) < least:
            problems.append(f"{name} must be at least {least}, got {options[name]}")
    if not 0 < options.get("lr", 1) < math.inf:
        problems.append(f"lr must be positive and finite, got {options['lr']}")
    if problems:
        raise ValueError("; ".join(problems))
