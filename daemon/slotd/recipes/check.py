"""What the source offers: asked in a worker, its answer checked, the choice made by pure rules.

Changes nothing of the app.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from slotd.core import policy, replaced
from slotd.core.answer import LONGEST_BAN_S, not_yet
from slotd.core.plain import to_plain
from slotd.errors import SlotdError, SourceFailed
from slotd.host.offloop import off_loop
from slotd.model import AppRecord, JobKind, Release, Result
from slotd.recipes import asking, shelf, tuf
from slotd.recipes.backup import run_single
from slotd.recipes.context import Work
from slotd.recipes.run import Step
from slotd.sources import Listing
from slotd.sources.work import listing_from_json
from slotd.store import Store

# The daemon's own keys in an app's source state:
WAIT = "wait"  # until when the server must not be asked
TOLD = "told"  # what was said of its releases at the last check, each as a short digest: said once, until it changes
NEWS = "news"  # since when the source offers what it offers, and whether its silence was told
OWN = (WAIT, TOLD, NEWS, replaced.KEY)


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


async def check(work: Work) -> Result:
    return await run_single(work, STEPS)


async def look(work: Work, *, wanted: str = "", force: bool = False) -> policy.Choice:
    """List the releases and choose. The time of the check, an error and what is available go into the app's record."""
    app, store = work.app, work.host.store
    record = await off_loop(store.app, app.name)
    here = await off_loop(shelf.releases, work.host.cache(app.name))
    if work.job.kind is JobKind.UPDATE and shelf.has(here, wanted or record.available):
        return await _choose(work, record, here, wanted, force, ())  # it came in a bundle: the source is not asked
    now = work.host.clock.now()
    await _require_patience(work, record, now)
    listing = await _ask(work, record, now)
    offered = shelf.merged(here, listing.releases)
    others = await _notice_replaced(work, listing.releases, [each for each in offered if each in here])
    pending = [version for version in others if not shelf.has(here, version)]
    choice = await _choose(work, record, offered, wanted, force, pending)
    known, told = record.source_state.get(TOLD), {_short(warning): warning for warning in listing.warnings}
    for mark, warning in told.items():
        if not isinstance(known, Sequence) or mark not in known:
            await work.tell("release-skipped", warning)
    news, silence = policy.news(record.source_state.get(NEWS), listing.releases, now, app.policy.quiet_s)
    if silence and not news["told"]:
        await work.tell("source-quiet", silence)
    accepted = choice.release.version if choice.release and force else ""
    against = [
        f"{version} was passed over: {why}" for version, why in choice.skipped if why.startswith(policy.REPLACED)
    ]
    errors = [silence] * bool(silence) + against
    changes: dict[str, Any] = {"last_check": now, "last_error": "\n".join(errors)}
    if not wanted:
        changes["available"] = choice.release.version if choice.release else ""
    state = {**listing.state, TOLD: list(told), NEWS: {**news, "told": bool(silence)}}
    await off_loop(_write_down, store, app.name, state, accepted, changes)
    return choice


async def _notice_replaced(work: Work, releases: Sequence[Release], here: Sequence[Release]) -> Collection[str]:
    """The versions whose files are others than were first seen. What is new of them is told. An approval of what came
    in a bundle is for `here`, and says nothing of the source's files.
    """
    app, store = work.app, work.host.store

    def look() -> tuple[Collection[str], list[str]]:
        with store.transaction():  # an approval that comes meanwhile is not lost
            record = store.app(app.name)
            memory = replaced.read(record.source_state.get(replaced.KEY), app.source)
            approved = "" if shelf.has(here, record.approved) else record.approved
            more = {"approved": approved, "available": record.available}
            seen, news = replaced.look(memory, releases, app=app, blocked=store.blocked(app.name), **more)
            if seen != memory:
                state = {**record.source_state, replaced.KEY: seen.plain()}
                # What was approved is not what is there now.
                stands = "" if approved in seen.pending else record.approved
                store.change_app(app.name, source_state=state, approved=stands)
        return seen.pending.keys(), news

    pending, news = await off_loop(look)
    for sentence in news:
        await work.tell("release-replaced", sentence)
    return pending


