"""What the `list`, `lists`, `fetch` and `small` workers do: the daemon's requests, answered by sources and doors.

Run as an unprivileged user beside the network (section 9). What is given back is a claim: the daemon reads it with
`listing_from_json` and measures the file itself.
"""

from __future__ import annotations

import base64
import dataclasses
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from slotd.core import release as form
from slotd.core.answer import not_yet, shown
from slotd.core.assets import THIS_ARCHITECTURE, architecture_names
from slotd.core.schema import Limits, Source
from slotd.core.sourcetypes import BEARER, TOGETHER_S, credential_host
from slotd.core.template import expand_name
from slotd.errors import Failed, Misconfigured, SlotdError, SourceFailed
from slotd.host import bandwidth, frames, localfile, mirrors, seeding
from slotd.host import download as door
from slotd.host.fetch import Broken, Credential, Session, credential
from slotd.host.plainfile import read_plain
from slotd.model import Release
from slotd.sources import SOURCES, Answer, Listing, SourceType

Progress = Callable[[dict[str, Any]], None]

LIST_TRIES = 3


class HttpGetter:
    """A source's door to the network. All its GETs share one deadline."""

    def __init__(self, session: Session, limit_bytes: int) -> None:
        self.used_https = False
        self._session = session
        self._limit_bytes = limit_bytes

    def get(self, url: str, *, headers: Mapping[str, str] | None = None) -> Answer:
        """See `Getter`. A broken connection is tried again, a server's "no" is not."""
        self.used_https |= url.lower().startswith("https://")
        wait_s = self._session.pace.backoff_s
        for is_last in (*[False] * (LIST_TRIES - 1), True):
            try:
                page = self._session.read(url, self._limit_bytes, headers)
                return Answer(page.status, page.headers, page.body, page.url)
            except Broken:
                if is_last or wait_s >= self._session.left_s():  # what was wrong says more than that time ran out
                    raise
                self._session.rest(wait_s)
                wait_s *= 2
        raise AssertionError("unreachable")


def list_releases(request: Mapping[str, Any], fds: Sequence[int], progress: Progress) -> dict[str, Any]:
    """{source, limits, state, credential, credential_host, credential_as, words, also} -> {releases, state, warnings}.

    `credential_as` is what stands before a bare token in a request, `Authorization: Bearer` if it is not said.
    `words` are the definition's {arch} and {os} (this host's, if it names none). `also` are the names of further
    files that verification needs ({asset}, {version}, {tag}, {arch}, {os}), for an `http` index that lists no files.
    """
    limits = limits_of(request)
    with Session(limits, limits.index_s, own_credential(request, credential_host(_source(request)))) as session:
        return _list(request, session)


def list_together(request: Mapping[str, Any], fds: Sequence[int], progress: Progress) -> dict[str, Any]:
    """{asks: requests of `list`, all of one server and one credential} -> {answers: in their order {ok: what `list`
    gives}, {error}, or {} for one to be asked anew}.

    They share connections. The first has its whole time and is always answered; the others what `TOGETHER_S` leaves.
    """
    asks: Sequence[Mapping[str, Any]] = request["asks"]
    limits = limits_of(asks[0])
    end = time.monotonic() + TOGETHER_S
    answers: list[dict[str, Any]] = []
    unwelcome: dict[str, SourceFailed] = {}  # an address that is not to be asked now -> what it said
    room = form.LISTING_BYTES
    with Session(limits, limits.index_s, own_credential(asks[0], credential_host(_source(asks[0])))) as session:
        for ask in asks:
            left_s = min(end - time.monotonic(), limits.index_s) if answers else limits.index_s
            if left_s <= 0 or room < 0:
                answers.append({})
                continue
            session.renew(left_s)
            address = str(ask["source"].get("url"))
            try:
                if address in unwelcome:
                    raise unwelcome[address]
                answer = {"ok": _list(ask, session)}
            except SlotdError as error:
                if answers and session.left_s() <= 0:
                    answers.append({})
                    continue
                if isinstance(error, SourceFailed) and error.retry_at > time.time():
                    unwelcome[address] = not_yet(error.retry_at)
                answer = {"error": frames.told(error)}
            room -= form.json_bytes(answer)
            answers.append({} if answers and room < 0 else answer)
    return {"answers": answers}


