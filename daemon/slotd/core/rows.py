"""A frozen dataclass as a row of a table, a column a field, and back; a person can read the table."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from typing import Any


def _plain(kind: Any) -> tuple[type[Any], bool]:
    """The type behind `X | None`, and whether None is allowed."""
    if isinstance(kind, types.UnionType):
        inner = [k for k in typing.get_args(kind) if k is not type(None)]
        return inner[0], True
    return typing.get_origin(kind) or kind, False


class Codec:
    """Turns one dataclass into a row and back."""

    def __init__(self, cls: type[Any]) -> None:
        self.cls = cls
        hints = typing.get_type_hints(cls)
        self.fields = [(f.name, *_plain(hints[f.name])) for f in dataclasses.fields(cls)]

    def columns(self) -> str:
        affinity = {int: "INTEGER", bool: "INTEGER", float: "REAL"}
        return ", ".join(f'"{n}" {affinity.get(k, "TEXT")}{"" if opt else " NOT NULL"}' for n, k, opt in self.fields)

    def row(self, value: Any) -> list[Any]:
        def encode(item: Any) -> Any:
            if isinstance(item, Mapping):
                return json.dumps(dict(item), sort_keys=True)
            if isinstance(item, StrEnum):
                return item.value
            return int(item) if isinstance(item, bool) else item

        return [encode(getattr(value, name)) for name, _, _ in self.fields]

    def value(self, row: Any) -> Any:
        def decode(item: Any, kind: type[Any], optional: bool) -> Any:
            if item is None and optional:
                return None
            if kind is Mapping or issubclass(kind, Mapping):
                return json.loads(item)
            return kind(item)

        return self.cls(**{name: decode(row[name], kind, opt) for name, kind, opt in self.fields})
