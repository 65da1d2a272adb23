"""The `data=` argument: labelled examples from tensors, data sets or loaders, one source or more.

Several sources are drawn evenly whatever their sizes; of two, that is the half-and-half mixture of
Yamada et al., ACML 2024, section 2.1. Sources of equal size are concatenated and shuffled;
otherwise each draw picks a source uniformly and an example of it uniformly, with replacement.
"""

from __future__ import annotations

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from fastrebasin._transfer import sent

__all__ = [
    "Batch", "Data", "Examples", "WeightedBatch", "batches", "held_tensors", "load_examples",
    "mixture", "mixture_length", "on_device", "some", "sources", "sources_of_two",
    "weighted_batches",
]  # fmt: skip

Batch: TypeAlias = tuple[Tensor, Tensor]
WeightedBatch: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Examples, labels, and the weight of each example in a mean over all data."""
Data: TypeAlias = object
"""Tensors `(x, y)`, a data set of such pairs, a loader of such batches, a file or a `ReducedSet` of
examples, or several of these."""


_RESIDENT_BYTES = 2**30


class Examples(ABC):
    """Labelled examples that can be gathered by index."""

    @abstractmethod
    def __len__(self) -> int:
        """Return how many there are."""

    @abstractmethod
    def take(self, indices: Tensor) -> Batch:
        """Return the examples at `indices` as one batch."""


class _Tensors(Examples):
    def __init__(self, x: Tensor, y: Tensor) -> None:
        if len(x) != len(y):
            raise ValueError(f"data (x, y) must have equal lengths, got {len(x)} and {len(y)}")
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def take(self, indices: Tensor) -> Batch:
        x, y = (t.index_select(0, sent(indices, t.device)) for t in (self.x, self.y))
        return x, y


class _DataSet(Examples):
    def __init__(
        self,
        items: Sequence[object],
        collate: Callable[[list[object]], object] = default_collate,
    ) -> None:
        self.items, self.collate = items, collate

    def __len__(self) -> int:
        return len(self.items)

    def take(self, indices: Tensor) -> Batch:
        return _as_batch(self.collate([self.items[i] for i in indices.tolist()]))


class _Chosen(Examples):
    def __init__(self, source: Examples, indices: Tensor) -> None:
        self.source, self.indices = source, indices

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, indices: Tensor) -> Batch:
        return self.source.take(self.indices[indices])


def sources(data: Data) -> tuple[Examples, ...]:
    """Return the sources that a `data=` argument names: one, or one for each entry.

    A tuple or list of sources names them all, except that `(x, y)` of two tensors is one source. A
    tuple or list of examples, whose labels are single numbers, is one source too: a data set.

    Raises:
        ValueError: a source is empty, or x and y differ in length.
        TypeError: `data` is nothing that yields labelled examples, or mixes sources with others.

    Example:
        >>> x, y = torch.zeros(5, 3), torch.zeros(5, dtype=torch.int64)
        >>> [len(source) for source in sources((x, y))]
        [5]
        >>> [len(source) for source in sources(((x, y), (x[:2], y[:2]), (x[:3], y[:3])))]
        [5, 2, 3]
    """
    entries = list(data) if isinstance(data, (tuple, list)) and not _is_tensors(data) else []
    named = [_is_source(entry) for entry in entries]
    if any(named) and not all(named):
        raise TypeError(
            "data must be one source or several, but of its entries these are none: "
            + ", ".join(
                f"number {k} ({type(entry).__name__})"
                for k, (entry, fits) in enumerate(zip(entries, named, strict=True))
                if not fits
            )
        )
    found = tuple(_source(part) for part in (entries if any(named) else [data]))
    if any(len(source) == 0 for source in found):
        raise ValueError("data must not be empty")
    return found


def sources_of_two(data: Data) -> tuple[Examples, Examples]:
    """Return A's source and B's: a single one serves both.

    Raises:
        ValueError: there are more, or one is wrong; see `sources`.
    """
    parts = sources(data)
    if len(parts) > 2:
        raise ValueError(f"data must be one source, or A's and B's, got {len(parts)} sources")
    return parts[0], parts[-1]


def some(source: Examples, most: int | None, generator: torch.Generator) -> Examples:
    """Return so many examples of a source, drawn at random, in order; all where it has no more."""
    if most is None or most >= len(source):
        return source
    return _Chosen(source, torch.randperm(len(source), generator=generator)[:most].sort().values)


def batches(source: Examples, batch_size: int) -> Iterator[Batch]:
    """Yield all examples once, in order."""
    for indices in torch.arange(len(source)).split(batch_size):
        yield source.take(indices)


def mixture(
    parts: Sequence[Examples], batch_size: int, generator: torch.Generator, *, first: int = 0
) -> Iterator[Batch]:
    """Yield one epoch of shuffled batches, from the `first` on, drawn evenly from the sources."""
    lengths = [len(part) for part in parts]
    total = sum(lengths)
    if len(set(lengths)) == 1:
        order = torch.randperm(total, generator=generator)
        owner, index = order // lengths[0], order % lengths[0]
    else:
        owner = torch.randint(len(parts), (total,), generator=generator)
        uniform = torch.rand(total, generator=generator, dtype=torch.float64)
        index = (uniform * torch.tensor(lengths)[owner]).long()
    for chosen in torch.arange(total).split(batch_size)[first:]:
        taken = [
            part.take(index[chosen][owner[chosen] == number])
            for number, part in enumerate(parts)
            if (owner[chosen] == number).any()
        ]
        x, y = taken[0] if len(taken) == 1 else map(torch.cat, zip(*taken, strict=True))
        yield x, y


def mixture_length(parts: Sequence[Examples], batch_size: int) -> int:
    """Return the number of batches in one epoch of `mixture`."""
    return -(-sum(len(part) for part in parts) // batch_size)


def weighted_batches(
    parts: Sequence[Examples], batch_size: int, generator: torch.Generator
) -> Iterator[WeightedBatch]:
    """Yield every example once, shuffled, each batch with its share of every source.

    The weights are those of a mean over all examples in which all sources count alike.
    """
    orders = [torch.randperm(len(part), generator=generator) for part in parts]
    count = min(mixture_length(parts, batch_size), max(map(len, parts)))
    for chunks in zip(*(order.tensor_split(count) for order in orders), strict=True):
        drawn = [(part, chosen) for part, chosen in zip(parts, chunks, strict=True) if len(chosen)]
        taken = [part.take(chosen) for part, chosen in drawn]
        weights = [
            torch.full((len(chosen),), 1 / len(part), dtype=torch.float64) for part, chosen in drawn
        ]
        x, y = (torch.cat(tensors) for tensors in zip(*taken, strict=True))
        yield x, y, torch.cat(weights) / len(parts)


def held_tensors(part: Examples) -> tuple[Tensor, ...]:
    """Return the tensors that a source is made of; none if it makes its examples when asked."""
    return (part.x, part.y) if isinstance(part, _Tensors) else ()


def on_device(part: Examples, device: torch.device) -> Examples:
    """Return a source whose tensors lie on `device`, if they are small beside what runs there."""
    if not isinstance(part, _Tensors) or part.x.nbytes + part.y.nbytes > _RESIDENT_BYTES:
        return part
    return _Tensors(sent(part.x, device), sent(part.y, device))


def load_examples(path: str | Path) -> Batch:
    """Read labelled examples from a file.

    Args:
        path: `.safetensors` or `.npz` with arrays "images" (n, ...) and "labels" (n,). Images of
            dtype uint8 are divided by 255; others are read as float32.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, of another kind, or lacks an array.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such data file: {path}")
    try:
        if path.suffix == ".safetensors":
            arrays = safetensors.torch.load_file(path)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: torch.from_numpy(archive[name]) for name in archive.files}
        else:
            raise ValueError("expected .safetensors or .npz")
    except (ValueError, EOFError, zipfile.BadZipFile, safetensors.SafetensorError) as error:
        raise ValueError(f"can't read examples from {path}: {error}") from error
    missing = {"images", "labels"} - arrays.keys()
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}, it has {sorted(arrays)}")
    images, labels = arrays["images"], arrays["labels"].long()
    if labels.ndim != 1 or len(images) != len(labels):
        raise ValueError(
            f"{path}: labels must be one for each of {len(images)} images, "
            f"got shape {tuple(labels.shape)}"
        )
    return (images.float() / 255 if images.dtype == torch.uint8 else images.float()), labels