def _list(request: Mapping[str, Any], session: Session) -> dict[str, Any]:
    limits, source = limits_of(request), _source(request)
    state = request.get("state") or {}
    if source.type not in SOURCES:
        raise Misconfigured(f"cannot list releases: there is no source of type {source.type!r}")
    module, _, name = SOURCES[source.type].partition(":")
    kind: SourceType = getattr(importlib.import_module(module), name)()
    getter = HttpGetter(session, limits.index_bytes)
    listing = kind.list_releases(source, getter, state, limits)
    safe, unsafe = _only_safe(source, getter.used_https, listing.releases)
    releases, left_out = form.fit(safe, limits)
    kept = dict(listing.state)
    if form.json_bytes(kept) > limits.source_state_bytes:
        kept = {}
    warnings = form.bounded_warnings((*left_out, *listing.warnings, *unsafe))
    return {"releases": releases, "state": kept, "warnings": warnings}


def listing_from_json(result: Mapping[str, Any], source: Source, limits: Limits) -> Listing:
    """The daemon's reading of what `list_releases` gave back: checked as a stranger's. Raises `SourceFailed`."""
    place = "the list worker's answer"
    releases = form.releases_from_json(result.get("releases"), limits, f"{place}: releases")
    for release in releases:
        for asset in release.assets:
            if not _is_own_kind(source, asset.url):
                raise SourceFailed(f"cannot use {place}: {asset.name} of {release.version} is not where it may be")
    return Listing(
        releases,
        form.state_from_json(result.get("state"), limits, f"{place}: state"),
        form.warnings_from_json(result.get("warnings", []), f"{place}: warnings"),
    )


def fetch(request: Mapping[str, Any], fds: Sequence[int], progress: Progress) -> dict[str, Any]:
    """{url, limit_bytes, limits, kind, offset_state, expected_size, expected_digest, mirrors, bandwidth, share, seed,
    credential, credential_host} and a file open for reading and writing -> {bytes, sha256, state, fetched, reused,
    unfit, pieced, mirror}. Progress: {bytes, total, state}; the last `state` seen is the `offset_state` that a later
    call goes on from. `mirror` is which of `mirrors` gave it, from 1 on, 0 for `url` itself.

    More descriptors, all read only: with `share`, what may be taken of the bandwidth; with `seed`, an older file that
    may hold much of the new one, and if that is "chunks" its index and the new one's.
    """
    given = list(fds)
    expected = 1 + bool(request.get("share")) + {"": 0, "zip": 1, "chunks": 3}[str(request.get("seed") or "")]
    if len(given) != expected:
        raise Failed(f"cannot fetch: the worker was given {len(given)} files instead of {expected}")
    limits = limits_of(request)
    limit_bytes = int(request.get("limit_bytes") or limits.download_bytes)
    expected_size = int(request.get("expected_size") or 0)
    target = given.pop(0)
    if _kind(request) == "file":
        return _told(localfile.copy(_path(request["url"]), target, limit_bytes, progress, expected_size), 0)
    total = int(request.get("bandwidth") or 0)
    rate = bandwidth.reader(given.pop(0)) if request.get("share") else lambda: total
    order = door.Order(
        url=request["url"],
        limit_bytes=limit_bytes,
        expected_size=expected_size,
        expected_digest=str(request.get("expected_digest") or ""),
        bandwidth=rate,
        state=request.get("offset_state") or {},
        credential=own_credential(request, ""),
        seed=seeding.open_seed(given, limits.delta_index_bytes) if given else None,
    )
    addresses = [str(each) for each in request.get("mirrors") or ()]
    done, number = mirrors.download(order, addresses, target, limits, progress)
    return _told(done, number)


