"""The client's way through a TUF repository (its specification, section 5): what to ask for, what to accept.

Pure: bytes and `now` in, bytes and releases out. What is signed by whom is checked by python-tuf's own set of trusted
metadata; here stands in which order, what is kept, and what a refusal means for a person. `walk` is a generator that
asks for files, so that the same rules run beside the network, where they collect, and away from it, where they judge.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import quote, unquote

from slotd.core.words import one_line
from slotd.errors import SourceFailed

MOST_ROOTS = 256  # at once
MOST_ROLES = 64  # delegated ones
MOST_NAME = 130  # characters of a role's name, quoted as in an address: it becomes part of a file's, quoted once more
MOST_BYTES = 2 * 1024**2  # all metadata of a repository together
ROOT_BYTES, TIMESTAMP_BYTES = 512_000, 16_384
HINT = "What was accepted before stays. If it stays so, ask its publisher: somebody may be in between."
TIMESTAMP, SNAPSHOT, TARGETS = "timestamp", "snapshot", "targets"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A metadata file to be fetched: `name` is what it is kept as, `path` where it lies in the repository."""

    name: str
    path: str
    most_bytes: int


@dataclass(frozen=True, slots=True)
class Target:
    """A file of the repository, by one signed name. `digest` is `algorithm:hex`, `custom` what its publisher adds."""

    path: str
    size: int
    digest: str
    url: str
    custom: Mapping[str, Any]


@dataclass(slots=True)
class Found:
    """What a walk came to. `accepted` are the files to keep, in the order in which they were accepted."""

    accepted: dict[str, bytes] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)
    unlisted: list[str] = field(default_factory=list)  # roles that are delegated to, and that the snapshot leaves out


@dataclass(frozen=True, slots=True)
class Library:
    """The parts of python-tuf, loaded by whoever may load it."""

    trusted_set: Callable[..., Any]
    envelope: Any
    exceptions: Any


Walk = Generator[Wanted, bytes | None, None]


def follow(walk: Walk, get: Callable[[Wanted], bytes | None]) -> None:
    """Go the walk to its end, with each file from `get`. Raises what the walk and `get` raise."""
    try:
        wanted = next(walk)
        while True:
            wanted = walk.send(get(wanted))
    except StopIteration:
        return


def root_name(version: int) -> str:
    return f"root.{version}"


def walk(library: Library, pinned: bytes, kept: Mapping[str, bytes], now: float, found: Found) -> Walk:
    """Fill `found`, asking for files: each `yield` takes one's bytes, or None if the repository has none of that name.

    `pinned` is the administrator's root, `kept` what was accepted before. What is accepted is in `found` even if a
    later file is refused: nothing accepted is forgotten. Raises `SourceFailed`.
    """
    try:
        trusted = library.trusted_set(pinned, library.envelope)
    except library.exceptions.RepositoryError as error:
        raise SourceFailed(
            f"cannot use the root of trust in keys.d: {_words(error)}",
            hint="It must be a root.json of the repository, signed by its own keys.",
        ) from None
    trusted.reference_time = datetime.fromtimestamp(now, UTC)
    refused = library.exceptions.RepositoryError
    yield from _roots(trusted, kept, found, refused)
    yield from _timestamp(trusted, kept, found, library.exceptions)
    yield from _snapshot(trusted, kept, found, refused)
    yield from _targets(trusted, kept, found, refused)
    found.versions = {role: trusted[role].version for role in ("root", TIMESTAMP, SNAPSHOT, TARGETS)}


def _roots(trusted: Any, kept: Mapping[str, bytes], found: Found, refused: type[Exception]) -> Walk:
    """Every root after the pinned one, each signed by the one before it and by itself, none left out."""
    for version in range(trusted.root.version + 1, trusted.root.version + 1 + MOST_ROOTS):
        name = root_name(version)
        if name in kept and _takes(partial(trusted.update_root, kept[name]), refused):
            continue
        data = yield Wanted(name, f"{version}.root.json", ROOT_BYTES)
        if data is None:
            return
        _accept(found, name, data, partial(trusted.update_root, data), refused)
    raise SourceFailed(
        f"cannot use the TUF repository: it has had more than {MOST_ROOTS} roots since the pinned one", hint=HINT
    )


