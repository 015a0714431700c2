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

    _open_what_is_closed()
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
    except OSError as error:
        from slotd.cli.tables import warn

        warn(f"slotctl: cannot write what it has to say: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _open_what_is_closed() -> None:
    """Started with a closed stream (`slotctl list >&-`), Python has None in its place, and a file opened later would
    get its number: what is said goes nowhere then.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def _run(argv: list[str] | None) -> int:
    from slotd.cli.lean import import_without
    from slotd.cli.out import TERMINATED, Out
    from slotd.cli.parser import parse

    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["_complete"]:  # a shell's Tab: no command, and nothing that takes time
        from slotd.cli.complete import complete

        return complete(words[1:])
    try:
        args = parse(argv)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 2
    except SlotdError as error:
        words = sys.argv[1:] if argv is None else argv
        return Out(json="--json" in words, no_color="--no-color" in words, user="--user" in words).error(error)
    out = Out(json=args.json, no_color=args.no_color, user=args.user)
    if not args.local:
        import_without("asyncio", "ssl")
    handler = _handler(args.handler)
    try:
        if args.local:
            return int(handler(args, out))
        import asyncio

        try:
            return asyncio.run(_with_bus(handler, args, out))
        except asyncio.CancelledError:
            return TERMINATED
    except SlotdError as error:
        return out.error(error)


def _handler(name: str) -> Callable[..., Any]:
    from importlib import import_module

    module, function = name.split(":")
    found: Callable[..., Any] = getattr(import_module(f"slotd.cli.{module}"), function)
    return found


async def _with_bus(handler: Callable[..., Any], args: Namespace, out: Out) -> int:
    import asyncio
    import signal

    from slotd.cli.agent import PasswordAgent
    from slotd.cli.client import Client

    # As with Ctrl-C: whoever hid the cursor gets to show it again, and says that the job goes on.
    if (task := asyncio.current_task()) is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
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
