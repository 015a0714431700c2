"""A TUF repository, beside the network: its metadata are collected here, and judged elsewhere.

Below the definition's `url` lie `metadata/` and `targets/`. What this worker brings is believed by nobody: the same
walk is made again by one without network (`slotd.verify.tuf`), over what the daemon keeps and what was collected.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from slotd.core import tufwalk
from slotd.core.schema import Limits
from slotd.errors import SlotdError, SourceFailed
from slotd.host import tuflib
from slotd.host.fetch import Session
from slotd.sources.work import limits_of, own_credential

_NOT_THERE = (403, 404)  # buckets say 403 for what they do not have


def collect(request: Mapping[str, Any], fds: Sequence[int], progress: Callable[[Any], None]) -> dict[str, Any]:
    """{source, limits, pinned, kept, now, credential, credential_host} -> {offered, problem}; metadata are in base64.

    `problem` is empty, or what kept it from collecting more: what was collected until then is handed over all the same.
    """
    limits = limits_of(request)
    url = str(request["source"]["url"])
    pinned, kept = base64.b64decode(request["pinned"]), tuflib.decoded(request["kept"])
    found, offered = tufwalk.Found(), dict[str, bytes]()
    problem = {}
    with Session(limits, limits.index_s, own_credential(request, url)) as session:

        def get(wanted: tufwalk.Wanted) -> bytes | None:
            data = _get(session, f"{url}/metadata/{wanted.path}", _most(wanted, offered), limits)
            if data is not None:
                offered[wanted.name] = data
            return data

        try:
            tufwalk.follow(tufwalk.walk(tuflib.library(), pinned, kept, float(request["now"]), found), get)
        except SlotdError as error:
            problem = {"message": error.message, "hint": error.hint, "retry_at": getattr(error, "retry_at", 0.0)}
    return {"offered": tuflib.encoded(offered), "problem": problem}


def _most(wanted: tufwalk.Wanted, offered: Mapping[str, bytes]) -> int:
    left = tufwalk.MOST_BYTES - sum(len(data) for data in offered.values())
    if left <= 0:
        raise SourceFailed(f"cannot use the TUF repository: its metadata are larger than {tufwalk.MOST_BYTES} bytes")
    return min(wanted.most_bytes, left)


def _get(session: Session, url: str, most_bytes: int, limits: Limits) -> bytes | None:
    with session.get(url) as reply:
        if reply.status in _NOT_THERE:
            return None
        if reply.status != 200:
            reply.refuse()
        return reply.body(most_bytes, tufwalk.HINT)
