"""The worker program: one piece of work on foreign bytes, in a unit of its own, and then gone.

    python3 -I -m slotd.worker VERB

Descriptor 0 is a socket to the daemon (`slotd.host.frames`): one request comes in, with descriptors; progress and
one result go out. Descriptor 1 takes what is said on the way. A daemon that dies is seen as the end of descriptor 0.
What a worker says is a claim, which the daemon checks.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, Final

from slotd.errors import SlotdError
from slotd.host import failpoint, frames

Verb = Callable[[dict[str, Any], list[int], Callable[[dict[str, Any]], None]], dict[str, Any]]

# verb -> "module:function", imported when it is asked for
VERBS: Final = {
    "list": "slotd.sources.work:list_releases",
    "lists": "slotd.sources.work:list_together",
    "fetch": "slotd.sources.work:fetch",
    "small": "slotd.sources.work:small",
    "collect": "slotd.sources.tuf:collect",
    "judge": "slotd.verify.tuf:judge",
    "verify": "slotd.verify.work:verify",
    "unpack": "slotd.engines.unpack:unpack",
    "copy": "slotd.host.handover:copy",
}


def main() -> None:
    """Serve the one request on descriptor 0. The exit status says nothing: the result frame does."""
    verb = sys.argv[1] if len(sys.argv) == 2 else ""
    if verb not in VERBS:
        sys.exit(f"usage: slotd.worker {'|'.join(VERBS)}")
    os.dup2(1, 2)  # descriptor 2 belongs to systemd-run
    daemon = socket.socket(fileno=os.dup(0))
    request, fds = _receive(daemon)
    answered = threading.Event()
    threading.Thread(target=_leave_with, args=(daemon, answered), daemon=True).start()

    def progress(said: dict[str, Any]) -> None:
        daemon.sendall(frames.encode({"progress": said}))

    try:
        failpoint.hit(f"worker-{verb}:begin")
        answer = frames.encode({"ok": _find(verb)(request, fds, progress)})
        failpoint.hit(f"worker-{verb}:end")
    except SlotdError as error:
        answer = frames.encode({"error": frames.told(error)})
    except BaseException as error:  # whatever it is, the daemon must hear of it
        traceback.print_exc()
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        message = f"cannot {verb}: the worker met something unforeseen, {what[:1000]}."
        answer = frames.encode({"error": {"name": "Failed", "message": message, "hint": "See `journalctl -u slotd`."}})
    answered.set()
    daemon.sendall(answer)
    sys.stderr.flush()
    os._exit(0)  # nothing to clean up, and foreign bytes have been in these hands


def _find(verb: str) -> Verb:
    module, _, function = VERBS[verb].partition(":")
    found: Verb = getattr(importlib.import_module(module), function)
    return found


def _receive(daemon: socket.socket) -> tuple[dict[str, Any], list[int]]:
    head, fds, _, _ = socket.recv_fds(daemon, frames.HEAD.size, frames.DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    head += _exactly(daemon, frames.HEAD.size - len(head))
    return frames.decode(_exactly(daemon, frames.length(head))), fds


def _exactly(daemon: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = daemon.recv(count - len(parts))
        if not part:
            sys.exit("the daemon went away")
        parts += part
    return bytes(parts)


def _leave_with(daemon: socket.socket, answered: threading.Event) -> None:
    """Ends the worker when the daemon is gone; it says nothing after its request."""
    try:
        daemon.recv(1)
    finally:
        os._exit(0 if answered.is_set() else 1)


if __name__ == "__main__":
    main()
