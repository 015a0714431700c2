"""Daemon and worker talk over a socket: honest workers, lying workers, workers that die, and daemons that die."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.hostile_archives import COMPRESS, FORGED_TARS, member, tar

from slotd.core.schema import Limits
from slotd.errors import Failed, Misconfigured, NoSpace, SlotdError, SourceFailed, VerificationFailed
from slotd.host import frames, sandbox, tuflib
from slotd.host.run import Completed, Workers, run, unit_name
from slotd.host.sandbox import Profile
from slotd.recipes import tuf

DAEMON = Path(__file__).resolve().parents[2] / "daemon"
T = TypeVar("T")

# A worker that is in foreign hands: what it does is the body of `act(sock, request, fds)`.
EVIL = """
import json, os, socket, struct, sys, time
def frame(value):
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack(">I", len(body)) + body
def main():
    sock = socket.socket(fileno=os.dup(0))
    head, fds, _, _ = socket.recv_fds(sock, 4, 16)
    want, body = struct.unpack(">I", head)[0], b""
    while len(body) < want:
        body += sock.recv(65536)
    act(sock, json.loads(body), fds)
def act(sock, request, fds):
"""


def evil(folder: Path, body: str) -> Workers:
    package = folder / "evil" / "slotd"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "worker.py").write_text(EVIL + textwrap.indent(textwrap.dedent(body), "    "))
    return Workers(limits=Limits(), sandbox=False, package_root=package.parent)


def honest() -> Workers:
    return Workers(limits=Limits(), sandbox=False)


async def ask(workers: Workers, request: Mapping[str, Any] = {}, *, verb: str = "fetch", timeout_s: float = 20) -> Any:
    return await workers.call(verb, request, unit="slotd-worker-app-1-x", timeout_s=timeout_s)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# ── honest ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def unpack(workers: Workers, folder: Path, data: bytes, **options: Any) -> dict[str, Any]:
    (folder / "slot").mkdir()
    (folder / "artifact").write_bytes(data)
    fds = [os.open(folder / "artifact", os.O_RDONLY), os.open(folder / "slot", os.O_RDONLY)]
    limits = {"max_size": 10**9, "max_files": 10**5, "path_bytes": 4096, "path_depth": 64}
    request = {"name": "a.tar.gz", "kind": "auto", "strip": "auto", "limits": limits}
    try:
        return await workers.call("unpack", request, fds, unit="slotd-worker-app-1-unpack", timeout_s=60, **options)
    finally:
        for fd in fds:
            os.close(fd)


async def test_a_worker_unpacks_through_the_descriptors_it_was_given_and_tells_how_far_it_is(tmp_path: Path) -> None:
    before = descriptors()
    said: list[Mapping[str, Any]] = []
    data = COMPRESS["gz"](tar(*(member(f"d/f{n}", os.urandom(100_000)) for n in range(200))))
    claim = await unpack(honest(), tmp_path, data, on_progress=said.append)
    assert claim == {"files": 201, "bytes": 20_000_000, "kind": "tar"}
    assert len(os.listdir(tmp_path / "slot")) == 200
    assert said
    assert all(0 <= one["bytes"] <= one["total"] for one in said)
    assert descriptors() == before


async def test_a_workers_own_error_arrives_with_its_kind_its_words_and_whether_it_was_forged(tmp_path: Path) -> None:
    data = COMPRESS["gz"](tar(*FORGED_TARS["a name that climbs out"]))
    with pytest.raises(VerificationFailed, match="leads out of the slot") as caught:
        await unpack(honest(), tmp_path, data)
    assert caught.value.forged
    assert caught.value.hint


async def test_a_request_of_some_megabytes_reaches_the_worker_whole(tmp_path: Path) -> None:
    workers = evil(tmp_path, "sock.sendall(frame({'ok': {'length': len(request['x']), 'fds': len(fds)}}))")
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(frames.DESCRIPTORS)]
    claim = await workers.call("fetch", {"x": "y" * 5_000_000}, fds, unit="slotd-worker-app-1-x", timeout_s=20)
    assert claim == {"length": 5_000_000, "fds": 16}
    for fd in fds:
        os.close(fd)


async def test_what_a_worker_did_not_foresee_is_a_sentence_not_a_traceback() -> None:
    with pytest.raises(Failed) as caught:
        await ask(honest(), {}, verb="unpack")
    assert str(caught.value).startswith("cannot unpack: the worker met something unforeseen, ValueError")
    assert "Traceback" not in str(caught.value)


async def test_a_worker_with_an_unknown_verb_says_how_it_is_used() -> None:
    done = await run([sys.executable, "-m", "slotd.worker", "evil"], timeout_s=20, env={"PYTHONPATH": str(DAEMON)})
    assert done.status == 1
    assert "usage" in done.output


# ── lying ────────────────────────────────────────────────────────────────────────────────────────────────────────

LIES = {
    "nothing": "",
    "half a frame": "sock.sendall(frame({'ok': {}})[:-1])",
    "half a head": "sock.sendall(b'\\0\\0')",
    "a frame longer than any may be": "sock.sendall(struct.pack('>I', 2**32 - 1)); time.sleep(60)",
    "what is not JSON": "sock.sendall(frame(b'{ok}'))",
    "a number that is none": 'sock.sendall(frame(b\'{"ok": {"bytes": NaN}}\'))',
    "JSON nested without end": "sock.sendall(frame(b'[' * 100_000))",
    "what is not UTF-8": 'sock.sendall(frame(b\'{"ok": "\\xff"}\'))',
    "two million lists": "sock.sendall(frame(b'{\"ok\": {\"a\": [' + b'[],' * 2_000_000 + b'1]}}'))",
    "a list": "sock.sendall(frame([1]))",
    "a result that is no object": "sock.sendall(frame({'ok': [1]}))",
    "neither a result nor an error": "sock.sendall(frame({'fine': {}}))",
    "progress that is no object": "sock.sendall(frame({'progress': 3})); time.sleep(60)",
    "progress of a megabyte": "sock.sendall(frame({'progress': {'x': 'y' * 10**6}})); time.sleep(60)",
    "an error without words": "sock.sendall(frame({'error': {'name': 'Failed'}}))",
    "an error of the daemon's own": "sock.sendall(frame({'error': {'name': 'NotAuthorized', 'message': 'cannot'}}))",
    "an error that is a list": "sock.sendall(frame({'error': []}))",
    "its own death": "os.kill(os.getpid(), 9)",
    "an exit status of 0": "sys.exit(0)",
    "an exception": "raise RuntimeError('boom')",
}


@pytest.mark.attack
@pytest.mark.parametrize("lie", LIES)
async def test_a_worker_is_not_trusted_that_answers_with(tmp_path: Path, lie: str) -> None:
    before = descriptors()
    with pytest.raises(Failed) as caught:
        await ask(evil(tmp_path, LIES[lie] or "pass"))
    assert str(caught.value).startswith("cannot ")
    assert str(caught.value).isprintable()
    assert descriptors() == before


async def test_a_workers_last_words_are_told_when_it_dies(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="out of cheese"):
        await ask(evil(tmp_path, "print('out of cheese', file=sys.stderr, flush=True); print('out of cheese')"))


@pytest.mark.attack
async def test_a_worker_that_talks_without_end_costs_no_memory_and_is_still_heard(tmp_path: Path) -> None:
    workers = evil(
        tmp_path, "os.write(1, b'x' * 50_000_000); os.write(2, b'y' * 50_000_000); sock.sendall(frame({'ok': {}}))"
    )
    assert await ask(workers) == {}


@pytest.mark.attack
async def test_a_flood_of_progress_does_not_keep_the_daemon_from_its_other_work(tmp_path: Path) -> None:
    workers = evil(tmp_path, "while True: sock.sendall(frame({'progress': {'bytes': 1}}))")
    calls = 0
    turns = 0

    async def live() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    def count(said: Mapping[str, Any]) -> None:
        nonlocal calls
        calls += 1

    other = asyncio.create_task(live())
    call = workers.call("fetch", {}, unit="slotd-worker-app-1-x", timeout_s=60, on_progress=count)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3):
            await call
    other.cancel()
    assert 0 < calls < 400
    assert turns > 20


@pytest.mark.attack
async def test_an_errors_words_are_cut_and_cleaned(tmp_path: Path) -> None:
    error = {"name": "SourceFailed", "message": "cannot \x1b[2J\r" + "x" * 10**6, "hint": 7, "retry_at": 5e9}
    body = f"sock.sendall(frame({{'error': {error!r}}}))"
    with pytest.raises(SourceFailed) as caught:
        await ask(evil(tmp_path, body))
    assert len(caught.value.message) <= 4000
    assert caught.value.message.isprintable()
    assert (caught.value.hint, caught.value.retry_at) == ("", 5e9)


@pytest.mark.attack
@pytest.mark.parametrize("retry_at", ['"soon"', "true", "-5", "1e999", "null", "[]", "1" + "0" * 400])
async def test_a_time_that_is_none_is_no_time(tmp_path: Path, retry_at: str) -> None:
    error = f'{{"error": {{"name": "SourceFailed", "message": "cannot", "retry_at": {retry_at}}}}}'
    body = f"sock.sendall(frame({error.encode()!r}))"
    with pytest.raises(SourceFailed) as caught:
        await ask(evil(tmp_path, body))
    assert caught.value.retry_at == 0.0


@pytest.mark.attack
@pytest.mark.parametrize(
    "done, total, shown",
    [
        (1, 4, 0.25),
        (9, 4, 1.0),
        (-9, 4, 0.0),
        (10**400, 1, 1.0),
        (-(10**400), 1, 0.0),
        (1, 0, 0.0),
        (1, 10**400, 0.0),
        (1, -1, 0.0),
        ("1", 4, 0.0),
        (1.5, 4, 0.0),
        (None, [], 0.0),
    ],
)
def test_how_far_a_worker_says_it_is_is_a_number_from_0_to_1(done: object, total: object, shown: float) -> None:
    assert frames.fraction({"bytes": done, "total": total}) == shown


@pytest.mark.attack
@pytest.mark.parametrize(
    "problem",
    [
        {"message": "cannot", "retry_at": "soon"},
        {"message": "cannot", "retry_at": 10**400},
        {"message": "cannot \x1b[2J\r\n", "hint": "\x1b[1m"},
        {"message": "", "hint": "x"},
        {"name": "NotAuthorized", "message": "cannot"},
        {"name": ["Failed"], "message": "cannot"},
        ["cannot"],
        "cannot",
    ],
)
def test_a_problem_that_a_worker_tells_is_a_sentence_of_a_kind_that_it_may_have(problem: object) -> None:
    with pytest.raises((SourceFailed, Failed), match=r"^cannot") as caught:
        tuf.raise_problem(problem)
    assert str(caught.value).isprintable()
    assert getattr(caught.value, "retry_at", 0.0) == 0.0


@pytest.mark.attack
@pytest.mark.parametrize(
    "name", ["", "../x", "role.", "role.a/b", "role.\ud800", "role." + "a" * 200, "root.x", "pinned\n"]
)
def test_metadata_are_not_kept_under_a_name_that_a_worker_made_up(name: str) -> None:
    with pytest.raises(Failed, match="has a name that none has"):
        tuflib.decoded({"timestamp": "AA==", name: "AA=="})


@pytest.mark.attack
@pytest.mark.parametrize("kind", [NoSpace, Misconfigured, Failed, VerificationFailed])
async def test_each_error_that_a_worker_may_raise_arrives_as_itself(tmp_path: Path, kind: type[SlotdError]) -> None:
    error = {"name": kind.name, "message": "cannot do it.", "hint": "Try.", "forged": 1}
    with pytest.raises(kind) as caught:
        await ask(evil(tmp_path, f"sock.sendall(frame({{'error': {error!r}}}))"))
    assert str(caught.value) == "cannot do it. Try."
    assert not getattr(caught.value, "forged", False), "only true is true"


# ── ends ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


async def until(happened: Callable[[], T]) -> T:
    """What another process makes true: there is no event for it here."""
    async with asyncio.timeout(20):
        while True:
            if found := happened():
                return found
            await asyncio.sleep(0.01)


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


async def test_a_cancelled_call_ends_the_worker_before_it_raises(tmp_path: Path) -> None:
    before = descriptors()
    note = tmp_path / "pid"
    workers = evil(tmp_path, f"open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    task = asyncio.create_task(ask(workers))
    pid = int(await until(lambda: text_of(note)))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not is_alive(pid)
    assert descriptors() == before


@pytest.mark.parametrize("after_s", [0, 0.001, 0.01, 0.05])
async def test_a_call_may_be_cancelled_at_any_moment(tmp_path: Path, after_s: float) -> None:
    before = descriptors()
    task = asyncio.create_task(ask(evil(tmp_path, "time.sleep(60)")))
    await asyncio.sleep(after_s)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert descriptors() == before


async def test_a_tool_that_takes_too_long_is_not_waited_for_by_its_children_that_hold_its_outputs(
    tmp_path: Path,
) -> None:
    note = tmp_path / "pid"
    script = f"sleep 600 & echo $! >{note}; echo said; wait"
    done = await asyncio.wait_for(run(["sh", "-c", script], timeout_s=0.5), 60)
    assert (done.timed_out, done.status) == (True, 137)
    task = asyncio.create_task(run(["sh", "-c", script], timeout_s=600))
    first = int(note.read_text())
    second = int(await until(lambda: note.read_text().strip() not in ("", str(first)) and note.read_text()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 60)
    for pid in (first, second):
        os.kill(pid, signal.SIGKILL)
    await asyncio.sleep(0.1)  # for the loop to see the outputs end


async def test_a_worker_ends_when_its_daemon_is_killed(tmp_path: Path) -> None:
    """Not by a signal: by the end of its socket. The worker is the real one, with a verb that never ends."""
    shutil.copytree(DAEMON / "slotd", tmp_path / "slotd")
    note = tmp_path / "pid"
    (tmp_path / "slotd/engines/unpack.py").write_text(
        f"import os, time\ndef unpack(*_):\n    open({str(note)!r}, 'w').write(str(os.getpid()))\n    time.sleep(60)\n"
    )
    script = """
