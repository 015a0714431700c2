"""Workers of the installed package that foreign bytes have taken over: under their real sandbox, beside a real update.

The worker program is swapped on the disk for one that does its work and then something else; the daemon, which has
never loaded it, goes on as it is. Whatever the worker does, nothing gets installed but what was signed, and it is told.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import pytest
from tests.system.container import Container
from tests.system.hostile import CACHE, SLOTS, HostilePublisher, assert_says, refused_and_remembered, reload, untouched
from tests.system.notes import Notes

pytestmark = pytest.mark.attack

PROGRAM = "/usr/lib/python3/dist-packages/slotd/worker.py"
HONEST = "/usr/lib/python3/dist-packages/slotd/honest.py"
# What ends a worker that never ends; the others' bounds stay as they are, however busy the machine is.
ENDS = "/etc/slotd/slotd.toml.d/ends.toml"

# `work()` does the honest work and gives its result; `said(result)` answers; `say(frame)` sends anything.
SHELL = """
import errno, json, mmap, os, signal, socket, subprocess, sys, threading, time
from slotd import honest
from slotd.host import frames
VERB = {verb!r}
def act(work, fds, progress, say):
{body}
def taken_over(find):
    def found(verb):
        function = find(verb)
        if verb != VERB:
            return function
        def do(request, fds, progress):
            say = lambda data: honest_socket().sendall(data)
            return act(lambda: function(request, fds, progress), fds, progress, say)
        return do
    return found
def honest_socket():
    return socket.socket(fileno=os.dup(0))
honest._find = taken_over(honest._find)
main = honest.main
if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with HostilePublisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(trial="500ms")
        app.install("1.0")
        container.run(f"cp -a {PROGRAM} {HONEST}")
        yield app


@pytest.fixture
def publisher(notes: Notes) -> Iterator[HostilePublisher]:
    assert isinstance(notes.publisher, HostilePublisher)
    notes.publisher.publish_next()
    yield notes.publisher
    if notes.machine.run(f"cp -a {HONEST} {PROGRAM}; rm {ENDS}", check=False).returncode == 0:
        reload(notes)


def take_over(notes: Notes, verb: str, body: str) -> None:
    """From now on the worker for `verb` runs `act`, whose body this is, and has a second for it if it never ends."""
    if "sleep(600)" in body or body.startswith("while True"):
        notes.machine.write_file(ENDS, f'[limits]\n{verb} = "1s"\n')
        reload(notes)
    text = SHELL.format(verb=verb, body=textwrap.indent(textwrap.dedent(body), "    "))
    notes.machine.write_file(PROGRAM, text)


FETCH = {
    "claims another digest than the file's": (
        "return work() | {'sha256': '0' * 64}",
        ("the fetch worker claims other bytes than are in the file",),
    ),
    "writes other bytes and claims the right digest": (
        "done = work(); os.pwrite(fds[0], b'evil', 0); return done",
        ("the fetch worker claims other bytes than are in the file",),
    ),
    "writes other bytes and claims theirs": (
        "done = work(); os.ftruncate(fds[0], 0); os.pwrite(fds[0], b'evil', 0)\n"
        "import hashlib; return done | {'bytes': 4, 'sha256': hashlib.sha256(b'evil').hexdigest()}",
        ("its sha256 is", "the checksums say", "Do not install it"),
    ),
    "tells of progress that cannot be": (
        "say(frames.encode({'progress': {'bytes': 10**400, 'total': 1, 'state': {'a': 10**400, 'b': []}}}))\n"
        "say(frames.encode({'progress': {'bytes': -1, 'total': 2**62, 'state': {'validator': '\\ud800'}}}))\n"
        "return work() | {'sha256': 'x'}",
        ("claims other bytes than are in the file",),
    ),
    "sends a frame without end": ("say(b'\\x7f\\xff\\xff\\xff'); time.sleep(60)", ("a message of 2147483647 bytes",)),
    "sends two million lists": (
        "body = b'{\"ok\": {\"a\": [' + b'[],' * 2_000_000 + b'1]}}'\n"
        "say(frames.HEAD.pack(len(body)) + body); time.sleep(60)",
        ("holds more than 300000 lists and objects",),
    ),
    "dies": ("os.kill(os.getpid(), 9)", ("ended without a result",)),
}
VERIFY = {
    "never ends": ("time.sleep(600)", ("took longer than 1 s",)),
    "floods what it says and never ends": (
        "while True: say(frames.encode({'progress': {'bytes': 1, 'total': 2, 'state': {'x': 'y' * 60000}}}))",
        ("took longer than 1 s",),
    ),
    "gives nothing": ("return {}", ("cannot", "notes-")),
    "claims digests of other bytes": (
        "return work() | {'digests': {'sha256': '0' * 64}}",
        ("its sha256 is of other bytes",),
    ),
    "forges lines that gpgv never writes": (
        "return work() | {'openpgp': [{'covers': 'artifact', 'status': ['gpgv: Good signature from \"you\"']}]}",
        ("a line that gpgv does not write",),
    ),
    "claims a signature by a key that is none of the app's": (
        "return work() | {'openpgp': [{'covers': 'artifact', 'status': ['[GNUPG:] NEWSIG']}]}",
        ("gpgv did not find it good",),
    ),
}
UNPACK = {
    "never ends": ("time.sleep(600)", ("took longer than 1 s",)),
    "puts a link out of the slot into it": (
        "done = work(); os.symlink('/etc/shadow', 'evil', dir_fd=fds[1]); return done",
        ("evil", "outside"),
    ),
    "puts a fifo into the slot": ("done = work(); os.mkfifo('evil', dir_fd=fds[1]); return done", ("evil",)),
}


