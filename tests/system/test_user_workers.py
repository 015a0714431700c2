"""Workers under alice's own manager: shut off from her where users may have namespaces, and what is left elsewhere."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.system.alice import HOME, AlicesNotes
from tests.system.container import Container
from tests.system.image import Image
from tests.system.notes import Publisher
from tests.system.test_worker_units import EVIL, PRELUDE, REFUSED

VERBS = ("fetch", "verify", "unpack")


@contextmanager
def user_manager(image: Image, folder: Path, settings: str) -> Iterator[AlicesNotes]:
    with Publisher(folder) as publisher, Container(image) as machine:
        machine.write_file("/etc/systemd/system/user@.service.d/more.conf", f"[Service]\n{settings}\n")
        machine.run("systemctl daemon-reload")
        machine.write_file("/opt/evil/slotd/__init__.py", "")
        machine.write_file("/opt/evil/slotd/worker.py", EVIL)
        app = AlicesNotes(machine, publisher)
        app.write_file(f"{HOME}/.ssh/id_ed25519", "secret")
        yield app


@pytest.fixture(scope="module")
def shut(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AlicesNotes]:
    """Her manager, on a kernel that lets users have namespaces."""
    with user_manager(image, tmp_path_factory.mktemp("publisher"), "") as app:
        yield app


@pytest.fixture(scope="module")
def bare(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AlicesNotes]:
    """Her manager when it may not make namespaces, like any on a kernel that refuses them to users."""
    with user_manager(image, tmp_path_factory.mktemp("publisher"), "RestrictNamespaces=yes") as app:
        yield app


def as_daemon(alice: AlicesNotes, body: str) -> Any:
    """Runs `body` as a coroutine, as her daemon would; gives what it returns."""
    script = PRELUDE + textwrap.indent(textwrap.dedent(body), "    ")
    script += "\nprint('\\n' + json.dumps(asyncio.run(main())))\n"
    return json.loads(alice.run(["/usr/bin/python3", "-I", "-c", script]).stdout.splitlines()[-1])


def trials(alice: AlicesNotes, verb: str) -> dict[str, str]:
    found: dict[str, str] = as_daemon(
        alice,
        f"""
        verb = {verb!r}
        server = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=lambda: [server.accept() for _ in range(9)], daemon=True).start()
        os.makedirs("/home/alice/slot", exist_ok=True)
        flags = os.O_RDONLY if verb == "unpack" else os.O_RDWR | os.O_CREAT
        fd = os.open("/home/alice/slot" if verb == "unpack" else "/home/alice/file", flags, 0o600)
        verb == "unpack" or os.write(fd, b"before")
        request = {{"port": server.getsockname()[1], "dir": verb == "unpack", "daemon": os.getpid(),
                   "bus": "/run/user/{alice.uid}/bus"}}
        return await workers(Path("/opt/evil")).call(verb, request, [fd], unit="slotd-worker-x-1-" + verb, timeout_s=30)
        """,
    )
    return found


@pytest.mark.parametrize("verb", VERBS)
def test_a_worker_in_foreign_hands_reaches_nothing_of_hers(shut: AlicesNotes, verb: str) -> None:
    found = trials(shut, verb)
    # The names in the system's state are no secret. Programs of one user may signal each other, and the worker that
    # runs gpgv must be able to end it.
    refused = REFUSED - {"read the state"} - ({"signal the daemon"} if verb == "verify" else set())
    assert {name for name in refused if found[name].startswith("done")} == set(), found
    assert found["capabilities"] == f"done: {'0' * 32}"
    assert found["homes"] == "done: []"
    assert found["the given descriptor"] == "done: seen"
    assert not shut.machine.exists("/var/tmp/evil"), "what it writes to /var/tmp is its own"
    assert not shut.machine.exists("/dev/shm/evil")


@pytest.mark.parametrize("verb", VERBS)
def test_only_the_worker_that_fetches_has_a_network(shut: AlicesNotes, verb: str) -> None:
    assert (trials(shut, verb)["connect"] == "done: connected") == (verb == "fetch")


@pytest.mark.parametrize("verb", VERBS)
def test_only_the_worker_that_verifies_executes_programs(shut: AlicesNotes, verb: str) -> None:
    assert trials(shut, verb)["execute"] == ("done: 0" if verb == "verify" else "EACCES")


@pytest.mark.parametrize("verb", VERBS)
def test_without_namespaces_a_worker_does_its_work_and_still_cannot_talk_to_her_bus(
    bare: AlicesNotes, verb: str
) -> None:
    found = trials(bare, verb)
    given = "directory" if verb == "unpack" else "file"
    assert found[f"write the given {given}"].startswith("done")
    kept = {"the bus", "unix socket", "executable memory", "become root", "namespace", "mount", "set-id", "ptrace"}
    assert {name for name in kept if found[name].startswith("done")} == set(), found
    assert found["no new privileges"] == "done: 1"
    if verb != "verify":
        assert not found["signal the daemon"].startswith("done")


def test_a_prepare_command_writes_its_slot_and_nothing_else_of_hers(shut: AlicesNotes) -> None:
    script = "id -un; echo x >in && echo in; echo x >/home/alice/out; cat /home/alice/.ssh/id_ed25519;"
    script += f" systemd-run --user --pipe echo escaped; busctl --address=unix:path=/run/user/{shut.uid}/bus list"
    shut.run("mkdir -p ~/work")
    found = as_daemon(
        shut,
        f"""return await command("sh", "-c", {script!r}, cwd="/home/alice/work", writable=["/home/alice/work"],
                XDG_RUNTIME_DIR="/run/user/{shut.uid}")""",
    )
    assert found["output"].split()[:2] == ["alice", "in"]
    assert "Read-only file system" in found["output"]
    assert "secret" in found["output"], "it may read what she may: SECURITY.md says so"
    assert "escaped" not in found["output"]
    assert found["status"] != 0
    assert shut.machine.read_file(f"{HOME}/work/in") == "x\n"


@pytest.mark.parametrize("manager", ["shut", "bare"])
def test_an_update_works_and_a_host_without_namespaces_is_told_of(request: pytest.FixtureRequest, manager: str) -> None:
    alice: AlicesNotes = request.getfixturevalue(manager)
    alice.set_up(trial="500ms")
    alice.slotctl("enable", "notes")
    alice.install("1.0")
    assert alice.state()["version"] == "1.0"
    alice.machine.run("journalctl --sync")
    journal = alice.run("journalctl --user --unit=slotd.service --no-pager --output=cat").stdout
    assert ("lets no user have a namespace" in journal) == (manager == "bare")
