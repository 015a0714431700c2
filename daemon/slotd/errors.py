"""The error tree: every failure that slotd tells a person, and its name on the bus.

    SlotdError
    ├── NoSuchApp  NoSuchJob  NoSuchBackup  NoSuchVersion     the caller named something that is not there
    ├── Busy  Held  NotApproved  TooLate  NotAuthorized       not now, or not you
    ├── NothingToDo  NoRollback  DataChoiceRequired           the request makes no sense here
    ├── BadOption  Misconfigured                              the input is wrong: file, key, found, allowed
    ├── VerificationFailed                                    a release is not what its publisher signed
    ├── SourceFailed                                          a server, a registry, a folder of releases
    ├── NoSpace                                               the disk is too full
    ├── Cancelled                                             a person stopped the job
    └── Failed                                                all else

Messages are sentences of the form "cannot …: why", and `hint` says what to do. Libraries raise; the
boundary (the bus, the command line, the job) logs once.
"""

from __future__ import annotations

import re
from typing import ClassVar

BUS_PREFIX = "org.slotd1.Error."


def for_user_manager(text: str) -> str:
    """A text whose commands, between backquotes, are for the system's manager, with those for one's own."""
    return re.sub(r"`(systemctl|journalctl|slotctl) (?!--user)(?!-k)", r"`\1 --user ", text)


class SlotdError(Exception):
    """Base of all errors that slotd raises on purpose."""

    name: ClassVar[str] = "Failed"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        if not self.hint:
            return self.message
        stop = "" if not self.message or self.message.endswith((".", "!", "?", ":", "…")) else "."
        return f"{self.message}{stop} {self.hint}".strip()

    @property
    def bus_name(self) -> str:
        """The D-Bus error name, `org.slotd1.Error.` and the class's own."""
        return BUS_PREFIX + self.name


class NoSuchApp(SlotdError):
    name = "NoSuchApp"


class NoSuchJob(SlotdError):
    name = "NoSuchJob"


class NoSuchBackup(SlotdError):
    name = "NoSuchBackup"


class NoSuchVersion(SlotdError):
    name = "NoSuchVersion"


class Busy(SlotdError):
    """Another mutating job runs on this app (promise 9)."""

    name = "Busy"


class Held(SlotdError):
    name = "Held"


class NotApproved(SlotdError):
    name = "NotApproved"


class NothingToDo(SlotdError):
    name = "NothingToDo"


class NoRollback(SlotdError):
    name = "NoRollback"


class DataChoiceRequired(SlotdError):
    """A rollback after commit must be told what happens to the data."""

    name = "DataChoiceRequired"


class Misconfigured(SlotdError):
    """A definition that cannot be used. `problems` holds every one found, each a full sentence."""

    name = "Misconfigured"

    def __init__(self, message: str, *, hint: str = "", problems: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.problems = problems or (message,)


class BadOption(SlotdError):
    name = "BadOption"


class VerificationFailed(SlotdError):
    """A release that is not what it claims to be. `forged`: it was tampered with, not merely incomplete."""

    name = "VerificationFailed"

    def __init__(self, message: str, *, hint: str = "", forged: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.forged = forged


class SourceFailed(SlotdError):
    """A source that does not answer as it should. `retry_at`: seconds since the epoch, 0 if it did not say."""

    name = "SourceFailed"

    def __init__(self, message: str, *, hint: str = "", retry_at: float = 0.0) -> None:
        super().__init__(message, hint=hint)
        self.retry_at = retry_at


class NoSpace(SlotdError):
    name = "NoSpace"


class TooLate(SlotdError):
    """A job past `stop` can no longer be cancelled."""

    name = "TooLate"


class NotAuthorized(SlotdError):
    name = "NotAuthorized"


class Cancelled(SlotdError):
    """A person cancelled the job; never sent over the bus, it becomes the job's result."""


class Failed(SlotdError):
    name = "Failed"


BY_NAME: dict[str, type[SlotdError]] = {
    cls.name: cls for cls in SlotdError.__subclasses__() if cls not in (Cancelled, Failed)
} | {"Failed": Failed}


def from_name(name: str, message: str) -> SlotdError:
    """The error for a name as it stands in the store or comes over the bus (with or without prefix)."""
    return BY_NAME.get(name.removeprefix(BUS_PREFIX), Failed)(message)