def _is_tensors(data: Sequence[object]) -> bool:
    return len(data) == 2 and all(isinstance(part, Tensor) for part in data)


def _is_source(entry: object) -> bool:
    """Tell a source from an example `(x, label)`, and from what is neither."""
    if isinstance(entry, (Examples, str, Path)):
        return True
    if isinstance(entry, (tuple, list)):
        label = entry[1] if len(entry) == 2 else ()
        return not isinstance(label, (int, float, str)) and getattr(label, "ndim", 1) > 0
    if isinstance(entry, (Tensor, np.ndarray, Mapping)):
        return False
    return isinstance(entry, Iterable) or (
        hasattr(entry, "__getitem__") and hasattr(entry, "__len__")
    )


def _source(data: object) -> Examples:
    if isinstance(data, Examples):
        return data
    if isinstance(data, (str, Path)):
        return _Tensors(*load_examples(data))
    if isinstance(data, (tuple, list)) and _is_tensors(data):
        return _Tensors(data[0], data[1])
    if isinstance(data, DataLoader) and not isinstance(data.dataset, IterableDataset):
        return _DataSet(cast(Sequence[object], data.dataset), data.collate_fn)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return _DataSet(cast(Sequence[object], data))
    if isinstance(data, Iterable):  # batches that come only in order are kept in memory
        collected = [_as_batch(batch) for batch in data]
        if not collected:
            raise ValueError("data must not be empty")
        return _Tensors(torch.cat([x for x, _ in collected]), torch.cat([y for _, y in collected]))
    raise TypeError(
        "data must be tensors (x, y), a data set, a loader, a file, or several of these, "
        f"got {type(data).__name__}"
    )


def _as_batch(value: object) -> Batch:
    if isinstance(value, (tuple, list)) and len(value) == 2:
        x, y = value
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            return x, y
    raise TypeError(f"data must yield pairs of tensors (x, y), got {type(value).__name__}")
