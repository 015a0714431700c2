"""What an unprivileged user sends to the daemon to bring it down.

Runs inside a machine: `-m tests.system.flood ATTACK SECONDS` prints what was sent as one JSON object. With `poll` it is
somebody else meanwhile, who asks slotd, systemd and the bus every 10 ms until there is a line to read, and tells how
long the longest answers took. Every attack ends by itself.
"""

from __future__ import annotations

import contextlib
import errno
import json
import select
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.parts.bus_peer import RawPeer, wire_value

SOCKET = Path("/run/dbus/system_bus_socket")
MANAGER = "org.slotd1.Manager"
PROPERTIES = "org.freedesktop.DBus.Properties"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
OBJECTS = "org.freedesktop.DBus.ObjectManager"
BUS = {"to": "org.freedesktop.DBus", "path": "/org/freedesktop/DBus", "interface": "org.freedesktop.DBus"}
SYSTEMD = "org.freedesktop.systemd1"
NO_REPLY, INTERACTIVE = 1, 4
CALLS = 10_000
POLL_S = 0.01
NOTES = wire_value("s", "notes") + bytes(6)

Sent = tuple[int, str]  # how many calls, and what else is worth telling


class Hose:
    """Many connections, filled and emptied at the same time, so that neither side waits for the other."""

    def __init__(self, count: int) -> None:
        self.peers = [RawPeer(SOCKET) for _ in range(count)]
        self.outgoing = [bytearray() for _ in range(count)]
        self.received = 0
        for peer in self.peers:
            peer.socket.setblocking(False)

    def load(self, index: int, **message: object) -> None:
        self.outgoing[index] += self.peers[index].encode(**message)  # type: ignore[arg-type]

    def run(self, until: float, *, read: bool = True, linger_s: float = 1.5) -> None:
        """Send all of it, and with `read` take what comes until nothing has come for a while."""
        quiet_since = time.monotonic()
        by_number = {peer.socket.fileno(): index for index, peer in enumerate(self.peers)}
        while (now := time.monotonic()) < until:
            writing = [peer.socket for peer, data in zip(self.peers, self.outgoing, strict=True) if data]
            if not writing and (not read or now - quiet_since > linger_s):
                return
            reading = [peer.socket for peer in self.peers] if read else []
            readable, writable, _ = select.select(reading, writing, [], 0.05)
            for one in readable:
                with contextlib.suppress(BlockingIOError, ConnectionResetError):
                    self.received += len(one.recv(1 << 20))
                quiet_since = time.monotonic()
            for one in writable:
                index = by_number[one.fileno()]
                try:
                    sent = one.send(self.outgoing[index])
                except BlockingIOError:
                    continue
                except OSError:  # the bus has thrown us out
                    sent = len(self.outgoing[index])
                del self.outgoing[index][:sent]


def _calls(until: float, count: int, peers: int, **message: object) -> Sent:
    hose = Hose(peers)
    for number in range(count):
        hose.load(number % peers, **message)
    hose.run(until)
    return count, f"{hose.received // 1024} KiB of answers"


def calls_without_reply(until: float) -> Sent:
    return _calls(until, CALLS, 4, member="ListApps", interface=MANAGER, flags=NO_REPLY)


def calls_with_reply(until: float) -> Sent:
    return _calls(until, CALLS, 80, member="ListApps", interface=MANAGER)


def introspections(until: float) -> Sent:
    return _calls(until, 1200, 10, member="Introspect", interface=INTROSPECTABLE)


def unread_answers(until: float) -> Sent:
    """All objects, again and again, on 100 connections that never read."""
    hose = Hose(100)
    count = 0
    while time.monotonic() < until:
        for index in range(100):
            for _ in range(20):
                hose.load(index, member="GetManagedObjects", interface=OBJECTS)
                count += 1
        hose.run(min(until, time.monotonic() + 0.5), read=False)
        time.sleep(0.1)
    return count, "never read"


def descriptors(until: float) -> Sent:
    peer = RawPeer(SOCKET)
    count = 0
    with open("/dev/null") as null:
        for number in range(3000):
            if time.monotonic() > until:
                break
            member = ("ListApps", "Nothing", "Update")[number % 3]
            peer.send(member=member, interface=MANAGER, flags=NO_REPLY, fds=[null.fileno()] * 16)
            count += 1
    return count, f"{count * 16} descriptors"


def _odd_signatures() -> Iterator[str]:
    """Long ones, each different from all others."""
    kinds = "ybnqiuxtdsog"
    number = 0
    while True:
        number += 1
        digits, rest = "", number
        while rest:
            digits += kinds[rest % len(kinds)]
            rest //= len(kinds)
        yield digits.ljust(240, "y")


def _empty(signature: str) -> str:
    """An array of structures of that signature: its empty value is two words long."""
    return f"a({signature})"


