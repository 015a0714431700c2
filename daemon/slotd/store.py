"""The memory: durable state in SQLite. One writer, WAL, `synchronous=FULL`: what was committed survives a power cut.

Every table holds one of the dataclasses of `slotd.model`, a column a field, so that `sqlite3 state.db` is
readable by a person. Methods block for one fsync; they are called off the event loop.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from slotd.core.rows import Codec
from slotd.errors import Failed, NoSuchBackup, NoSuchJob
from slotd.host import dbtrouble, failpoint, files, underway
from slotd.model import AppRecord, Backup, Blocked, Event, Job, JobKind, Slot, SlotName, Trial

T = TypeVar("T")
UNREADABLE = "Is the state directory there and writable, and is there space?"
REBUILD = "`systemctl restart slotd` sets it aside, and rebuilds it from what the slots and copies say. Then try again."
_log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
BUSY_S = 10.0  # how long to wait for another process that has the database

# table -> (the value it holds, its primary key)
TABLES: dict[str, tuple[type[Any], tuple[str, ...]]] = {
    "apps": (AppRecord, ("app",)),
    "slots": (Slot, ("app", "name")),
    "trials": (Trial, ("app",)),
    "jobs": (Job, ("id",)),
    "events": (Event, ("id",)),
    "backups": (Backup, ("id", "app")),
    "blocked": (Blocked, ("app", "version", "digest")),
}

STEPS = """CREATE TABLE IF NOT EXISTS steps (
    job INTEGER NOT NULL, step TEXT NOT NULL, began_at REAL NOT NULL, ended_at REAL NOT NULL DEFAULT 0,
    outcome TEXT NOT NULL DEFAULT '', PRIMARY KEY (job, step, began_at))"""

# version -> statements that bring a database of the version before it up to date
MIGRATIONS: dict[int, tuple[str, ...]] = {}


def _text(data: bytes) -> str:
    return data.decode(errors="replace")  # bits that flipped in a sentence harm nobody; in a state, `_check` finds them


class StoreError(Failed):
    """The state cannot be read or written now: a failing, locked or read-only disk. No fault of any app."""


class StoreFull(StoreError):
    name = "NoSpace"


TROUBLE = (StoreError, OSError)


def _trouble(path: Path, error: sqlite3.Error) -> StoreError:
    full = dbtrouble.is_full(error)
    hint = "Free some space there." if full else f"See `findmnt -T {path}`, `journalctl -k` and `slotctl doctor`."
    kind = StoreFull if full else StoreError
    return kind(f"cannot use the state in {path}: {error}, {dbtrouble.room_beside(path)}.", hint=hint)


_ENDED = "('done', 'failed', 'cancelled')"
_APART = "('check', 'backup', 'verify')"  # they change neither a version nor data in their place
_BY_AGE = (
    f"SELECT id, ROW_NUMBER() OVER (PARTITION BY app ORDER BY id DESC) AS age FROM jobs WHERE kind NOT IN {_APART}"
)
LAST = 20
_CODECS = {table: Codec(cls) for table, (cls, _) in TABLES.items()}
_TABLE_OF = {cls: table for table, (cls, _) in TABLES.items()}


class Store:
    """All durable state of slotd. Safe to call from any thread; one call, one transaction."""

    def __init__(self, path: Path, *, busy_s: float = BUSY_S) -> None:
        """Open or create the database. Raises `sqlite3.DatabaseError` when it is damaged, see `open_store`."""
        self.path = path
        self._lock, self._read_lock = threading.RLock(), threading.Lock()
        self._depth = 0
        self.is_new = False  # whether nothing was ever written down in it
        self.underway = path.parent / underway.DIRECTORY
        self._touched: set[str] = set()  # apps whose job or trial this transaction changes
        self._writer = 0  # the thread inside a transaction: it reads what it wrote
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.close(descriptor)
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=busy_s)
        try:
            self._open(path, busy_s)
        except UnicodeDecodeError as error:  # in what SQLite itself says of it
            self._db.close()
            raise sqlite3.DatabaseError(f"it holds what is no text: {error}") from error
        except BaseException:
            self._db.close()
            raise

    def _open(self, path: Path, busy_s: float) -> None:
        self._db.row_factory, self._db.text_factory = sqlite3.Row, _text
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
            self._db.execute(f"PRAGMA {pragma}")
        if self._db.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("integrity check failed")
        self._migrate()
        self._check()
        known = " UNION ALL ".join(f"SELECT 1 FROM {table}" for table in ("events", "jobs", "backups", "slots"))
        self.is_new = self._db.execute(f"{known} LIMIT 1").fetchone() is None
        # Readers never wait for a writer's fsync: status can be read at any time (promise 8).
        self._reader = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=busy_s)
        self._reader.row_factory, self._reader.text_factory = sqlite3.Row, _text
        self._reader.execute("PRAGMA query_only=ON")

    def _migrate(self) -> None:
        found = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if found > SCHEMA_VERSION:
            newer = f"a newer slotd wrote it (schema {found}, this one knows {SCHEMA_VERSION})"
            raise Failed(f"cannot use {self.path}: {newer}.", hint="Install that slotd again.")
        if found == SCHEMA_VERSION:
            return  # nothing is written: the way back must open the store on a full disk, too
        with self.transaction():
            if found == 0:
                for table, (_, key) in TABLES.items():
                    columns = f"{_CODECS[table].columns()}, PRIMARY KEY ({', '.join(key)})"
                    self._db.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
                self._db.execute(STEPS)
                self._db.execute("CREATE INDEX IF NOT EXISTS events_by_app ON events (app, id)")
            for version in range(max(found, 1) + 1, SCHEMA_VERSION + 1):
                for statement in MIGRATIONS[version]:
                    self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _check(self) -> None:
        """What is damaged so that SQLite does not see it. Raises `sqlite3.DatabaseError`."""
        for table, codec in _CODECS.items():
            found = {row["name"] for row in self._db.execute(f"PRAGMA table_info({table})")}
            if missing := {name for name, _, _ in codec.fields} - found:
                raise sqlite3.DatabaseError(f"table {table} has no {', '.join(sorted(missing))}")
            if table == "events":
                continue
            where = f"state NOT IN {_ENDED}" if table == "jobs" else "1"  # ended ones are history alone
            for row in self._db.execute(f"SELECT * FROM {table} WHERE {where}"):
                try:
                    codec.value(row)
                except (TypeError, ValueError) as error:
                    raise sqlite3.DatabaseError(f"table {table} holds what cannot be: {error}") from error

    def close(self) -> None:
        with self._lock, self._read_lock:
            self._reader.close()
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All calls inside are committed together, or none of them is."""
        with self._lock:
            if self._depth == 0:
                with self._explaining():
                    self._db.execute("BEGIN IMMEDIATE")
                self._writer = threading.get_ident()
            self._depth += 1
            try:
                with self._explaining():
                    yield
                    if self._depth == 1:
                        self._db.execute("COMMIT")
                if self._depth == 1:
                    for app in self._touched:
                        underway.write_down(self.underway, app, self.unfinished_jobs, self.trial)
            except BaseException:
                if self._depth == 1 and self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self._writer = 0
                    self._touched.clear()

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise _trouble(self.path, error) from error

    def _query(self, sql: str, args: tuple[Any, ...] = ()) -> list[sqlite3.Row]:
        if self._writer == threading.get_ident():
            return self._db.execute(sql, args).fetchall()
        with self._read_lock, self._explaining():
            return self._reader.execute(sql, args).fetchall()

    # -- any table -------------------------------------------------------------------------------

    def save(self, value: Any) -> None:
        """Insert or replace one value of `slotd.model`, by its key."""
        table = _TABLE_OF[type(value)]
        row = _CODECS[table].row(value)
        marks = ", ".join("?" * len(row))
        with self.transaction():
            self._db.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", row)
            self._touch(value)

    def forget(self, value: Any) -> None:
        """Delete the row of a value; none is fine."""
        table = _TABLE_OF[type(value)]
        key = TABLES[table][1]
        where = " AND ".join(f'"{name}" = ?' for name in key)
        with self.transaction():
            self._db.execute(f"DELETE FROM {table} WHERE {where}", [getattr(value, name) for name in key])
            self._touch(value)

    def _touch(self, value: Any) -> None:
        if isinstance(value, Job | Trial) and value.app:
            self._touched.add(value.app)

    def _all(self, cls: type[T], where: str = "1", args: tuple[Any, ...] = ()) -> list[T]:
        table = _TABLE_OF[cls]
        rows = self._query(f"SELECT * FROM {table} WHERE {where}", args)
        found: list[T] = []
        for row in rows:
            try:
                found.append(_CODECS[table].value(row))
            except (TypeError, ValueError):
                if table not in ("events", "jobs"):
                    raise
                _log.warning("a row of %s cannot be read and is passed over", table)
        return found

    def _one(self, cls: type[T], where: str, args: tuple[Any, ...]) -> T | None:
        found = self._all(cls, where, args)
        return found[0] if found else None

    # -- apps, slots, trials ---------------------------------------------------------------------

    def app(self, name: str) -> AppRecord:
        return self._one(AppRecord, "app = ?", (name,)) or AppRecord(app=name)

    def change_app(self, name: str, **changes: Any) -> AppRecord:
        """Change fields of an app's record in one transaction, and give the new one."""
        with self.transaction():
            record = dataclasses.replace(self.app(name), **changes)
            self.save(record)
        return record

    def slots(self, app: str) -> dict[SlotName, Slot]:
        found = {slot.name: slot for slot in self._all(Slot, "app = ?", (app,))}
        return {name: found.get(name, Slot(app=app, name=name)) for name in SlotName}

    def trial(self, app: str) -> Trial | None:
        return self._one(Trial, "app = ?", (app,))

    def version_in(self, app: str, slot: SlotName | None) -> str:
        """The version that a slot holds; empty for an empty one, and for none."""
        return self.slots(app)[slot].version if slot else ""

    def close_trial(self, app: str, job_id: int) -> None:
        """Close the trial that a job opened; one of another job stays, none is fine."""
        with self.transaction():
            trial = self.trial(app)
            if trial is not None and trial.job == job_id:
                self.forget(trial)

    def trials(self) -> list[Trial]:
        return self._all(Trial)

    # -- jobs, steps, events ---------------------------------------------------------------------

    def new_job(self, app: str, kind: JobKind, *, now: float, correlation: str, plan: Mapping[str, Any]) -> Job:
        """A new job with the next id; ids are never used again."""
        with self.transaction():
            row = self._db.execute("SELECT COALESCE(MAX(id), 0) + 1 FROM jobs").fetchone()
            job = Job(id=int(row[0]), app=app, kind=kind, started_at=now, correlation=correlation, plan=plan)
            self.save(job)
        return job

    def job(self, job_id: int) -> Job:
        job = self._one(Job, "id = ?", (job_id,))
        if job is None:
            raise NoSuchJob(
                f"cannot find job {job_id}: there is none by that number.", hint="See `slotctl jobs --all`."
            )
        return job

    def unfinished_jobs(self, app: str = "") -> list[Job]:
        return self._all(Job, f"state NOT IN {_ENDED} AND (? = '' OR app = ?) ORDER BY id", (app, app))

    def jobs(self, *, app: str = "", limit: int = 200, checks: bool = True, copies: bool = True) -> list[Job]:
        """The newest jobs first; False leaves out what only looked (`checks`), or made or read saved copies."""
        where = (
            f"(? = '' OR app = ?) AND (? OR kind != 'check') AND (? OR kind NOT IN {_APART}) ORDER BY id DESC LIMIT ?"
        )
        return self._all(Job, where, (app, app, checks, copies, limit))

    def begin_step(self, job: Job, now: float) -> None:
        """Record the intent: the job's row names the step before the step's first effect."""
        with self.transaction():
            self.save(job)
            values = (job.id, job.step, now)
            self._db.execute("INSERT OR REPLACE INTO steps (job, step, began_at) VALUES (?, ?, ?)", values)

    def end_step(self, job: Job, outcome: str, now: float) -> None:
        with self.transaction():
            self._db.execute(
                "UPDATE steps SET ended_at = ?, outcome = ? WHERE job = ? AND step = ? AND ended_at = 0",
                (now, outcome, job.id, job.step),
            )

    def steps(self, job_id: int) -> list[tuple[str, float, float, str]]:
        """(step, began, ended or 0, outcome) of a job, in order."""
        rows = self._query("SELECT * FROM steps WHERE job = ? ORDER BY began_at, rowid", (job_id,))
        return [(r["step"], r["began_at"], r["ended_at"], r["outcome"]) for r in rows]

    def add_event(self, event: Event) -> Event:
        """Append to the history; the id given is ignored."""
        with self.transaction():
            row = self._db.execute("SELECT COALESCE(MAX(id), 0) + 1 FROM events").fetchone()
            event = dataclasses.replace(event, id=int(row[0]))
            self.save(event)
        return event

    def events(self, app: str, limit: int) -> list[Event]:
        """The newest first; `app` empty means all."""
        return self._all(Event, "(? = '' OR app = ?) ORDER BY id DESC LIMIT ?", (app, app, limit))

    def prune(self, *, events: int = 10_000, jobs: int = 2_000) -> None:
        """Keep the newest so many (at least one) events and finished jobs: the highest id tells the next one.

        And of each app those that tell how it was left, however many have looked at it, or saved its data, since.
        """
        with self.transaction():
            self._db.execute("DELETE FROM events WHERE id <= (SELECT MAX(id) FROM events) - ?", (events,))
            self._db.execute(
                "DELETE FROM jobs WHERE state NOT IN ('waiting','running') AND id <= (SELECT MAX(id) FROM jobs) - ?"
                f" AND id NOT IN (SELECT id FROM ({_BY_AGE}) WHERE age <= ?)",
                (jobs, LAST),
            )
            self._db.execute("DELETE FROM steps WHERE job NOT IN (SELECT id FROM jobs)")

    # -- backups, blocked ------------------------------------------------------------------------

    def backups(self, app: str) -> list[Backup]:
        """Backups and quarantine of an app, the newest first."""
        return self._all(Backup, "app = ? ORDER BY created_at DESC, id DESC", (app,))

    def backup(self, app: str, backup_id: str) -> Backup:
        found = self._one(Backup, "app = ? AND id = ?", (app, backup_id))
        if found is None:
            raise NoSuchBackup(
                f"cannot find backup {backup_id!r} of {app}.", hint=f"See `slotctl backups {app}` for what there is."
            )
        return found

    def blocked(self, app: str) -> list[Blocked]:
        return self._all(Blocked, "app = ? ORDER BY at DESC", (app,))

    def unblock(self, app: str, version: str) -> None:
        with self.transaction():
            self._db.execute("DELETE FROM blocked WHERE app = ? AND version = ?", (app, version))


