"""Who may change things: root always, others when polkit says so; on a user's own bus, that user.

Whatever cannot be found out is a denial. The subject is the caller's unique bus name, which is never given to another
connection: a caller who leaves while we ask is nobody, not somebody else (CVE-2021-3560).

polkit keeps a password's worth for a while (`auth_admin_keep`) for the action and the caller's process, whatever
connections that has, and asks its rules no more, whatever the details are then: a rule that denies one app would not
hold after a password for another. So it counts for the question that it was given for, and for no other. Nobody but
its owner can take it back, so other questions of that action are refused to that process as long as it lasts.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from slotd.errors import NotAuthorized, SlotdError
from slotd.host.bus import Bus, Call, Variant
from slotd.service.callers import Callers

ACTION = "org.slotd1."
GETTEXT_DOMAIN = "slotd"
ASK_S = 25.0
PERSON_S = 240.0  # for a person who has to find a password; less than slotctl waits for a change
TELL_S = 1.0  # for what polkit is told and need not answer
MOST_ASKED = 16  # questions of one user that polkit has not answered; each may be a dialogue on a screen
# Of all users together: the bus grants us 128 open calls for all that we do. With those used up on questions no unit
# could be stopped or started, and a running update would fail.
MOST_OF_ALL = 64
MOST_KEPT = 256

_POLKIT = "org.freedesktop.PolicyKit1"
_PATH = "/org/freedesktop/PolicyKit1/Authority"
_AUTHORITY = "org.freedesktop.PolicyKit1.Authority"
_DBUS = "org.freedesktop.DBus"
_DBUS_PATH = "/org/freedesktop/DBus"
_ALLOW_USER_INTERACTION = 1
_KEPT = "polkit.temporary_authorization_id"
_ABSENT = ("ServiceUnknown", "NameHasNoOwner", "UnknownObject", "Spawn.ServiceNotFound", "UnitMasked", "NoSuchUnit")
_SILENT = (".NoReply", ".Disconnected")
_AS_ROOT = "Run it as root, or ask an administrator."
_UNKNOWN = "cannot authorise you: the bus does not say who you are."


class InteractionRequired(NotAuthorized):
    """A person could be asked for a password, but the call did not allow that."""

    @property
    def bus_name(self) -> str:
        """The standard error that makes clients try again with interaction allowed."""
        return "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"


@dataclass(frozen=True, slots=True)
class Question:
    """What polkit is asked: the action (without `org.slotd1.`), and the details that its rules see.

    `message` is what a person reads who is to give a password; `$(name)` in it stands for a detail.
    """

    action: str
    details: Mapping[str, str]
    message: str


@dataclass(frozen=True, slots=True)
class _Answer:
    """polkit's `(bba{ss})`; and whether a password that it keeps, if it does, was given for this question."""

    is_authorized: bool = False
    is_challenge: bool = False
    details: Mapping[str, str] = field(default_factory=dict)
    is_for_this: bool = True


