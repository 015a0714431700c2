"""The door to python-tuf, and metadata as it goes over a worker's socket."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

from slotd.core.tufwalk import MOST_BYTES, MOST_NAME, MOST_ROLES, MOST_ROOTS, Library
from slotd.errors import Failed
from slotd.host import extras

PACKAGE = "tuf"
# As `core.tufwalk` calls them; they become names of files, quoted once more.
_NAME = re.compile(rf"root\.[0-9]{{1,10}}|pinned|timestamp|snapshot|targets|role\.[\w.~%-]{{1,{MOST_NAME}}}", re.ASCII)


def library() -> Library:
    """Raises `Failed` if it is not installed."""
    trusted_set = extras.load("tuf.ngclient._internal.trusted_metadata_set").TrustedMetadataSet
    envelope = extras.load("tuf.ngclient.config").EnvelopeType.METADATA
    return Library(trusted_set, envelope, extras.load("tuf.api.exceptions"))


def encoded(metadata: Mapping[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(data).decode("ascii") for name, data in metadata.items()}


def decoded(value: Any) -> dict[str, bytes]:
    """What `encoded` gave, checked. Raises `Failed`."""
    try:
        found = {str(name): base64.b64decode(data, validate=True) for name, data in dict(value).items()}
    except (ValueError, TypeError):
        raise Failed("cannot use the TUF metadata: they are not what a worker gives") from None
    if sum(map(len, found.values())) > 2 * MOST_BYTES or len(found) > MOST_ROOTS + MOST_ROLES + 4:
        raise Failed("cannot use the TUF metadata: they are too large")
    if not all(_NAME.fullmatch(name) for name in found):
        raise Failed("cannot use the TUF metadata: one has a name that none has")
    return found
