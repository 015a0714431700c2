"""`approve`, `hold`, `unhold`, `mode`: what an administrator decides about an app. State, not configuration."""

from __future__ import annotations

from argparse import Namespace

from slotd.cli.apps import load_app, suggest
from slotd.cli.client import CHANGE_S, Client
from slotd.cli.out import DONE, Out
from slotd.cli.tables import escape
from slotd.errors import NoSuchApp


async def _change(client: Client, out: Out, name: str, member: str, *arguments: str) -> None:
    """Calls `member(name, *arguments, {})`; the document is the app as it is afterwards."""
    try:
        await client.call(member, "s" * (1 + len(arguments)) + "a{sv}", [name, *arguments, {}], timeout_s=CHANGE_S)
    except NoSuchApp as error:
        raise await suggest(client, name, error) from None
    if out.json:
        out.document((await load_app(client, name)).json())


async def approve(client: Client, args: Namespace, out: Out) -> int:
    await _change(client, out, args.app, "Approve", args.version)
    name = escape(args.app)
    out.line(
        f"{name}: {escape(args.version)} is approved; it is applied in the next window, or now with "
        f"`slotctl update {name}`"
    )
    return DONE


async def hold(client: Client, args: Namespace, out: Out) -> int:
    reason = " ".join(args.reason)
    await _change(client, out, args.app, "Hold", reason)
    name = escape(args.app)
    because = f" ({escape(reason)})" if reason else ""
    out.line(f"{name}: held{because}; no update is applied until `slotctl unhold {name}`")
    return DONE


async def unhold(client: Client, args: Namespace, out: Out) -> int:
    await _change(client, out, args.app, "Unhold")
    out.line(f"{escape(args.app)}: the hold is lifted")
    return DONE


MODES = {
    "manual": "looks for releases and tells, applies none by itself",
    "approve": "applies what was approved",
    "auto": "applies releases by itself",
}


async def mode(client: Client, args: Namespace, out: Out) -> int:
    await _change(client, out, args.app, "SetMode", args.mode)
    out.line(f"{escape(args.app)}: mode {args.mode}: slotd {MODES[args.mode]}")
    return DONE