class Authority:
    """Decides whether a caller may do something. `user_mode`: on a user's bus, where polkit has no say.

    polkit has `ask_s` for an answer, and a person `person_s`.
    """

    def __init__(
        self, bus: Bus, callers: Callers, *, user_mode: bool, ask_s: float = ASK_S, person_s: float = PERSON_S
    ) -> None:
        self._bus = bus
        self._callers = callers
        self._user_mode = user_mode
        self._ask_s = ask_s
        self._person_s = person_s
        self._asked: dict[int, int] = {}
        self._kept: dict[
            tuple[str, str], Question
        ] = {}  # by polkit's own name on the bus, since ids start anew with it

    async def require(self, call: Call, question: Question) -> bool:
        """Return if the caller may; raise NotAuthorized if not.

        True: polkit said so, of what the question says and nothing else. False: the caller may do everything.
        """
        uid = await self._uid(call.sender)
        if self._may_all(uid):
            return False
        asked = self._asked.get(uid, 0)
        if asked >= MOST_ASKED:
            raise NotAuthorized(
                f"cannot authorise you: {asked} of your requests wait for polkit already.",
                hint="Answer or cancel those first.",
            )
        if sum(self._asked.values()) >= MOST_OF_ALL:
            raise NotAuthorized(
                "cannot authorise you now: too many requests of others wait for polkit.", hint="Try again in a while."
            )
        self._asked[uid] = asked + 1
        try:
            await self._ask(call, question)
        finally:
            self._asked[uid] -= 1
            if not self._asked[uid]:
                del self._asked[uid]
        return True

    async def require_root(self, call: Call) -> None:
        """Return if the caller is root, or on a user's bus that user: polkit has no action for this."""
        if not self._may_all(await self._uid(call.sender)):
            raise NotAuthorized(f"cannot do that: {call.member} is for root alone.", hint="Run it as root.")

    async def user(self, call: Call) -> int:
        """Whose the call is, for the record. Raises NotAuthorized if the bus does not say."""
        return await self._uid(call.sender)

    def _may_all(self, uid: int) -> bool:
        if uid == 0 or (self._user_mode and uid == os.geteuid()):
            return True
        if self._user_mode:
            raise NotAuthorized("cannot do that for you: these applications belong to another user.")
        return False

    async def _uid(self, sender: str) -> int:
        """The caller's user id, from the bus itself."""
        try:
            return await self._callers.user(sender)
        except SlotdError as error:
            raise NotAuthorized(_UNKNOWN) from error

    async def _ask(self, call: Call, question: Question) -> None:
        """Return if polkit says yes to this very question."""
        lost: asyncio.Future[None] | None = None
        try:
            lost = await self._bus.name_owner_lost(call.sender)
            answer = await self._check(call, question, 0, lost)
            if answer.is_challenge and call.is_interactive:
                answer = await self._check(call, question, _ALLOW_USER_INTERACTION, lost)
            if not answer.is_authorized:
                raise _denied(question.action, answer, is_interactive=call.is_interactive)
            if not answer.is_for_this:
                raise NotAuthorized(
                    "cannot do that: polkit keeps a password that was given in this process for something else, and"
                    " asks for none now.",
                    hint="Wait some minutes until polkit has forgotten it, or use slotctl.",
                )
        except NotAuthorized:
            raise
        except SlotdError as error:
            raise _unanswered(error) from error
        finally:
            if lost is not None:
                lost.cancel()

    async def _was_given_for(self, kept: str, question: Question, *, is_new: bool) -> bool:
        """Whether what polkit kept was given for this question. One that is unknown was given to somebody else."""
        [owner] = await self._bus.call(_DBUS, _DBUS_PATH, _DBUS, "GetNameOwner", "s", [_POLKIT], timeout_s=self._ask_s)
        key = (str(owner), kept)
        if is_new and key not in self._kept:
            self._kept[key] = question
            while len(self._kept) > MOST_KEPT:
                del self._kept[next(iter(self._kept))]
        return self._kept.get(key) == question

    async def _check(self, call: Call, question: Question, flags: int, lost: asyncio.Future[None]) -> _Answer:
        """One question to polkit. However it ends without an answer, the dialogue goes from the screen."""
        cancellation = f"slotd-{secrets.token_hex(8)}"
        patience_s = self._person_s if flags else self._ask_s
        asking = asyncio.ensure_future(self._put(call, question, flags, cancellation, 2 * self._ask_s + patience_s))
        either: set[asyncio.Future[Any]] = {lost, asking}
        try:
            await asyncio.wait(either, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            is_in_time = asking.done()
            if not is_in_time:
                # The password may be given at this very moment. What it was given for has to be known then too, so the
                # answer is waited for, which is that there is none.
                await self._take_back(cancellation)
                await asyncio.wait({asking}, timeout=self._ask_s)
            if lost.done():
                raise NotAuthorized("cannot authorise you: you have left the bus.")
            if not is_in_time:
                raise _silence()
            return asking.result()
        except asyncio.CancelledError:
            await self._take_back(cancellation)
            raise
        finally:
            asking.cancel()
            asking.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _put(self, call: Call, question: Question, flags: int, cancellation: str, timeout_s: float) -> _Answer:
        """Ask, and take note of what polkit kept: at once, so that no other question that is open can be first."""
        subject = ["system-bus-name", {"name": Variant("s", call.sender)}]
        shown = {"polkit.message": question.message, "polkit.gettext_domain": GETTEXT_DOMAIN}
        said = await self._bus.call(
            _POLKIT,
            _PATH,
            _AUTHORITY,
            "CheckAuthorization",
            "(sa{sv})sa{ss}us",
            [subject, ACTION + question.action, {**question.details, **shown}, flags, cancellation],
            timeout_s=timeout_s,
        )
        answer = _read(said)
        if not answer.is_authorized or _KEPT not in answer.details:
            return answer
        is_for_this = await self._was_given_for(answer.details[_KEPT], question, is_new=bool(flags))
        return replace(answer, is_for_this=is_for_this)

    async def _take_back(self, cancellation: str) -> None:
        try:
            await self._bus.call(
                _POLKIT, _PATH, _AUTHORITY, "CancelCheckAuthorization", "s", [cancellation], timeout_s=TELL_S
            )
        except SlotdError:
            return  # it is gone by itself, or polkit is


def _read(said: list[Any]) -> _Answer:
    """What polkit said; anything that it would not say is a no."""
    match said:
        case [[bool(is_authorized), bool(is_challenge), dict(details)]]:
            return _Answer(is_authorized, is_challenge, details)
        case _:
            return _Answer()


def _denied(action: str, answer: _Answer, *, is_interactive: bool) -> NotAuthorized:
    if answer.is_challenge and not is_interactive:
        return InteractionRequired(
            f"cannot do that without a password: the action {ACTION}{action} needs authentication.", hint=_AS_ROOT
        )
    if answer.is_challenge:
        return NotAuthorized(
            f"cannot do that: you are not authorised for {ACTION}{action}: it needs a password, and there is nobody to"
            " ask for it in your session.",
            hint="Run it on a terminal of a login session, where slotctl asks, or as root.",
        )
    if "polkit.dismissed" in answer.details:
        return NotAuthorized(f"cannot do that: the question for the password for {ACTION}{action} was dismissed.")
    return NotAuthorized(f"cannot do that: you are not authorised for {ACTION}{action}.", hint=_AS_ROOT)


def _silence() -> NotAuthorized:
    return NotAuthorized(
        "cannot authorise you: polkit gave no answer.",
        hint="Try again; `systemctl status polkit.service` says how it is.",
    )


def _is_silent(error: BaseException | None) -> bool:
    return str(getattr(error, "remote_name", "")).endswith(_SILENT)


def _unanswered(error: SlotdError) -> NotAuthorized:
    if str(getattr(error, "remote_name", "")).endswith(_ABSENT):
        return NotAuthorized(
            "cannot authorise you: polkit does not run on this host, and without it only root may change things.",
            hint=_AS_ROOT,
        )
    if _is_silent(error):
        return _silence()
    return NotAuthorized(f"cannot authorise you: polkit says: {error.message}", hint=_AS_ROOT)