def _write_down(store: Store, name: str, state: Mapping[str, Any], accepted: str, changes: Mapping[str, Any]) -> None:
    with store.transaction():
        seen, _ = replaced.accept(store.app(name).source_state.get(replaced.KEY), accepted)
        store.change_app(name, source_state={**state, replaced.KEY: seen}, **changes)


async def _ask(work: Work, record: AppRecord, now: float) -> Listing:
    """What the source lists. Raises `SourceFailed`, after it was written down."""
    app, store = work.app, work.host.store
    limits = work.host.settings.limits
    state = {key: value for key, value in to_plain(record.source_state).items() if key not in OWN}
    try:
        is_check = work.job.kind is JobKind.CHECK  # an update waits for nobody's list but its own
        if app.source.type == "tuf":
            async with work.host.lists.room if is_check else nullcontext():
                return await tuf.ask_repository(work)
        if is_check:
            may = partial(_require_patience, work, record, now)
            claim = await work.host.lists.ask(limits, app, state, unit=work.unit("list"), require=may)
        else:
            claim = await asking.list_releases(work.host.workers, limits, app, state, unit=work.unit("list"))
        return listing_from_json(claim, app.source, limits)
    except SlotdError as error:
        await off_loop(store.change_app, app.name, last_check=now, last_error=str(error))
        if not isinstance(error, SourceFailed):
            raise
        known = work.host.waits.get((app.source.url, app.source.credential), 0.0)
        await _remember_patience(work, error, now)
        if not now < error.retry_at <= known:  # else it was told with the app for which the server said it
            await work.tell("check-failed", f"the source could not be asked: {error}")
        raise


async def _choose(
    work: Work, record: AppRecord, releases: Sequence[Release], wanted: str, force: bool, replaced: Sequence[str]
) -> policy.Choice:
    app, store = work.app, work.host.store
    active = await off_loop(work.engine.active)
    return policy.choose(
        releases,
        app=app,
        current=await off_loop(store.version_in, app.name, active),
        record=record,
        blocked=await off_loop(store.blocked, app.name),
        wanted=wanted,
        force=force,
        automatic=work.plan.automatic or bool(work.plan.only),
        replaced=replaced,
        now=work.host.clock.now(),
        machine_id=work.host.machine_id,
    )


async def _require_patience(work: Work, record: AppRecord, now: float) -> None:
    """Raises `SourceFailed` while the server's "not before" lasts: it is not asked again, also not by a person.

    What it said when another app was asked for counts too: a limit is for the host, and a host may have hundreds.
    Another address or a credential is asked at once, and a clock that was set back does not make it last longer.
    """
    source, wait = work.app.source, record.source_state.get(WAIT)
    is_own = isinstance(wait, Mapping) and wait.get("of") == [source.url, source.credential]
    own = wait.get("until", 0.0) if is_own and isinstance(wait, Mapping) else 0.0
    until = max(own, work.host.waits.get((source.url, source.credential), 0.0) if source.url else 0.0)
    if not now < until <= now + LONGEST_BAN_S:
        return
    error = not_yet(until, f"the source of {work.app.name}")
    if until > own:
        await _remember_patience(work, error, now)
        await off_loop(lambda: work.host.store.change_app(work.app.name, last_error=str(error)))
    raise error


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


async def _remember_patience(work: Work, error: SourceFailed, now: float) -> None:
    if error.retry_at <= now:
        return
    source, store = work.app.source, work.host.store
    until = min(error.retry_at, now + LONGEST_BAN_S)
    work.host.waits[source.url, source.credential] = until
    wait = {"until": until, "of": [source.url, source.credential]}
    record = await off_loop(store.app, work.app.name)
    await off_loop(store.change_app, work.app.name, source_state={**record.source_state, WAIT: wait})
