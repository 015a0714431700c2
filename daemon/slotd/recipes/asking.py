"""What the workers are asked of an app's source, by an update and by who makes a bundle: lists, files, small ones."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slotd.core.plain import to_plain
from slotd.core.schema import App, Limits
from slotd.core.sourcetypes import TYPES, UNKNOWN, credential_host
from slotd.errors import Misconfigured, SourceFailed
from slotd.host import files
from slotd.host.run import OnProgress, Workers

WORKER_GRACE_S = 60.0  # more than the worker's own deadline: it can still say what went wrong


async def list_releases(
    workers: Workers, limits: Limits, app: App, state: Mapping[str, Any], *, unit: str
) -> Mapping[str, Any]:
    """The `list` worker's claim; `state` is what the source wanted kept."""
    request = list_request(app, limits, state)
    deadline_s = limits.index_s + WORKER_GRACE_S
    return await workers.call("list", request, unit=unit, timeout_s=deadline_s, shown=_shown_to_worker(app))


def list_request(app: App, limits: Limits, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a worker must know for an app's list."""
    return {
        "source": to_plain(app.source),
        "limits": to_plain(limits),
        "state": state,
        "also": _also_needed(app),
        **credential(app),
    }


async def fetch(
    workers: Workers,
    limits: Limits,
    app: App,
    url: str,
    descriptors: Sequence[int],
    more: Mapping[str, Any],
    *,
    unit: str,
    on_progress: OnProgress | None = None,
) -> Mapping[str, Any]:
    """The `fetch` worker's claim about the file it wrote, the first of `descriptors`; `more` is what else its request
    has, which says what the other descriptors are.
    """
    return await workers.call(
        "fetch",
        {**_about(app, limits, url), **more},
        descriptors,
        unit=unit,
        timeout_s=limits.download_s + WORKER_GRACE_S,
        on_progress=on_progress,
        shown=_shown_to_worker(app),
    )


async def small(workers: Workers, limits: Limits, app: App, url: str, *, unit: str) -> bytes:
    """A sums file or a signature."""
    request = _about(app, limits, url) | {"limit_bytes": max(limits.sums_bytes, limits.signature_bytes)}
    deadline_s = limits.index_s + WORKER_GRACE_S
    claim = await workers.call("small", request, unit=unit, timeout_s=deadline_s, shown=_shown_to_worker(app))
    try:
        return base64.b64decode(str(claim["body"]), validate=True)
    except (KeyError, ValueError):
        raise SourceFailed(f"cannot read {url}: the worker gave nothing that can be used.") from None


def _about(app: App, limits: Limits, url: str) -> dict[str, Any]:
    return {
        "url": url,
        "kind": "file" if app.source.type == "directory" else "http",
        "limits": to_plain(limits),
        **credential(app),
    }


def _also_needed(app: App) -> list[str]:
    """Further files that verification needs, for an index that lists none."""
    return [name for name in (app.verify.checksums, app.verify.signature) if "{checksums}" not in name and name]


def credential(app: App) -> dict[str, str]:
    """The secret that the definition names, from systemd's credentials, the one host it may be sent to, and how, as a
    request has them. Empty if it names none.
    """
    if not app.source.credential:
        return {}
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    path = Path(directory) / app.source.credential
    if not directory or not path.is_file():
        raise Misconfigured(
            f"cannot use credential {app.source.credential!r} of {app.name}: slotd was not given it.",
            hint=f"Add LoadCredential={app.source.credential}:/path to slotd.service (`systemctl edit slotd`).",
        )
    secret = files.read_bounded(path, 64 * 1024).decode("utf-8", "strict").strip()
    own = TYPES.get(app.source.type, UNKNOWN)
    return {"credential": secret, "credential_host": credential_host(app.source), "credential_as": own.token}


def _shown_to_worker(app: App) -> tuple[Path, ...]:
    """A folder of releases is shown to the worker read-only, wherever it lies; of a missing one the worker tells."""
    return (Path(app.source.path),) if app.source.type == "directory" else ()
