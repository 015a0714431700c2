"""The program `slotctl`. Nothing heavy is imported before the command is known."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from slotd.errors import SlotdError

if TYPE_CHECKING:
    from argparse import Namespace

    from slotd.cli.out import Out


def main(argv: list[str] | None = None) -> int:
    """Runs one command and gives its exit code (see `out.py`). Leaves no traceback on the terminal of a user who
    presses Ctrl-C or closes the pipe."""
    from slotd.cli.out import FAILED, INTERRUPTED

    try:
        code = _run(argv)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`slotctl history | head`); the interpreter must not complain at its last flush either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _run(argv: list[str] | None) -> int:
    from slotd.cli.out import Out
    from slotd.cli.parser import parse

    try:
        args = parse(argv)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 2
    out = Out(json=args.json, no_color=args.no_color)
    handler = _handler(args.handler)
    try:
        if args.local:
            return int(handler(args, out))
        import asyncio

        return asyncio.run(_with_bus(handler, args, out))
    except SlotdError as error:
        return out.error(error)


def _handler(name: str) -> Callable[..., Any]:
    from importlib import import_module

    module, function = name.split(":")
    found: Callable[..., Any] = getattr(import_module(f"slotd.cli.{module}"), function)
    return found


async def _with_bus(handler: Callable[..., Any], args: Namespace, out: Out) -> int:
    from slotd.cli.agent import PasswordAgent
    from slotd.cli.client import Client

    client = await Client.connect(user=args.user)
    agent = PasswordAgent()
    try:
        if args.changes and not args.user:
            await agent.start()
        return int(await handler(client, args, out))
    finally:
        agent.stop()
        await client.close()


if __name__ == "__main__":
    sys.exit(main())
