"""Fresh models, and the loop that trains them, for rules that watch a model learn."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fastrebasin._example_gradients import widened
from fastrebasin._progress import bar
from fastrebasin.data import Batch, on_device, sources
from fastrebasin.reduction.coreset.candidates import Candidates

__all__ = ["Factory", "Task", "redrawn"]

Factory = Callable[[], nn.Module]
"""Makes a model whose parameters are random."""

_MOMENTUM = 0.9


class Task:
    """Examples to learn, and the making and training of models that learn them.

    Args:
        candidates: the examples and their labels.
        factory: makes the models; by default the candidates' model drawn anew or, if they have
            none, a linear classifier of the flattened examples among the classes that occur.
        generator: of everything that is drawn.

    Raises:
        ValueError: no model can be made.

    Example:
        >>> seen = Candidates((torch.eye(3), torch.tensor([0, 1, 5])))
        >>> task = Task(seen, None, torch.Generator())
        >>> task.fresh()
        Linear(in_features=3, out_features=3, bias=True)
    """

    def __init__(
        self, candidates: Candidates, factory: Factory | None, generator: torch.Generator
    ) -> None:
        self.labels, self.progress = candidates.labels, candidates.progress
        self._source, self._generator = candidates.source, generator
        if factory is None and candidates.model is None:
            features = candidates.features
            classes, self.labels = self.labels.unique(return_inverse=True)
            self._source = sources((features, self.labels))[0]
            linear = functools.partial(nn.Linear, features.shape[1], len(classes))
            factory = functools.partial(linear, device=features.device, dtype=features.dtype)
        elif factory is None:
            assert candidates.model is not None
            factory = functools.partial(redrawn, candidates.model)
        self._factory = factory

    def fresh(self) -> nn.Module:
        """Return a new model in eval mode, of at least float32, that tells the labels apart.

        Raises:
            TypeError: what the factory makes is no model.
            ValueError: the model has no parameters, gives no logits, or labels aren't among its
                classes.
        """
        with self._drawing():
            model = self._factory()
        if not isinstance(model, nn.Module):
            raise TypeError(f"factory must make an nn.Module, got {type(model).__name__}")
        model = widened(model).requires_grad_(True)
        device = next(model.parameters(), torch.zeros(0)).device
        self._source = on_device(self._source, device)
        with torch.no_grad():
            logits = model(self.batch(model, torch.arange(1))[0])
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"the model must return logits (batch, classes), got {shape}")
        low, high, classes = int(self.labels.min()), int(self.labels.max()), logits.shape[1]
        if low < 0 or high >= classes:
            raise ValueError(
                f"labels must be in [0, {classes}), which the model tells apart, "
                f"got some from {low} to {high}"
            )
        return model

    def batch(self, model: nn.Module, indices: Tensor) -> Batch:
        """Return examples as the model takes them, and their labels.

        Raises:
            ValueError: the model has no parameters, or an example isn't finite.
        """
        first = next(model.parameters(), None)
        if first is None:
            raise ValueError(f"the model must have parameters, but {type(model).__name__} has none")
        x, _ = self._source.take(indices)
        broken = (~torch.isfinite(x)).reshape(len(x), -1).any(1).nonzero().flatten().cpu()
        if len(broken):
            raise ValueError(f"examples must be finite, but number {int(indices[broken[0]])} isn't")
        x = x.to(first.device, first.dtype if x.is_floating_point() else None)
        return x, self.labels[indices].to(first.device)

    def train(
        self,
        model: nn.Module,
        label: str,
        *,
        epochs: int,
        lr: float,
        batch_size: int,
        observe: Callable[[Tensor, Tensor], None] = lambda _indices, _logits: None,
    ) -> None:
        """Train by stochastic gradient descent with momentum, in shuffled batches of equal size.

        Args:
            model: changed in place; in eval mode afterwards.
            label: of the progress bar.
            epochs, lr, batch_size: of the training.
            observe: called with the indices and logits of each batch before its step.

        Raises:
            ValueError: the training diverges.
        """
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=_MOMENTUM)
        size, model = len(self.labels), model.train()
        for epoch in bar(range(epochs), label, progress=self.progress, unit="epoch"):
            order, total = torch.randperm(size, generator=self._generator), torch.zeros(())
            with self._drawing():  # dropout
                for indices in order.tensor_split(-(-size // batch_size)):
                    x, y = self.batch(model, indices)
                    logits = model(x)
                    loss = cross_entropy(logits, y)
                    observe(indices, logits.detach())
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    total = total + loss.detach()
            if not torch.isfinite(total):
                raise ValueError(f"training diverged in epoch {epoch + 1}: lower lr, got {lr}")
        model.eval()

    @contextlib.contextmanager
    def _drawing(self) -> Iterator[None]:
        """Let what draws from torch's own generators draw as ours decides; put them back after."""
        cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(int(torch.randint(2**62, (), generator=self._generator)))
            yield


def redrawn(model: nn.Module) -> nn.Module:
    """Return a copy whose parameters are drawn anew, by each module's `reset_parameters`.

    Raises:
        ValueError: a module has parameters but can't reset them; all such are named.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> torch.equal(redrawn(model).weight, model.weight)
        False
    """
    fresh = copy.deepcopy(model)
    stuck = [
        f"{name or 'the model itself'} ({type(module).__name__})"
        for name, module in fresh.named_modules()
        if any(True for _ in module.parameters(recurse=False))
        and not hasattr(module, "reset_parameters")
    ]
    if stuck:
        raise ValueError(
            "give factory=, for these modules of the model have no reset_parameters to draw their "
            "parameters anew: " + ", ".join(stuck)
        )
    for module in fresh.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    return fresh
