"""Calls that come in: found their object, checked, run, answered. The standard interfaces are answered here.

One place maps errors: a `SlotdError` goes out under its own name, everything else as `org.slotd1.Error.Failed` with a
reference into the journal. No user can starve others: they are served in turn (`Turns`), and what each of their
connections may have waiting, running and sent is bounded (`PeerLimits`).
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dbus_fast import Variant

from slotd.errors import SlotdError
from slotd.host.bus import LIMITS_EXCEEDED, Bus, Call, Malformed, close_fds, serving
from slotd.host.bus_credit import Account, Credit, CreditLimits, unread_bytes
from slotd.service.callers import Callers, has_left
from slotd.service.interface import ROOT, Arg, Interface, Method, Node, typed
from slotd.service.turns import Peer, Turns

_ERROR = "org.freedesktop.DBus.Error."
_PROPERTIES = "org.freedesktop.DBus.Properties"
_OBJECTS = "org.freedesktop.DBus.ObjectManager"
_INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
_PEER = "org.freedesktop.DBus.Peer"
TURN_S = 0.005
PEERS = 1024  # that are remembered, more or less
BACKLOG_BYTES = 512 * 1024
FILES = 64  # that are open for calls which wait or are worked on, of all callers together
_SHOWN_CHARS = 120  # of a caller's own words in an error

INTROSPECTABLE = Interface(_INTROSPECTABLE, (Method("Introspect", (), (Arg("xml_data", "s"),)),))
PEER = Interface(_PEER, (Method("Ping"), Method("GetMachineId", (), (Arg("machine_uuid", "s"),))))
OBJECTS = Interface(_OBJECTS, (Method("GetManagedObjects", (), (Arg("objects", "a{oa{sa{sv}}}"),)),))
_NAME = (Arg("interface_name", "s"), Arg("property_name", "s"))
PROPERTIES = Interface(
    _PROPERTIES,
    (
        Method("Get", _NAME, (Arg("value", "v"),)),
        Method("Set", (*_NAME, Arg("value", "v"))),
        Method("GetAll", _NAME[:1], (Arg("properties", "a{sv}"),)),
    ),
)

_DOCTYPE = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    ' "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)
# Signals of the standard interfaces, which no method above shows.
_STANDARD_SIGNALS = {
    _PROPERTIES: '    <signal name="PropertiesChanged">\n      <arg name="interface_name" type="s"/>\n'
    '      <arg name="changed_properties" type="a{sv}"/>\n      <arg name="invalidated_properties" type="as"/>\n'
    "    </signal>\n  </interface>",
    _OBJECTS: '    <signal name="InterfacesAdded">\n      <arg name="object" type="o"/>\n'
    '      <arg name="interfaces" type="a{sa{sv}}"/>\n    </signal>\n    <signal name="InterfacesRemoved">\n'
    '      <arg name="object" type="o"/>\n      <arg name="interfaces" type="as"/>\n    </signal>\n  </interface>',
}


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """Bounds for each peer: calls that wait and that are worked on, and answers that it does not read."""

    waiting: int = 128
    waiting_bytes: int = 64 * 1024
    running: int = 32
    credit: CreditLimits = field(default_factory=CreditLimits)


class Refused(Exception):
    """A call that fits nothing here; `name` is the standard error."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name if "." in name else _ERROR + name


