"""The daemon's sandbox, with another program in it: all that slotd must do works, and what it must not do fails."""

from __future__ import annotations

import json
import re
import socketserver
import threading

import pytest
from tests.system.container import Container

# Each key is one thing tried; its value is "ok" or the error's symbol.
PROGRAM = r"""
import errno, fcntl, json, os, socket, sqlite3, subprocess, sys, threading

done = {}

def tried(name):
    def run(function):
        try:
            function()
            done[name] = "ok"
        except OSError as error:
            done[name] = errno.errorcode.get(error.errno, repr(error))
        except Exception as error:
            done[name] = repr(error)
    return run

@tried("data into the quarantine")
def _():
    os.rename("/srv/demo/data", "/srv/demo/aside")
    os.rename("/var/lib/demo/data", "/var/lib/slotd/quarantine/1")

@tried("backup into the data")
def _(): os.rename("/var/lib/slotd/quarantine/1", "/var/lib/demo/data")

@tried("files get their owner back")
def _(): os.chown("/var/lib/demo/data/file", 1000, 1000)

@tried("files of the app can be read")
def _(): open("/var/lib/demo/data/secret").read()

@tried("directories get their set-group-id bit back")
def _():
    os.chmod("/var/lib/demo/data", 0o2770)
    assert os.stat("/var/lib/demo/data").st_mode & 0o2000

@tried("a lease on a file of someone else")
def _():
    fd = os.open("/var/lib/demo/data/file", os.O_RDONLY)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)

@tried("state in SQLite")
def _():
    db = sqlite3.connect("/var/lib/slotd/probe.db")
    db.execute("pragma journal_mode=wal")
    db.execute("create table t(x)")
    db.commit()

@tried("a thread")
def _():
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()

@tried("a unit of its own")
def _(): subprocess.run(["systemd-run", "--wait", "--pipe", "--quiet", "--collect", "true"], check=True)

@tried("a unit is asked for")
def _(): subprocess.run(["systemctl", "is-active", "--quiet", "dbus.service"], check=True)

@tried("a probe of a local port")
def _(): socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5).close()

@tried("a definition is written")
def _(): open("/etc/slotd/apps.d/x.toml", "w")

@tried("a program is replaced")
def _(): open("/usr/bin/true", "r+b")

@tried("a raw socket")
def _(): socket.socket(socket.AF_PACKET, socket.SOCK_RAW)

@tried("another user")
def _(): os.setuid(1000)

@tried("a mount")
def _(): subprocess.run(["mount", "-t", "tmpfs", "none", "/mnt"], check=True, stderr=subprocess.DEVNULL)

print(json.dumps(done))
"""
MUST_NOT = {
    "a definition is written": "EROFS",
    "a program is replaced": "EROFS",
    "a raw socket": "EAFNOSUPPORT",
    "another user": "EPERM",
}
# The daemon's own: what another program in its place must not do.
NOT_THE_SANDBOX = re.compile(
    r"^(Type|NotifyAccess|BusName|WatchdogSec|Restart\w*|ExecReload|OnFailure|After|Wants|StartLimit\w*)=.*\n",
    re.MULTILINE,
)


@pytest.fixture(scope="module")
def tried(container: Container) -> dict[str, str]:
    """What the program above met with, run as `slotd.service` is run."""
    with listener() as port:
        unit = NOT_THE_SANDBOX.sub("", container.read_file("/lib/systemd/system/slotd.service"))
        unit = re.sub(r"^ExecStart=.*", f"ExecStart=/usr/bin/python3 -I /srv/try.py {port}", unit, flags=re.MULTILINE)
        unit = unit.replace("[Service]", "[Service]\nType=oneshot\nStandardOutput=truncate:/srv/out")
        container.write_file("/etc/systemd/system/try.service", unit)
        container.write_file("/srv/try.py", PROGRAM)
        for path in ("/srv/demo/data/file", "/var/lib/demo/data/file", "/var/lib/demo/data/secret"):
            container.write_file(path, "x", mode=0o600, owner="alice")
        container.run("chown -R alice: /var/lib/demo && systemctl daemon-reload && systemctl start try.service")
    result = json.loads(container.read_file("/srv/out"))
    assert isinstance(result, dict)
    return result


class listener:
    """A TCP server on the loopback address that takes every connection; gives its port."""

    def __enter__(self) -> int:
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return int(self._server.server_address[1])

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_all_that_the_daemon_must_do_works(tried: dict[str, str]) -> None:
    failed = {name: how for name, how in tried.items() if name not in MUST_NOT and name != "a mount" and how != "ok"}
    assert not failed


@pytest.mark.attack
@pytest.mark.parametrize("name", sorted(MUST_NOT))
def test_what_the_daemon_must_not_do_fails(tried: dict[str, str], name: str) -> None:
    assert tried[name] == MUST_NOT[name]


@pytest.mark.attack
def test_it_cannot_mount(tried: dict[str, str]) -> None:
    assert tried["a mount"] != "ok"