def open_store(
    path: Path, *, now: float, busy_s: float = BUSY_S, alone: bool = True, make_room: Callable[[], bool] = lambda: False
) -> tuple[Store, Path | None]:
    """The store, and where a damaged one was set aside (or None). What the slots say is rebuilt by the caller.

    Not `alone`, a daemon may be at work on it: it stays where it is, and `Failed` is raised.
    `make_room` is called when the disk takes nothing, as often as it gives True: that there is a little more room now.
    """
    for is_sure in (False, True):
        try:
            return Store(path, busy_s=busy_s), None
        except (sqlite3.DatabaseError, StoreError) as problem:
            error = problem.__cause__ if isinstance(problem, StoreError) else problem
            if not dbtrouble.is_damage(error):
                if dbtrouble.may_want_room(error) and make_room():
                    return open_store(path, now=now, busy_s=busy_s, alone=alone, make_room=make_room)
                # Locked, a full or failing disk: the state is there, and to lose it would be the harm.
                raise Failed(f"cannot open {path}: {error}.", hint=UNREADABLE) from problem
            if is_sure and not alone:
                raise Failed(f"cannot use the state in {path}: it is damaged ({error}).", hint=REBUILD) from problem
        with files.explaining(f"cannot read {path}"):
            for part, _ in dbtrouble.parts(path):  # SQLite calls a page that the disk does not give damaged, too
                files.hash_path(part)
    aside = path.with_name(f"{path.name}.broken.{int(now)}")
    for part, suffix in dbtrouble.parts(path):
        part.rename(aside.with_name(aside.name + suffix))
    failpoint.hit("rebuild:aside")
    return Store(path, busy_s=busy_s), aside
