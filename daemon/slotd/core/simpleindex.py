"""The simple API of a package index as an HTML page (PEP 503, with the attributes of PEP 592).

Read here and not with the standard library's HTMLParser: that takes minutes for 200 kB of tags that never end, and ends
in an AssertionError at `<![x`. Each sign of the page is looked at once; what never ends, ends the page, as in HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import unescape
from typing import Any
from urllib.parse import unquote, urlsplit

from slotd.errors import SourceFailed

_HASH = re.compile(r"(?:^|&)sha256=([0-9a-fA-F]{64})(?:&|$)")
_TAG = re.compile(r"<([A-Za-z][^\s/>]*+)")
_ATTRIBUTE = re.compile(
    r"""[\s/]*+(?:(?P<end>>)|(?P<name>=?[^\s/>=]*+)\s*+(?:=\s*+"""
    r"""(?:"(?P<double>[^"]*+)(?P<closed>"?)|'(?P<single>[^']*+)(?P<shut>'?)|(?P<bare>[^\s>]*+)))?)"""
)
_RAW = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in ("script", "style", "textarea", "title")}


def links(body: bytes, most: int) -> list[dict[str, Any]]:
    """The files of a page, in the shape of PEP 691's `files`. Raises `SourceFailed` if there are more than `most`."""
    files: list[dict[str, Any]] = []
    for given in _anchors(body.decode("utf-8", "replace")):
        if not given.get("href"):
            continue
        if len(files) >= most:
            raise SourceFailed(f"cannot use the index: it lists more than {most} files")
        # The name is that of the address: the text of the link is only for people.
        address, _, fragment = given["href"].strip().partition("#")
        digest = _HASH.search(fragment)
        try:
            name = unquote(urlsplit(address).path.rpartition("/")[2])
        except ValueError:
            continue
        files.append(
            {
                "filename": name,
                "url": address,
                "hashes": {"sha256": digest[1]} if digest else {},
                "requires-python": given.get("data-requires-python", ""),
                "yanked": given.get("data-yanked", False),
            }
        )
    return files


def _anchors(page: str) -> Iterator[Mapping[str, str]]:
    """The attributes of each `<a>`, those in comments and in what is no markup left out."""
    at = page.find("<")
    while at >= 0:
        tag = _TAG.match(page, at)
        if tag is None:
            at = _behind(page, at)
        else:
            name = tag[1].lower()
            given, at = _attributes(page, tag.end())
            if name == "a" and at >= 0:
                yield given
            if name in _RAW and at >= 0:
                closing = _RAW[name].search(page, at)
                at = closing.start() if closing else -1
        at = page.find("<", at) if at >= 0 else -1


def _behind(page: str, at: int) -> int:
    """Where to go on after a `<` that begins no tag, -1 if it has no end."""
    if page.startswith("<!--", at):
        end = page.find("-->", at + 4)
        return end + 3 if end >= 0 else -1
    if page[at + 1 : at + 2] in ("!", "?", "/"):
        return page.find(">", at)
    return at + 1


def _attributes(page: str, at: int) -> tuple[dict[str, str], int]:
    """The attributes of a tag (of two of one name the first counts), and where it ends: -1 if it does not."""
    given: dict[str, str] = {}
    while at < len(page):
        match = _ATTRIBUTE.match(page, at)
        if match is None or match["closed"] == "" or match["shut"] == "":
            return {}, -1
        at = match.end()
        if match["end"]:
            return given, at
        value = match["double"] or match["single"] or match["bare"] or ""
        if match["name"]:
            given.setdefault(match["name"].lower(), _text(value))
    return {}, -1


def _text(value: str) -> str:
    try:
        return unescape(value)
    except ValueError:  # a number of thousands of digits for a character
        return value
