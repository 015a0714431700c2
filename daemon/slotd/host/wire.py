"""The wire below HTTP: its time ends whatever a library is doing with it, and why it broke is said in words."""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.request import getproxies_environment, proxy_bypass

from slotd.errors import Misconfigured

# The HTTP library loads its own command line, with all that draws in a terminal, if that is installed: a quarter of
# what a worker takes to start. It does without where that cannot be loaded.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]


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


class Ways:
    """Straight to a server, or through the proxy that the environment names for it (`http_proxy`, `https_proxy`,
    `no_proxy`, as curl(1) reads them). `make` gives what sends requests through a proxy, or straight if it is empty.
    """

    def __init__(self, make: Callable[[str], Any]) -> None:
        self._make = make
        self._proxies = getproxies_environment()
        self._open: dict[str, Any] = {}

    def to(self, scheme: str, host: str) -> Any:
        """What sends a request to this host; kept until `close`."""
        proxy = "" if proxy_bypass(host, self._proxies) else self._proxies.get(scheme, "")
        if proxy and "://" not in proxy:
            proxy = f"http://{proxy}"
        if proxy not in self._open:
            try:
                self._open[proxy] = self._make(proxy)
            except ValueError:
                name = proxy.rpartition("@")[2]  # its password is nobody's business
                raise Misconfigured(
                    f"cannot use the proxy {name[:200]!r} of {scheme}_proxy: it is no address of an HTTP proxy.",
                    hint="Write it like http://proxy.example.org:3128 in a drop-in of slotd.service, see slotd(8).",
                ) from None
        return self._open[proxy]

    def close(self) -> None:
        for way in self._open.values():
            way.close()
