"""What an administrator decides: approve, hold, unhold, mark-good, mark-bad, mode. State, not configuration."""

from __future__ import annotations

from argparse import Namespace

from slotd.cli.apps import load_app, suggest
from slotd.cli.client import CHANGE_S, Client
from slotd.cli.out import DONE, Out
from slotd.cli.tables import escape
from slotd.cli.views import App
from slotd.errors import NoSuchApp


async def _change(client: Client, out: Out, name: str, member: str, *arguments: str) -> App:
    """Calls `member(name, *arguments, {})`; the document is the app as it is afterwards, which it gives."""
    try:
        await client.call(member, "s" * (1 + len(arguments)) + "a{sv}", [name, *arguments, {}], timeout_s=CHANGE_S)
    except NoSuchApp as error:
        raise await suggest(client, name, error) from None
    app = await load_app(client, name)
    out.document(app.json())
    return app


async def approve(client: Client, args: Namespace, out: Out) -> int:
    app = await _change(client, out, args.app, "Approve", args.version)
    name, version = escape(args.app), escape(args.version)
    if app.held:
        then = f"nothing is installed until `slotctl unhold {name}`"
    elif app.mode == "approve" and app.version:
        then = f"`slotd-apply.timer` installs it, or `slotctl update {name}` does now"
    else:
        then = f"`slotctl update {name}` installs it"
    out.line(f"{name}: {version} is approved; {then}")
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


async def mark_good(client: Client, args: Namespace, out: Out) -> int:
    app = await _change(client, out, args.app, "MarkGood")
    version = f"{escape(app.version)} " if app.version else "the new version "
    out.line(f"{escape(args.app)}: {version}stays; its trial is over")
    return DONE


async def mark_bad(client: Client, args: Namespace, out: Out) -> int:
    await _change(client, out, args.app, "MarkBad")
    name = escape(args.app)
    out.line(f"{name}: the old version and its data come back; `slotctl follow {name}` shows it")
    return DONE


MODES = {
    "manual": "slotd looks for releases and installs none by itself",
    "approve": "`slotd-apply.timer` installs what was approved",
    "auto": "`slotd-apply.timer` installs new releases by itself",
}


async def mode(client: Client, args: Namespace, out: Out) -> int:
    by_definition = args.mode == "default"
    app = await _change(client, out, args.app, "SetMode", "" if by_definition else args.mode)
    why = ", as its definition says" if by_definition else ""
    then = f": {MODES[app.mode]}" if app.mode in MODES else ""
    out.line(f"{escape(args.app)}: mode {escape(app.mode)}{why}{then}")
    return DONE
