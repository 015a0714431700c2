"""What the tables of a definition say about each other, and definitions about one another."""

from __future__ import annotations

from collections.abc import Mapping

from slotd.core import forms
from slotd.core.schema import App
from slotd.core.sections import ENGINES_NOT_YET
from slotd.core.sourcetypes import TYPES, UNKNOWN
from slotd.core.template import words_in
from slotd.core.validate import Report, listed


def check(app: App, report: Report, state: str, cache: str) -> None:
    """Add what is inconsistent in one definition. `state` and `cache` are slotd's own directories."""
    _verification(app, report)
    _backup(app, report)
    _push(app, report)
    if app.slots.engine not in ENGINES_NOT_YET:
        _units(app, report)
        _places(app, report, state, cache)


def slots_root(app: App, state: str) -> str:
    """Where the slots of an app are, `state` being slotd's state directory."""
    return app.slots.root or f"{state.rstrip('/')}/apps/{app.name}"


def conflicts(apps: Mapping[str, App], state: str) -> dict[str, list[str]]:
    """App -> what it shares with another and must not. Which of the two is right slotd cannot know: both are told."""
    problems: dict[str, list[str]] = {}
    for one, other in sorted(_suspects(apps, state)):
        for what in _shared(apps[one], apps[other], state):
            problems.setdefault(one, []).append(_conflict(apps[one], apps[other], what))
            problems.setdefault(other, []).append(_conflict(apps[other], apps[one], what))
    return problems


def _suspects(apps: Mapping[str, App], state: str) -> set[tuple[str, str]]:
    """The pairs of apps that share anything, in order; found by looking up, not by comparing each with each."""
    owners: dict[str, set[str]] = {}
    for name, app in apps.items():
        for thing in (*app.service.units, slots_root(app, state), *app.data.paths):
            owners.setdefault(thing, set()).add(name)
    pairs: set[tuple[str, str]] = set()
    for thing, names in owners.items():
        for above in (thing, *forms.above(thing)):
            pairs |= {(min(a, b), max(a, b)) for a in names for b in owners.get(above, ()) if a != b}
    return pairs


def _conflict(app: App, other: App, what: str) -> str:
    file = app.files[0] if app.files else app.name
    return f"{file}: {what} belongs to the app {other.name} too; each needs its own."


def _shared(one: App, other: App, state: str) -> list[str]:
    shared = [f"the unit {unit}" for unit in one.service.units if unit in other.service.units]
    mine = {slots_root(one, state): "the slots' root", **dict.fromkeys(one.data.paths, "the data path")}
    theirs = {slots_root(other, state), *other.data.paths}
    for path, what in mine.items():
        clash = next((their for their in theirs if forms.overlap(path, their)), None)
        if clash is not None:
            shared.append(f"{what} {path}" if clash == path else f"{what} {path} (as {clash})")
    return shared


def _verification(app: App, report: Report) -> None:
    verify, source = app.verify, app.source
    own = TYPES.get(source.type, UNKNOWN).digests
    for algorithm in forms.ALGORITHMS:
        is_given = bool(verify.checksums) or algorithm in own or report.blames("verify", "checksums")
        if algorithm in verify.require and source.type and not is_given:
            why = f'a source of type "{source.type}" gives no {algorithm} of its own'
            why += f", but {listed(own)}" if own else ""
            report.add(
                ("verify", "require"),
                f'verify.require holds "{algorithm}": {why}; name the file of sums in verify.checksums',
            )
    for kind, example in _EXAMPLES.items():
        if kind not in verify.require:
            continue
        if not verify.keys and not report.blames("verify", "keys"):
            report.add(
                ("verify", "require"),
                f'verify.require holds "{kind}": it needs {_KEYS[kind]} in verify.keys, like ["{example}"]',
            )
        if not verify.signature and kind != "tuf":
            report.add(("verify", "signature"), f'verify.signature is empty: "{kind}" needs the signature\'s file name')
    _identity(app, report)
    if ("tuf" in verify.require) != (source.type == "tuf") and source.type:
        why = "only such a source has it" if "tuf" in verify.require else "a repository is only as good as its root"
        report.add(("verify", "require"), f'verify.require and source.type must both be "tuf" or neither: {why}')
    signed = [kind for kind in _KEYS if kind in verify.require]
    if verify.keys and not signed:
        report.add(
            ("verify", "keys"),
            f"verify.keys is given: keys are used by {', '.join(_KEYS)} only, and verify.require has none of these",
        )
    if verify.fingerprints and "openpgp" not in verify.require:
        report.add(
            ("verify", "fingerprints"),
            'verify.fingerprints is given: it is used by "openpgp" only, which is not in verify.require',
        )
    if verify.signers > 1 and "openpgp" not in verify.require:
        report.add(
            ("verify", "signers"),
            f'verify.signers is {verify.signers}: it is used by "openpgp" only, which is not in verify.require',
        )
    if 0 < len(verify.fingerprints) < verify.signers:
        report.add(
            ("verify", "signers"),
            f"verify.signers is {verify.signers}: verify.fingerprints lets only {len(verify.fingerprints)} sign",
        )
    if "checksums" in words_in(verify.signature) and not verify.checksums:
        report.add(
            ("verify", "signature"), f'verify.signature is "{verify.signature}": {{checksums}} needs verify.checksums'
        )