def _told(done: door.Downloaded, mirror: int) -> dict[str, Any]:
    return dataclasses.asdict(done) | {"state": dict(done.state), "mirror": mirror}


def small(request: Mapping[str, Any], fds: Sequence[int], progress: Progress) -> dict[str, Any]:
    """{url, limit_bytes, limits, kind, credential, credential_host} -> {body} in base64: sums and signatures."""
    limits = limits_of(request)
    limit_bytes = int(request["limit_bytes"])
    if _kind(request) == "file":
        body = read_plain(_path(request["url"]), limit_bytes)
    else:
        secret = own_credential(request, "")
        headers = {"Accept": "application/octet-stream"} if secret else {}
        with Session(limits, limits.index_s, secret) as session:
            body = HttpGetter(session, limit_bytes).get(request["url"], headers=headers).body
    return {"body": base64.b64encode(body).decode("ascii")}


def limits_of(request: Mapping[str, Any]) -> Limits:
    given = request.get("limits") or {}
    return Limits(**{each.name: given[each.name] for each in dataclasses.fields(Limits) if each.name in given})


def _source(request: Mapping[str, Any]) -> Source:
    given = request["source"]
    known = {each.name: given[each.name] for each in dataclasses.fields(Source) if each.name in given}
    usual = {"os": "linux", "arch": architecture_names(THIS_ARCHITECTURE)[0]}
    words = usual | dict(request.get("words") or {})
    asset = tuple(known.get("asset") or ())
    if known["type"] == "http":
        # All that is left open is {version} and {tag}, which the index fills in.
        more = [also.replace("{asset}", template) for also in request.get("also") or () for template in asset]
        asset = tuple(expand_name(template, words) for template in dict.fromkeys((*asset, *more)))
    return Source(**(known | {"asset": asset}))


def own_credential(request: Mapping[str, Any], owner: str) -> Credential | None:
    """The credential, if the request has one and says whose it is: without that it is shown to nobody."""
    secret = request.get("credential")
    owner = str(request.get("credential_host") or owner)
    return credential(str(secret), owner, str(request.get("credential_as") or BEARER)) if secret and owner else None


def _kind(request: Mapping[str, Any]) -> str:
    """`http` or `file`. What the daemon expects and what the address says must agree."""
    scheme = str(request["url"]).partition(":")[0].lower()
    own = "file" if scheme == "file" else "http"
    if request.get("kind") not in (None, "", own):
        raise SourceFailed(
            f"cannot fetch {shown(request['url'])}: that is not an address of the kind that was expected"
        )
    return own


def _path(url: str) -> Path:
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment or "\0" in path:
        raise SourceFailed(f"cannot read {shown(url)}: that is not a file of this host")
    return Path(path)


def _is_own_kind(source: Source, url: str) -> bool:
    """Files of this host come from the folder of a directory source, and from there only."""
    if source.type != "directory":
        return not url.lower().startswith("file:")
    return url.lower().startswith("file:///") and ".." not in _path(url).parts


def _only_safe(source: Source, is_https: bool, releases: Sequence[Release]) -> tuple[list[Release], list[str]]:
    """Releases without the files whose addresses lead from https to plain http, or from a server to this host."""
    safe: list[Release] = []
    warnings: list[str] = []
    for release in releases:
        kept = tuple(
            asset
            for asset in release.assets
            if _is_own_kind(source, asset.url) and not (is_https and asset.url.lower().startswith("http:"))
        )
        if len(kept) < len(release.assets):
            names = ", ".join(asset.name for asset in release.assets if asset not in kept)[:200]
            listed = "that came by https" if is_https else "on a server"
            warnings.append(f"Left out of {release.version}: {names}, which a list {listed} must not send us to.")
            release = dataclasses.replace(release, assets=kept)
        safe.append(release)
    return safe, warnings
