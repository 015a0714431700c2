"""What can be asked of an app over the bus, once for `org.slotd1.Manager` (which takes its name) and `org.slotd1.App`.

What was authorised is what is done. Arguments are checked and copied before polkit is asked; what slotd adds to them
(the version that would be installed or gone back to) is bound to the job, or must still be so when polkit has answered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from slotd.core.policy import require_version
from slotd.errors import BadOption, NoSuchBackup, NotAuthorized
from slotd.host.bus import Call, Typed
from slotd.model import AppView, Backup, Job, Mode
from slotd.service.api import Core
from slotd.service.interface import Arg, Method, job_path, seconds, variant
from slotd.service.polkit import Authority, Question

OPTIONS = Arg("options", "a{sv}")
JOB = Arg("job", "o")
TEXT_CHARS = 1024  # of one argument: a reason, a version, the name of an app or a backup
VERSION_CHARS = 128
HISTORY_ROWS = 1000
ALL_APPS = "*"  # the detail `app` of a question about all of them; no app has this name

MOST_PATHS = 1000  # of one restore

_WORDS = {"s": "a string (s)", "b": "a boolean (b)", "t": "a number (t)", "as": "an array of strings (as)"}

Options = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verb:
    """One thing to ask of an app.

    `ask` gives the question for polkit, or refuses what makes no sense before anybody is asked for a password. `run` is
    given the version of that question, if the caller may do what it says and nothing else; empty otherwise. `is_bound`:
    `run` does no other version then, whatever became of the app meanwhile.
    """

    name: str
    ask: Callable[[AppView, Sequence[str], Options], Question]
    run: Callable[[Core, str, Sequence[str], Options, str], Awaitable[int | None]]
    args: tuple[Arg, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    gives_job: bool = False
    is_bound: bool = False

    def method(self, *, with_app: bool) -> Method:
        """As a method, of the manager or of the app itself."""
        app = (Arg("app", "s"),) if with_app else ()
        return Method(self.name, (*app, *self.args, OPTIONS), (JOB,) if self.gives_job else ())


def text_of(value: str, what: str, verb: str) -> str:
    """An argument that is a text for people or a name: not endless, and nothing that plays with terminals."""
    if len(value) > TEXT_CHARS:
        raise BadOption(f"cannot do {verb}: {what} has {len(value)} characters, more than {TEXT_CHARS}.")
    if not value.isprintable():
        raise BadOption(f"cannot do {verb}: {what} has characters that cannot be printed.")
    return value


def options_of(given: Mapping[str, Typed], allowed: Mapping[str, str], verb: str) -> Options:
    """The options as plain values. Raises BadOption for one that is unknown or of another type."""
    hint = f"Allowed: {', '.join(f'{key} {kind}' for key, kind in allowed.items())}." if allowed else "It takes none."
    values = {}
    for key, value in given.items():
        name = key[:64] if key.isprintable() else ascii(key[:64])
        if key not in allowed:
            raise BadOption(f'cannot do {verb}: there is no option "{name}".', hint=hint)
        if value.signature != allowed[key]:
            raise BadOption(f'cannot do {verb}: the option "{name}" must be {_WORDS[allowed[key]]}.', hint=hint)
        values[key] = _plain_value(value, f'the option "{name}"', verb)
    return values


def _plain_value(value: Typed, what: str, verb: str) -> Any:
    if value.signature == "as":
        if len(value.value) > MOST_PATHS:
            raise BadOption(f"cannot do {verb}: {what} has {len(value.value)} entries, more than {MOST_PATHS}.")
        return [text_of(each, what, verb) for each in value.value]
    return text_of(value.value, what, verb) if value.signature == "s" else value.value


async def do(core: Core, authority: Authority, call: Call, verb: Verb, app: str, args: Sequence[str]) -> Sequence[Any]:
    """Run a verb for a caller: check what can be checked without asking anyone, authorise, act. Gives the reply."""
    copied = tuple(text_of(arg, f"the {kind.name}", verb.name) for arg, kind in zip(args, verb.args, strict=True))
    options = options_of(call.body[-1], verb.options, verb.name)
    view = core.app(text_of(app, "the app's name", verb.name))
    name, question = view.name, verb.ask(view, copied, options)
    is_limited = await authority.require(call, question)
    if is_limited and not verb.is_bound and verb.ask(core.app(name), copied, options) != question:
        raise NotAuthorized(
            f"cannot do {verb.name}: while you were being authorised, {name} has changed.",
            hint=f"See `slotctl status {name}`, and ask again.",
        )
    job = await verb.run(core, name, copied, options, question.details["version"] if is_limited else "")
    return [] if job is None else [job_path(job)]


def _question(verb: str, action: str, app: str, version: str, message: str, **more: str) -> Question:
    details = {"app": app, "version": version, "verb": verb, **more}
    return Question(action, details, f"Authentication is required to {message}.")


def about_all(verb: str) -> Question:
    """The question for what is asked of the manager, about no app in particular."""
    action, message = {
        "CheckAll": ("check", "look for releases of all applications"),
        "ApplyAll": ("update", "apply the updates of all applications that may be applied by themselves"),
        "Import": ("import", "import a bundle of releases"),
        "Reload": ("reload", "read the definitions of all applications again"),
    }[verb]
    return _question(verb, action, ALL_APPS, "", message)


def about_import(*, force: bool) -> Question:
    """The question for `Import`: what is inside is known when it was read, and proves itself."""
    question = about_all("Import")
    if not force:
        return question
    message = question.message.removesuffix(".") + ", also of those that are older than what is installed."
    return replace(question, details={**question.details, "force": "true"}, message=message)


def about_job(job: Job) -> Question:
    """The question for `Cancel`."""
    message = "cancel job $(job), the $(kind) of $(app)"
    return _question("Cancel", "cancel", job.app, job.version, message, job=str(job.id), kind=job.kind.value)


def _version_of(value: str, what: str, app: AppView) -> str:
    """A version that a caller named. It is shown to who is asked for a password: it looks like one, whatever it is."""
    require_version(app.name, value)
    if len(value) > VERSION_CHARS or any(char.isspace() or char in "$()'\"" for char in value):
        raise BadOption(f"cannot use {what} {value[:VERSION_CHARS]!r} for {app.name}: that is not a version.")
    return value


def _ask_update(app: AppView, _args: Sequence[str], options: Options) -> Question:
    """Choosing the version by hand, or one that was blocked, is more than taking what the policy would take."""
    chosen, is_forced = options.get("version", ""), options.get("force", False)
    version = _version_of(chosen, "the version", app) if chosen else app.available
    message = "install version $(version) of $(app)" if version else "install the newest version of $(app)"
    if is_forced:
        message += ", even if it failed here before"
    action = "update-to-version" if chosen or is_forced else "update"
    more = {"installed": app.version, "force": "true" if is_forced else "false"}
    return _question("Update", action, app.name, version, message, **more)


def _ask_rollback(app: AppView, _args: Sequence[str], options: Options) -> Question:
    to, data = options.get("to", ""), options.get("data", "")
    version = _version_of(to, "the version", app) if to else app.previous_version
    if data not in ("", "keep", "restore"):
        raise BadOption(f'cannot do Rollback: the option "data" is "{data}".', hint="Allowed: keep, restore.")
    back = "roll $(app) back to version $(version)" if version else "roll $(app) back"
    message = {"keep": f"{back}, keeping its data", "restore": f"{back}, with the data of then"}.get(data, back)
    return _question("Rollback", "rollback", app.name, version, message, installed=app.version, data=data)


def _ask_approve(app: AppView, args: Sequence[str], _options: Options) -> Question:
    version = _version_of(args[0], "the version", app)
    return _question("Approve", "approve", app.name, version, "approve version $(version) of $(app)")


def _ask_set_mode(app: AppView, args: Sequence[str], _options: Options) -> Question:
    if args[0] not in ("", *Mode):
        hint = f"Allowed: {', '.join(Mode)}, and an empty text for what the definition says."
        raise BadOption(f'cannot set the mode to "{args[0]}".', hint=hint)
    message = "set the update mode of $(app) to $(mode)"
    mode = args[0] or "what its definition says"
    return _question("SetMode", "set-mode", app.name, app.version, message, mode=mode)


def _backup_of(app: AppView, backup_id: str) -> Backup:
    found = next((backup for backup in app.backups if backup.id == backup_id), None)
    if found is None:
        raise NoSuchBackup(
            f"cannot find backup {backup_id!r} of {app.name}.",
            hint=f"See `slotctl backups {app.name}` for what there is.",
        )
    return found


def ask_inspect(app: AppView, args: Sequence[str], _options: Options) -> Question:
    """The same for every page: a password is asked for once."""
    found = _backup_of(app, args[0])
    message = "look into the backup $(backup) of $(app)"
    return _question("InspectBackup", "inspect-backup", app.name, found.version, message, backup=found.id)


def _ask_verify_backup(app: AppView, args: Sequence[str], _options: Options) -> Question:
    found = _backup_of(app, args[0]) if args[0] else None
    message = "read the backup $(backup) of $(app) again" if found else "read all backups of $(app) again"
    more = {"backup": found.id if found else ""}
    return _question("VerifyBackup", "backup", app.name, found.version if found else "", message, **more)


def _ask_restore(app: AppView, args: Sequence[str], options: Options) -> Question:
    found = _backup_of(app, args[0])
    paths = options.get("paths", [])
    what = "some files" if paths else "the data"
    message = f"restore {what} of $(app) from the backup $(backup)"
    more = {"installed": app.version, "backup": found.id, "paths": "\n".join(paths)}
    return _question("Restore", "restore", app.name, found.version, message, **more)


def _ask_adopt(app: AppView, _args: Sequence[str], options: Options) -> Question:
    version = _version_of(options["version"], "the version", app) if options.get("version") else ""
    message = "take what is installed in $(from) as version $(version) of $(app)"
    return _question("Adopt", "adopt", app.name, version, message, **{"from": options.get("from", "")})


def _ask_release(app: AppView, _args: Sequence[str], options: Options) -> Question:
    message = "give $(app) back to its own unit and directory"
    more = {"present": "true" if options.get("present") else "false"}
    return _question("Release", "adopt", app.name, app.version, message, **more)


def _ask_mark_good(app: AppView, _args: Sequence[str], _options: Options) -> Question:
    """It takes the safety net away: more than approving a version that is still to prove itself."""
    version = app.trial.version if app.trial else ""
    message = "end the trial of $(app) and keep version $(version)" if version else "end the trial of $(app)"
    return _question("MarkGood", "mark-good", app.name, version, message)


def _ask_mark_bad(app: AppView, _args: Sequence[str], _options: Options) -> Question:
    message = "end the trial of $(app) and roll it back with its data"
    more = {"installed": app.version, "data": "restore"}
    return _question("MarkBad", "rollback", app.name, app.previous_version, message, **more)


def _ask_hold(app: AppView, _args: Sequence[str], _options: Options) -> Question:
    message = "hold $(app) at version $(version)" if app.version else "hold $(app)"
    return _question("Hold", "hold", app.name, app.version, message)


def _plain(verb: str, action: str, message: str) -> Callable[[AppView, Sequence[str], Options], Question]:
    """The question of a verb that is about an app as it is."""
    return lambda app, _args, _options: _question(verb, action, app.name, app.version, message)


def history(core: Core, app: str, limit: int) -> Sequence[Any]:
    """The reply of `History`, newest first as the core gives them. An empty name: of all apps; 0: as many as may be."""
    rows = core.history(text_of(app, "the app's name", "History"), min(limit or HISTORY_ROWS, HISTORY_ROWS))
    return [
        [
            {
                "id": variant(event.id),
                "app": variant(event.app),
                "at": variant(seconds(event.at)),
                "kind": variant(str(event.kind)),
                "message": variant(event.message),
                "job": variant(event.job),
                "version": variant(event.version),
                "step": variant(event.step),
                "fields": variant(event.fields),
            }
            for event in rows
        ]
    ]


async def _check_app(core: Core, app: str, _args: Sequence[str], _options: Options, _only: str) -> int:
    return await core.start_check(app)


async def _update(core: Core, app: str, _args: Sequence[str], options: Options, only: str) -> int:
    version = options.get("version", "")
    force, now = options.get("force", False), options.get("now", False)
    return await core.start_update(app, version=version, force=force, now=now, only="" if version else only)


async def _rollback(core: Core, app: str, _args: Sequence[str], options: Options, only: str) -> int:
    return await core.start_rollback(app, data=options.get("data", ""), to=options.get("to") or only)


async def _approve(core: Core, app: str, args: Sequence[str], _options: Options, _only: str) -> None:
    await core.approve(app, args[0])


async def _hold(core: Core, app: str, args: Sequence[str], _options: Options, _only: str) -> None:
    await core.hold(app, args[0])


async def _unhold(core: Core, app: str, _args: Sequence[str], _options: Options, _only: str) -> None:
    await core.unhold(app)


async def _set_mode(core: Core, app: str, args: Sequence[str], _options: Options, _only: str) -> None:
    await core.set_mode(app, Mode(args[0]) if args[0] else None)


async def _backup(core: Core, app: str, _args: Sequence[str], _options: Options, _only: str) -> int:
    return await core.start_backup(app)


async def _verify_backup(core: Core, app: str, args: Sequence[str], _options: Options, _only: str) -> int:
    return await core.start_verify(app, args[0])


async def _restore(core: Core, app: str, args: Sequence[str], options: Options, _only: str) -> int:
    return await core.start_restore(app, args[0], paths=options.get("paths", []))


async def _adopt(core: Core, app: str, _args: Sequence[str], options: Options, _only: str) -> int:
    return await core.start_adopt(app, source=options.get("from", ""), version=options.get("version", ""))


async def _release(core: Core, app: str, _args: Sequence[str], options: Options, _only: str) -> int:
    return await core.start_release(app, present=options.get("present", False))


async def _mark_good(core: Core, app: str, _args: Sequence[str], _options: Options, _only: str) -> None:
    await core.mark_good(app)


async def _mark_bad(core: Core, app: str, _args: Sequence[str], _options: Options, _only: str) -> None:
    await core.mark_bad(app)


_VERSION = (Arg("version", "s"),)
_BACKUP = (Arg("backup", "s"),)
_UPDATE = {"version": "s", "force": "b", "now": "b"}

VERBS: tuple[Verb, ...] = (
    Verb("Check", _plain("Check", "check", "look for releases of $(app)"), _check_app, gives_job=True),
    Verb("Update", _ask_update, _update, options=_UPDATE, gives_job=True, is_bound=True),
    Verb("Rollback", _ask_rollback, _rollback, options={"data": "s", "to": "s"}, gives_job=True),
    Verb("Approve", _ask_approve, _approve, args=_VERSION),
    Verb("Hold", _ask_hold, _hold, args=(Arg("reason", "s"),)),
    Verb("Unhold", _plain("Unhold", "hold", "lift the hold of $(app)"), _unhold),
    Verb("SetMode", _ask_set_mode, _set_mode, args=(Arg("mode", "s"),)),
    Verb("Backup", _plain("Backup", "backup", "back up the data of $(app)"), _backup, gives_job=True),
    Verb("VerifyBackup", _ask_verify_backup, _verify_backup, args=_BACKUP, gives_job=True),
    Verb("Restore", _ask_restore, _restore, args=_BACKUP, options={"paths": "as"}, gives_job=True),
    Verb("Adopt", _ask_adopt, _adopt, options={"from": "s", "version": "s"}, gives_job=True),
    Verb("Release", _ask_release, _release, options={"present": "b"}, gives_job=True),
    Verb("MarkGood", _ask_mark_good, _mark_good),
    Verb("MarkBad", _ask_mark_bad, _mark_bad),
)

BY_NAME = {verb.name: verb for verb in VERBS}
HISTORY_LIMIT = Arg("limit", "u")
HISTORY_ROWS_OUT = Arg("events", "aa{sv}")