class Objects:
    """The tree of objects. `find` gives the node at a path, `nodes` all that are shown below the root."""

    def __init__(
        self,
        bus: Bus,
        callers: Callers,
        find: Callable[[str], Node | None],
        nodes: Callable[[], Iterable[Node]],
        limits: PeerLimits,
    ) -> None:
        self._bus = bus
        self._callers = callers
        self._find = find
        self._nodes = nodes
        self._limits = limits
        self._peers: dict[str, Peer] = {}
        self._turns = Turns()
        self._are_piled_up = False
        self._files = 0
        self._is_to_take_turns = False
        self._learning: dict[Peer, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._settled = asyncio.Event()
        self._settled.set()
        self._loop = asyncio.get_running_loop()
        self.last_call = self._loop.time()
        self._credit = Credit(partial(unread_bytes, bus.call), limits.credit, self._loop.time, self._go_on)
        self._forget_at = PEERS
        self._settling: asyncio.Task[None] | None = None

    @property
    def in_flight(self) -> int:
        """Calls that are not answered yet."""
        return len(self._tasks) + self._turns.waiting

    async def drain(self, timeout_s: float) -> None:
        """Wait until all calls are answered; those that take longer than `timeout_s` are cancelled."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._settled.wait()
        except TimeoutError:
            for task in (left := [*self._tasks, *self._learning.values()]):
                task.cancel()
            if left:  # those that wait for a thread may take longer
                await asyncio.wait(left, timeout=timeout_s + 1.0)

    def on_call(self, call: Call) -> None:
        """Put a call where its turn will come."""
        self.last_call = self._loop.time()
        peer = self._peer(call.sender)
        if (
            len(peer.waiting) >= self._limits.waiting
            or peer.waiting_bytes + call.held_bytes > self._limits.waiting_bytes
        ):
            self._refuse(
                call, peer, Refused(LIMITS_EXCEEDED, "cannot take more calls: too many of yours wait already.")
            )
            return
        if call.member == "Import" and len(call.fds) == 1 and self._files < FILES:  # any other call's are closed
            call.keeps_fds = True
            self._files += 1
        self._take_turns_soon()
        self._learn(peer)
        self._settled.clear()
        self._turns.put(peer, call)

    def _learn(self, peer: Peer) -> None:
        """Find out whose it is."""
        if peer.uid is None and peer not in self._learning:
            self._learning[peer] = task = asyncio.ensure_future(self._find_user(peer))
            task.add_done_callback(lambda _: self._on_learned(peer))

    async def _find_user(self, peer: Peer) -> None:
        try:
            self._turns.know(peer, await self._callers.user(peer.account.name))
        except SlotdError as error:
            if has_left(error):
                [*map(self._let_go, self._turns.drop(peer))]
                self._settle()

    def _let_go(self, call: Call) -> None:
        if call.keeps_fds:
            call.keeps_fds = False
            self._files -= 1
            close_fds(call.take_fds())

    def _on_learned(self, peer: Peer) -> None:
        del self._learning[peer]
        self._go_on()

    def _take_turns(self) -> None:
        """One call after another, for a short while; then the rest of the daemon has its turn.

        Nothing is worked on while the bus does not take the answers: what one peer asked for would wait before others'.
        """
        self._is_to_take_turns = False
        until = self._loop.time() + TURN_S
        while self._turns.waiting:
            if self._bus.backlog_bytes > BACKLOG_BYTES:
                self._bus.when_taken(BACKLOG_BYTES, self._take_turns_soon)
                return
            chosen = self._turns.next(self._must_wait)
            if chosen is None:
                return  # it goes on when that is known
            peer, call = chosen
            began = time.thread_time()
            self._answer(call, peer)
            self._turns.charge(peer, time.thread_time() - began)
            if self._turns.waiting and self._loop.time() > until:
                self._are_piled_up = True
                self._take_turns_soon()
                return
        self._are_piled_up = False
        self._settle()

    def _must_wait(self, peer: Peer) -> bool:
        """Whether the bus is being asked about it: what it has read and, once calls pile up, whose it is."""
        if self._are_piled_up and peer in self._learning:
            return True
        return self._credit.is_being_asked(peer.account)

    def _go_on(self) -> None:
        if self._turns.waiting:
            self._take_turns_soon()

    def _take_turns_soon(self) -> None:
        """Once, whoever asks for it: what else there is to do has its time in between."""
        if not self._is_to_take_turns:
            self._is_to_take_turns = True
            self._loop.call_soon(self._take_turns)

    def _settle(self, task: asyncio.Task[None] | None = None) -> None:
        if task is not None:
            self._tasks.discard(task)
        if not self._turns.waiting and not self._tasks:
            self._settled.set()

    def _answer(self, call: Call, peer: Peer) -> None:
        """Answer a call, at once or later."""
        try:
            if call.refused_bytes:
                raise Refused(LIMITS_EXCEEDED, f"cannot take {call.refused_bytes} bytes of arguments: too many.")
            if not self._credit.may_answer(peer.account):
                raise Refused(LIMITS_EXCEEDED, "cannot send you more answers: read those that you have been sent.")
            with serving(call):
                signature, answer = self._run(call, peer)
                if inspect.isawaitable(answer):
                    task = asyncio.ensure_future(self._later(call, peer, signature, answer))
                    peer.running += 1
                    self._tasks.add(task)
                    self._settled.clear()
                    task.add_done_callback(self._settle)
                    task.add_done_callback(lambda _: self._let_go(call))
                    return
                self._credit.sent(peer.account, self._bus.reply(call, signature, answer))
        except (Refused, SlotdError) as error:
            self._refuse(call, peer, error)
        except Exception as error:
            self._credit.sent(peer.account, self._bus.fault(call, error))
        self._let_go(call)

    async def _later(self, call: Call, peer: Peer, signature: str, answer: Awaitable[Sequence[Any]]) -> None:
        try:
            self._credit.sent(peer.account, self._bus.reply(call, signature, await answer))
        except (Refused, SlotdError) as error:
            self._refuse(call, peer, error)
        except Exception as error:
            self._credit.sent(peer.account, self._bus.fault(call, error))
        finally:
            peer.running -= 1

    def _refuse(self, call: Call, peer: Peer, error: Refused | SlotdError) -> None:
        if not self._credit.may_refuse(peer.account):
            return  # it reads nothing, so it is told nothing; the bus lets it have no more than a few such calls open
        if isinstance(error, Refused):
            self._credit.sent(peer.account, self._bus.refuse(call, error.name, str(error)))
            return
        # The hint stands on a line of its own, so that programs can tell it from what happened.
        text = " ".join(error.message.splitlines()) + (f"\n{error.hint}" if error.hint else "")
        self._credit.sent(peer.account, self._bus.refuse(call, error.bus_name, text))

    def _peer(self, name: str) -> Peer:
        peer = self._peers.get(name)
        if peer is None:
            if len(self._peers) >= self._forget_at:
                self._forget_quiet()
                if len(self._peers) >= PEERS // 2 and (self._settling is None or self._settling.done()):
                    self._settling = asyncio.ensure_future(self._credit.settle())
                self._forget_at = max(PEERS, 2 * len(self._peers))
            peer = self._peers[name] = Peer(Account(name), self._callers.known(name))
        return peer

    def _forget_quiet(self) -> None:
        """Forget peers that owe nothing; to come anew is no way to be rid of what one has not read."""
        quiet = [n for n, p in self._peers.items() if not p.running and not p.waiting and not p.account.owed]
        for name in quiet:
            del self._peers[name]

    def _run(self, call: Call, peer: Peer) -> tuple[str, Sequence[Any] | Awaitable[Sequence[Any]]]:
        """Find the method and run it; gives the reply's signature and its values, or what will give them."""
        node = self._find(call.path)
        if node is None and not self._is_above(call.path):
            raise Refused("UnknownObject", f"there is no object {call.path[:_SHOWN_CHARS]}.")
        interface, method = self._method(call, node)
        if call.signature != method.signature:
            wanted = f'"{method.signature}"' if method.signature else "no arguments"
            raise Refused(
                "InvalidArgs",
                f'{interface.name}.{method.name} takes {wanted}, not "{call.signature[:_SHOWN_CHARS]}".',
            )
        is_own = node is not None and interface is node.interface
        if not call.wants_reply and (method.is_read or not is_own):
            return "", []  # what it says would reach nobody
        try:
            call.load()
        except Malformed as error:
            raise Refused("InvalidArgs", f"cannot read the call: {error}.") from error
        if node is not None and interface is node.interface:
            if peer.running >= self._limits.running:
                raise Refused(LIMITS_EXCEEDED, f"cannot take more calls: {peer.running} of yours are being worked on.")
            return method.reply_signature, node.call(method, call)
        return method.reply_signature, self._standard(call, node, method)

    def _method(self, call: Call, node: Node | None) -> tuple[Interface, Method]:
        """By interface and name; without an interface, which D-Bus allows, the first that has such a method."""
        offered = self._interfaces(node)
        if call.interface:
            offered = [interface for interface in offered if interface.name == call.interface]
            if not offered:
                where = f"the object {call.path[:_SHOWN_CHARS]}"
                raise Refused("UnknownInterface", f"{where} has no interface {call.interface}.")
        for interface in offered:
            method = interface.method(call.member)
            if method is not None:
                return interface, method
        where = call.interface or f"the object {call.path[:_SHOWN_CHARS]}"
        raise Refused("UnknownMethod", f"{where} has no method {call.member}.")

    @staticmethod
    def _interfaces(node: Node | None) -> list[Interface]:
        if node is None:
            return [INTROSPECTABLE, PEER]
        own = [node.interface, PROPERTIES, INTROSPECTABLE, PEER]
        return [*own, OBJECTS] if node.path == ROOT else own

    def _is_above(self, path: str) -> bool:
        return path == "/" or path in (f"{ROOT}/app", f"{ROOT}/job") or ROOT.startswith(path + "/")

    def _standard(self, call: Call, node: Node | None, method: Method) -> Sequence[Any]:
        """The standard interfaces."""
        match method.name:
            case "Introspect":
                return [self._introspect(call.path, node)]
            case "GetMachineId":
                return [_machine_id()]
            case "GetManagedObjects":
                return [self._managed()]
        if node is None or method.name == "Ping":
            return []
        match method.name:
            case "Get":
                return [self._get(node, *call.body)]
            case "GetAll":
                return [self._get_all(node, call.body[0])]
            case _:
                self._get(node, *call.body[:2])
                raise Refused("PropertyReadOnly", f"the property {call.body[1]} can only be read.")

    def _own(self, node: Node, interface: str) -> bool:
        """Whether the interface's properties are the node's own; False for the standard ones, which have none."""
        if interface in ("", node.interface.name):
            return True
        if interface in (one.name for one in self._interfaces(node)):
            return False
        raise Refused("UnknownInterface", f"the object {node.path} has no interface {interface[:_SHOWN_CHARS]}.")

    def _get(self, node: Node, interface: str, name: str) -> Variant:
        prop = node.interface.property(name) if self._own(node, interface) else None
        if prop is None:
            raise Refused("UnknownProperty", f"there is no property {name[:_SHOWN_CHARS]}.")
        return Variant(prop.type, node.values()[name])

    def _get_all(self, node: Node, interface: str) -> dict[str, Variant]:
        return typed(node.values(), node.interface.properties) if self._own(node, interface) else {}

    def _managed(self) -> dict[str, dict[str, dict[str, Variant]]]:
        found = {}
        for node in self._nodes():
            try:
                found[node.path] = {node.interface.name: typed(node.values(), node.interface.properties)}
            except SlotdError:
                continue  # gone between the listing and the look
        return found

    def _introspect(self, path: str, node: Node | None) -> str:
        parts = []
        for interface in self._interfaces(node):
            xml = interface.xml()
            if interface.name in _STANDARD_SIGNALS:
                xml = xml.removesuffix("  </interface>") + _STANDARD_SIGNALS[interface.name]
            parts.append(xml)
        below = path.rstrip("/") + "/"
        shown = [ROOT, f"{ROOT}/app", f"{ROOT}/job", *(one.path for one in self._nodes())]
        children = {one[len(below) :].split("/", 1)[0] for one in shown if one.startswith(below)}
        parts += [f'  <node name="{child}"/>' for child in sorted(children)]
        return _DOCTYPE + "<node>\n" + "\n".join(parts) + "\n</node>\n"


def _machine_id() -> str:
    for place in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            return Path(place).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
    raise Refused("Failed", "this host has no machine id.")
