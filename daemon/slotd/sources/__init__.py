"""Where releases come from. One file per type; adding one is a file here, a line in `SOURCES` and an entry in
`slotd.core.sourcetypes` (docs/sources.md shows it).

A source is the only code that knows a server's dialect. It runs in the *list* worker (network,
unprivileged) and gives what the server said as values; which release is chosen is decided by
`slotd.core.version`, never by a server's word "latest".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from slotd.core.schema import Limits, Source
from slotd.model import Release


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's answer. `status` 304 has no body. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


class Getter(Protocol):
    """The one door to the network that a source gets: bounded, https stays https, credentials stay with their host."""

    def get(self, url: str, *, headers: Mapping[str, str] | None = None) -> Answer:
        """GET `url`. Raises `SourceFailed` for anything but 200 and 304, with `retry_at` where the server said."""
        ...


@dataclass(frozen=True, slots=True)
class Listing:
    """What a source said. `state` is kept between checks (ETags and such) and handed back at the next one."""

    releases: tuple[Release, ...]
    state: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class SourceType(Protocol):
    """A kind of source."""

    def list_releases(self, source: Source, get: Getter, state: Mapping[str, Any], limits: Limits) -> Listing:
        """All releases that the source offers, newest first or in any order. Raises `SourceFailed`."""
        ...


# type -> "module:Class", imported when a definition uses it
SOURCES: dict[str, str] = {
    "github": "slotd.sources.github:GitHub",
    "gitea": "slotd.sources.gitea:Gitea",
    "gitlab": "slotd.sources.gitlab:GitLab",
    "pypi": "slotd.sources.pypi:PyPI",
    "npm": "slotd.sources.npm:Npm",
    "http": "slotd.sources.http:HttpIndex",
    "directory": "slotd.sources.directory:Directory",
}
