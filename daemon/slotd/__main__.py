"""`slotd`: the daemon, and the ways back that need neither network nor the daemon.

slotd [--user]            run the daemon (systemd and the bus start it)
slotd boot                count a boot of an open trial; roll back before the app starts when none is left
slotd recover             end interrupted jobs and trials when the daemon itself does not start
slotd failed UNIT         report that a unit gave up
slotd prune               retention of backups and cache
slotd push                push backups to their second places
slotd bring APP ID        bring a pushed backup back to this host
slotd enable|disable APP  write or remove the app's drop-ins
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from slotd import __version__
from slotd.errors import SlotdError, for_user_manager

LOCK_S = 60.0  # less than slotd.service's TimeoutStartSec=


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="slotd", description="Keeps the applications of this host up to date.")
    parser.add_argument("--version", action="version", version=f"slotd {__version__}")
    parser.add_argument("--user", action="store_true", help="on the user's bus, with the user's units")
    parser.add_argument("--debug", action="store_true", help="say more on standard error")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    verbs.add_parser("run", help="run the daemon (the default)")
    verbs.add_parser("boot", help="count a boot during a trial; roll back when no attempts are left")
    verbs.add_parser("recover", help="end what a daemon that cannot start has left open")
    verbs.add_parser("prune", help="remove backups, quarantine and cached files that need not be kept")
    verbs.add_parser("push", help="push sealed backups to the repositories that definitions name")
    bring = verbs.add_parser("bring", help="bring a pushed backup back to this host")
    bring.add_argument("app")
    bring.add_argument("id")
    failed = verbs.add_parser("failed", help="report a unit that gave up")
    failed.add_argument("unit")
    for name, text in (("enable", "write the drop-ins of an app's units"), ("disable", "remove them")):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("app")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    from slotd.host.journal import setup_logging

    setup_logging(debug=args.debug)
    os.umask(0o022)  # every file is made with its mode; a stricter mask would shut the apps out of their slots
    try:
        return asyncio.run(_run(args))
    except SlotdError as error:
        text = f"slotd: {error.message}\n" + (f"  {error.hint}\n" if error.hint else "")
        sys.stderr.write(for_user_manager(text) if args.user else text)
        return 1
    except KeyboardInterrupt:
        return 130


async def _run(args: argparse.Namespace) -> int:
    verb = args.verb or "run"
    if verb in ("run", "boot", "recover"):
        return await _run_alone(verb, user_mode=args.user)
    from slotd import errands

    match verb:
        case "prune":
            return await errands.prune(user_mode=args.user)
        case "push":
            return await errands.push(user_mode=args.user)
        case "bring":
            return await errands.bring(args.app, args.id, user_mode=args.user)
        case "failed":
            return await errands.report_failed(args.unit, user_mode=args.user)
        case _:
            return errands.enable(args.app, on=args.verb == "enable", user_mode=args.user)


async def _run_alone(verb: str, *, user_mode: bool) -> int:
    """What takes up interrupted jobs: never two at a time. `recover` leaves it to who has it."""
    if verb == "boot":
        from slotd import boot

        return await boot.boot(partial(_alone, user_mode=user_mode), user_mode=user_mode)
    with _alone(user_mode=user_mode, wait_s=0.0 if verb == "recover" else LOCK_S):
        if verb == "run":
            from slotd.service.wiring import serve

            return await serve(user_mode=user_mode)
        from slotd import boot

        return await boot.recover(user_mode=user_mode)


@contextmanager
def _alone(*, user_mode: bool, wait_s: float = LOCK_S) -> Iterator[None]:
    from slotd.host.lock import only_one
    from slotd.host.paths import Paths

    state = Paths.from_environment(user_mode, os.environ).state
    state.mkdir(mode=0o700 if user_mode else 0o755, parents=True, exist_ok=True)
    with only_one(state, wait_s=wait_s):
        yield


if __name__ == "__main__":
    sys.exit(main())
