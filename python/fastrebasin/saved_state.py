"""The state of a long run in a file, so that one that was interrupted goes on where it was.

Tensors are the file's tensors, everything else is JSON in its header: nothing is pickled. What the
run is of (options, models, data) is written beside the state, and compared before it is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch

from fastrebasin.checkpoints import save_checkpoint

__all__ = ["digest", "read_state", "write_state"]


def write_state(path: Path, state: Mapping[str, Any], about: Mapping[str, str]) -> None:
    """Write a tree of tensors, numbers and texts; the file appears whole or not at all.

    Args:
        path: a name that ends in `.safetensors`.
        state: mappings, lists and tuples (read back as lists) of tensors, numbers, texts and None.
        about: what the state belongs to.

    Raises:
        TypeError: something in the state can't be stored.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "state.safetensors"
        >>> write_state(path, {"step": 3, "w": torch.zeros(2)}, {"lr": "0.1"})
        >>> read_state(path, {"lr": "0.1"})
        {'step': 3, 'w': tensor([0., 0.])}
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = _pack(state, tensors, "state")
    save_checkpoint(tensors, path, {"state": json.dumps(tree), "about": json.dumps(dict(about))})


def read_state(path: Path, about: Mapping[str, str]) -> dict[str, Any]:
    """Read what `write_state` wrote, with its tensors on the CPU.

    Raises:
        ValueError: the file is damaged, is no such state, or belongs to something else; names
            everything that differs.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"checkpoint {path} is damaged: {error}; remove it to start") from error
    if not {"state", "about"} <= header.keys():
        raise ValueError(f"checkpoint {path} holds no saved state")
    stored: dict[str, str] = json.loads(header["about"])
    problems = [
        f"{key} was {stored.get(key)}, is {about.get(key)}"
        for key in sorted({*stored, *about})
        if stored.get(key) != about.get(key)
    ]
    if problems:
        raise ValueError(f"checkpoint {path} is of another run: " + "; ".join(problems))
    state: dict[str, Any] = _unpack(json.loads(header["state"]), tensors)
    return state


def digest(tensors: Iterable[torch.Tensor]) -> str:
    """Return a short text that tells tensors apart by their dtypes, shapes and values.

    Example:
        >>> digest([torch.zeros(2)]) == digest([torch.zeros(3)])
        False
    """
    found = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        found.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()


def _pack(value: object, tensors: dict[str, torch.Tensor], where: str) -> object:
    """Return the value as JSON knows it, its tensors by number."""
    if isinstance(value, torch.Tensor):
        tensors[str(len(tensors))] = value
        return {"tensor": str(len(tensors) - 1)}
    if isinstance(value, Mapping):
        return {"items": [[k, _pack(v, tensors, f"{where}[{k!r}]")] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_pack(v, tensors, f"{where}[{k}]") for k, v in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a state can't be stored with a {type(value).__name__} in its {where}")


def _unpack(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _unpack(item, tensors) for key, item in value["items"]}
    return value
