"""The tables of a definition, one function each: `Section` in, a value of `slotd.core.schema` out.

What a table says about itself is checked here; what tables say about each other is `slotd.core.consistency`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from typing import Any

from slotd.core import forms, template
from slotd.core.schema import BackupPolicy, Data, Gate, Health, Limits, Policy, Rollout, Service, Slots, Source, Verify
from slotd.core.sourcetypes import TYPES, UNKNOWN, having
from slotd.core.specifier import parse_specifier
from slotd.core.validate import Section, found, listed, shown
from slotd.core.version import SCHEMES
from slotd.model import Mode

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
YEAR_S = 365 * DAY_S
SHORTEST_S = 0.01  # of what is repeated or waited for: nothing spins

SOURCE_TYPES = tuple(TYPES)
SOURCES_NOT_YET = tuple(name for name, each in TYPES.items() if not each.is_built)
VERIFIERS = ("sha256", "sha512", "openpgp", "minisign", "sigstore", "tuf")
VERIFIERS_NOT_YET: tuple[str, ...] = ()
ENGINES = ("directory", "oci", "kubernetes", "rauc")
ENGINES_NOT_YET = ("oci", "kubernetes", "rauc")
PROBES = ("unit", "http", "tcp", "exec", "dbus", "prometheus")
PROBES_NOT_YET = ("dbus", "prometheus")
STORES = ("tree", "restic")
NOTIFIERS = ("exec", "webhook", "apprise", "alertmanager")

# Which types of probe a key of [[health]] belongs to.
_PROBE_KEYS: dict[str, tuple[str, ...]] = {
    "url": ("http",),
    "status": ("http",),
    "body": ("http",),
    "json": ("http",),
    "host": ("tcp",),
    "port": ("tcp",),
    "command": ("exec",),
    "unit": ("unit",),
}
_asset_name = partial(template.check_name, words=template.ASSET_WORDS)
_command = partial(template.check_argument, words=template.COMMAND_WORDS)


def service(section: Section) -> Service:
    default = Service()
    value = Service(
        units=section.texts("units", forms.unit_name),
        user=section.text("user", default.user, forms.user_name),
        start_timeout_s=section.span("start_timeout", default.start_timeout_s, least_s=1.0, most_s=DAY_S),
    )
    section.finish()
    return value


def source(section: Section) -> Source:
    default = Source()
    kind = section.choice("type", "", SOURCE_TYPES, SOURCES_NOT_YET)
    if not section.has("type"):
        section.missing("type", f"say where releases come from, one of {listed(_built(SOURCE_TYPES, SOURCES_NOT_YET))}")
    own = TYPES.get(kind, UNKNOWN)
    scheme = section.choice("scheme", own.scheme, SCHEMES)
    given: dict[str, Any] = {key: _of_type(section, key, kind) for key in ("repository", "package", "image", "path")}
    url = section.text("url", own.url, _url_form(kind))
    if kind == "directory" and section.has("url"):
        section.problem("url", 'type "directory" has no address; it reads `path`')
    if own.needs_url and section.lacks("url"):
        section.missing("url", f'type "{kind}" needs the address of its server')
    asset = section.texts("asset", _asset_name, single=True)
    if own.needs_asset and section.lacks("asset"):
        section.missing("asset", 'name the file to install, like "app-{version}-linux-{arch}.tar.gz"')
    if not section.lacks("credential"):
        if kind == "directory":
            section.problem("credential", "a directory is read without one")
        elif kind in ("pypi", "npm") and not url:
            section.problem("credential", "it is shown to one server only; name that server in source.url")
    mirrors = section.texts("mirrors", forms.mirror_url)
    if mirrors and kind in ("directory", "oci"):
        section.problem("mirrors", f'type "{kind}" gives no files by address; take them out')
    value = Source(
        type=kind,
        asset=asset,
        url=url,
        mirrors=mirrors,
        channel=section.choice("channel", default.channel, ("stable", "prerelease")),
        scheme=scheme,
        versions=section.text("versions", default.versions, _specifier_form(scheme)),
        credential=section.text("credential", default.credential, forms.credential_name),
        **given,
    )
    section.finish()
    return value


def _url_form(kind: str) -> Callable[[str], str]:
    # For http it is the address of one document, and a slash at its end may be part of it.
    return forms.web_url if kind == "http" else forms.base_url


def _specifier_form(scheme: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        parse_specifier(scheme, text)
        return text.strip()

    return check


def _of_type(section: Section, key: str, kind: str) -> str:
    own = TYPES.get(kind, UNKNOWN)
    if own.key == key:
        value = section.text(key, "", own.form)
        if section.lacks(key):
            section.missing(key, f'type "{kind}" needs it, like "{own.example}"')
        return value
    section.text(key)
    if section.has(key) and kind:
        section.problem(key, f'it belongs to {_types(having(key))} and means nothing with type "{kind}"')
    return ""


def verify(section: Section) -> Verify:
    default = Verify()

    def known(text: str) -> str:
        if text in VERIFIERS_NOT_YET:
            raise ValueError(f"this is not supported yet; supported are {listed(_built(VERIFIERS, VERIFIERS_NOT_YET))}")
        if text not in VERIFIERS:
            raise ValueError(f"allowed are {listed(_built(VERIFIERS, VERIFIERS_NOT_YET))}")
        return text

    checksums = partial(template.check_name, words=template.CHECKSUMS_WORDS)
    value = Verify(
        require=section.texts("require", known),
        checksums=section.text("checksums", default.checksums, checksums),
        signature=section.text(
            "signature", default.signature, partial(template.check_name, words=template.SIGNATURE_WORDS)
        ),
        keys=section.texts("keys", forms.key_file),
        fingerprints=section.texts("fingerprints", forms.fingerprint),
        identity=section.text(
            "identity", default.identity, partial(template.check_text, words=template.IDENTITY_WORDS)
        ),
        issuer=section.text("issuer", default.issuer, forms.web_url),
        repository=section.text("repository", default.repository, forms.web_url),
        signers=section.whole("signers", default.signers, 1, 16),
        bundles=section.texts("bundles", forms.key_file),
    )
    if section.lacks("require"):
        section.missing("require", 'nothing is installed unverified; name at least one check, like ["sha256"]')
    section.finish()
    return value


def slots(section: Section) -> Slots:
    default = Slots()
    value = Slots(
        engine=section.choice("engine", default.engine, ENGINES, ENGINES_NOT_YET),
        root=section.text("root", default.root, forms.own_path),
        unpack=section.choice("unpack", default.unpack, ("auto", "none")),
        strip=_strip(section, default.strip),
        prepare=section.commands("prepare", _command),
        network=section.flag("network", default.network),
        migrate=section.commands("migrate", _command),
        links=_links(section),
        writable=section.flag("writable", default.writable),
        max_size=section.size("max_size", default.max_size, 1, 1024**4),
        max_files=section.whole("max_files", default.max_files, 1, 10_000_000),
    )
    section.finish()
    return value


def _strip(section: Section, default: str | int) -> str | int:
    value = section.either("strip")
    if value is None or value == "auto":
        return default if value is None else "auto"
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 16:
        return value
    section.problem("strip", 'the text "auto" or a whole number from 0 to 16 is needed')
    return default


def _links(section: Section) -> dict[str, str]:
    links: dict[str, str] = {}
    for name, target in section.mapping("links").items():
        try:
            forms.link_name(name)
            if not isinstance(target, str):
                raise ValueError("a path is needed")
            forms.absolute_path(target)
        except ValueError as error:
            section.say("links", f'{section.label("links")} leads from "{shown(name)}" to {found(target)}: {error}')
            continue
        for other in links:
            if forms.overlap(name, other):
                section.say("links", f'{section.label("links")} has "{name}" and "{other}", one inside the other')
        links[name] = target
    return links


def data(section: Section) -> Data:
    value = Data(
        paths=section.texts("paths", forms.own_path),
        exclude=section.texts("exclude", forms.relative_path),
        sqlite=section.texts("sqlite", forms.relative_path),
        before=section.commands("before", _command),
        after=section.commands("after", _command),
        dump=section.commands("dump", _command),
        restore=section.commands("restore", _command),
    )
    section.finish()
    return value


def backup(section: Section, default: BackupPolicy) -> BackupPolicy:
    value = BackupPolicy(
        enabled=section.flag("enabled", default.enabled),
        retention_s=section.span("retention", default.retention_s, most_s=100 * YEAR_S, endless=True),
        keep=section.whole("keep", default.keep, 0, 1000),
        max_size=section.size("max_size", default.max_size, 0, 1024**5),
        releases=section.whole("releases", default.releases, 0, 100),
        store=section.choice("store", default.store, STORES),
        repository=section.text("repository", default.repository, forms.local_repository),
        credential=section.text("credential", default.credential, forms.credential_name),
        push=section.text("push", default.push, forms.repository_address),
        push_credential=section.text("push_credential", default.push_credential, forms.credential_name),
        push_environment=section.text("push_environment", default.push_environment, forms.credential_name),
        push_required=section.flag("push_required", default.push_required),
    )
    section.finish()
    return value


def policy(section: Section, default: Policy) -> Policy:
    value = Policy(
        mode=Mode(section.choice("mode", default.mode, tuple(Mode))),
        apply=section.choice("apply", default.apply, ("timer", "check")),
        delay_s=section.span("delay", default.delay_s, most_s=DAY_S),
        min_age_s=section.span("min_age", default.min_age_s, most_s=YEAR_S),
        quiet_s=section.span("quiet", default.quiet_s, most_s=10 * YEAR_S),
        attempts=section.whole("attempts", default.attempts, 1, 100),
        trial_s=section.span("trial", default.trial_s, least_s=SHORTEST_S, most_s=7 * DAY_S),
        on_failure=section.choice("on_failure", default.on_failure, ("rollback", "stop")),
    )
    section.finish()
    return value


def rollout(section: Section) -> Rollout:
    default = Rollout()
    gates = tuple(_gate(each) for each in section.tables("gate"))
    if gates:
        section.say("gate", "rollout.gate is not supported yet; take the gates out")
    fleet_lock = section.text("fleet_lock", default.fleet_lock, lambda text: forms.base_url(text) if text else text)
    if fleet_lock:
        section.problem("fleet_lock", "this is not supported yet; take it out")
    value = Rollout(
        ring=section.whole("ring", default.ring, 0, 1000),
        ring_delay_s=section.span("ring_delay", default.ring_delay_s, most_s=YEAR_S),
        fraction=section.number("fraction", default.fraction, 0.0, 1.0) or 0.0,
        fleet_lock=fleet_lock,
        gate=gates,
    )
    section.finish()
    return value


def _gate(section: Section) -> Gate:
    endless = float("inf")
    value = Gate(
        type=section.choice("type", "prometheus", ("prometheus",)),
        url=section.text("url", "", forms.base_url),
        query=section.text("query"),
        below=section.number("below", None, -endless, endless),
        above=section.number("above", None, -endless, endless),
    )
    for key in ("type", "url", "query"):
        if not section.has(key):
            section.missing(key, "a gate has a type, an address and a query")
    if not section.has("below") and not section.has("above"):
        section.missing("below", "a gate says what its value must be below or above")
    section.finish()
    return value


def health(section: Section) -> Health:
    kind = section.choice("type", "", PROBES, PROBES_NOT_YET)
    if not section.has("type"):
        section.missing("type", f"say what is probed, one of {listed(_built(PROBES, PROBES_NOT_YET))}")
    default = Health(type=kind)
    value = Health(
        type=kind,
        url=section.text("url", default.url, forms.loopback_url if kind == "http" else None),
        status=section.whole("status", default.status, 100, 599),
        body=section.text("body", default.body),
        json=_expected_json(section),
        host=section.text("host", "127.0.0.1" if kind == "tcp" else default.host, forms.loopback_host),
        port=section.whole("port", default.port, 1, 65535),
        command=section.command("command", partial(template.check_argument, words=template.PROBE_WORDS)),
        unit=section.text("unit", default.unit, forms.unit_name),
        interval_s=section.span("interval", default.interval_s, least_s=SHORTEST_S, most_s=HOUR_S),
        timeout_s=section.span("timeout", default.timeout_s, least_s=SHORTEST_S, most_s=HOUR_S),
        grace_s=section.span("grace", default.grace_s, most_s=7 * DAY_S),
        failures=section.whole("failures", default.failures, 1, 1000),
    )
    for key, needed_by in (("url", "http"), ("port", "tcp"), ("command", "exec")):
        if kind == needed_by and section.lacks(key):
            section.missing(key, f'a probe of type "{kind}" needs it')
    if kind in PROBES_NOT_YET:
        return value  # refused already; its own keys come with it
    for key, types in _PROBE_KEYS.items():
        if section.has(key) and kind and kind not in types:
            section.problem(key, f'it belongs to {_types(types)} and means nothing with type "{kind}"')
    section.finish()
    return value


def _expected_json(section: Section) -> dict[str, str]:
    """Dotted path -> the value as text; numbers and true or false as JSON writes them."""
    expected: dict[str, str] = {}
    for name, value in section.mapping("json").items():
        if isinstance(value, str):
            expected[name] = value
        elif isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 2**63):
            expected[name] = json.dumps(value)
        else:
            section.say(
                "json", f'{section.label("json")} wants {found(value)} at "{name}": a text, number or flag is needed'
            )
    return expected


def notifier(section: Section) -> dict[str, object]:
    kind = section.choice("type", "", NOTIFIERS)
    if not section.has("type"):
        section.missing("type", f"say what kind of notifier it is, one of {listed(NOTIFIERS)}")
    return {"type": kind}


# What of [limits] is neither a time nor a size, with its bounds.
_COUNTS = {
    "index_pages": (1, 1000),
    "index_releases": (1, 1_000_000),
    "least_bytes_per_s": (0, 1024**3),
    "redirects": (0, 100),
    "path_depth": (1, 1024),
}


def limits(section: Section) -> Limits:
    """Every field may be set; a time is `download`, not `download_s`, as everywhere in TOML."""
    default = Limits()
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Limits):
        current = getattr(default, field.name)
        if isinstance(current, float):
            key = field.name.removesuffix("_s")
            values[field.name] = section.span(key, current, least_s=0.1, most_s=7 * DAY_S)
        elif field.name in _COUNTS:
            values[field.name] = section.whole(field.name, current, *_COUNTS[field.name])
        else:
            values[field.name] = section.size(field.name, current, 1, 1024**5)
    section.finish()
    return Limits(**values)


def bandwidth(section: Section) -> int:
    """Bytes per second; 0 is no limit."""
    return section.size("bandwidth", 0, 0, 1024**4)


def _built(all_of: tuple[str, ...], not_yet: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(each for each in all_of if each not in not_yet)


def _types(types: tuple[str, ...]) -> str:
    return f"type {' or '.join(types)}"
