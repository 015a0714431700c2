"""What a recipe has in hand: the doors and parts of this host, and the one job it works on.

`Work` is the only way for a step to change durable state: intents, plan, progress and events go through it, so that
all of it is committed before it is shown (promise 8).
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slotd.core import machine
from slotd.core.events import BY_NAME
from slotd.core.health import UnitSeen
from slotd.core.plain import from_plain, to_plain
from slotd.core.schema import App, Settings
from slotd.data import DataSpec, DataStore, make_data_store, spec_of
from slotd.engines import Engine
from slotd.errors import Cancelled, SlotdError, for_user_manager
from slotd.host import failpoint
from slotd.host.bandwidth import Bandwidth
from slotd.host.journal import send
from slotd.host.offloop import off_loop
from slotd.host.paths import Paths
from slotd.host.run import Workers
from slotd.host.systemd import Systemd
from slotd.model import Blocked, Event, Job, JobKind, JobState, Release, Result, SlotName
from slotd.recipes.held import Held
from slotd.recipes.lists import Lists
from slotd.recipes.room import Room
from slotd.store import TROUBLE, Store

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Clock:
    """The time of day (seconds since the epoch) and a clock that only goes forward."""

    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


@dataclass(slots=True)
class Host:
    """This host: every door and part, made once by the wiring."""

    store: Store
    systemd: Systemd
    workers: Workers
    lists: Lists
    paths: Paths
    settings: Settings
    machine_id: str
    boot_id: str
    user_mode: bool = False
    lost: bool = False  # the state was, and is what the slots and copies say of themselves
    clock: Clock = field(default_factory=Clock)
    waits: dict[tuple[str, str], float] = field(default_factory=dict)  # a server and a credential -> not before then
    bandwidth: Bandwidth = field(default_factory=Bandwidth)

    def worded(self, text: str) -> str:
        """A text for people, with the commands that they have to type here."""
        return for_user_manager(text) if self.user_mode else text

    def root(self, app: App) -> Path:
        return Path(app.slots.root) if app.slots.root else self.paths.state / "apps" / app.name

    def cache(self, app: str) -> Path:
        return self.paths.cache / app

    def copy_path(self, kind: str, app: str, copy_id: str) -> Path:
        """Where a backup (`backups`) or quarantine (`quarantine`) lies."""
        return self.paths.copy(kind, app, copy_id)

    def data_store(self, app: App) -> DataStore:
        return make_data_store(app.backup, self.paths.state / "restic" / app.name)


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file of the chosen release, as far as the job knows it. `sha256` is measured by the daemon itself.

    `pieced`: not fetched at once from its source, so that what is wrong with it need not be the publisher's doing.
    """

    name: str
    url: str
    size: int = 0
    source_digest: str = ""
    sha256: str = ""
    pieced: bool = False


