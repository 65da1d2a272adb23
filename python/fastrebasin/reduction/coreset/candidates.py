"""What selectors look at: examples, their labels, and what a model makes of them, each once."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from fastrebasin._progress import bar
from fastrebasin.data import Batch, Data, Examples, batches, held_tensors, sources
from fastrebasin.reduction.features import FeatureExtractor

__all__ = ["Candidates"]


class Candidates:
    """Examples to choose from; what is asked of them is computed when it is first asked for.

    Args:
        data: one source of labelled examples.
        model: gives features and logits; runs in eval mode on its own device, and isn't changed.
            Without one the examples, flattened, are features as well as logits.
        layer: the module whose output is the features; by default they are the input of the last
            `nn.Linear` that runs. Means over positions are taken of maps (n, channels, ...), and
            over tokens of sequences (n, tokens, d).
        batch_size: examples in one pass.
        progress: show a bar on a terminal.

    Raises:
        ValueError: there are several sources, labels aren't a vector of integers, the model has no
            such layer, or what it gives isn't finite.

    Example:
        >>> seen = Candidates((torch.eye(3), torch.tensor([0, 1, 1])), nn.Linear(3, 2))
        >>> seen.features.shape, seen.logits.shape, seen.labels.tolist()
        (torch.Size([3, 3]), torch.Size([3, 2]), [0, 1, 1])
    """

    def __init__(
        self,
        data: Data,
        model: nn.Module | None = None,
        *,
        layer: str | None = None,
        batch_size: int = 1000,
        progress: bool = False,
    ) -> None:
        parts = sources(data)
        problems = []
        if len(parts) != 1:
            problems.append(f"data must be one source, got {len(parts)}")
        if batch_size < 1:
            problems.append(f"batch_size must be at least 1, got {batch_size}")
        if model is None and layer is not None:
            problems.append(f"layer is {layer!r}, but there is no model")
        if model is not None and layer not in {None, *(name for name, _ in model.named_modules())}:
            problems.append(f"the model has no layer {layer!r}")
        if problems:
            raise ValueError("; ".join(problems))
        self.source: Examples = parts[0]
        self.model, self.layer = model, layer
        self.batch_size, self.progress = batch_size, progress

    def __len__(self) -> int:
        return len(self.source)

    @functools.cached_property
    def labels(self) -> Tensor:
        """The labels, int64 (n,) on the CPU."""
        if "_observed" in self.__dict__:
            return self._observed[0]
        _, *held = held_tensors(self.source) or (None,)
        return _checked(held[0] if held else torch.cat([y for _, y in self._batches("labels")]))

    @property
    def features(self) -> Tensor:
        """The features, at least float32 (n, d), on the model's device."""
        return self._observed[1]

    @property
    def logits(self) -> Tensor:
        """What the model answers, at least float32 (n, classes), on its device."""
        return self._observed[2]

    @property
    def probabilities(self) -> Tensor:
        """The model's class probabilities, (n, classes)."""
        return self.logits.softmax(1)

    @property
    def errors(self) -> Tensor:
        """Probabilities less the label's indicator, (n, classes).

        It is the gradient of the cross-entropy in the logits; its product with the features is
        that in the weights of the last layer.
        """
        chosen = self.labels.to(self.logits.device)[:, None]
        classes = self.logits.shape[1]
        if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < classes:
            raise ValueError(f"labels must be in [0, {classes}), which the model tells apart")
        return self.probabilities.scatter_add(
            1, chosen, torch.full_like(self.logits[:, :1], -1).expand(-1, 1)
        )

    @functools.cached_property
    def _observed(self) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            parts = list(self._passes())
        labels, features, logits = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        for name, tensor in (("features", features), ("logits", logits)):
            broken = (~torch.isfinite(tensor)).any(1).nonzero().flatten()
            if len(broken):
                raise ValueError(
                    f"{name} must be finite, but those of {len(broken)} examples aren't, "
                    f"number {int(broken[0])} first"
                )
        return _checked(labels), features, logits

    def _batches(self, what: str) -> Iterable[Batch]:
        total = -(-len(self) // self.batch_size)
        stream = batches(self.source, self.batch_size)
        return bar(stream, what, progress=self.progress, total=total, unit="batch")

    def _passes(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield labels, features and logits of each batch."""
        model = None if self.model is None else copy.deepcopy(self.model).eval()
        first = None if model is None else next(model.parameters(), None)
        extract = None if model is None else FeatureExtractor(model, self.layer)
        for x, y in self._batches("features"):
            if extract is None:
                flat = _wide(x.flatten(1))
                yield y, flat, flat
                continue
            features, logits = extract(
                x if first is None else x.to(first.device, _dtype_for(x, first))
            )
            yield y, _vectors(features), _wide(logits)


def _checked(labels: Tensor) -> Tensor:
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(
            "labels must be a vector of integers, "
            f"got shape {tuple(labels.shape)} and {labels.dtype}"
        )
    return labels.long().cpu()


def _vectors(tensor: Tensor) -> Tensor:
    """Return one vector for each example."""
    if tensor.ndim == 3:  # tokens
        tensor = tensor.mean(1)
    elif tensor.ndim > 3:  # maps
        tensor = tensor.flatten(2).mean(2)
    return _wide(tensor.flatten(1))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _dtype_for(x: Tensor, parameter: Tensor) -> torch.dtype | None:
    return parameter.dtype if x.is_floating_point() else None
