"""What the source offers: asked in a worker, its answer checked, the choice made by pure rules.

Changes nothing of the app.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from slotd.core import policy
from slotd.core.answer import LONGEST_BAN_S
from slotd.core.plain import to_plain
from slotd.core.schema import App
from slotd.errors import Misconfigured, SlotdError, SourceFailed
from slotd.host import files
from slotd.host.offloop import off_loop
from slotd.model import AppRecord, Result
from slotd.recipes.context import Work
from slotd.recipes.run import Step
from slotd.sources.work import credential_host, listing_from_json

WORKER_GRACE_S = 60.0  # more than the worker's own deadline: it can still say what went wrong
# The daemon's own keys in an app's source state:
WAIT = "wait"  # until when the server must not be asked
TOLD = "told"  # what was said of its releases at the last check, each as a short digest: said once, until it changes
OWN = (WAIT, TOLD)


async def ask_source(work: Work) -> Result:
    """The one step of a check job: look, write down what there is, tell it once."""
    before = await off_loop(work.host.store.app, work.app.name)
    choice = await look(work)
    if choice.release is None:
        work.note = "\n".join(choice.passed_over)
        return Result.UP_TO_DATE
    work.show(version=choice.release.version)
    if before.available != choice.release.version:
        await work.tell("update-available", f"{choice.release.version} is available")
    return Result.DONE


STEPS: tuple[Step, ...] = (Step("check", ask_source),)


async def look(work: Work, *, wanted: str = "", force: bool = False) -> policy.Choice:
    """List the releases and choose. The time of the check, an error and what is available go into the app's record."""
    app, store = work.app, work.host.store
    record = await off_loop(store.app, app.name)
    now = work.host.clock.now()
    _require_patience(record, app, now)
    limits = work.host.settings.limits
    secret, host = credential(app)
    request = {
        "source": to_plain(app.source),
        "limits": to_plain(limits),
        "state": {key: value for key, value in to_plain(record.source_state).items() if key not in OWN},
        "also": [name for name in (app.verify.checksums, app.verify.signature) if "{checksums}" not in name and name],
        "credential": secret,
        "credential_host": host,
    }
    try:
        claim = await work.host.workers.call(
            "list",
            request,
            unit=work.unit("list"),
            timeout_s=limits.index_s + WORKER_GRACE_S,
            shown=shown_to_worker(work),
        )
        listing = listing_from_json(claim, app.source, limits)
    except SlotdError as error:
        await off_loop(store.change_app, app.name, last_check=now, last_error=str(error))
        if not isinstance(error, SourceFailed):
            raise
        await _remember_patience(work, error, now)
        await work.tell("check-failed", f"the source could not be asked: {error}")
        raise
    active = await off_loop(work.engine.active)
    slots = await off_loop(store.slots, app.name)
    choice = policy.choose(
        listing.releases,
        app=app,
        current=slots[active].version if active else "",
        record=record,
        blocked=await off_loop(store.blocked, app.name),
        wanted=wanted,
        force=force,
        automatic=work.plan.automatic or bool(work.plan.only),
        now=now,
        machine_id=work.host.machine_id,
    )
    known, told = record.source_state.get(TOLD), {_short(warning): warning for warning in listing.warnings}
    for mark, warning in told.items():
        if not isinstance(known, Sequence) or mark not in known:
            await work.tell("release-skipped", warning)
    changes = {"last_check": now, "last_error": "", "source_state": {**listing.state, TOLD: list(told)}}
    if not wanted:
        changes["available"] = choice.release.version if choice.release else ""
    await off_loop(lambda: store.change_app(app.name, **changes))
    return choice


def _require_patience(record: AppRecord, app: App, now: float) -> None:
    """Raises `SourceFailed` while the server's "not before" lasts: it is not asked again, also not by a person.

    Another address or a credential is asked at once, and a clock that was set back does not make it last longer.
    """
    wait = record.source_state.get(WAIT)
    if not isinstance(wait, Mapping) or wait.get("of") != [app.source.url, app.source.credential]:
        return
    until = wait.get("until", 0.0)
    if now < until <= now + LONGEST_BAN_S:
        clock = datetime.fromtimestamp(until, UTC).strftime("%H:%M:%S UTC")
        raise SourceFailed(
            f"cannot ask the source of {app.name}: its server does not want to be asked again before {clock}.",
            hint="The app runs on as it is; the next check after that time will work.",
            retry_at=until,
        )


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


async def _remember_patience(work: Work, error: SourceFailed, now: float) -> None:
    if error.retry_at <= now:
        return
    source, store = work.app.source, work.host.store
    wait = {"until": min(error.retry_at, now + LONGEST_BAN_S), "of": [source.url, source.credential]}
    record = await off_loop(store.app, work.app.name)
    await off_loop(store.change_app, work.app.name, source_state={**record.source_state, WAIT: wait})


def credential(app: App) -> tuple[str | None, str]:
    """The secret that the definition names, from systemd's credentials, and the one host it may be sent to."""
    if not app.source.credential:
        return None, ""
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    path = Path(directory) / app.source.credential
    if not directory or not path.is_file():
        raise Misconfigured(
            f"cannot use credential {app.source.credential!r} of {app.name}: slotd was not given it.",
            hint=f"Add LoadCredential={app.source.credential}:/path to slotd.service (`systemctl edit slotd`).",
        )
    secret = files.read_bounded(path, 64 * 1024).decode("utf-8", "strict").strip()
    return secret, credential_host(app.source)


def shown_to_worker(work: Work) -> tuple[Path, ...]:
    """A folder of releases is shown to the worker read-only, wherever it lies; of a missing one the worker tells."""
    source = work.app.source
    return (Path(source.path),) if source.type == "directory" else ()