@dataclass(frozen=True, slots=True)
class Said:
    """What one of the definition's commands said; `when` is `before`, `after` or `migrate`."""

    when: str
    command: str
    status: int = 0
    output: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The durable memory of one job, written into its row: what a restarted daemon needs to go on or back.

    `wanted` is a version of somebody's own choice; `only` the one that the rules may choose, since it was authorised.
    `kept`: its file was verified by an earlier job, and is in the cache; `brings`: the backup whose data come with it,
    `present` the one that the data of now are set aside under. `paths`: what a restore brings back, empty for all.
    `resting`: units that stay down, as before; `runs`: the last run of each that was stopped. `dumped`, `loaded`: done;
    `dumped_over`: the dump of what is set aside lies where the old one is to come.
    """

    definition: App = field(default_factory=lambda: App(name=""))
    wanted: str = ""
    force: bool = False
    now: bool = False
    automatic: bool = False
    only: str = ""
    kept: bool = False
    brings: str = ""
    present: str = ""
    source: str = ""
    drop_ins: Mapping[str, str] = field(default_factory=dict)
    brings_present: bool = False
    source_inode: int = 0  # what tells the directory that is exchanged from any other that lies beside it
    release: Release = field(default_factory=lambda: Release(version="", tag=""))
    artifacts: tuple[Artifact, ...] = ()
    signers: tuple[str, ...] = ()
    slot: SlotName | None = None
    old_slot: SlotName | None = None
    old_version: str = ""
    old_digest: str = ""
    backup: str = ""
    quarantine: str = ""
    restore: bool = False
    disturbed: bool = False
    runs: Mapping[str, str] = field(default_factory=dict)
    paths: tuple[str, ...] = ()
    resting: tuple[str, ...] = ()
    dumped: bool = False
    dumped_over: bool = False
    loaded: bool = False
    dependents: tuple[str, ...] = ()
    said: tuple[Said, ...] = ()
    reason: str = ""
    gave_up: str = ""
    unchanged: bool = False
    furthest: str = ""
    verdict: str = ""
    verdict_by: str = ""
    stopped_by_hand: tuple[str, ...] = ()
    seen: Mapping[str, UnitSeen] = field(default_factory=dict)
    taken: tuple[str, ...] = ()  # apps of whose releases an import took some in
    stopped_at: float = 0.0
    started_at: float = 0.0

    @property
    def version(self) -> str:
        return self.release.version

    @property
    def digest(self) -> str:
        """The digest that names this release on this host: of its first artifact."""
        return f"sha256:{self.artifacts[0].sha256}" if self.artifacts and self.artifacts[0].sha256 else ""


class Work:
    """One job in hand."""

    def __init__(
        self, host: Host, app: App, job: Job, engine: Engine, data: DataStore, changed: Callable[[Job], None]
    ) -> None:
        self.host = host
        self.app = app
        self.job = job
        self.plan: Plan = from_plain(Plan, job.plan)
        self.engine = engine
        self.data = data
        self.rules: tuple[machine.Rule, ...] = machine.UPDATE
        self.verdict = self.plan.verdict  # a person's word on the trial: "good" or "bad"; "passed" once it is over
        self.held: dict[str, Held] = {}  # by digest
        self.note = ""  # what a person should know of a job that ended without an error
        self.too_late = False  # to be cancelled, whatever the step's rule says: it is being undone, or the app is down
        self.must_go_on = False  # it goes back: an unwritable store does not stop it
        self.woken = asyncio.Event()
        self._changed = changed
        self.cancel_asked = False  # by a person
        self.leaving = False  # the daemon goes down
        self.room = Room()
        self._writing = asyncio.Lock()  # the row is written by one at a time: an older one never comes last

    # -- durable memory ---------------------------------------------------------------------------

    async def remember(self, *rows: Blocked, **changes: Any) -> None:
        """Change the plan and commit it, in one transaction with `rows`."""
        self.plan = dataclasses.replace(self.plan, **changes)
        self.job = dataclasses.replace(self.job, plan=to_plain(self.plan))
        await self._save(*rows)

    async def _save(self, *rows: Blocked) -> None:
        def save() -> None:
            with self.host.store.transaction():
                for row in (*rows, self.job):
                    self.host.store.save(row)

        await self.write(save)

    async def write(self, save: Callable[[], None]) -> None:
        """Commit something. The way back does not wait for a store that takes nothing: the disk says how far it is."""
        try:
            async with self._writing:
                await off_loop(save)
        except TROUBLE as error:
            if not self.must_go_on:
                raise
            _log.error("%s: %s: it goes back without: %s", self.app.name, self.job.step, error)

    async def enter(self, step: str) -> None:
        """Commit the intent of a step, before its first effect."""
        if self.cancel_asked and machine.may_cancel(self.job.step):
            raise Cancelled(f"cancelled before step {step}")
        self.job = dataclasses.replace(
            self.job, state=JobState.RUNNING, step=step, progress=max(self.job.progress, self._percent(step, 0.0))
        )
        await self.write(lambda: self.host.store.begin_step(self.job, self.host.clock.now()))
        self._changed(self.job)
        if step == "trial":
            self.room.leave()  # the heavy work is done
        kind = BY_NAME["step"]
        message = f"{self.app.name}: {step}: {machine.rule(step).does}"
        send(kind, message, fields=self.fields(), units=())
        await failpoint.reach(f"{step}:begin")

    async def leave(self, outcome: str = "done") -> None:
        await failpoint.reach(f"{self.job.step}:end")
        await self.write(lambda: self.host.store.end_step(self.job, outcome, self.host.clock.now()))

    async def finish(self, result: Result, error: SlotdError | None = None) -> None:
        """Commit the end of the job, whatever it was: only that ends it."""
        self.must_go_on = False
        state = {Result.CANCELLED: JobState.CANCELLED, Result.FAILED: JobState.FAILED}.get(result, JobState.DONE)
        if result in (Result.ROLLED_BACK, Result.ROLLBACK_FAILED) and self.job.kind == "update":
            state = JobState.FAILED
        # A hint comes on a line of its own: nothing foreign in the message may look like one.
        said = " ".join(error.message.splitlines()) if error else ""
        text = "\n".join(filter(None, (said, error.hint))) if error else self.note
        await failpoint.reach("finish:begin")
        self.job = dataclasses.replace(
            self.job,
            state=state,
            result=result,
            progress=100,
            finished_at=self.host.clock.now(),
            error_name=error.name if error else "",
            error_message=self.host.worded(text),
        )
        await self._save()
        await failpoint.reach("finish:end")
        self.let_go()
        self._changed(self.job)

    # -- the release's files ----------------------------------------------------------------------

    def hold(self, held: Held) -> None:
        """Keep a file open, by its digest, until `let_go`; one that was held before is closed."""
        if before := self.held.pop(held.sha256, None):
            before.close()
        self.held[held.sha256] = held

    def let_go(self) -> None:
        """Close all files that are held. May be called twice."""
        while self.held:
            self.held.popitem()[1].close()

    # -- what a person sees -----------------------------------------------------------------------

    def _percent(self, step: str, fraction: float) -> int:
        is_own = any(rule.name == step for rule in self.rules)
        rules = machine.ROLLBACK if machine.is_rollback_step(step) and not is_own else self.rules
        return machine.progress(step, fraction, rules)

    def progress(self, fraction: float) -> None:
        """How far the step is, 0..1. Never falls; not committed, it is only shown."""
        percent = self._percent(self.job.step, fraction)
        if percent > self.job.progress:
            self.job = dataclasses.replace(self.job, progress=percent)
            self._changed(self.job)

    def touch(self) -> None:
        """What is shown of the app may have changed, such as its trial: look at it again."""
        self._changed(self.job)

    def show(self, *, version: str = "", previous: str = "") -> None:
        """Set the versions that the job shows; committed with the next intent."""
        version, previous = version or self.job.version, previous or self.job.previous_version
        self.job = dataclasses.replace(self.job, version=version, previous_version=previous)

    def fields(self) -> dict[str, str]:
        """The journal fields that every entry of this job carries."""
        return {
            "SLOTD_APP": self.app.name,
            "SLOTD_JOB": str(self.job.id),
            "SLOTD_STEP": self.job.step,
            "SLOTD_VERSION": self.job.version,
            "SLOTD_VERSION_OLD": self.job.previous_version,
            "SLOTD_SLOT": self.plan.slot.value if self.plan.slot else "",
            "SLOTD_RESULT": self.job.result.value,
            "SLOTD_CORRELATION": self.job.correlation,
        }

    async def tell(self, kind: str, message: str, *, journal: Mapping[str, str] | None = None, **extra: str) -> None:
        """One event: a history row, and a journal entry beside the app's own that starts with the app's name.

        `extra` are fields of both; `journal` of the journal's alone, which not everybody may read.
        Never raises: a history that takes no more rows must not keep an app from being stopped or started (promise 7).
        """
        event = Event(
            id=0,
            app=self.app.name,
            at=self.host.clock.now(),
            kind=kind,
            message=self.host.worded(message),
            job=self.job.id,
            version=self.job.version,
            step=self.job.step,
            fields=extra,
        )
        try:
            await off_loop(self.host.store.add_event, event)
        except Exception:
            _log.exception("%s: an event could not be written into the history", self.app.name)
        finally:
            text = f"{self.app.name}: {message}" if self.app.name else message
            more = {f"SLOTD_{key.upper()}": value for key, value in {**extra, **(journal or {})}.items()}
            if result := BY_NAME[kind].result:  # told before it is committed: the row of the job comes last
                more["SLOTD_RESULT"] = result.value
            send(BY_NAME[kind], text, fields=self.fields() | more, units=self.app.service.units)
            self.touch()

    # -- a person's word --------------------------------------------------------------------------

    @property
    def is_cancelled(self) -> bool:
        """Whether a cancellation of its task is a person's; else the daemon goes down, and the next one resumes."""
        return self.cancel_asked and not self.leaving

    def is_to_stop(self) -> bool:
        """For threads that work for long: nobody wants what they do any more."""
        return self.leaving or (self.cancel_asked and not self.too_late)

    @property
    def may_be_judged(self) -> bool:
        """Whether a word on the trial would still be heard: it is watched, and nobody has said anything yet."""
        return self.job.step == "trial" and not self.verdict

    async def decide(self, verdict: str, by: str) -> None:
        """A person says how the trial ends: `good` or `bad`. On disk when this returns: a crash does not forget it."""
        self.verdict = verdict  # before the first await: nobody else's word comes in between
        try:
            await self.remember(verdict=verdict, verdict_by=by)
        except Exception:  # on a disk that takes no more the word is heard all the same
            _log.exception("job %d: that it was marked %s could not be written", self.job.id, verdict)
        await failpoint.reach("trial:judged")
        self.woken.set()

    @property
    def marked_bad(self) -> str:
        """Who said that the version is bad, as a sentence; empty if nobody did."""
        return f"{self.plan.version} was marked bad by {self.plan.verdict_by}" if self.plan.verdict == "bad" else ""

    @property
    def has_passed(self) -> bool:
        """Whether the trial is over, and well: no trouble of slotd's own takes the version back now."""
        return self.job.step == "trial" and self.verdict in ("passed", "good")

    @property
    def new_slot(self) -> SlotName:
        """The slot that the new version goes to, or is in."""
        if self.plan.slot is None:
            raise SlotdError("cannot go on: the job has chosen no slot yet")
        return self.plan.slot

    @property
    def data_spec(self) -> DataSpec:
        why = "reason=manual" if self.job.kind is JobKind.BACKUP else "reason=update"
        labels = (f"app={self.app.name}", f"version={self.plan.old_version}", why)
        return spec_of(self.app.data, labels, self.plan.paths)

    def unit(self, verb: str) -> str:
        """The name of the transient unit for one piece of this job's work."""
        return f"slotd-worker-{self.app.name}-{self.job.id}-{verb}"
