"""What daemon and worker say to each other: frames of a 4-byte length (big endian) and a JSON object."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, Final, NoReturn

HEAD: Final = struct.Struct(">I")
FRAME_BYTES: Final = 8 * 1024**2  # a listing is the largest
PROGRESS_BYTES: Final = 64 * 1024
DESCRIPTORS: Final = 16


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
    """The JSON object of a frame, strictly: no NaN, no endless nesting. Raises `FrameError`."""
    try:
        message = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"a message is not JSON: {error}") from None
    if not isinstance(message, dict):
        raise FrameError("a message is not a JSON object")
    return message


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")
