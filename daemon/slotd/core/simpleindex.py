"""The simple API of a package index as an HTML page (PEP 503, with the attributes of PEP 592)."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urlsplit

from slotd.errors import SourceFailed

_HASH = re.compile(r"(?:^|&)sha256=([0-9a-fA-F]{64})(?:&|$)")


def links(body: bytes, most: int) -> list[dict[str, Any]]:
    """The files of a page, in the shape of PEP 691's `files`. Raises `SourceFailed` if there are more than `most`."""
    page = _Page(most)
    page.feed(body.decode("utf-8", "replace"))
    page.close()
    return page.files


class _Page(HTMLParser):
    def __init__(self, most: int) -> None:
        super().__init__(convert_charrefs=True)
        self.files: list[dict[str, Any]] = []
        self._most = most

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """The name is that of the address: the text of the link is only for people."""
        given: dict[str, Any] = {name: value or "" for name, value in attrs}
        if tag != "a" or not given.get("href"):
            return
        if len(self.files) >= self._most:
            raise SourceFailed(f"cannot use the index: it lists more than {self._most} files")
        address, _, fragment = given["href"].strip().partition("#")
        digest = _HASH.search(fragment)
        try:
            name = unquote(urlsplit(address).path.rpartition("/")[2])
        except ValueError:
            return
        self.files.append(
            {
                "filename": name,
                "url": address,
                "hashes": {"sha256": digest[1]} if digest else {},
                "requires-python": given.get("data-requires-python", ""),
                "yanked": given.get("data-yanked", False),
            }
        )