CRIMES = {"fetch": FETCH, "verify": VERIFY, "unpack": UNPACK}


@pytest.mark.parametrize("verb, crime", [(verb, crime) for verb, crimes in CRIMES.items() for crime in crimes])
def test_nothing_is_installed_when_a_worker(notes: Notes, publisher: HostilePublisher, verb: str, crime: str) -> None:
    body, says = CRIMES[verb][crime]
    take_over(notes, verb, body)
    refused_and_remembered(notes, "update", "notes", says=says)


# Each place is tried; what came of it is the worker's last word before it fails.
OUTSIDE = f"""
tried = ["/etc/evil", "/usr/evil", "/var/evil", "/var/lib/slotd/evil", "{SLOTS}/a/evil", "{SLOTS}/b/evil",
    "{SLOTS}/evil", "{CACHE}/evil", "/var/lib/notes/data/evil", "/run/evil", "/home/evil", "/root/evil", "/boot/evil"]
outcomes = []
for path in tried:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
        outcomes.append(path)
    except OSError:
        pass
for way in ("../evil", "../a/evil", "../current/evil", "../../evil"):
    for fd in fds:
        try:
            os.close(os.open(way, os.O_WRONLY | os.O_CREAT, dir_fd=fd))
            outcomes.append(way)
        except OSError:
            pass
from slotd.errors import Failed
own = {{"/home/evil", "/root/evil"}}  # its homes are empty, and end with it
raise Failed(f"cannot go on: wrote {{sorted(set(outcomes) - own)}} of {{len(tried)}}")
"""


@pytest.mark.parametrize("verb", ["list", "fetch", "verify", "unpack"])
def test_a_worker_writes_nothing_outside_of_its_place(notes: Notes, publisher: HostilePublisher, verb: str) -> None:
    take_over(notes, verb, OUTSIDE)
    refused_and_remembered(notes, "update", "notes", says=("cannot go on: wrote [] of 13",))
    assert notes.machine.run(["find", "/", "-xdev", "-name", "evil"]).stdout == ""


def test_a_swarm_of_children_is_gone_with_its_worker(notes: Notes, publisher: HostilePublisher) -> None:
    take_over(
        notes,
        "verify",
        """
        from slotd.errors import Failed
        for _ in range(50):
            try:
                if os.fork() == 0:
                    os.setsid()
                    time.sleep(300)
            except OSError:  # where the kernel keeps the unit to its number
                break
        raise Failed("cannot go on")
        """,
    )
    refused_and_remembered(notes, "update", "notes", says=("cannot go on",))
    assert notes.machine.run(["pgrep", "-f", "slotd.worker"], check=False).stdout == ""


def test_a_worker_that_eats_memory_or_forks_is_in_a_unit_with_bounds(notes: Notes, publisher: HostilePublisher) -> None:
    """The kernel of a container need not enforce them: that the unit has them is what can be seen everywhere."""
    go, units = "/etc/slotd/go", "systemctl list-units --plain --no-legend 'slotd-worker-notes-*verify*'"
    take_over(notes, "verify", f"while not os.path.exists({go!r}): time.sleep(0.01)")
    with untouched(notes):
        notes.slotctl("--no-wait", "update", "notes")
        notes.machine.run(f"until {units} | grep -q running; do sleep 0.1; done")
        show = f"systemctl show $({units} | cut -d' ' -f1) -p MemoryMax -p MemorySwapMax -p TasksMax -p OOMScoreAdjust"
        shown = notes.machine.run(show).stdout
        notes.machine.write_file(go, "")
        jobs = "busctl get-property org.slotd1 /org/slotd1 org.slotd1.Manager NJobs"
        notes.machine.run(f"until [ \"$({jobs})\" = 'u 0' ]; do sleep 0.1; done; rm {go}")
    assert set(shown.split()) == {"MemoryMax=536870912", "MemorySwapMax=0", "TasksMax=16", "OOMScoreAdjust=500"}


@pytest.mark.parametrize("verb", ["fetch", "verify"])
def test_a_child_that_should_outlive_its_worker_is_gone_with_it(
    notes: Notes, publisher: HostilePublisher, verb: str
) -> None:
    """It would swap the file once it is measured: with a descriptor for writing where it has one."""
    take_over(
        notes,
        verb,
        """
        done = work()
        if os.fork() == 0:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if os.fork() == 0:
                end = time.monotonic() + 300
                while time.monotonic() < end:
                    try:
                        os.pwrite(fds[0], b"evil", 0)
                    except OSError:
                        pass
                    time.sleep(0.001)
            os._exit(0)
        return done
        """,
    )
    printed = notes.slotctl("update", "notes", status=None)
    assert notes.machine.run("systemctl list-units --all --plain --no-legend 'slotd-worker-*'").stdout == ""
    assert notes.machine.run(["pgrep", "-f", "slotd.worker"], check=False).stdout == ""
    # Either it came too late, and what was signed is installed, or the file was not what it should be.
    offered = publisher.directory.glob("notes-*.tar.gz")
    versions = sorted((path.name.split("-")[1].removesuffix(".tar.gz") for path in offered), key=_number)
    if notes.state()["version"] == versions[-1]:
        assert_says(printed, "updated")
        assert "evil" not in notes.machine.read_file(f"{SLOTS}/current/notes.py")[:4]
        notes.slotctl("rollback", "notes", "--data=keep")
    else:
        assert_says(printed, "cannot")


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_an_honest_worker_still_gets_through_afterwards(notes: Notes, publisher: HostilePublisher) -> None:
    assert "updated" in notes.slotctl("update", "notes")
