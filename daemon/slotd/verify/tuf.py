"""A TUF repository, away from the network: what was collected is judged, and a file is looked up in what is kept."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from slotd.core import release as form
from slotd.core import tufreleases, tufwalk
from slotd.core.plain import from_plain
from slotd.core.schema import Limits, Source
from slotd.core.verifyplan import ARTIFACT
from slotd.errors import Misconfigured, SlotdError, SourceFailed, VerificationFailed
from slotd.host import tuflib
from slotd.verify import KeyFile, Material

KIND = "tuf"


def judge(request: Mapping[str, Any], fds: Sequence[int], progress: Callable[[Any], None]) -> dict[str, Any]:
    """{source, pinned, kept, offered, now} -> {accepted, releases, warnings, versions, problem}.

    `accepted`: the names of what was offered and is to be kept, in that order, also if a later one was refused, which
    is then the `problem`.
    """
    offered, found = tuflib.decoded(request["offered"]), tufwalk.Found()
    problem: dict[str, Any] = {}
    try:
        _walk(request, tuflib.decoded(request["kept"]), offered, found)
    except SlotdError as error:
        problem = {"name": error.name, "message": error.message, "hint": error.hint}
    source = from_plain(Source, request["source"])
    made, warnings = tufreleases.releases(found.targets, source) if not problem else ((), ())
    fitting, left_out = form.fit(made, Limits())
    unlisted = [f"The files of {role[:60]!r} were left out: the snapshot has no such role." for role in found.unlisted]
    return {
        "accepted": list(found.accepted),
        "releases": fitting,
        "warnings": form.bounded_warnings((*left_out, *unlisted, *warnings)),
        "versions": found.versions,
        "problem": problem,
    }


class Tuf:
    """Whether the kept metadata name this file of this version, and by which digest."""

    def examine(self, material: Material) -> dict[str, Any]:
        asked = material.tuf
        if not asked:
            raise VerificationFailed("cannot verify: this source is no TUF repository", hint='Set type = "tuf".')
        found = tufwalk.Found()
        try:
            _walk(asked, tuflib.decoded(asked["kept"]), {}, found)
            made, _ = tufreleases.releases(found.targets, from_plain(Source, asked["source"]))
            digest = tufreleases.digest_of(made, str(asked["version"]), material.asset)
        except SourceFailed as error:
            raise VerificationFailed(error.message, hint=error.hint) from None
        words = ", ".join(f"{role} {version}" for role, version in found.versions.items())
        return {KIND: [{"covers": ARTIFACT, "good": True, "key": "the repository", "comment": words, "digest": digest}]}


def is_root(data: bytes) -> bool:
    """Whether a key file is the root of trust of a TUF repository (`root.json`)."""
    if not data.lstrip().startswith(b"{"):
        return False
    try:
        return bool(json.loads(data)["signed"]["_type"] == "root")
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def describe_root(key: KeyFile) -> str:
    """Its version and when it ends, for a person. Raises `Misconfigured`."""
    try:
        signed = json.loads(key.data)["signed"]
        return f"root {int(signed['version'])}, until {str(signed['expires'])[:10]}"
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise Misconfigured(f"cannot use the key file {key.name}: it is not a whole TUF root") from None


def _walk(
    request: Mapping[str, Any], kept: Mapping[str, bytes], offered: Mapping[str, bytes], found: tufwalk.Found
) -> None:
    """With what is at hand: a file that is neither kept nor offered is not there."""
    pinned = base64.b64decode(request["pinned"])
    walk = tufwalk.walk(tuflib.library(), pinned, kept, float(request["now"]), found)
    # Roots are never asked for twice.
    have = {**{name: data for name, data in kept.items() if not name.startswith("root.")}, **offered}
    tufwalk.follow(walk, lambda wanted: have.get(wanted.name))
