"""Workers and commands as units of a real systemd: what their sandboxes let them do, and how they end."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from tests.hostile_archives import COMPRESS, member, symlink, tar
from tests.system.container import Container
from tests.system.image import REPOSITORY, Image

PRELUDE = """
import asyncio, json, os, pwd, socket, subprocess, sys, threading, time
from pathlib import Path
from slotd.core.schema import Limits
from slotd.errors import SlotdError
from slotd.host.run import Workers
USER = os.geteuid() != 0
def workers(package_root=None, **limits):
    return Workers(user_manager=USER, limits=Limits(**limits), package_root=package_root)
async def command(*argv, user="app", cwd="/", writable=(), network=False, timeout_s=30, **env):
    done = await workers().command(
        argv, unit="slotd-worker-app-1-c", user=user, cwd=Path(cwd), writable=[Path(path) for path in writable],
        network=network, timeout_s=timeout_s, environment=env)
    return {"status": done.status, "output": done.output, "timed_out": done.timed_out}
def units():
    words = ["systemctl", *(["--user"] if USER else []), "list-units", "--all", "--plain", "--no-legend"]
    words.append("slotd-worker-*")
    return subprocess.run(words, capture_output=True, text=True).stdout.split("\\n")[:-1]
def error(caught):
    return {"error": type(caught).__name__, "message": str(caught)}
