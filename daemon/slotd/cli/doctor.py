"""`doctor`: what on this host keeps slotd's promises from holding, why it matters, and the command that mends it."""

from __future__ import annotations

import os
from argparse import Namespace

from slotd.cli.out import DONE, FAILED, Out
from slotd.cli.tables import escape

_COLOUR = {"error": "red", "warning": "yellow", "note": "dim"}


def doctor(args: Namespace, out: Out) -> int:
    from slotd.cli.facts import Look
    from slotd.core.diagnosis import Severity, diagnose
    from slotd.host.paths import Paths

    facts = Look(Paths.from_environment(args.user, os.environ), user=args.user).facts()
    findings = diagnose(facts)
    if args.app:
        known = {*(app.name for app in facts.apps), *facts.broken_definitions}
        if args.app not in known:
            from slotd.errors import NoSuchApp

            raise NoSuchApp(f"cannot find a definition named {args.app}.", hint="See `slotctl list`.")
        findings = [finding for finding in findings if finding.app in ("", args.app)]
    wrong = [finding for finding in findings if finding.severity is not Severity.NOTE]
    fields = ("check", "severity", "app", "what", "why", "mend")
    out.document({
        "findings": [{name: str(getattr(finding, name)) for name in fields} for finding in findings],
        "apps": [app.name for app in facts.apps],
    })  # fmt: skip
    for finding in findings:
        where = f"{escape(finding.app)}: " if finding.app else ""
        severity = out.look.paint(finding.severity.value, _COLOUR[finding.severity])
        out.line(f"{severity}: {where}{escape(finding.what)}")
        out.line(f"  {escape(finding.why)}", indent=2)
        if finding.mend:
            out.line(f"  → {escape(finding.mend)}", indent=4)
    if not wrong:
        apps = f" and {len(facts.apps)} apps" if len(facts.apps) != 1 else " and one app"
        out.line(f"{out.look.paint('good', 'green')}: nothing is wrong with this host{apps}.")
    return FAILED if wrong else DONE