import asyncio
from slotd.core.schema import Limits
from slotd.host.run import Workers
workers = Workers(limits=Limits(), sandbox=False)
asyncio.run(workers.call("unpack", {}, unit="slotd-worker-app-1-unpack", timeout_s=60))
"""
    daemon = subprocess.Popen([sys.executable, "-c", script], env={"PYTHONPATH": str(tmp_path)})
    worker = int(await until(lambda: text_of(note)))
    assert is_alive(worker)
    daemon.kill()
    daemon.wait()
    await until(lambda: not is_alive(worker))


# ── commands, less their sandbox ─────────────────────────────────────────────────────────────────────────────────


async def command(*argv: str, cwd: Path = Path("/"), timeout_s: float = 20, **environment: str) -> Completed:
    return await honest().command(
        argv, unit="slotd-worker-app-1-prepare", user="", cwd=cwd, writable=[], network=False,
        timeout_s=timeout_s, environment=environment,
    )  # fmt: skip


async def test_a_commands_two_outputs_come_as_one_and_only_its_tail_is_kept() -> None:
    done = await command("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.status, done.output) == (3, "out\nerr\n")
    done = await command("sh", "-c", "yes | head -c 5000000; echo the end")
    assert len(done.output) <= Limits().output_bytes
    assert done.output.endswith("the end\n")


async def test_a_command_that_is_not_there_ends_as_in_a_shell() -> None:
    done = await command("no-such-program")
    assert done.status == 127
    assert "not found" in done.output


async def test_a_commands_line_can_be_pasted_into_a_shell() -> None:
    done = await command("printf", "%s", "it's $HOME", "a b")
    again = subprocess.run(["sh", "-c", done.command_line], capture_output=True, text=True, check=True)
    assert again.stdout == done.output == "it's $HOMEa b"


async def test_a_command_has_a_home_of_its_own_that_is_gone_afterwards() -> None:
    done = await command("sh", "-c", "cd && pwd && touch here && echo $EXTRA", EXTRA="given")
    home, extra = done.output.split()
    assert extra == "given"
    assert not os.path.exists(home)


async def test_a_unit_that_does_not_carry_the_workers_prefix_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError):
        await honest().call("unpack", {}, unit="ssh", timeout_s=1)


def test_a_units_name_can_hold_any_apps_name() -> None:
    assert unit_name("app", 7, "fetch") == "slotd-worker-app-7-fetch"
    assert unit_name("a/b é%", 7, "fetch") == r"slotd-worker-a\x2fb\x20\xc3\xa9\x25-7-fetch"


# ── tools ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_tool_gives_its_status_and_output_and_takes_input() -> None:
    assert (await run(["cat"], input=b"hello", timeout_s=10)).output == "hello"
    done = await run(["sh", "-c", "echo out; echo err >&2; kill -9 $$"], timeout_s=10)
    assert (done.status, done.output, done.timed_out) == (137, "out\nerr\n", False)


async def test_a_tool_that_takes_too_long_is_killed() -> None:
    done = await run(["sleep", "60"], timeout_s=0.2)
    assert done.timed_out
    assert done.status == 137


async def test_a_tool_that_is_not_installed_is_named() -> None:
    with pytest.raises(Failed, match="no-such-tool"):
        await run(["no-such-tool", "--flag"], timeout_s=5)


# ── sandboxes, as systemd scores them ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("profile, most", [(Profile.NETWORK, 1.5), (Profile.VERIFY, 1.0), (Profile.UNPACK, 1.0)])
def test_a_workers_sandbox_is_as_tight_as_was_promised(tmp_path: Path, profile: Profile, most: float) -> None:
    unit = tmp_path / "worker.service"
    unit.write_text(sandbox.unit_text(profile))
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={most * 10:.0f}", "--json=short", unit],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stdout + said.stderr
    assert json.loads(said.stdout)


@pytest.mark.parametrize("profile", Profile)
def test_a_sandbox_holds_no_word_that_systemd_does_not_know(tmp_path: Path, profile: Profile) -> None:
    unit = tmp_path / "worker.service"
    unit.write_text(sandbox.unit_text(profile))
    said = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert str(unit) not in said.stderr, said.stderr