def _timestamp(trusted: Any, kept: Mapping[str, bytes], found: Found, exceptions: Any) -> Walk:
    if TIMESTAMP in kept:  # also an expired one: it says below what nothing is accepted
        _takes(partial(trusted.update_timestamp, kept[TIMESTAMP]), exceptions.RepositoryError)
    data = yield Wanted(TIMESTAMP, "timestamp.json", TIMESTAMP_BYTES)
    if data is None:
        raise _missing("timestamp.json")
    try:
        _accept(found, TIMESTAMP, data, partial(trusted.update_timestamp, data), exceptions.RepositoryError)
    except exceptions.EqualVersionNumberError:
        if trusted.timestamp.is_expired(trusted.reference_time):
            raise _expired("timestamp.json is expired") from None


def _snapshot(trusted: Any, kept: Mapping[str, bytes], found: Found, refused: type[Exception]) -> Walk:
    if SNAPSHOT in kept and _takes(partial(trusted.update_snapshot, kept[SNAPSHOT], trusted=True), refused):
        return
    meta = trusted.timestamp.snapshot_meta
    data = yield Wanted(SNAPSHOT, _path(trusted, SNAPSHOT, meta.version), meta.length or MOST_BYTES)
    if data is None:
        raise _missing("its snapshot")
    _accept(found, SNAPSHOT, data, partial(trusted.update_snapshot, data), refused)


def _targets(trusted: Any, kept: Mapping[str, bytes], found: Found, refused: type[Exception]) -> Walk:
    """All targets: roles depth first, in the order of delegation; the first that names a file wins."""
    seen: dict[str, Target] = {}
    # Ways to a terminating role, beside which none is asked; and to one that is not there: what it might have said of
    # its files is not for a later one to say.
    closed: list[tuple[Any, ...]] = []
    waiting: list[tuple[str, str, tuple[Any, ...]]] = [(TARGETS, "root", ())]
    visited: set[str] = set()
    while waiting:
        role, delegator, way = waiting.pop()
        if role in visited:
            continue
        visited.add(role)
        if len(visited) > MOST_ROLES:
            raise SourceFailed(
                f"cannot use the TUF repository: it delegates to more than {MOST_ROLES} roles", hint=HINT
            )
        if role != TARGETS and f"{role}.json" not in trusted.snapshot.meta:
            found.unlisted.append(role)
            closed.append(way)
            continue
        yield from _role(trusted, kept, found, refused, role, delegator)
        for path, target in trusted[role].targets.items():
            is_closed = any(_leads(end, path) and not _begins(way, end) for end in closed)
            if path not in seen and _leads(way, path) and not is_closed:
                seen[path] = _target(trusted, path, target)
        if way and way[-1].terminating:
            closed.append(way)
        delegations = trusted[role].delegations
        names = [] if delegations is None else list(_delegated(delegations))
        waiting += [(name, role, (*way, each)) for name, each in reversed(names)]
    found.targets = list(seen.values())


def _delegated(delegations: Any) -> Iterator[tuple[str, Any]]:
    if delegations.roles is None:
        raise SourceFailed(
            "cannot use the TUF repository: it delegates to hash bins, which is not supported", hint=HINT
        )
    return ((each.name, each) for each in delegations.roles.values())


def _leads(way: tuple[Any, ...], path: str) -> bool:
    """Whether every delegation on the way lets the role speak of this file."""
    return all(delegation.is_delegated_path(path) for delegation in way)


def _begins(way: tuple[Any, ...], start: tuple[Any, ...]) -> bool:
    return len(way) >= len(start) and all(one is other for one, other in zip(way, start, strict=False))


