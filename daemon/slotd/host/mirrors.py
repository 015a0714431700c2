"""One file from the address that its source gives, or where that fails from its mirrors, in their order.

What a mirror gives is never more than bytes: the source chose the release, and its digest decides. A mirror is shown no
credential, and is not asked in plain text for what the source gives by TLS.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from slotd.core.answer import shown
from slotd.core.schema import Limits
from slotd.errors import SourceFailed
from slotd.host import download as door
from slotd.host.fetch import Pace


def download(
    order: door.Order,
    mirrors: Sequence[str],
    fd: int,
    limits: Limits,
    progress: door.Progress,
    pace: Pace | None = None,
    deadline_s: float | None = None,
) -> tuple[door.Downloaded, int]:
    """As `download.download`, within one deadline for all. Also gives who gave it: 0 for the source, else which mirror.

    What is there of the file is gone on from at another address only if a digest is known and the validators agree.
    Raises what the source's own address failed with.
    """
    end = time.monotonic() + (limits.download_s if deadline_s is None else deadline_s)
    state = dict(order.state)
    failed: list[SourceFailed] = []
    is_safe = order.url.lower().startswith("https:")
    addresses = [order.url, *mirrors]
    wanted = order.expected_digest
    alike = tuple(addresses) if wanted.startswith("sha256:") else ()

    def watch(said: dict[str, Any]) -> None:
        state.clear()
        state.update(said["state"])
        progress(said)

    for number, url in enumerate(addresses):
        if number and is_safe and not url.lower().startswith("https:"):
            failed.append(SourceFailed(f"cannot read {shown(url)}: the source is asked by https, it would not be"))
            continue
        left_s = end - time.monotonic()
        if failed and left_s <= 0:
            break
        secret = order.credential if number == 0 else None
        one = replace(order, url=url, state=dict(state), credential=secret, alike=alike)
        try:
            done = door.download(one, fd, limits, watch, pace, left_s)
        except SourceFailed as error:
            failed.append(error)
            continue
        if number and alike and wanted != f"sha256:{done.sha256}":
            state.clear()  # nothing is gone on from it
            failed.append(SourceFailed(f"cannot use {shown(url)}: it has another file than the source says"))
            continue
        return replace(done, pieced=done.pieced or number > 0), number
    first, *others = failed
    if others:
        first.message = f"{first.message.rstrip('.')}; no mirror gave it, the last: {others[-1].message}"
    raise first
