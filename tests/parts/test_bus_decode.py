"""What peers send is read as the library writes it; and whatever else it is, it is refused, not believed."""

from __future__ import annotations

import struct
import sys
from types import FrameType
from typing import Any

import pytest
from dbus_fast import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from slotd.host.bus import outgoing, unwrap
from slotd.host.bus_decode import INTERFACE, MEMBER, PATH, SIGNATURE, Malformed, Typed, decode, header_fields

TEXT = st.text(st.characters(min_codepoint=1, max_codepoint=0x10FFFF, blacklist_categories=("Cs",)), max_size=6)
BASIC = {
    "y": st.integers(0, 255), "b": st.booleans(), "n": st.integers(-(2**15), 2**15 - 1), "q": st.integers(0, 2**16 - 1),
    "i": st.integers(-(2**31), 2**31 - 1), "u": st.integers(0, 2**32 - 1), "x": st.integers(-(2**63), 2**63 - 1),
    "t": st.integers(0, 2**64 - 1), "d": st.floats(allow_nan=False), "s": TEXT, "o": st.sampled_from(["/", "/a/b"]),
    "g": st.sampled_from(["", "a{sv}", "ai"]),
}  # fmt: skip
Value = tuple[str, Any]


@st.composite
def values(draw: Any, depth: int = 0) -> Value:
    """A type, and a value of it."""
    kind = draw(st.sampled_from(list(BASIC) if depth > 2 else [*BASIC, "v", "(", "a", "a", "{"]))
    match kind:
        case "v":
            return "v", Typed(*draw(values(depth + 1)))
        case "(":
            members = draw(st.lists(values(depth + 1), min_size=1, max_size=3))
            return f"({''.join(one for one, _ in members)})", [value for _, value in members]
        case "a":
            # One value, none of it or twice: all of an array are of one type.
            inner, value = draw(values(depth + 1))
            times = draw(st.integers(0, 2))
            return f"a{inner}", bytes([value] * times) if inner == "y" else [value] * times
        case "{":
            key = draw(st.sampled_from("ysit"))
            inner, value = draw(values(depth + 1))
            keys = draw(st.lists(BASIC[key], max_size=2, unique=True))
            return f"a{{{key}{inner}}}", dict.fromkeys(keys, value)
    return kind, draw(BASIC[kind])


def marshalled(signature: str, body: list[Any]) -> bytes:
    return bytes(
        Message(
            destination="org.slotd1", path="/org/slotd1", interface="org.slotd1.Manager", member="Update", serial=7,
            signature=signature, body=outgoing(body),
        )._marshall(False)
    )  # fmt: skip


def parts(message: bytes) -> tuple[bytes, bytes]:
    """The fields of its header, and its body."""
    [fields] = struct.unpack_from("<I", message, 12)
    return message[16 : 16 + fields], message[16 + fields + (-fields & 7) :]


@settings(deadline=None, max_examples=300)
@given(st.lists(values(), min_size=1, max_size=3))
def test_every_value_is_read_as_it_was_written(given_values: list[Value]) -> None:
    signature, body = "".join(one for one, _ in given_values), [value for _, value in given_values]
    if len(signature) > 255:
        return
    head, data = parts(marshalled(signature, body))
    fields = header_fields(head, "<")
    assert (fields[PATH], fields[INTERFACE], fields[MEMBER]) == ("/org/slotd1", "org.slotd1.Manager", "Update")
    assert fields[SIGNATURE] == signature
    assert decode(signature, data, "<") == body
    assert decode(signature, data, "<", plain=True) == [unwrap(value) for value in body]


@pytest.mark.attack
@settings(deadline=None, max_examples=500)
@given(st.text("ybnqiuxtdsogva(){}h", max_size=12), st.binary(max_size=64))
def test_any_bytes_are_values_or_malformed(signature: str, data: bytes) -> None:
    try:
        decode(signature, data, "<")
        header_fields(data, ">")
    except Malformed:
        return


@pytest.mark.attack
@pytest.mark.parametrize(
    ("signature", "data"),
    [
        ("s", struct.pack("<I", 2**32 - 1) + b"x"),
        ("as", struct.pack("<I", 2**31) + b"x"),
        ("v", b"\x02ss\0" + bytes(8)),
        ("v", b"\x01v\0" * 200),
        ("a" * 255 + "y", bytes(2000)),
        ("(" * 200 + "y" + ")" * 200, bytes(2000)),
        ("a{sv}", struct.pack("<I", 100) + bytes(8)),
        ("a()", struct.pack("<I", 8) + bytes(12)),
        ("()", bytes(8)),
        ("aq", struct.pack("<I", 3) + bytes(8)),
        ("as", struct.pack("<II", 8, 10) + bytes(20)),
        ("a{ys}", struct.pack("<II", 8, 0) + bytes(20)),
    ],
)  # fmt: skip
def test_what_goes_past_its_end_or_too_deep_is_malformed(signature: str, data: bytes) -> None:
    with pytest.raises(Malformed):
        decode(signature, data, "<")


def nested(element: str, each: bytes, size: int = 16_000) -> bytes:
    """A variant with an array of such elements, as many as fit."""
    data = bytearray([len(element) + 1]) + b"a" + element.encode() + b"\0"
    data += bytes(-len(data) % 4)
    at = len(data)
    data += bytes(4) + bytes(-(len(data) + 4) % 8)
    began = len(data) if len(each) % 8 == 0 and element[0] in "({" else at + 4
    data += each * ((size - len(data)) // len(each))
    struct.pack_into("<I", data, at, len(data) - began)
    return bytes(data)


def steps_to_read(data: bytes) -> int:
    """How many functions are called to read a variant, whether it is one or not."""
    count = 0

    def counted(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        decode("v", data, "<")
    except Malformed:
        pass
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.attack
@pytest.mark.parametrize(
    "element",
    [
        "a(" + "y" * 240 + ")",
        "a(" + "(y)" * 80 + ")",
        "a" * 30 + "y",
        "a{s" + "(" * 25 + "y" * 180 + ")" * 25 + "}",
        "a{y" + "a" * 20 + "(" + "y" * 200 + ")}",
        "(" * 30 + "y" + ")" * 30,
        "(" * 30 + "a(" + "y" * 100 + ")" + ")" * 30,
        "(" + "ay" * 100 + ")",
        "(" + "a(yyyy)" * 30 + ")",
    ],
)
def test_reading_costs_what_the_bytes_are_whatever_the_signature_says(element: str) -> None:
    data = nested(element, bytes(8))
    assert steps_to_read(data) < 8 * len(data)
