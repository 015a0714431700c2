"""What can be asked of an app over the bus, once for `org.slotd1.Manager` (which takes its name) and `org.slotd1.App`.

Arguments are checked and copied before anyone is asked whether the caller may: what was authorised is what is done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dbus_fast import Variant

from slotd.errors import BadOption
from slotd.host.bus import Call
from slotd.model import AppView, Mode
from slotd.service.api import Core
from slotd.service.interface import Arg, Method, job_path, seconds, variant
from slotd.service.polkit import Authority

OPTIONS = Arg("options", "a{sv}")
JOB = Arg("job", "o")
TEXT_CHARS = 1024  # of one argument: a reason, a version, the name of an app or a backup
HISTORY_ROWS = 1000

_WORDS = {"s": "a string (s)", "b": "a boolean (b)"}

Options = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verb:
    """One thing to ask of an app. `action` gives the polkit action's name; `version` what is told of it to polkit."""

    name: str
    action: Callable[[Options], str]
    run: Callable[[Core, str, Sequence[str], Options], Awaitable[int | None]]
    args: tuple[Arg, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    gives_job: bool = False
    version: Callable[[AppView, Sequence[str], Options], str] = lambda app, _args, _options: app.version

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


def options_of(given: Mapping[str, Variant], allowed: Mapping[str, str], verb: str) -> Options:
    """The options as plain values. Raises BadOption for one that is unknown or of another type."""
    hint = f"Allowed: {', '.join(f'{key} {kind}' for key, kind in allowed.items())}." if allowed else "It takes none."
    values = {}
    for key, value in given.items():
        name = key[:64] if key.isprintable() else ascii(key[:64])
        if key not in allowed:
            raise BadOption(f'cannot do {verb}: there is no option "{name}".', hint=hint)
        if value.signature != allowed[key]:
            raise BadOption(f'cannot do {verb}: the option "{name}" must be {_WORDS[allowed[key]]}.', hint=hint)
        values[key] = text_of(value.value, f'the option "{name}"', verb) if allowed[key] == "s" else value.value
    return values


async def do(core: Core, authority: Authority, call: Call, verb: Verb, app: str, args: Sequence[str]) -> Sequence[Any]:
    """Run a verb for a caller: check what can be checked without asking anyone, authorise, act. Gives the reply."""
    copied = tuple(text_of(arg, f"the {kind.name}", verb.name) for arg, kind in zip(args, verb.args, strict=True))
    options = options_of(call.body[-1], verb.options, verb.name)
    view = core.app(text_of(app, "the app's name", verb.name))
    action, version = verb.action(options), verb.version(view, copied, options)
    _check(verb, copied, options)
    await authority.require(call, action, {"app": view.name, "version": version})
    job = await verb.run(core, view.name, copied, options)
    return [] if job is None else [job_path(job)]


def _check(verb: Verb, args: Sequence[str], options: Options) -> None:
    if verb.name == "SetMode" and args[0] not in list(Mode):
        raise BadOption(f'cannot set the mode to "{args[0]}".', hint=f"Allowed: {', '.join(Mode)}.")
    if options.get("data", "keep") not in ("keep", "restore"):
        raise BadOption(
            f'cannot do {verb.name}: the option "data" is "{options["data"]}".', hint="Allowed: keep, restore."
        )


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


async def _check_app(core: Core, app: str, _args: Sequence[str], _options: Options) -> int:
    return await core.start_check(app)


async def _update(core: Core, app: str, _args: Sequence[str], options: Options) -> int:
    return await core.start_update(
        app, version=options.get("version", ""), force=options.get("force", False), now=options.get("now", False)
    )


async def _rollback(core: Core, app: str, _args: Sequence[str], options: Options) -> int:
    return await core.start_rollback(app, data=options.get("data", ""), to=options.get("to", ""))


async def _approve(core: Core, app: str, args: Sequence[str], _options: Options) -> None:
    await core.approve(app, args[0])


async def _hold(core: Core, app: str, args: Sequence[str], _options: Options) -> None:
    await core.hold(app, args[0])


async def _unhold(core: Core, app: str, _args: Sequence[str], _options: Options) -> None:
    await core.unhold(app)


async def _set_mode(core: Core, app: str, args: Sequence[str], _options: Options) -> None:
    await core.set_mode(app, Mode(args[0]))


async def _backup(core: Core, app: str, _args: Sequence[str], _options: Options) -> int:
    return await core.start_backup(app)


async def _restore(core: Core, app: str, args: Sequence[str], _options: Options) -> int:
    return await core.start_restore(app, args[0])


async def _mark_good(core: Core, app: str, _args: Sequence[str], _options: Options) -> None:
    await core.mark_good(app)


async def _mark_bad(core: Core, app: str, _args: Sequence[str], _options: Options) -> None:
    await core.mark_bad(app)


def _always(action: str) -> Callable[[Options], str]:
    return lambda _options: action


# Choosing the version by hand, or one that was blocked, is more than taking what the policy would take.
def _update_action(options: Options) -> str:
    return "update-to-version" if options.get("version") or options.get("force") else "update"


VERBS: tuple[Verb, ...] = (
    Verb("Check", _always("check"), _check_app, gives_job=True),
    Verb(
        "Update",
        _update_action,
        _update,
        options={"version": "s", "force": "b", "now": "b"},
        gives_job=True,
        version=lambda app, _, options: options.get("version") or app.available,
    ),
    Verb(
        "Rollback",
        _always("rollback"),
        _rollback,
        options={"data": "s", "to": "s"},
        gives_job=True,
        version=lambda app, _, options: options.get("to") or app.previous_version,
    ),
    Verb("Approve", _always("approve"), _approve, args=(Arg("version", "s"),), version=lambda _app, args, _: args[0]),
    Verb("Hold", _always("hold"), _hold, args=(Arg("reason", "s"),)),
    Verb("Unhold", _always("hold"), _unhold),
    Verb("SetMode", _always("set-mode"), _set_mode, args=(Arg("mode", "s"),)),
    Verb("Backup", _always("backup"), _backup, gives_job=True),
    Verb("Restore", _always("restore"), _restore, args=(Arg("backup", "s"),), gives_job=True),
    Verb("MarkGood", _always("approve"), _mark_good),
    Verb("MarkBad", _always("rollback"), _mark_bad, version=lambda app, _, __: app.previous_version),
)

BY_NAME = {verb.name: verb for verb in VERBS}
HISTORY_LIMIT = Arg("limit", "u")
HISTORY_ROWS_OUT = Arg("events", "aa{sv}")
