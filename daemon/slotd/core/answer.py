"""What an HTTP answer means (RFC 9110): refusals as sentences, when to come back, whether a part fits what we have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from slotd.errors import SourceFailed

LONGEST_BAN_S = 86400.0  # a server cannot silence us for longer than a day
UNSAID_BAN_S = 60.0  # "too many requests" without a time
STRONG_AFTER_S = 60.0  # a Last-Modified this much older than the answer can tell two versions apart

_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)", re.ASCII)


def shown(url: str) -> str:
    """An address for messages: without user, password, query (signed links hold secrets there) and fragment."""
    bare = re.sub(r"^([a-zA-Z]+://)[^/?#]*@", r"\1", url.split("?", 1)[0].split("#", 1)[0])
    bare = "".join(sign if sign.isprintable() else "?" for sign in bare)
    return bare if len(bare) <= 200 else bare[:199] + "…"


def refusal(status: int, headers: Mapping[str, str], url: str, now: float, *, had_credential: bool) -> SourceFailed:
    """The error for a status that is not what was asked for. `headers` in lower case, `now` since the epoch."""
    start = f"cannot read {shown(url)}:"
    retry_at = come_back(status, headers, now)
    if retry_at and status in (403, 429):
        clock = datetime.fromtimestamp(retry_at, UTC).strftime("%H:%M:%S UTC")
        hint = "" if had_credential else " A `credential` in [source] raises the limit at most servers."
        return SourceFailed(
            f"{start} the server's limit of requests is used up until {clock} ({status})",
            hint=f"The next check after that time will work.{hint}",
            retry_at=retry_at,
        )
    if status in (401, 403, 407):
        if had_credential:
            return SourceFailed(
                f"{start} the server does not accept the credential ({status})",
                hint="It may have expired, or lack the right to read this.",
            )
        return SourceFailed(
            f"{start} the server wants to know who asks ({status})", hint="Give a `credential` in [source]."
        )
    if status in (404, 410):
        hint = "Check the names and addresses in [source]."
        return SourceFailed(
            f"{start} there is nothing of that name ({status})",
            hint=hint if had_credential else f"{hint} If it is private, it needs a `credential`.",
        )
    if status >= 500:
        return SourceFailed(f"{start} the server has a fault ({status})", hint="Try again later.", retry_at=retry_at)
    return SourceFailed(f"{start} the server answered with status {status}", retry_at=retry_at)


def not_yet(retry_at: float, source: str = "the source") -> SourceFailed:
    """For what is not asked, since the server has said when to come back."""
    clock = datetime.fromtimestamp(retry_at, UTC).strftime("%H:%M:%S UTC")
    return SourceFailed(
        f"cannot ask {source}: its server does not want to be asked again before {clock}.",
        hint="The app runs on as it is; the next check after that time will work.",
        retry_at=retry_at,
    )


def too_late(url: str, deadline_s: float) -> SourceFailed:
    """The deadline of the whole has passed, whether the server was slow or sent without an end."""
    return SourceFailed(
        f"cannot read {shown(url)}: it took longer than {round(deadline_s, 1):g} s",
        hint="Try again later. If it needs that long, raise `index` or `download` in [limits] of slotd.toml.",
    )


class TooLarge(SourceFailed):
    """It goes past a bound of ours: where a server has a shorter form of the same, that may do."""


def too_large(url: str, most_bytes: int, hint: str = "") -> TooLarge:
    """A list, a sums file or a signature that is longer than anything of its kind. `hint`: for what no limit says."""
    return TooLarge(
        f"cannot read {shown(url)}: it is larger than {most_bytes} bytes",
        hint=hint or "If it really is that large, raise `index_bytes` or `sums_bytes` in [limits] of slotd.toml.",
    )


def too_far(url: str, redirects: int) -> SourceFailed:
    """Redirects without an end, or nearly."""
    return SourceFailed(
        f"cannot read {shown(url)}: it redirects more than {redirects} times",
        hint="Give the address that it leads to in the end, or tell whoever runs the server.",
    )


def come_back(status: int, headers: Mapping[str, str], now: float) -> float:
    """When the server wants to be asked again, seconds since the epoch; 0 if it did not say. `retry-after` comes first,
    then `x-ratelimit-reset` or `ratelimit-reset` where nothing remains, and 429 without either means a minute.
    """
    after = headers.get("retry-after", "").strip()
    when = 0.0
    if re.fullmatch(r"\d{1,9}", after, re.ASCII):
        when = now + int(after)
    elif after:
        when = _http_date(after)
    when = when or _limit_reset(headers, "x-ratelimit", now) or _limit_reset(headers, "ratelimit", now, may_count=True)
    if not when and status == 429:
        when = now + UNSAID_BAN_S
    return min(when, now + LONGEST_BAN_S) if when > now else 0.0


def _limit_reset(headers: Mapping[str, str], family: str, now: float, *, may_count: bool = False) -> float:
    """When requests count anew, if none remains: an epoch time, as GitHub and GitLab tell it, or where `may_count` also
    seconds from now (draft-ietf-httpapi-ratelimit-headers, until its version 7).
    """
    text = headers.get(f"{family}-reset", "").strip()
    if headers.get(f"{family}-remaining", "").strip() != "0" or not re.fullmatch(r"\d{1,12}", text, re.ASCII):
        return 0.0
    reset = float(text) + (now if may_count and float(text) <= LONGEST_BAN_S else 0.0)
    return max(reset, now + 1)


def _http_date(text: str) -> float:
    try:
        when = parsedate_to_datetime(text[:40])
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, TypeError):
        return 0.0


@dataclass(frozen=True, slots=True)
class Part:
    """Content-Range: which bytes of how many. `total` is None where the server does not know; a 416 has no `first`."""

    first: int | None
    last: int | None
    total: int | None


def content_range(headers: Mapping[str, str]) -> Part | None:
    """None if there is none or it makes no sense."""
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())
    if match is None:
        return None
    first, last, total = (int(group) if group and group != "*" else None for group in match.groups())
    if first is not None and last is not None and (first > last or (total is not None and last >= total)):
        return None
    return Part(first, last, total)


def validator(headers: Mapping[str, str]) -> str:
    """What `If-Range` may hold: a strong ETag, a Last-Modified old enough to be one (RFC 9110, 8.8.2.2), or empty."""
    etag = headers.get("etag", "").strip()
    if re.fullmatch(r'"[!#-~]{1,200}"', etag):
        return etag
    modified, date = headers.get("last-modified", "").strip(), headers.get("date", "")
    changed = _http_date(modified) if modified and date and not etag else 0.0
    return modified if changed > 0 and _http_date(date) - changed >= STRONG_AFTER_S else ""
