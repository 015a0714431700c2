"""The wire below HTTP: its time ends whatever a library is doing with it, and why it broke is said in words."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time


class Watchdog:
    """Cuts a connection when its time is up. A read's timeout does not do that: a server may drip headers or chunk
    framing byte by byte, and the HTTP library reads on without giving control back.
    """

    def __init__(self) -> None:
        self.has_cut = False
        self._until = float("inf")
        self._socket: socket.socket | None = None
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="slotd-fetch-deadline", daemon=True)
        self._thread.start()

    def watch(self, connection: socket.socket) -> None:
        """This connection from now on, and no other."""
        with self._changed:
            self._drop()
            # A duplicate: TLS detaches the original, and a shutdown through any of them reaches the connection.
            self._socket = connection.dup()
            self.has_cut = False

    def allow(self, until: float) -> None:
        """Cut at `until` (monotonic seconds) unless told otherwise before. Cheap where time is added."""
        is_sooner = until < self._until
        self._until = until
        if is_sooner:
            with self._changed:
                self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._drop()
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        with self._changed:
            while not self._is_closed:
                left_s = self._until - time.monotonic()
                if left_s <= 0:
                    self._cut()
                else:
                    self._changed.wait(min(left_s, threading.TIMEOUT_MAX))

    def _cut(self) -> None:
        self.has_cut = True
        self._until = float("inf")
        if self._socket is not None:
            with contextlib.suppress(OSError):  # already closed by the peer
                self._socket.shutdown(socket.SHUT_RDWR)

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def cause(error: BaseException) -> str:
    """What the system or TLS said deep in a library's error, in words; empty if it is neither."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, ssl.SSLCertVerificationError):
            return f"its certificate is not valid here ({inner.verify_message})"
        if isinstance(inner, ssl.SSLError):
            return f"the TLS connection failed ({inner.reason or 'broken off'})"
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror[:1].lower() + inner.strerror[1:]
        inner = inner.__cause__ or inner.__context__
    return ""
