"""The grammar of slotctl. Handlers are named, not imported: a command loads only its own module.

`handler` is `module:function` in this package. `local`: runs without the bus. `changes`: may need authorisation.
`waits`: starts jobs, so that `--no-wait` means something.
"""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from slotd import __version__
from slotd.errors import BadOption

STATES = (
    "absent",
    "idle",
    "update-available",
    "awaiting-approval",
    "updating",
    "trial",
    "rolling-back",
    "held",
    "failed",
    "misconfigured",
)
MODES = ("manual", "approve", "auto")

EPILOG = """\
Without a command it is `slotctl status`. Jobs run in the daemon: Ctrl-C ends
slotctl, not the job.
exit codes: 0 done, 1 failed, 2 usage, 3 nothing to do, 4 rolled back,
            5 not authorised, 6 busy, 130 interrupted
"""


_FORCE = (
    "also one that is blocked (it failed here before), too young or not for this host yet;"
    " with --version also one that is older or installed"
)


class Parser(argparse.ArgumentParser):
    """Errors are `BadOption`, with `did you mean` in the hint."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        known, wrong = self._known(), ""
        if found := re.search(r"argument (\S+): invalid choice: '([^']*)' \(choose from (.*)\)", message):
            what, wrong, choices = found.groups()
            if what == "COMMAND":
                message = f"unknown command {wrong!r}"
            else:
                message = f"unknown {what.lower().lstrip('-')} {wrong!r}: choose from {choices.replace(chr(39), '')}"
        elif found := re.search(r"unrecognized arguments: (-\S+)", message):
            wrong = found[1].split("=")[0]
            message = f"unknown option {wrong}"
        hint = f"See `{self.prog} --help`."
        if wrong:
            from difflib import get_close_matches

            if close := get_close_matches(wrong, sorted(known), n=1):
                hint = f"Did you mean {close[0]}?\n{hint}"
        raise BadOption(message, hint=hint)

    def _known(self) -> set[str]:
        """All words that could have been meant: commands, modes and options of this parser and those below it."""
        words: set[str] = set()
        for action in self._actions:
            words.update(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                words.update(action.choices)
                for parser in action.choices.values():
                    words |= parser._known()
            elif action.choices:
                words.update(action.choices)
        return words - {"-h"}


def _common(*, default: bool, waits: bool) -> argparse.ArgumentParser:
    """The global options; taken before and after the command, so the second time without defaults.

    `--no-wait` is shown and taken where a job is started; before the command it is known, and `parse` judges it.
    """
    common = argparse.ArgumentParser(add_help=False)

    def flag(name: str, text: str) -> None:
        common.add_argument(name, action="store_true", default=False if default else argparse.SUPPRESS, help=text)

    flag("--user", "talk to your own slotd, on your user bus")
    flag("--json", "print one JSON document instead of text")
    flag("--no-color", "no colours (NO_COLOR does the same)")
    if default or waits:
        flag("--no-wait", "with a command that starts a job: return at once" if default else "return at once")
    return common


def build() -> Parser:
    """The whole parser."""
    parser = Parser(
        prog="slotctl",
        description="Keeps applications up to date, and goes back when an update goes wrong.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[_common(default=True, waits=True)],
    )
    parser.add_argument("--version", action="version", version=f"slotctl {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser, title="commands")
    common = {waits: _common(default=False, waits=waits) for waits in (False, True)}

    def command(
        name: str,
        handler: str,
        text: str,
        *,
        local: bool = False,
        changes: bool = False,
        waits: bool = False,
        below: Any = commands,
    ) -> Parser:
        about: dict[str, Any] = {
            "help": text,
            "description": f"{text[0].upper()}{text[1:]}.",
            "parents": [common[waits]],
        }
        sub: Parser = below.add_parser(name, **about)
        sub.set_defaults(handler=handler, local=local, changes=changes or waits, waits=waits)
        return sub

    parser.set_defaults(handler="apps:status", local=False, changes=False, waits=False, app=None)

    sub = command("list", "apps:list_apps", "list all apps")
    sub.add_argument("--state", metavar="STATE", choices=STATES, help=f"only those in this state: {', '.join(STATES)}")
    sub = command("status", "apps:status", "show how all apps are, or everything about one")
    sub.add_argument("app", metavar="APP", nargs="?")

    sub = command("check", "jobs:check", "look for new releases", waits=True)
    _apps(sub, "every app")
    sub = command("update", "jobs:update", "install the newest release allowed (or the first one)", waits=True)
    _apps(sub, "every app that has a release which its mode allows")
    sub.add_argument("--version", metavar="VERSION", help="this version; an older one needs --force, too")
    sub.add_argument("--force", action="store_true", help=_FORCE)
    sub.add_argument(
        "--now", action="store_true", help="do not wait policy.delay, as an automatic update does; allows nothing else"
    )

    sub = command("rollback", "jobs:rollback", "go back to the version before", waits=True)
    sub.add_argument("app", metavar="APP")
    sub.add_argument(
        "--data",
        metavar="keep|restore",
        choices=("keep", "restore"),
        help="keep the data as they are, or restore the backup made before the update (needed once the trial is over)",
    )
    sub.add_argument("--to", metavar="VERSION", help="to this kept version: from its slot, or from its kept release")

    sub = command("approve", "policy:approve", "allow a version to be installed", changes=True)
    sub.add_argument("app", metavar="APP")
    sub.add_argument("version", metavar="VERSION")
    sub = command("hold", "policy:hold", "keep an app as it is until unhold", changes=True)
    sub.add_argument("app", metavar="APP")
    sub.add_argument("reason", metavar="REASON", nargs="*", default=[], help="why, for those who come later")
    sub = command("unhold", "policy:unhold", "lift a hold", changes=True)
    sub.add_argument("app", metavar="APP")
    sub = command("mark-good", "policy:mark_good", "end the trial now: the new version stays", changes=True)
    sub.add_argument("app", metavar="APP")
    sub = command(
        "mark-bad", "policy:mark_bad", "end the trial now: the old version and its data come back", changes=True
    )
    sub.add_argument("app", metavar="APP")
    sub = command("mode", "policy:mode", "set how updates are applied", changes=True)
    sub.add_argument("app", metavar="APP")
    sub.add_argument(
        "mode",
        metavar="MODE",
        choices=(*MODES, "default"),
        help=f"one of {', '.join(MODES)}, or default: as its definition says",
    )

    sub = command("history", "apps:history", "show what happened")
    sub.add_argument("app", metavar="APP", nargs="?")
    sub.add_argument("--limit", metavar="N", type=_count, default=50, help="at most this many events (50)")
    sub = command("backups", "backups:backups", "list the saved copies of an app's data, or look into one", waits=True)
    sub.add_argument("app", metavar="APP")
    sub.add_argument("id", metavar="ID", nargs="?", help="show what this one holds, and what its commands said")
    sub.add_argument("--diff", action="store_true", help="of one: what has changed since")
    sub.add_argument("--verify", action="store_true", help="read it, or all, again: is every file what it was")
    sub = command("backup", "jobs:backup", "save a copy of an app's data now; it is stopped for a moment", waits=True)
    sub.add_argument("app", metavar="APP")
    sub = command("restore", "jobs:restore", "put a saved copy back; what is there now is set aside", waits=True)
    sub.add_argument("app", metavar="APP")
    sub.add_argument("id", metavar="ID", help="see slotctl backups APP")
    sub.add_argument("paths", metavar="PATH", nargs="*", help="only these files and directories")

    sub = command("adopt", "jobs:adopt", "take what is installed already into a slot; the app is restarted", waits=True)
    sub.add_argument("app", metavar="APP")
    sub.add_argument("--from", dest="source", metavar="DIR", help="where the app is installed; it stays there as it is")
    sub.add_argument("--version", metavar="VERSION", help="which version that is")
    sub = command("release", "jobs:release", "give an adopted app back to its own unit and directory", waits=True)
    sub.add_argument("app", metavar="APP")
    sub.add_argument("--present", action="store_true", help="with the version that runs now; else as it was adopted")

    sub = command("import", "bundle:import_bundle", "take in the releases of an offline bundle", waits=True)
    sub.add_argument("file", metavar="FILE")
    sub.add_argument("--force", action="store_true", help="also those that are older than what is installed")
    group = commands.add_parser("bundle", help="make offline bundles, and look into them")
    inner = group.add_subparsers(dest="bundle", metavar="COMMAND", parser_class=Parser, required=True)
    text = "fetch releases, verify them, and put them into one signed file"
    sub = command("create", "bundle:create", text, local=True, below=inner)
    sub.add_argument("file", metavar="FILE")
    sub.add_argument("apps", metavar="APP[=VERSION]", nargs="+", help="its newest release, or this one")
    sub.add_argument("--key", metavar="KEY", required=True, help="a file with a minisign secret key, or a key of gpg's")
    text = "show what is in a bundle and who signed it, and check every byte"
    sub = command("inspect", "bundle:inspect", text, local=True, below=inner)
    sub.add_argument("file", metavar="FILE")

    sub = command("jobs", "running:jobs", "list jobs that run")
    sub.add_argument("--all", action="store_true", help="finished ones too")
    sub.add_argument("--limit", metavar="N", type=_count, default=50, help="at most this many, the newest (50)")
    sub = command("follow", "running:follow", "show jobs that run until they end, as if started here")
    sub.add_argument("what", metavar="JOB|APP", nargs="*", help="its number, or whose; none: all that run")
    sub = command(
        "cancel", "running:cancel", "cancel a job, as long as the app has not been stopped for it", changes=True
    )
    sub.add_argument("job", metavar="JOB", type=_count, help="its number, see slotctl jobs")
    sub = command("monitor", "monitor:monitor", "print what happens, as it happens")
    sub.add_argument("app", metavar="APP", nargs="?")

    sub = command("enable", "local:enable", "give an app's units to slotd's care at boot and on failure", local=True)
    sub.add_argument("app", metavar="APP")
    sub = command(
        "disable", "local:disable", "take an app's units out of that care; app and data stay as they are", local=True
    )
    sub.add_argument("app", metavar="APP")
    sub = command("verify", "local:verify", "check definitions and keys, say every problem", local=True)
    sub.add_argument("what", metavar="APP|FILE", nargs="?")
    command("reload", "apps:reload", "have slotd read the definitions again", changes=True)
    sub = command("doctor", "doctor:doctor", "find what keeps this host from updating and going back", local=True)
    sub.add_argument("app", metavar="APP", nargs="?")
    return parser


def _apps(parser: Parser, whom: str) -> None:
    parser.add_argument("apps", metavar="APP", nargs="*")
    parser.add_argument("--all", action="store_true", help=whom)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above zero")
    return int(text)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The parsed command line; raises BadOption if it makes no sense. `--help` and `--version` exit (SystemExit)."""
    parser = build()
    args, unknown = parser.parse_known_args(argv)
    if unknown:  # whose they are is known: what is suggested is an option of that command, not of another
        commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        whose = commands.choices[args.command] if args.command else parser
        whose.error(f"unrecognized arguments: {' '.join(unknown)}")
    if args.no_wait and not args.waits:
        parser.error(
            "--no-wait is for commands that start a job:"
            " check, update, rollback, backup, restore, adopt, release, import"
        )
    if args.command == "backups":
        parser.prog = f"{parser.prog} {args.command}"
        if args.no_wait and not args.verify:
            parser.error("--no-wait is for --verify")
        if args.diff and (not args.id or args.verify):
            parser.error("give --diff or --verify, not both" if args.id else "--diff is for one backup: name its ID")
    if args.command in ("check", "update"):
        parser.prog = f"{parser.prog} {args.command}"
        if args.all and args.apps:
            parser.error("give names or --all, not both")
        if not args.all and not args.apps:
            parser.error("name an app, or --all")
        args.apps = list(dict.fromkeys(args.apps))
    if args.command == "update":
        if args.version and (args.all or len(args.apps) > 1):
            parser.error("--version is for one app")
        if args.all and (args.force or args.now):
            parser.error("--force and --now are not for --all; name the apps")
    return args
