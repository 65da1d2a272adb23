"""Dataclasses as JSON and back, by their type hints: reading never runs code from a file."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

__all__ = ["plain", "restore"]


def plain(value: object) -> Any:
    """Return a value as what JSON can hold; floats that aren't finite become texts.

    Example:
        >>> plain({"a": (1, 2.5, math.inf)})
        {'a': [1, 2.5, 'inf']}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, (str, int)) else str(value)


def restore(kind: Any, value: object, where: str) -> Any:
    """Return what `plain` made JSON of, checked against its type.

    Args:
        kind: a dataclass, tuple, dict, union with None, or plain type.
        value: what was read.
        where: what to call it in a message.

    Raises:
        ValueError: the value isn't one of that type; says where.

    Example:
        >>> restore(tuple[float, ...], [1, "inf"], "losses")
        (1.0, inf)
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        (some,) = (part for part in inner if part is not type(None))
        return None if value is None else restore(some, value, where)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, value, where)
    if origin is tuple and isinstance(value, list) and len(value) in _lengths(inner, value):
        kinds = [inner[0]] * len(value) if inner[-1] is ... else inner
        pairs = enumerate(zip(kinds, value, strict=True))
        return tuple(restore(each, item, f"{where}[{k}]") for k, (each, item) in pairs)
    if origin is dict and isinstance(value, dict):
        return {key: restore(inner[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float and (type(value) in (int, float) or value in ("inf", "-inf", "nan")):
        return float(typing.cast(str, value))
    if kind is object or (kind in (int, str) and type(value) is kind):
        return value
    raise ValueError(f"{where} must be {getattr(kind, '__name__', kind)}, got {value!r:.60}")


def _lengths(inner: tuple[Any, ...], value: list[object]) -> tuple[int, ...]:
    """Return how long a tuple may be: as long as the value where its type leaves that open."""
    return (len(value),) if inner[-1] is ... else (len(inner),)


def _dataclass(kind: type, value: object, where: str) -> Any:
    names = {field.name for field in dataclasses.fields(kind)}
    if not isinstance(value, dict) or value.keys() != names:
        found = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise ValueError(f"{where} must be an object with {sorted(names)}, got {found}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: restore(hints[name], value[name], f"{where}.{name}") for name in names})
