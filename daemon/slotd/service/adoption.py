"""The cheap checks before an installation is adopted or given back. Blocking."""

from __future__ import annotations

import os
from pathlib import Path

from slotd.core.schema import App
from slotd.core.version import parse
from slotd.engines import Engine
from slotd.errors import BadOption, Failed, NothingToDo
from slotd.model import Release, SlotName
from slotd.recipes import adopt
from slotd.recipes.context import Host, Plan


def adopt_plan(host: Host, app: App, engine: Engine, *, source: str, version: str) -> Plan:
    """Raises `BadOption`, `NothingToDo` if something is installed already, `Failed` for an unfit directory."""
    if not source or not version:
        missing = "from" if not source else "version"
        raise BadOption(
            f"cannot adopt {app.name}: it must be said {'where it lies' if not source else 'which version it is'}.",
            hint=f"Give --{missing}, as in `slotctl adopt {app.name} --from /opt/{app.name} --version 1.2`.",
        )
    if parse(app.source.scheme, version) is None:
        raise BadOption(
            f"cannot adopt {app.name}: {version!r} is not a version of the scheme {app.source.scheme}.",
            hint="Give it as the source names its releases: they are compared with it.",
        )
    if engine.active() is not None or any(engine.path(slot).exists() for slot in SlotName):
        raise NothingToDo(
            f"cannot adopt {app.name}: its slots are not empty.", hint=f"See `slotctl status {app.name}`."
        )
    links = tuple(link.strip("/") for link in app.slots.links)
    adopt.require_adoptable(engine.root, Path(source), (*app.data.paths, *app.slots.links.values()), links)
    release = Release(version=version, tag=version)
    return Plan(app, release=release, slot=SlotName.A, old_version=version, source=source)


def release_plan(host: Host, app: App, engine: Engine, *, present: bool) -> Plan:
    """Raises `NothingToDo` for an app that was not adopted, `Failed` if its directory cannot take it back."""
    texts, source, adopted = adopt.written(host.user_mode, app.service.units)
    if not texts:
        raise NothingToDo(
            f"cannot give {app.name} back: it was not adopted.",
            hint=f"`slotctl disable {app.name}` takes its units out of slotd's care.",
        )
    active = engine.active()
    if active is None:
        raise NothingToDo(f"cannot give {app.name} back: nothing of it is installed.")
    if host.store.trial(app.name) is not None:
        raise NothingToDo(f"cannot give {app.name} back: a version is on trial.", hint="Wait for its end.")
    if not Path(source).is_dir():
        raise Failed(f"cannot give {app.name} back: {source} is not there any more.")
    version = host.store.version_in(app.name, active)
    if present:
        _require_movable(app, source)
    return Plan(
        app,
        release=Release(version=version if present else adopted, tag=version if present else adopted),
        old_version=version,
        source=source,
        drop_ins=texts,
        brings_present=present,
    )


def _require_movable(app: App, source: str) -> None:
    """A slot whose files name its own path, and a directory that holds data, cannot be exchanged."""
    if os.path.lexists(source + adopt.BEFORE):
        raise Failed(
            f"cannot give {app.name} back with its present version: {source}{adopt.BEFORE} is there already.",
            hint="It was kept when the app was given back before. Move it away.",
        )
    if app.slots.prepare:
        raise Failed(
            f"cannot give {app.name} back with its present version: what `prepare` made knows where its slot lies.",
            hint=f"Install it in {source} by hand, or give it back as it was: without --present.",
        )
    inside = [path for path in (*app.data.paths, *app.slots.links.values()) if Path(source) in Path(path).parents]
    if inside:
        raise Failed(
            f"cannot give {app.name} back with its present version: {inside[0]} lies in {source}.",
            hint="Give it back as it was: without --present.",
        )