def _odd_variant(signature: str, body: bytearray) -> bytearray:
    """`body` with such an empty value in a variant behind it."""
    body += wire_value("g", _empty(signature))
    body += bytes(-len(body) % 4 + 4)
    body += bytes(-len(body) % 8)
    return body


def odd_signatures(until: float) -> Sent:
    """20,000 signatures, each new to the daemon, of calls and of variants within calls."""
    hose = Hose(4)
    signatures = _odd_signatures()
    for number in range(10_000):
        odd = _empty(next(signatures))
        more = {"flags": NO_REPLY, "member": "Update", "interface": MANAGER}
        hose.load(number % 4, signature=odd, body=bytes(8), **more)
        hose.load(number % 4, signature="v", body=bytes(_odd_variant(next(signatures), bytearray())), **more)
    hose.run(until)
    return 20_000, "20,000 signatures"


def amplified_signatures(until: float) -> Sent:
    """Calls as large as the daemon reads, whose eight bytes each stand for a type of 240 parts."""
    hose = Hose(20)
    body = bytearray(wire_value("s", "notes"))
    body += wire_value("s", "why", len(body))
    body += bytes(-len(body) % 4 + 4)
    options = len(body)
    body += bytes(-len(body) % 8)
    began = len(body)
    body += wire_value("s", "x", len(body)) + wire_value("g", f"aa({'y' * 240})")
    body += bytes(-len(body) % 4 + 4)
    inner = len(body)
    body += bytes(-len(body) % 8 + (15_000 - len(body)) // 8 * 8)
    struct.pack_into("<I", body, inner - 4, len(body) - inner)
    struct.pack_into("<I", body, options - 4, len(body) - began)
    for number in range(1000):
        hose.load(number % 20, member="Hold", interface=MANAGER, signature="ssa{sv}", body=bytes(body))
    hose.run(until)
    return 1000, f"{1000 * len(body) >> 20} MiB"


def histories(until: float) -> Sent:
    """The dearest read, on 100 connections."""
    body = wire_value("s", "notes") + bytes(14)
    return _calls(until, 4000, 100, member="History", interface=MANAGER, signature="sua{sv}", body=body)


def histories_without_reply(until: float) -> Sent:
    body = wire_value("s", "notes") + bytes(14)
    return _calls(until, CALLS, 4, member="History", interface=MANAGER, signature="sua{sv}", body=body, flags=NO_REPLY)


def odd_signals(until: float) -> Sent:
    """Signals straight to the daemon, a megabyte each, full of variants whose types it has never seen."""
    owner = RawPeer(SOCKET)
    serial = owner.send(member="GetNameOwner", signature="s", body=wire_value("s", "org.slotd1"), **BUS)
    name = owner.replies([serial])[serial]["body"][4:-1].decode()
    hose = Hose(2)
    signatures = _odd_signatures()
    for number in range(40):
        body = bytearray(4)
        while len(body) < 1_000_000:
            _odd_variant(next(signatures), body)
        struct.pack_into("<I", body, 0, len(body) - 4)
        message = {"kind": 4, "to": name, "member": "Changed", "interface": PROPERTIES, "signature": "av"}
        hose.load(number % 2, body=bytes(body), **message)
    hose.run(until)
    return 40, "40 MB"


def no_interface_wrong_paths(until: float) -> Sent:
    hose = Hose(80)
    for number in range(CALLS):
        path = ("/", "/org/slotd1/app/nots", "/org/slotd1/job/18446744073709551616", "/x" * 2000)[number % 4]
        hose.load(number % 80, member=("Get", "Update", "Nothing", "GetAll")[number % 3], path=path)
    hose.run(until)
    return CALLS, f"{hose.received // 1024} KiB of answers"


def huge_arguments(until: float) -> Sent:
    """As large as the bus lets pass, and thousands as large as the daemon looks at."""
    hose = Hose(4)
    largest = 30 * 1024**2
    for index in range(2):
        hose.load(index, member="Update", interface=MANAGER, signature="s", body=wire_value("s", "x" * largest))
    array = struct.pack("<I", 60_000) + bytes(60_000)
    for number in range(3000):
        hose.load(number % 4, member="Update", interface=MANAGER, signature="ab", body=array, flags=NO_REPLY)
    hose.run(until)
    return 3002, f"{(2 * largest + 3000 * 60_000) >> 20} MiB"


def deep_variants(until: float) -> Sent:
    deep = b"\x01v\0" * 60 + b"\x01y\0\x01"
    return _calls(until, CALLS, 4, member="Update", interface=MANAGER, signature="v", body=deep, flags=NO_REPLY)


def match_rules(until: float) -> Sent:
    hose = Hose(20)
    for index in range(20):
        for number in range(520):
            rule = f"type='signal',sender='org.slotd1',arg0='{number}'"
            hose.load(index, member="AddMatch", signature="s", body=wire_value("s", rule), **BUS)
    hose.run(until)
    return 20 * 520, "match rules"


def changes_without_leave(until: float) -> Sent:
    """Each has to be authorised; on 40 connections at a time."""
    hose = Hose(40)
    for number in range(2000):
        hose.load(number % 40, member="Unhold", interface=MANAGER, signature="sa{sv}", body=NOTES)
    hose.run(until)
    return 2000, f"{hose.received // 1024} KiB of answers"


def callers_who_vanish(until: float) -> Sent:
    """Before the answer, while being authorised (with and without a dialogue), and while signals flow."""
    count = 0
    while time.monotonic() < until and count < 3000:
        peer = RawPeer(SOCKET)
        peer.send(member="AddMatch", signature="s", body=wire_value("s", "type='signal'"), **BUS)
        for flags in (0, INTERACTIVE, NO_REPLY):
            peer.send(member="Unhold", interface=MANAGER, signature="sa{sv}", body=NOTES, flags=flags)
            peer.send(member="GetManagedObjects", interface=OBJECTS, flags=flags)
            count += 2
        if count % 4:
            time.sleep(0.002)
        peer.close()
    return count, f"{count // 6} connections"


def subscribers_who_never_read(until: float) -> Sent:
    peers = [RawPeer(SOCKET) for _ in range(100)]
    for peer in peers:
        peer.send(member="AddMatch", signature="s", body=wire_value("s", "type='signal'"), **BUS)
    time.sleep(max(0.0, until - time.monotonic()))
    return len(peers), "never read"


def many_connections(until: float) -> Sent:
    """As many as the bus allows a user, each asking for a little."""
    peers: list[RawPeer] = []
    with contextlib.suppress(OSError, EOFError):
        while len(peers) < 240 and time.monotonic() < until:
            peers.append(RawPeer(SOCKET))
    count = 0
    while time.monotonic() < until:
        for peer in peers:
            peer.replies([peer.send(member="ListApps", interface=MANAGER)])
            count += 1
    return count, f"{len(peers)} connections"


def nothing(until: float) -> Sent:
    """What the others are compared with."""
    time.sleep(max(0.0, until - time.monotonic()))
    return 0, "for comparison"


ATTACKS: dict[str, Callable[[float], Sent]] = {
    attack.__name__.replace("_", " "): attack
    for attack in (
        calls_without_reply, calls_with_reply, introspections, unread_answers, descriptors, odd_signatures,
        amplified_signatures, histories, histories_without_reply, odd_signals,
        no_interface_wrong_paths, huge_arguments, deep_variants, match_rules, changes_without_leave, callers_who_vanish,
        subscribers_who_never_read, many_connections,
    )
}  # fmt: skip


def _ask_again_and_again(message: dict[str, Any], end: threading.Event, found: dict[str, float]) -> None:
    """On a connection of its own, every 10 ms."""
    peer = RawPeer(SOCKET)
    peer.socket.settimeout(60)
    found |= {"answers": 0, "refused": 0, "longest_s": 0.0}
    while not end.wait(POLL_S):
        began = time.monotonic()
        serial = peer.send(**message)
        found["refused"] += bool(peer.replies([serial])[serial]["error"])
        found["answers"] += 1
        found["longest_s"] = max(found["longest_s"], time.monotonic() - began)


def _get(interface: str, name: str) -> dict[str, Any]:
    """The question for a property."""
    body = wire_value("s", interface)
    body += wire_value("s", name, len(body))
    return {"member": "Get", "interface": PROPERTIES, "signature": "ss", "body": body}


def poll() -> dict[str, dict[str, float]]:
    """Ask slotd and systemd for a property and the bus for its id, all the while, until there is a line to read."""
    questions: dict[str, dict[str, Any]] = {
        "slotd": _get(MANAGER, "NJobs"),
        "systemd": {"to": SYSTEMD, "path": "/org/freedesktop/systemd1"} | _get(f"{SYSTEMD}.Manager", "Version"),
        "bus": BUS | {"member": "GetId"},
    }
    found: dict[str, dict[str, float]] = {name: {} for name in questions}
    end = threading.Event()
    threads = [
        threading.Thread(target=_ask_again_and_again, args=(message, end, found[name]))
        for name, message in questions.items()
    ]
    for thread in threads:
        thread.start()
    print("polling", flush=True)
    sys.stdin.readline()
    end.set()
    for thread in threads:
        thread.join()
    return found


def main() -> None:
    if sys.argv[1] == "poll":
        print(json.dumps(poll()))
        return
    began = time.monotonic()
    try:
        calls, note = ATTACKS.get(sys.argv[1], nothing)(began + float(sys.argv[2]))
    except (OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ECONNRESET, errno.EPIPE, None):
            raise
        calls, note = 0, f"thrown out by the bus: {error or type(error).__name__}"
    print(json.dumps({"calls": calls, "seconds": time.monotonic() - began, "note": note}))


if __name__ == "__main__":
    main()