_EXAMPLES = {"openpgp": "app.gpg", "minisign": "app.pub", "sigstore": "trusted_root.json", "tuf": "root.json"}
_KEYS = dict.fromkeys(("openpgp", "minisign"), "the publisher's key") | {
    "sigstore": "a trust root",
    "tuf": "the repository's root",
}


def _identity(app: App, report: Report) -> None:
    """Without a name, anybody's signature would do: the log takes everyone's."""
    for key in ("identity", "issuer"):
        given = getattr(app.verify, key) or report.blames("verify", key)
        if "sigstore" in app.verify.require and not given:
            report.add(
                ("verify", key), f'verify.{key} is not given: "sigstore" needs it, since anyone can sign with sigstore'
            )
    for key in ("identity", "issuer", "repository"):
        if "sigstore" not in app.verify.require and getattr(app.verify, key):
            report.add(
                ("verify", key), f'verify.{key} is given: it is used by "sigstore" only, which is not in verify.require'
            )


def _backup(app: App, report: Report) -> None:
    for key, other, why in (
        ("dump", "restore", "what is dumped must come back with a rollback"),
        ("restore", "dump", "nothing would be there to load"),
    ):
        if getattr(app.data, key) and not getattr(app.data, other):
            report.add(("data", key), f"data.{key} is given without data.{other}: {why}")
    if app.data.dump and not app.data.paths:
        report.add(("data", "dump"), "data.dump is given: name the directory that it writes to in data.paths")
    for key in ("repository", "credential"):
        if app.backup.store != "restic" and (value := getattr(app.backup, key)):
            report.add(
                ("backup", key), f'backup.{key} is "{value}": it belongs to store = "restic", and the store is not that'
            )
    if app.backup.store == "restic" and app.backup.max_size:
        report.add(
            ("backup", "max_size"),
            "backup.max_size is given: what one backup takes of a restic repository cannot be told; make it 0, and use"
            " backup.retention and backup.keep",
        )


def _push(app: App, report: Report) -> None:
    backup = app.backup
    for key in ("push_credential", "push_environment", "push_required"):
        if getattr(backup, key) and not backup.push:
            report.add(("backup", key), f"backup.{key} is given without backup.push: say where to")
    if backup.push and not backup.push_credential:
        report.add(("backup", "push"), "backup.push is given: it needs the repository's password in push_credential")


def _units(app: App, report: Report) -> None:
    units = app.service.units
    if not units and not report.blames("service", "units"):
        report.add(
            ("service", "units"),
            f'service.units names no unit: say what is stopped and started, like ["{app.name}.service"]',
        )
    for number, health in enumerate(app.health, 1):
        if health.unit and units and health.unit not in units:
            report.add(
                ("health", f"#{number}", "unit"),
                f'health no. {number}: unit is "{health.unit}": it must be one of service.units ({", ".join(units)})',
            )


def _places(app: App, report: Report, state: str, cache: str) -> None:
    """The slots, the data and slotd's own files stay apart: else a switch, a restore or a backup would eat itself."""
    root = slots_root(app, state)
    if app.slots.root and forms.overlap(root, state) and not _is_below(root, f"{state}/apps"):
        report.add(
            ("slots", "root"),
            f'slots.root is "{root}": slotd keeps its own state in {state}; the place there is {state}/apps/{app.name}',
        )
    for number, path in enumerate(app.data.paths):
        where, label = ("data", "paths"), f'data.paths holds "{path}"'
        if forms.overlap(path, root):
            report.add(where, f"{label}: the slots are in {root}, and neither may be inside the other")
        elif forms.overlap(path, state) or forms.overlap(path, cache):
            own = state if forms.overlap(path, state) else cache
            report.add(where, f"{label}: slotd keeps its own files in {own}, and neither may be inside the other")
        for other in app.data.paths[:number]:
            if forms.overlap(path, other):
                report.add(where, f'{label} and "{other}": one is inside the other; the outer one is enough')
    repository = app.backup.repository
    for path in (root, *app.data.paths):
        if repository and forms.overlap(repository, path):
            report.add(
                ("backup", "repository"),
                f'backup.repository is "{repository}": it and {path} must not be one inside the other',
            )
    for name, target in app.slots.links.items():
        if forms.overlap(target, root):
            report.add(
                ("slots", "links", name),
                f'slots.links leads from "{name}" to "{target}": the slots are in {root}; a link leads out of them',
            )


def _is_below(path: str, directory: str) -> bool:
    return path != directory and forms.is_inside(path, directory)
