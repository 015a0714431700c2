"""A definition, from decoded TOML to `App` and `Settings`. Pure: which files are read is `slotd.host.definitions`.

All problems are found at once and raised as one `Misconfigured`; each names the file, the key, what was found and what
is allowed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from slotd.core import consistency, forms, sections
from slotd.core.schema import App, Settings
from slotd.core.validate import Report, Section, merge
from slotd.errors import Misconfigured

Document = tuple[str, Mapping[str, Any]]
"""A file's path and what it says, as `tomllib` gives it."""

STATE = "/var/lib/slotd"
CACHE = "/var/cache/slotd"
_DESCRIPTION_LIMIT = 200


def parse_app(
    name: str,
    documents: Sequence[Document],
    *,
    settings: Settings | None = None,
    state: str = STATE,
    cache: str = CACHE,
) -> App:
    """The definition that `documents` make together: the main file, then drop-ins, later ones win.

    `settings` gives the defaults of [policy] and [backup]. Raises `Misconfigured`.
    """
    defaults = settings or Settings()
    merged, origins = merge(documents)
    report = Report(origins, documents[0][0] if documents else "")
    try:
        forms.app_name(name)
    except ValueError as error:
        report.add((), f"the app's name, from the file's, is \"{name}\": {error}")
    top = Section(merged, (), report)
    app = App(
        name=name,
        description=description(top),
        service=sections.service(top.table("service")),
        source=sections.source(top.table("source")),
        verify=sections.verify(top.table("verify")),
        slots=sections.slots(top.table("slots")),
        data=sections.data(top.table("data")),
        backup=sections.backup(top.table("backup"), defaults.backup),
        policy=sections.policy(top.table("policy"), defaults.policy),
        rollout=sections.rollout(top.table("rollout")),
        health=tuple(sections.health(each) for each in top.tables("health")),
        files=tuple(file for file, _ in documents),
    )
    top.finish()
    consistency.check(app, report, state, cache)
    if report.problems:
        raise misconfigured(name, report.problems)
    return app


def description(top: Section) -> str:
    """What a definition says besides its tables."""
    return top.text("description", "", _one_line)


def parse_settings(documents: Sequence[Document]) -> Settings:
    """`slotd.toml` and its drop-ins. Raises `Misconfigured`."""
    merged, origins = merge(documents)
    report = Report(origins, documents[0][0] if documents else "")
    found = settings(Section(merged, (), report))
    if report.problems:
        raise misconfigured("", report.problems)
    return dataclasses.replace(found, files=tuple(file for file, _ in documents))


def settings(top: Section) -> Settings:
    """The whole of `slotd.toml`, as far as it can be read; problems are in the section's report."""
    default = Settings()
    top.not_yet("notify", "metrics")
    notify = tuple(sections.notifier(each) for each in top.tables("notify"))
    if notify:
        top.say("notify", "notify is not supported yet; take the notifiers out")
    metrics = top.text("metrics", default.metrics, lambda text: forms.absolute_path(text) if text else text)
    if metrics:
        top.problem("metrics", "this is not supported yet; take it out")
    found = Settings(
        max_parallel=top.whole("max_parallel", default.max_parallel, 1, 64),
        notify=notify,
        metrics=metrics,
        bandwidth=sections.bandwidth(top),
        policy=sections.policy(top.table("policy"), default.policy),
        backup=sections.backup(top.table("backup"), default.backup),
        limits=sections.limits(top.table("limits")),
    )
    top.finish()
    return found


def misconfigured(app: str, problems: Sequence[str]) -> Misconfigured:
    """One error for all `problems` of an app, or of the settings if `app` is empty."""
    more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
    subject = f"the definition of {app}" if app else "the settings"
    return Misconfigured(
        f"cannot use {subject}: {problems[0]}{more}",
        hint=f"`slotctl verify {app}` lists every problem." if app else "`slotctl verify` lists every problem.",
        problems=tuple(problems),
    )


def _one_line(text: str) -> str:
    if "\n" in text or len(text) > _DESCRIPTION_LIMIT:
        raise ValueError(f"a description is one line of at most {_DESCRIPTION_LIMIT} characters")
    return text
