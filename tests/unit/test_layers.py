"""The house keeps its floors: who may import whom (docs/architecture.md), read from the source itself."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "daemon" / "slotd"
MAX_LINES = 400

LEVEL = {
    "errors": 0, "model": 0, "": 0,
    "core": 1,
    "host": 2,
    "store": 3, "sources": 3, "verify": 3, "engines": 3, "data": 3, "probes": 3, "notifiers": 3,
    "recipes": 4,
    "service": 5, "boot": 5, "errands": 5, "worker": 5, "cli": 5, "enable": 5, "__main__": 5,
}  # fmt: skip
# L3: each stands alone on `store`, `model`, `host` and `core`.
PARTS = {"sources", "verify", "engines", "data", "probes", "notifiers"}
# The rules take bytes, values and `now`.
IMPURE = {
    "asyncio", "dbus_fast", "httpx", "logging", "multiprocessing", "os", "random", "select", "selectors", "shutil",
    "signal", "socket", "sqlite3", "ssl", "subprocess", "sys", "systemd", "tempfile", "threading", "time",
    "urllib.request",
}  # fmt: skip
IMPURE_CALLS = {"open", "Path.home", "datetime.now", "datetime.utcnow", "date.today", "datetime.datetime.now"}
# Where a library that is a door may be imported: prefixes of module names.
ONLY = {
    "dbus_fast": ("slotd.host.bus", "slotd.service", "slotd.cli"),
    "httpx": ("slotd.host.fetch",),
    "sqlite3": ("slotd.store", "slotd.data", "slotd.host"),
    "subprocess": ("slotd.host", "slotd.worker", "slotd.enable", "slotd.boot", "slotd.cli"),
    "unittest": (),
    "tarfile": (),
}


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Every import, late ones too, as line and absolute module name (`from a import b` gives `a.b` and `a`)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")[: len(module.split(".")) - node.level + is_package]
                base = ".".join([*above, *([base] if base else [])])
            yield node.lineno, base
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def floor(module: str) -> str:
    """The file or folder right under the package that a module belongs to; "" for the package itself."""
    return module.split(".")[1] if "." in module else ""


def is_in(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(f"{prefix}.")


def breaches(source: str, module: str, is_package: bool) -> list[str]:
    """Every import of this module that goes upward, sideways between parts, or through another's door."""
    found = []
    mine = floor(module)
    tree = ast.parse(source)
    for line, name in imports(tree, module, is_package):
        top = name.split(".")[0]
        if top == "slotd":
            theirs = floor(name)
            if theirs not in LEVEL:
                continue  # `from slotd import __version__`
            if LEVEL[theirs] > LEVEL[mine]:
                found.append(f"{module}:{line} imports {name}: upward, from L{LEVEL[mine]} to L{LEVEL[theirs]}")
            elif mine in PARTS and theirs in PARTS and mine != theirs:
                found.append(f"{module}:{line} imports {name}: parts stand alone")
        elif mine == "core" and (name in IMPURE or top in IMPURE):
            found.append(f"{module}:{line} imports {name}: the rules touch no file, clock, socket or log")
        elif top in ONLY and not any(is_in(module, prefix) for prefix in ONLY[top]):
            found.append(f"{module}:{line} imports {name}: that is for {', '.join(ONLY[top]) or 'nobody'}")
    if mine == "core":
        calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
        found += [
            f"{module}:{call.lineno} calls {ast.unparse(call.func)}: the rules take bytes and `now`"
            for call in calls
            if ast.unparse(call.func) in IMPURE_CALLS
        ]
    return list(dict.fromkeys(found))


# What only goes forward, or talks to somebody: none of it may keep `slotd boot` and `slotd recover` from their work.
FORWARD = (
    "dbus_fast", "httpx", "slotd.cli", "slotd.service", "slotd.worker", "slotd.notifiers", "slotd.sources",
    "slotd.verify", "slotd.host.bus", "slotd.host.bus_systemd", "slotd.host.download", "slotd.host.fetch",
    "slotd.host.tuflib", "slotd.recipes.bundling", "slotd.recipes.check", "slotd.recipes.fetching",
    "slotd.recipes.import_", "slotd.recipes.install", "slotd.recipes.obtain", "slotd.recipes.proof",
    "slotd.recipes.prune", "slotd.recipes.push", "slotd.recipes.shelf", "slotd.recipes.tuf", "slotd.recipes.update",
)  # fmt: skip
WAYS_BACK = ("slotd.__main__", "slotd.boot", "slotd.recipes.recover", "slotd.data.keep", "slotd.engines.directory")
BLOCKED = """
import importlib, sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if any(name == each or name.startswith(each + ".") for each in {forward!r}):
            raise SyntaxError("this build is broken: " + name)
sys.meta_path.insert(0, Broken())
for name in {wanted!r}:
    importlib.import_module(name)
"""


def load(forward: tuple[str, ...], wanted: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/usr/bin/python3", "-c", BLOCKED.format(forward=forward, wanted=wanted)],
        env={"PYTHONPATH": str(PACKAGE.parent), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_ways_back_are_loaded_by_a_build_in_which_all_that_goes_forward_is_broken() -> None:
    done = load(FORWARD, WAYS_BACK)
    assert done.returncode == 0, done.stderr


def test_what_is_called_broken_is_there_and_breaks_what_needs_it() -> None:
    ours = [PACKAGE.parent / name.replace(".", "/") for name in FORWARD if name.startswith("slotd.")]
    assert [place for place in ours if not (place.is_dir() or place.with_suffix(".py").is_file())] == []
    done = load(FORWARD, ("slotd.service.wiring",))
    assert "this build is broken: slotd.service" in done.stderr


def test_imports_go_downward_and_parts_stand_alone() -> None:
    found = []
    for path in files():
        module = module_name(path, PACKAGE.parent)
        assert floor(module) in LEVEL, f"{module} has no floor: name it in LEVEL, and in the architecture's picture"
        found += breaches(path.read_text(), module, path.name == "__init__.py")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("slotd.core.policy", "import time"),
        ("slotd.core.policy", "from slotd.host import files"),
        ("slotd.core.policy", "from datetime import datetime\nnow = datetime.now()"),
        ("slotd.core.policy", "text = open('x').read()"),
        ("slotd.host.files", "from slotd.store import Store"),
        ("slotd.host.files", "from ..store import Store"),
        ("slotd.host.journal", "import httpx"),
        ("slotd.sources.github", "from slotd.verify import work"),
        ("slotd.sources.github", "def late():\n    import httpx"),
        ("slotd.data.copy", "from slotd.recipes.update import update"),
        ("slotd.recipes.update", "from dbus_fast.aio import MessageBus"),
        ("slotd.engines.unpack", "import tarfile"),
    ],
)
def test_a_breach_of_the_floors_is_found(module: str, source: str) -> None:
    assert breaches(source, module, is_package=False)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("slotd.core.policy", "from slotd.model import App\nfrom datetime import datetime"),
        (
            "slotd.sources.github",
            "from slotd.host import fetch\nfrom slotd.sources import Source\nfrom slotd.store import Store",
        ),
        ("slotd.service.jobs", "from slotd.recipes.update import update\nfrom slotd import __version__"),
        ("slotd.host.bus", "import dbus_fast.aio"),
    ],
)
def test_what_the_floors_allow_is_allowed(module: str, source: str) -> None:
    assert not breaches(source, module, is_package=False)


def test_no_file_is_longer_than_can_be_read_in_one_go() -> None:
    long = {
        str(path.relative_to(REPOSITORY)): lines
        for path in files()
        if (lines := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert not long, f"over {MAX_LINES} lines, split by noun: {long}"