async def main():
"""

# A worker in foreign hands: tries everything, and tells what it could do.
EVIL = r"""
import ctypes, errno, json, mmap, os, socket, struct, subprocess, sys, time
def main():
    sock = socket.socket(fileno=os.dup(0))
    head, fds, _, _ = socket.recv_fds(sock, 4, 16)
    want, body = struct.unpack(">I", head)[0], b""
    while len(body) < want:
        body += sock.recv(65536)
    request, done = json.loads(body), {}
    def tried(name, function):
        try:
            done[name] = f"done: {function()}"
        except OSError as caught:
            done[name] = errno.errorcode.get(caught.errno, repr(caught))
        except Exception as caught:
            done[name] = repr(caught)
    def status(key):
        return next(l.split()[1] for l in open("/proc/self/status") if l.startswith(key + ":"))
    def connect():
        with socket.create_connection(("127.0.0.1", request["port"]), timeout=5):
            return "connected"
    def executable_memory():
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        if libc.mmap(None, ctypes.c_size_t(4096), 7, 34, -1, ctypes.c_long(0)) == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "mmap")
    def libc(name, *arguments):
        c = ctypes.CDLL(None, use_errno=True)
        if getattr(c, name)(*arguments) != 0:
            raise OSError(ctypes.get_errno(), name)
    def write(path):
        with open(path, "w") as file:
            file.write("evil")
    tried("uid", lambda: os.getuid())
    tried("capabilities", lambda: status("CapEff") + status("CapBnd"))
    tried("no new privileges", lambda: status("NoNewPrivs"))
    tried("connect", connect)
    tried("internet socket", lambda: socket.socket().close())
    tried("unix socket", lambda: socket.socket(socket.AF_UNIX).close())
    tried("packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close())
    tried("execute", lambda: subprocess.run(["/bin/true"]).returncode)
    tried("execute python", lambda: subprocess.run(["/usr/bin/python3", "-c", "pass"]).returncode)
    tried("read shadow", lambda: len(open("/etc/shadow").read()))
    tried("read the state", lambda: os.listdir("/var/lib/slotd"))
    tried("homes", lambda: os.listdir("/home"))
    tried("other processes", lambda: sorted(int(n) for n in os.listdir("/proc") if n.isdigit()) != [os.getpid()])
    tried("write etc", lambda: write("/etc/evil"))
    tried("write var", lambda: write("/var/tmp/evil") or os.path.exists("/var/tmp/evil"))
    tried("write shared memory", lambda: write("/dev/shm/evil"))
    tried("executable memory", executable_memory)
    tried("become root", lambda: os.setuid(0))
    tried("namespace", lambda: libc("unshare", 0x10000000))
    tried("mount", lambda: libc("mount", b"none", b"/tmp", b"tmpfs", 0, None))
    tried("set-id", lambda: libc("chmod", b"/proc/self/fd/1", 0o4755))
    tried("ptrace", lambda: libc("ptrace", 16, os.getppid(), 0, 0))
    tried("signal the daemon", lambda: os.kill(request.get("daemon", 1), 0))
    tried("its memory", lambda: open(f"/proc/{request.get('daemon', 1)}/mem", "rb").close())
    tried("the bus", lambda: socket.socket(socket.AF_UNIX).connect(request.get("bus", "/run/dbus/none")))
    tried("kill init", lambda: os.kill(1, 0))
    tried("the given descriptor", lambda: os.fstat(fds[0]).st_size and "seen")
    if request["dir"]:
        tried("write the given directory", lambda: os.close(os.open("made", os.O_CREAT | os.O_WRONLY, dir_fd=fds[0])))
    else:
        tried("write the given file", lambda: os.pwrite(fds[0], b"bytes", 0))
    body = json.dumps({"ok": done}).encode()
    sock.sendall(struct.pack(">I", len(body)) + body)
"""


class Machine:
    """A container in which Python code can be the daemon."""

    def __init__(self, container: Container) -> None:
        self.container = container

    def daemon(self, body: str, *, user: bool = False, timeout_s: float = 120) -> Any:
        """Runs `body` as a coroutine, where the daemon would; gives what it returns."""
        script = PRELUDE + textwrap.indent(textwrap.dedent(body), "    ")
        script += "\nprint('\\n' + json.dumps(asyncio.run(main())))\n"
        env = {"XDG_RUNTIME_DIR": "/run/user/1234", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/user/1234/bus"}
        done = self.container.run(
            ["/usr/bin/python3", "-I", "-c", script],
            user="app" if user else None,
            env=env if user else None,
            timeout_s=timeout_s,
        )
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def machine(bare_image: Image) -> Iterator[Machine]:
    with Container(bare_image) as container:
        container.copy_in(REPOSITORY / "daemon/slotd", "/usr/lib/python3/dist-packages/slotd")
        container.run("useradd --system --no-create-home slotd-worker; useradd --uid 1234 --create-home app")
        container.run("echo private >/home/app/private; mkdir -p /var/lib/slotd/apps/x /srv/app; chown app: /srv/app")
        container.run("chmod 700 /var/lib/slotd")
        container.write_file("/opt/evil/slotd/__init__.py", "")
        container.write_file("/opt/evil/slotd/worker.py", EVIL)
        yield Machine(container)


def trials(machine: Machine, verb: str) -> dict[str, str]:
    found: dict[str, str] = machine.daemon(
        f"""
        verb = {verb!r}
        server = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=lambda: [server.accept() for _ in range(9)], daemon=True).start()
        if verb == "unpack":
            os.makedirs("/var/lib/slotd/slot", exist_ok=True)
            os.chown("/var/lib/slotd/slot", pwd.getpwnam("slotd-worker").pw_uid, -1)
            fd = os.open("/var/lib/slotd/slot", os.O_RDONLY)
        else:
            fd = os.open("/var/lib/slotd/file", os.O_RDWR | os.O_CREAT, 0o600)
            os.write(fd, b"before")
        request = {{"port": server.getsockname()[1], "dir": verb == "unpack"}}
        return await workers(Path("/opt/evil")).call(verb, request, [fd], unit="slotd-worker-x-1-" + verb, timeout_s=30)
        """
    )
    return found


REFUSED = {
    "packet socket", "read shadow", "write etc", "executable memory", "become root", "namespace", "mount", "set-id",
    "ptrace", "kill init", "read the state", "signal the daemon", "its memory", "the bus",
}  # fmt: skip


@pytest.mark.attack
@pytest.mark.parametrize("verb", ["fetch", "verify", "unpack"])
def test_a_worker_in_foreign_hands_can_do_nothing_but_its_work(machine: Machine, verb: str) -> None:
    found = trials(machine, verb)
    assert {name for name in REFUSED if found[name].startswith("done")} == set(), found
    assert found["uid"] != "done: 0"
    assert found["capabilities"] == f"done: {'0' * 32}"
    assert found["no new privileges"] == "done: 1"
    assert found["homes"] == "done: []"
    assert found["other processes"] == "done: False"
    assert found["the given descriptor"] == "done: seen"
    assert not machine.container.exists("/var/tmp/evil"), "what it writes to /var/tmp is its own"
    assert not machine.container.exists("/dev/shm/evil")


@pytest.mark.attack
def test_only_the_worker_that_fetches_has_a_network(machine: Machine) -> None:
    assert trials(machine, "fetch")["connect"] == "done: connected"
    for verb in ("verify", "unpack"):
        found = trials(machine, verb)
        assert not found["connect"].startswith("done"), verb
        assert not found["internet socket"].startswith("done"), verb
    assert not trials(machine, "unpack")["unix socket"].startswith("done")


def test_only_the_worker_that_verifies_executes_programs(machine: Machine) -> None:
    assert trials(machine, "verify")["execute"] == "done: 0"
    for verb in ("fetch", "unpack"):
        assert trials(machine, verb)["execute"] == "EACCES"


@pytest.mark.attack
def test_a_worker_writes_what_it_was_given_and_that_alone(machine: Machine) -> None:
    assert trials(machine, "fetch")["write the given file"] == "done: 5"
    assert machine.container.read_file("/var/lib/slotd/file") == "bytese"
    assert trials(machine, "unpack")["write the given directory"] == "done: None"
    assert machine.container.exists("/var/lib/slotd/slot/made")


def test_the_real_worker_unpacks_in_its_sandbox(machine: Machine) -> None:
    data = COMPRESS["zst"](tar(member("top/bin/app", b"#!/bin/sh\n", mode=0o755), symlink("top/app", "bin/app")))
    machine.container.write_file("/root/a.tar.zst", data)
    found = machine.daemon(
        """
        os.makedirs("/var/lib/slotd/apps/x/a")
        os.chown("/var/lib/slotd/apps/x/a", pwd.getpwnam("slotd-worker").pw_uid, -1)
        fds = [os.open("/root/a.tar.zst", os.O_RDONLY), os.open("/var/lib/slotd/apps/x/a", os.O_RDONLY)]
        limits = {"max_size": 10**6, "max_files": 10, "path_bytes": 100, "path_depth": 10}
        request = {"name": "a.tar.zst", "kind": "auto", "strip": "auto", "limits": limits}
        return await workers().call("unpack", request, fds, unit="slotd-worker-x-1-unpack", timeout_s=30)
        """
    )
    assert found == {"files": 4, "bytes": 10, "kind": "tar"}
    assert machine.container.run("stat -c '%U %a' /var/lib/slotd/apps/x/a/bin/app").stdout == "slotd-worker 755\n"


def write_slow_worker(machine: Machine) -> None:
    machine.container.write_file("/opt/slow/slotd/__init__.py", "")
    machine.container.write_file("/opt/slow/slotd/worker.py", "import time\ndef main(): time.sleep(600)\n")


@pytest.mark.attack
def test_a_worker_that_takes_too_long_is_ended_and_the_bound_is_named(machine: Machine) -> None:
    write_slow_worker(machine)
    found = machine.daemon(
        """
        found = {}
        for verb in ("unpack", "fetch"):
            try:
                await workers(Path("/opt/slow")).call(verb, {}, unit="slotd-worker-x-1-slow", timeout_s=1)
            except SlotdError as caught:
                found[verb] = error(caught)
        return {**found, "units": units()}
        """
    )
    assert found["unpack"]["error"] == "Failed"
    assert "took longer than 1 s" in found["unpack"]["message"]
    assert found["fetch"]["error"] == "SourceFailed"
    assert found["units"] == []


@pytest.mark.attack
def test_a_worker_leaves_no_process_behind_when_it_has_answered(machine: Machine) -> None:
    machine.container.write_file("/opt/forks/slotd/__init__.py", "")
    machine.container.write_file(
        "/opt/forks/slotd/worker.py",
        "import os, signal, struct, time\n"
        "def main():\n"
        "    for _ in range(3):\n"
        "        if os.fork() == 0:\n"
        "            os.setsid(); signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)\n"
        "    os.write(0, struct.pack('>I', 10) + b'{\"ok\": {}}')\n",
    )
    found = machine.daemon(
        """
        before = len([n for n in os.listdir("/proc") if n.isdigit()])
        await workers(Path("/opt/forks")).call("verify", {}, unit="slotd-worker-x-1-forks", timeout_s=30)
        return {"more": len([n for n in os.listdir("/proc") if n.isdigit()]) - before, "units": units()}
        """
    )
    assert found["units"] == []
    assert found["more"] <= 0


@pytest.mark.parametrize("after_s", [0, 0.01, 0.02, 0.03, 0.05, 0.1, 0.5])
def test_a_call_that_is_cancelled_at_any_moment_leaves_no_unit(machine: Machine, after_s: float) -> None:
    write_slow_worker(machine)
    found = machine.daemon(
        f"""
        fds = len(os.listdir("/proc/self/fd"))
        work = [workers(Path("/opt/slow")).call("verify", {{}}, unit="slotd-worker-x-1-slow", timeout_s=50),
                command("sleep", "50")]
        tasks = [asyncio.create_task(one) for one in work]
        await asyncio.sleep({after_s})
        for task in tasks:
            task.cancel()
        ends = [type(end).__name__ for end in await asyncio.gather(*tasks, return_exceptions=True)]
        left = units()
        await asyncio.sleep(0.3)
        return {{"ends": ends, "left": left, "later": units(), "fds": len(os.listdir("/proc/self/fd")) - fds}}
        """
    )
    assert found["ends"] == ["CancelledError"] * 2
    assert found["left"] == found["later"] == []
    assert found["fds"] <= 3, "the loop's own"


def test_calls_cancelled_within_their_start_one_moment_after_another_end_at_once(machine: Machine) -> None:
    """Also where systemd-run has asked for the unit and systemd has not read it yet."""
    write_slow_worker(machine)
    found = machine.daemon(
        """
        async def ended(work, after_s):
            task = asyncio.create_task(work)
            await asyncio.sleep(after_s)
            task.cancel()
            await asyncio.wait({task}, timeout=20)
            return task.done()
        late = []
        for moment in range(240):
            after_s = moment % 24 / 4000
            slow = workers(Path("/opt/slow")).call("verify", {}, unit="slotd-worker-x-1-slow", timeout_s=500)
            both = await asyncio.gather(ended(slow, after_s), ended(command("sleep", "500", timeout_s=600), after_s))
            if not all(both):
                return {"late": after_s, "left": units()}
        return {"late": None, "left": units()}
        """
    )
    assert found == {"late": None, "left": []}


def test_what_a_killed_daemon_left_is_stopped_by_the_next(machine: Machine) -> None:
    machine.container.run("systemd-run --unit=slotd-worker-x-1-prepare-9 sleep 1000")
    machine.container.run("systemd-run --unit=other-1 sleep 1000")
    found = machine.daemon("""return {"stopped": await workers().stop_leftovers(), "left": units()}""")
    assert found == {"stopped": ["slotd-worker-x-1-prepare-9.service"], "left": []}
    assert machine.container.run("systemctl is-active other-1", check=False).stdout == "active\n"
    machine.container.run("systemctl stop other-1")


# ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_command_is_the_apps_user_and_writes_only_what_it_may(machine: Machine) -> None:
    script = "id -un; echo $HOME; pwd; echo x >$HOME/f && echo home; echo x >in && echo in; cat /home/app/private;"
    script += "echo x >/srv/app/out; echo x >/home/app/out; echo x >/etc/out; exit 5"
    machine.container.run("mkdir -p /srv/work && chown app: /srv/work")
    found = machine.daemon(f"""return await command("sh", "-c", {script!r}, cwd="/srv/work", writable=["/srv/work"])""")
    assert found["status"] == 5
    assert found["output"].split()[:5] == ["app", "/tmp", "/srv/work", "home", "in"]
    assert "private" in found["output"]
    assert found["output"].count("Read-only file system") == 3
    assert machine.container.read_file("/srv/work/in") == "x\n"
    assert not machine.container.exists("/tmp/f")


def test_a_command_has_the_network_only_if_it_was_given(machine: Machine) -> None:
    connect = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5); print('connected')"
    body = f"""
        server = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=lambda: [server.accept() for _ in range(9)], daemon=True).start()
        words = ["/usr/bin/python3", "-c", {connect!r}, str(server.getsockname()[1])]
        return {{str(given): (await command(*words, network=given))["status"] for given in (True, False)}}
        """
    assert machine.daemon(body) == {"True": 0, "False": 1}


def test_a_commands_words_reach_it_as_they_are(machine: Machine) -> None:
    words = ["$HOME", "${HOME}", "$$", "%n %h", "a  b", "\\x41", "'\"", "", "*", "-e", "é\n"]
    found = machine.daemon(f"""
        show = "import os, sys, json; print(json.dumps([sys.argv[1:], os.environ['ODD']]))"
        return await command("/usr/bin/python3", "-c", show, *{words!r}, ODD={"".join(words)!r})
        """)
    assert json.loads(found["output"]) == [words, "".join(words)]


def test_a_commands_end_is_told_as_it_was(machine: Machine) -> None:
    found = machine.daemon(
        """
        return {
            "late": await command("sleep", "50", timeout_s=1),
            "killed": await command("sh", "-c", "kill -SEGV $$"),
            "missing": await command("no-such-program"),
            "flood": await command("sh", "-c", "yes | head -c 3000000; echo the end"),
        }
        """
    )
    assert found["late"]["timed_out"]
    assert (found["killed"]["status"], found["killed"]["timed_out"]) == (139, False)
    assert found["missing"]["status"] == 127
    assert found["flood"]["output"].endswith("the end\n")
    assert len(found["flood"]["output"]) <= 256 * 1024


def test_a_command_whose_unit_cannot_be_made_says_why(machine: Machine) -> None:
    found = machine.daemon(
        """
        found = {}
        for name, value in {"user": "nobody-knows", "cwd": "/gone", "writable": ["/gone"]}.items():
            try:
                found[name] = await command("true", **{name: value})
            except SlotdError as caught:
                found[name] = error(caught)
        return found
        """
    )
    assert "there is no such user" in found["user"]["message"]
    assert "its working directory cannot be entered" in found["cwd"]["message"]
    assert "its sandbox cannot be made" in found["writable"]["message"]
    assert {one["error"] for one in found.values()} == {"Failed"}


# ── a user's own manager ─────────────────────────────────────────────────────────────────────────────────────────


def test_workers_and_commands_run_under_a_users_own_manager(machine: Machine) -> None:
    socket_unit = "[Socket]\nListenStream=%t/bus\n"
    service = "[Unit]\nRequires=dbus.socket\n[Service]\nType=notify\nExecStart=/usr/bin/dbus-daemon --session "
    service += "--address=systemd: --nofork --nopidfile --systemd-activation\n"
    machine.container.write_file("/etc/systemd/user/dbus.socket", socket_unit)
    machine.container.write_file("/etc/systemd/user/dbus.service", service)
    machine.container.run("mkdir -p /etc/systemd/user/sockets.target.wants")
    machine.container.run("ln -sf ../dbus.socket /etc/systemd/user/sockets.target.wants/; systemctl start user@1234")
    machine.container.write_file("/home/app/a.tar", tar(member("f", b"x")), owner="app")
    found = machine.daemon(
        """
        os.makedirs("/home/app/slot", exist_ok=True)
        fds = [os.open("/home/app/a.tar", os.O_RDONLY), os.open("/home/app/slot", os.O_RDONLY)]
        limits = {"max_size": 10**6, "max_files": 10, "path_bytes": 100, "path_depth": 10}
        request = {"name": "a.tar", "kind": "auto", "strip": "auto", "limits": limits}
        claim = await workers().call("unpack", request, fds, unit="slotd-worker-x-1-unpack", timeout_s=30)
        task = asyncio.create_task(command("sleep", "50"))
        await asyncio.sleep(0.5)
        seen = len(units())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        done = await command("sh", "-c", "id -un; cd && touch f && pwd", writable=["/home/app/slot"])
        return {"claim": claim, "done": done, "seen": seen, "left": units()}
        """,
        user=True,
    )
    assert found["claim"] == {"files": 1, "bytes": 1, "kind": "tar"}
    assert found["done"]["status"] == 0
    assert found["done"]["output"] == "app\n/tmp\n", "a /tmp of its own"
    assert (found["seen"], found["left"]) == (1, [])
