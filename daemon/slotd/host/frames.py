"""What daemon and worker say to each other: frames of a 4-byte length (big endian) and a JSON object."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from slotd.errors import SlotdError, SourceFailed, VerificationFailed

HEAD: Final = struct.Struct(">I")
FRAME_BYTES: Final = 8 * 1024**2  # a listing is the largest
PROGRESS_BYTES: Final = 64 * 1024
DESCRIPTORS: Final = 16
# Each costs the daemon some 70 bytes, for two of the worker's: 8 MiB of "[],[],…" would become 200 MiB of lists.
LISTS: Final = 300_000


class FrameError(ValueError):
    """What came is no frame."""


def encode(message: Mapping[str, Any]) -> bytes:
    """One frame. Raises `FrameError` for a message that is too long."""
    body = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
    if len(body) > FRAME_BYTES:
        raise FrameError(f"a message of {len(body)} bytes is longer than {FRAME_BYTES}")
    return HEAD.pack(len(body)) + body


def length(head: bytes) -> int:
    """How many bytes follow. Raises `FrameError` for too many."""
    (count,) = HEAD.unpack(head)
    if count > FRAME_BYTES:
        raise FrameError(f"a message of {count} bytes is longer than {FRAME_BYTES}")
    return int(count)


def decode(body: bytes) -> dict[str, Any]:
    """The JSON object of a frame, strictly: no NaN, no endless nesting or number of lists. Raises `FrameError`."""
    if body.count(b"[") + body.count(b"{") > LISTS:
        raise FrameError(f"a message holds more than {LISTS} lists and objects")
    try:
        message = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"a message is not JSON: {error}") from None
    if not isinstance(message, dict):
        raise FrameError("a message is not a JSON object")
    return message


def told(error: SlotdError) -> dict[str, Any]:
    """An error as a worker says it; the daemon reads it with `slotd.host.run.error_of`."""
    said: dict[str, Any] = {"name": error.name, "message": error.message, "hint": error.hint}
    if isinstance(error, VerificationFailed):
        said["forged"] = error.forged
    if isinstance(error, SourceFailed):
        said["retry_at"] = error.retry_at
    return said


def fraction(said: Mapping[str, Any]) -> float:
    """How far a worker says that it is, 0..1; 0 where it gives no numbers, or none that can be."""
    done, total = said.get("bytes"), said.get("total")
    if not isinstance(done, int) or not isinstance(total, int) or not 0 < total < 2**63:
        return 0.0
    return max(0, min(done, total)) / total


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")
