"""The schemas of docs/schemas, and documents held against them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema

SCHEMAS = Path(__file__).resolve().parents[1] / "docs" / "schemas"


def read(name: str) -> dict[str, Any]:
    """A schema that allows no key but those it names: the pages tell all there is."""
    schema: dict[str, Any] = json.loads((SCHEMAS / f"{name}.json").read_text())
    return dict(closed(schema))


def closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    more = {"additionalProperties": False} if schema.get("type") == "object" else {}
    return {key: closed(value) for key, value in schema.items()} | more


def check(command: str, document: Any) -> None:
    """Raises `jsonschema.ValidationError` if that is not what the command prints with `--json`."""
    schema, base = read(command), SCHEMAS.as_uri() + "/"
    jsonschema.Draft202012Validator.check_schema(schema)
    store = {f"{base}common.json": read("common")}
    resolver = jsonschema.RefResolver(base, schema, store)
    jsonschema.Draft202012Validator(schema, resolver=resolver).validate(document)
