"""Frozen dataclasses to plain JSON values and back, strictly: what the store and the workers hand around."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, cast

from slotd.errors import Failed

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Dicts, lists, strings, numbers and None only."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    return value


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def from_plain(cls: type[T], value: Any, *, where: str = "") -> T:
    """A dataclass from its plain form. Unknown keys are ignored (an older slotd reads a newer record); a wrong type
    raises `Failed`, naming the place.
    """
    where = where or cls.__name__
    if not isinstance(value, Mapping):
        raise Failed(f"cannot read {where}: it is {type(value).__name__}, not a table.")
    hints = _hints(cast(Any, cls))
    known = {f.name for f in dataclasses.fields(cast(Any, cls))}
    return cls(**{key: _convert(hints[key], item, f"{where}.{key}") for key, item in value.items() if key in known})


def _convert(kind: Any, item: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if item is None and type(None) in args:
            return None
        for option in (a for a in args if a is not type(None)):
            if not isinstance(option, type) or not isinstance(item, option) or option is bool:
                continue
            return item
        return _convert(next(a for a in args if a is not type(None)), item, where)
    if origin is tuple:
        if not isinstance(item, (list, tuple)):
            raise Failed(f"cannot read {where}: it is {type(item).__name__}, not a list.")
        return tuple(_convert(args[0], part, f"{where}[{i}]") for i, part in enumerate(item))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(item, Mapping):
            raise Failed(f"cannot read {where}: it is {type(item).__name__}, not a table.")
        return {str(key): _convert(args[1], part, f"{where}.{key}") for key, part in item.items()}
    if kind is Any or kind is object:
        return item
    if dataclasses.is_dataclass(kind):
        return from_plain(cast("type[Any]", kind), item, where=where)
    if kind is float and isinstance(item, int) and not isinstance(item, bool):
        return float(item)
    if issubclass(kind, StrEnum):
        try:
            return kind(item)
        except ValueError:
            raise Failed(f"cannot read {where}: {item!r} is not one of {', '.join(kind)}.") from None
    if not isinstance(item, kind) or (kind is int and isinstance(item, bool)):
        raise Failed(f"cannot read {where}: it is {type(item).__name__}, not {kind.__name__}.")
    return item