def _role(trusted: Any, kept: Mapping[str, bytes], found: Found, refused: type[Exception], role: str, by: str) -> Walk:
    name = role_name(role)
    if len(name) > len("role.") + MOST_NAME:
        raise SourceFailed("cannot use the TUF repository: the name of one of its roles is too long", hint=HINT)
    if name in kept and _takes(partial(trusted.update_delegated_targets, kept[name], role, by), refused):
        return
    meta = trusted.snapshot.meta.get(f"{role}.json")
    if meta is None:
        raise SourceFailed(f"cannot use the TUF repository: its snapshot does not name {role[:100]!r}", hint=HINT)
    data = yield Wanted(name, _path(trusted, role, meta.version), meta.length or MOST_BYTES)
    if data is None:
        raise _missing(f"the metadata of {role[:100]!r}")
    _accept(found, name, data, partial(trusted.update_delegated_targets, data, role, by), refused)


def role_name(role: str) -> str:
    """What the metadata of a role is kept as."""
    return TARGETS if role == TARGETS else f"role.{quote(role, safe='')}"


def _path(trusted: Any, role: str, version: int) -> str:
    quoted = quote(role, safe="")
    return f"{version}.{quoted}.json" if trusted.root.consistent_snapshot else f"{quoted}.json"


def _target(trusted: Any, path: str, target: Any) -> Target:
    strong = next((each for each in ("sha256", "sha512") if each in target.hashes), "")
    if not strong:
        raise SourceFailed(f"cannot use the TUF repository: it gives neither sha256 nor sha512 of {path[:200]!r}")
    folder, slash, name = path.rpartition("/")
    where = f"{folder}{slash}{target.hashes[strong]}.{name}" if trusted.root.consistent_snapshot else path
    custom = target.custom if isinstance(target.custom, dict) else {}
    return Target(path, target.length, f"{strong}:{target.hashes[strong]}", quote(f"targets/{where}"), custom)


def _takes(load: Callable[[], object], refused: type[Exception]) -> bool:
    """Whether what was kept still counts. What does not is fetched anew; its version may still be remembered."""
    try:
        load()
    except (refused, *ODD):
        return False
    return True


def _accept(found: Found, name: str, data: bytes, load: Callable[[], object], refused: type[Exception]) -> None:
    try:
        load()
    except ODD as error:
        raise SourceFailed(
            f"cannot use the TUF repository: {name} is of no form that is known ({_words(error)})", hint=HINT
        ) from None
    except refused as error:
        if type(error).__name__ == "EqualVersionNumberError":
            raise
        if type(error).__name__ == "ExpiredMetadataError":
            raise _expired(_words(error)) from None
        raise SourceFailed(
            f"cannot use the TUF repository: {_why(name, error)}",
            hint=HINT,
        ) from None
    found.accepted[name] = data


# What a parser makes of metadata of an odd form, beside its own errors.
ODD = (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError)


def _why(name: str, error: Exception) -> str:
    kind, what = type(error).__name__, name.partition(".")[0]
    if what == "role":
        what = f"role {unquote(name.removeprefix('role.'))[:100]!r}"
    if kind == "BadVersionNumberError":
        return f"its {what} is older than what was seen before ({_words(error)})"
    if kind == "UnsignedMetadataError":
        return f"its {what} is not signed by enough of the keys that must ({_words(error)})"
    if kind == "LengthOrHashMismatchError":
        return f"its {what} is not the one that is signed for ({_words(error)})"
    return f"its {what} is not good ({_words(error)})"


def _expired(words: str) -> SourceFailed:
    return SourceFailed(
        f"cannot use the TUF repository: {words}, so something newer may be kept back from this host",
        hint="If it stays so, ask its publisher, and look at this host's clock.",
    )


def _missing(what: str) -> SourceFailed:
    return SourceFailed(
        f"cannot use the TUF repository: {what} is not there",
        hint="Is `url` in [source] its address? Below it are metadata/ and targets/.",
    )


def _words(error: Exception) -> str:
    return one_line(" ".join(str(error).split()) or type(error).__name__)
