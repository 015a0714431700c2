"""Which release is to be installed, and whether it may be now. Pure: releases, definition, state and `now` in.

A release is never chosen because its source calls it the latest, never one below what is installed, and never one
that failed here before - unless a person names it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from slotd.core import assets, bundle, schema, verifyplan
from slotd.core.specifier import Specifier, parse_specifier
from slotd.core.timespan import format_span
from slotd.core.version import Version, parse, version_of_tag
from slotd.core.words import about_it, duration
from slotd.errors import BadOption, NoSuchVersion, NothingToDo
from slotd.model import AppRecord, AppState, AppView, Asset, Blocked, Mode, Release

_SKIPPED_LIMIT = 50
_OFFERED = 5
REPLACED = "it was replaced at its source after it was first seen here"


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen. `release` None: nothing to install.

    `release.version` is the version's text without the tag's prefix. `assets` are the files to fetch, in the order of
    `source.asset`; `words` the spellings of `arch` and `os` in their names. `skipped`: (version, reason) of what would
    have been newer, highest first. `approved` is the choice that was approved, if it may still be installed.
    """

    release: Release | None = None
    assets: tuple[Asset, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    skipped: tuple[tuple[str, str], ...] = ()
    approved: Choice | None = None

    @property
    def passed_over(self) -> tuple[str, ...]:
        """The first of `skipped` as sentences."""
        return tuple(f"{version} was passed over: {why}" for version, why in self.skipped[:_OFFERED])

    @property
    def digest(self) -> str:
        """The digest of the first file as the source tells it, or empty."""
        return self.assets[0].digest if self.assets else ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A release whose version is one of the app's scheme."""

    version: Version
    release: Release


def effective_mode(app: schema.App, record: AppRecord) -> Mode:
    """What was set over the bus goes before the definition."""
    return record.mode or app.policy.mode


def choose(
    releases: Sequence[Release],
    *,
    app: schema.App,
    current: str,
    record: AppRecord,
    blocked: Sequence[Blocked],
    now: float,
    machine_id: str,
    wanted: str = "",
    force: bool = False,
    automatic: bool = False,
    replaced: Collection[str] = (),
    arch: str = assets.THIS_ARCHITECTURE,
) -> Choice:
    """The highest release that every rule allows.

    `current`: the installed version, empty if none. `arch`: `uname -m` or Debian's name. `wanted` is a version or tag
    that a person asks for: channel, block list, age, ring and fraction then say nothing, and with `force` it may be
    older than `current`, or outside of `source.versions`. `force` alone lifts the block list, age, ring and fraction.
    `automatic`: nobody asks now. `wanted` was approved earlier, so every rule holds, and nothing else is chosen.
    `replaced`: versions whose files are others than were first seen (see `slotd.core.replaced`).

    Raises `NoSuchVersion` or `BadOption` if `wanted` cannot be had, `NothingToDo` if it is installed already.
    """
    candidates, skipped = parsed(releases, app)
    rules = _Rules(app, current, tuple(blocked), now, machine_id, force, frozenset(replaced))
    if wanted and not automatic:
        return _wanted(candidates, wanted, rules, arch)
    if wanted:
        candidates = [each for each in candidates if _is_named(each, wanted, app.source.scheme)]
    chosen: Choice | None = None
    approved: Choice | None = None
    for each in candidates:
        if rules.current is not None and each.version <= rules.current:
            break
        if chosen is not None and (not record.approved or approved is not None):
            break
        found = assets.match(app.source, each.release, arch)
        reason = rules.against(each, found)
        if reason:
            if chosen is None:
                skipped.append((each.release.version, reason))
            continue
        choice = Choice(each.release, found.assets, found.words)
        chosen = chosen or choice
        if _is_named(each, record.approved, app.source.scheme):
            approved = choice
    if chosen is None:
        skipped += rules.nothing_newer(candidates)
    return replace(chosen or Choice(), skipped=tuple(skipped[:_SKIPPED_LIMIT]), approved=approved)


def may_apply_by_itself(view: AppView) -> bool:
    """Whether an update needs no more word of a person: mode auto, or approve and approved. An absent app never."""
    if view.held or view.state in (AppState.MISCONFIGURED, AppState.ABSENT):
        return False
    if view.mode is Mode.APPROVE:
        return bool(view.approved) and view.approved != view.version
    return view.mode is Mode.AUTO and bool(view.available)


def version_to_apply(view: AppView) -> str:
    """What was approved is applied, and nothing newer; in mode auto the rules choose."""
    return view.approved if view.mode is Mode.APPROVE else ""


def asset_words(release: Release, source: schema.Source, arch: str = assets.THIS_ARCHITECTURE) -> Mapping[str, str]:
    """The spellings of `arch` and `os` in the release's files, for the names of its sums and signatures."""
    usual = {"arch": assets.architecture_names(arch)[0], "os": "linux"}
    return usual | dict(assets.match(source, release, arch).words)


def news(known: object, releases: Sequence[Release], now: float, quiet_s: float) -> tuple[dict[str, Any], str]:
    """(what to remember, a sentence if the source has been silent for `quiet_s` or longer; 0 is never).

    `known` is what was remembered last: {of, since, told}. At the first look the newest release's own date counts.
    """
    offered = sorted((each.version, *sorted(asset.digest for asset in each.assets)) for each in releases)
    of = hashlib.sha256(repr(offered).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    dates = [each.published for each in releases if 0 < each.published <= now]
    kept: dict[str, Any] = {"of": of, "since": max(dates, default=now), "told": False}
    if isinstance(known, Mapping) and isinstance(since := known.get("since"), int | float):
        if known.get("of") == of and since <= now:
            kept = {"of": of, "since": float(since), "told": known.get("told") is True}
        elif known.get("of") != of:
            kept["since"] = now
    silent_s = now - kept["since"]
    if not quiet_s or silent_s < quiet_s:
        return kept, ""
    whole_s = silent_s // 86400 * 86400 or silent_s
    return kept, f"the source has said nothing new for {duration(whole_s)}"


def too_old(scheme: str, wanted: str, installed: Sequence[Release]) -> tuple[str, str]:
    """(the oldest version that may be gone back to, the version whose publisher says so), if `wanted` is older.

    `installed` are the releases that have passed their trial here: what a publisher once said stays said.
    """
    version = parse(scheme, wanted)
    floors = [(floor, each) for each in installed if (floor := parse(scheme, each.oldest)) is not None]
    if version is None or not floors:
        return "", ""
    highest, by = max(floors, key=lambda found: found[0])
    return (by.oldest, by.version) if version < highest else ("", "")


def share(machine_id: str, app: str, version: str) -> float:
    """Where this host stands among all hosts for this version: 0 <= x < 1, even, and the same at every call."""
    digest = hashlib.sha256("\0".join((machine_id, app, version)).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


@dataclass(frozen=True, slots=True)
class _Rules:
    app: schema.App
    current_text: str
    blocked: tuple[Blocked, ...]
    now: float
    machine_id: str
    force: bool
    replaced: frozenset[str] = frozenset()

    @property
    def current(self) -> Version | None:
        return parse(self.app.source.scheme, self.current_text)

    @property
    def specifier(self) -> Specifier:
        return parse_specifier(self.app.source.scheme, self.app.source.versions)

    def against(self, candidate: Candidate, found: assets.Match) -> str:
        """Why it is not to be installed by itself, as a clause; empty if nothing speaks against it."""
        return (
            self._unknown_current()
            or self._channel(candidate)
            or self.outside(candidate)
            or ("its publisher withdrew it" if candidate.release.yanked else "")
            or found.problem
            or self._incomplete(candidate, found)
            or ("" if self.force else self._blocked(candidate, found))
            or ("" if self.force else self.replacement(candidate, found))
            or ("" if self.force else self._young(candidate))
            or ("" if self.force else self._fraction(candidate))
        )

    def _unknown_current(self) -> str:
        if self.current_text and self.current is None:
            scheme = self.app.source.scheme
            return f'the installed version "{self.current_text}" is not of the scheme {scheme}: which is newer?'
        return ""

    def _channel(self, candidate: Candidate) -> str:
        if candidate.version.is_prerelease and self.app.source.channel == "stable":
            return "it is a prerelease, and the channel is stable"
        return ""

    def outside(self, candidate: Candidate) -> str:
        if self.specifier.allows(candidate.version):
            return ""
        return f"it is outside of source.versions ({self.app.source.versions})"

    def _blocked(self, candidate: Candidate, found: assets.Match) -> str:
        offered = tuple(asset.digest for asset in found.assets)
        for each in self.blocked:
            is_this = each.app in ("", self.app.name) and _is_named(candidate, each.version, self.app.source.scheme)
            if is_this and not is_replaced(each.digest, offered):
                force = f"`slotctl update {self.app.name} --force` tries it again"
                reason = about_it(each.reason, each.version) or "it failed before"
                return f"it is blocked on this host: {reason} ({force})"
        return ""

    def _incomplete(self, candidate: Candidate, found: assets.Match) -> str:
        """Publishers upload one file after the other; the sums and signatures often come last."""
        words = {**asset_words(candidate.release, self.app.source), **found.words}
        lacking = verifyplan.lacking(self.app.verify, found.assets, candidate.release, words)
        return f"it is not complete (yet): {lacking}" if lacking else ""

    def replacement(self, candidate: Candidate, found: assets.Match) -> str:
        """What came in a bundle was looked through by who imported it, and is not what the source offers."""
        version = candidate.release.version
        if version not in self.replaced or all(bundle.digest_of(asset.url) for asset in found.assets):
            return ""
        accept = f"`slotctl approve {self.app.name} {version}` takes what is there now"
        return f"{REPLACED} ({accept})"

    def _young(self, candidate: Candidate) -> str:
        """The age that `policy.min_age` and the ring ask for. A release without a date never gets old enough."""
        policy, rollout = self.app.policy, self.app.rollout
        ring_s = rollout.ring * rollout.ring_delay_s
        needed_s = max(policy.min_age_s, ring_s)
        if needed_s <= 0:
            return ""
        name = "policy.min_age" if policy.min_age_s >= ring_s else f"rollout.ring_delay for ring {rollout.ring}"
        published = candidate.release.published
        if published <= 0:
            return f"its source does not say when it was published, and {name} is {format_span(needed_s)}"
        if self.now - published >= needed_s:
            return ""
        return f"it is too young: {name} is {format_span(needed_s)}, which is over on {_day(published + needed_s)}"

    def _fraction(self, candidate: Candidate) -> str:
        fraction = self.app.rollout.fraction
        if fraction >= 1:
            return ""
        if not self.machine_id:
            return "rollout.fraction cannot be applied: this host has no machine id"
        if share(self.machine_id, self.app.name, candidate.version.text) < fraction:
            return ""
        return f"this host is not among the first {fraction:.0%} (rollout.fraction)"

    def nothing_newer(self, candidates: Sequence[Candidate]) -> list[tuple[str, str]]:
        """Said only if the source no longer offers what is installed: it would look like up to date."""
        if self.current is None or not candidates or candidates[0].version >= self.current:
            return []
        return [(candidates[0].release.version, f"it is older than the installed {self.current_text}")]


def require_version(app: str, wanted: str) -> None:
    """Refuse what can be no version before a job is made of it. Raises `BadOption`."""
    if wanted.strip().lower() == "latest":
        raise BadOption(
            f'cannot use "{wanted}" for {app}: that is not a version.',
            hint="Name one; an update without a version follows source.versions and source.channel.",
        )


def _wanted(candidates: Sequence[Candidate], wanted: str, rules: _Rules, arch: str) -> Choice:
    app = rules.app
    require_version(app.name, wanted)
    named = [each for each in candidates if _is_named(each, wanted, app.source.scheme)]
    if not named:
        offered = ", ".join(each.release.version for each in candidates[:_OFFERED]) or "nothing that fits the scheme"
        raise NoSuchVersion(
            f"cannot update {app.name} to {wanted}: its source does not offer it.", hint=f"It offers {offered}."
        )
    exact = [each for each in named if wanted in (each.release.version, each.release.tag)]
    candidate = (exact or named)[0]
    version = candidate.release.version
    found = assets.match(app.source, candidate.release, arch)
    if not rules.force:
        if rules.current is not None and candidate.version == rules.current:
            raise NothingToDo(
                f"cannot update {app.name} to {version}: it is installed already.", hint="--force installs it again."
            )
        if rules.current_text and (rules.current is None or candidate.version < rules.current):
            raise BadOption(
                f"cannot update {app.name} to {version}: it is not newer than the installed {rules.current_text}.",
                hint=f"`slotctl rollback {app.name} --data=restore` goes back to the other slot, with its data;"
                " --force installs it over newer data.",
            )
        against = rules.outside(candidate) or rules.replacement(candidate, found)
        if against:
            raise BadOption(f"cannot update {app.name} to {version}: {against}.", hint="--force installs it anyway.")
    if found.problem:
        raise NoSuchVersion(
            f"cannot update {app.name} to {version}: {found.problem}.", hint="Try again later, or see source.asset."
        )
    return Choice(candidate.release, found.assets, found.words)


def parsed(releases: Sequence[Release], app: schema.App) -> tuple[list[Candidate], list[tuple[str, str]]]:
    """All that have a version, highest first, and those that have none."""
    scheme = app.source.scheme
    names = tuple(name for name in (app.name, app.source.repository.rpartition("/")[2], app.source.package) if name)
    candidates: list[Candidate] = []
    skipped: list[tuple[str, str]] = []
    for release in releases:
        text = version_of_tag(scheme, release.version, names)
        version = parse(scheme, text) or parse(scheme, version_of_tag(scheme, release.tag, names))
        if version is None:
            name = release.version or release.tag
            skipped.append((name, f"it is not a version of the scheme {scheme}"))
        else:
            candidates.append(Candidate(version, replace(release, version=version.text)))
    candidates.sort(key=lambda each: each.version, reverse=True)
    more = len(skipped) - _SKIPPED_LIMIT // 2
    if more > 0:
        skipped[_SKIPPED_LIMIT // 2 :] = [("…", f"and {more} more are not versions of the scheme {scheme}")]
    return candidates, skipped


def _is_named(candidate: Candidate, name: str, scheme: str) -> bool:
    """True if `name` is this version, however written, or its tag."""
    if not name:
        return False
    return name in (candidate.release.version, candidate.release.tag) or parse(scheme, name) == candidate.version


def is_replaced(blocked: str, offered: Sequence[str]) -> bool:
    """True only if the publisher's files are known to be others than the blocked one (promise 6).

    A digest that is missing, or of another kind, tells nothing: the block stays.
    """
    kind, _, value = blocked.lower().partition(":")
    if not value or not offered:
        return False
    split = [digest.lower().partition(":") for digest in offered]
    return all(other_kind == kind and other and other != value for other_kind, _, other in split)


def _day(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, OSError, ValueError):
        return "a day too far away to write"
