"""The recipes of the manual for databases, each against its real server: what was dumped is what comes back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from slotd.core.config import parse_app
from slotd.core.schema import App
from slotd.core.template import expand_command
from slotd.data import DataSpec, make_data_store

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples" / "databases"
NOBODY = 65534
PATH = "/usr/lib/postgresql/15/bin:/usr/lib/postgresql/17/bin:/usr/sbin:/usr/bin:/sbin:/bin"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the servers refuse to be root; root gives them a user")


def example(name: str) -> App:
    path = EXAMPLES / f"{name}.toml"
    return parse_app("notes", [(str(path), tomllib.loads(path.read_text()))])


class Server:
    """A server on a socket in a directory of its own, and how an app's user talks to it."""

    def __init__(self, home: Path, environment: Mapping[str, str], ask: Sequence[str], user: int = NOBODY) -> None:
        self.home, self.environment, self._ask, self.user = home, environment, ask, user
        self.dumps = home / "dump"
        self.dumps.mkdir()
        os.chown(self.dumps, user, user)

    def run(self, argv: Sequence[str], *, check: bool = True) -> str:
        done = subprocess.run(
            argv,
            env={"PATH": PATH, "HOME": str(self.home), **self.environment},
            user=self.user,
            group=self.user,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self.home,
        )
        assert done.returncode == 0 or not check, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout if done.returncode == 0 else ""

    def ask(self, query: str) -> str:
        return self.run([*self._ask, query])

    def commands(self, commands: Sequence[Sequence[str]]) -> bool:
        """The commands of a definition; whether all went well, as slotd asks."""
        for command in commands:
            argv = expand_command(command, {"data": str(self.dumps)})
            done = subprocess.run(
                argv,
                env={"PATH": PATH, "HOME": str(self.home), **self.environment},
                user=self.user,
                group=self.user,
                capture_output=True,
                cwd="/",
                timeout=60,
            )
            if done.returncode:
                return False
        return True


def needs(*programs: str) -> None:
    for program in programs:
        if shutil.which(program, path=PATH) is None:
            pytest.fail(f"{program} is not installed: packaging/bootstrap installs it")


@contextmanager
def running(argv: Sequence[str], home: Path, is_up: Sequence[str], environment: Mapping[str, str]) -> Iterator[None]:
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            argv, env={"PATH": PATH, **environment}, user=NOBODY, group=NOBODY, cwd=home, stdout=log, stderr=log
        )
        try:
            deadline = time.monotonic() + 30
            while subprocess.run(
                is_up, env={"PATH": PATH, **environment}, user=NOBODY, group=NOBODY, cwd=home, capture_output=True
            ).returncode:
                assert server.poll() is None, (home / "log").read_text()[-2000:]
                assert time.monotonic() < deadline, (home / "log").read_text()[-2000:]
                time.sleep(0.1)
            yield
        finally:
            server.send_signal(signal.SIGINT if argv[0] == "postgres" else signal.SIGTERM)
            server.wait(timeout=60)


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Short, for the sockets, and reachable for the server's user."""
    path = Path(subprocess.run(["mktemp", "-d", "/var/tmp/db.XXXXXX"], capture_output=True, text=True).stdout.strip())
    os.chown(path, NOBODY, NOBODY)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def postgresql(home: Path) -> Iterator[Server]:
    needs("initdb", "postgres", "pg_dump", "psql")
    environment = {"PGHOST": str(home), "PGUSER": "notes"}
    base = {"env": {"PATH": PATH}, "user": NOBODY, "group": NOBODY, "cwd": home, "check": True, "capture_output": True}
    subprocess.run(["initdb", "-U", "boss", "-A", "trust", "-N", "-D", str(home / "pg")], **base)  # type: ignore[call-overload]
    line = ["postgres", "-D", str(home / "pg"), "-k", str(home), "-c", "listen_addresses=", "-F"]
    with running(line, home, ["pg_isready", "-q"], {"PGHOST": str(home)}):
        server = Server(home, environment, ["psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "notes", "-c"])
        for words in ("CREATE ROLE notes LOGIN", "CREATE DATABASE notes OWNER notes"):
            server.run(["psql", "-U", "boss", "-q", "postgres", "-c", words])
        yield server


@pytest.fixture
def mariadb(home: Path) -> Iterator[Server]:
    needs("mariadb-install-db", "mariadbd", "mariadb-dump", "mariadb")
    data, socket = str(home / "maria"), str(home / "sock")
    base = {"env": {"PATH": PATH}, "user": NOBODY, "group": NOBODY, "cwd": home, "check": True, "capture_output": True}
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db"]
    subprocess.run([*install, "--auth-root-authentication-method=normal"], **base)  # type: ignore[call-overload]
    line = ["mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={socket}", "--skip-networking"]
    (home / ".my.cnf").write_text(f"[client]\nsocket = {socket}\n")  # over that of Debian's configuration
    environment = {"HOME": str(home)}
    with running([*line, f"--pid-file={home}/pid"], home, ["mariadb-admin", "-u", "root", "ping"], environment):
        server = Server(home, environment, ["mariadb", "--batch", "--skip-column-names", "notes", "-e"])
        for words in (
            "CREATE DATABASE notes",
            "CREATE USER nobody IDENTIFIED VIA unix_socket",
            "GRANT ALL ON notes.* TO nobody",
        ):
            server.run(["mariadb", "-u", "root", "-e", words])
        yield server


GOOD = """
CREATE TABLE notes (id INTEGER PRIMARY KEY, text VARCHAR(200) NOT NULL);
INSERT INTO notes VALUES (1, 'one'), (2, 'zwei: äöü'), (3, 'it''s "three"');
CREATE VIEW short AS SELECT id FROM notes WHERE id < 3;
"""
BAD = """
DROP VIEW short;
ALTER TABLE notes DROP COLUMN text;
INSERT INTO notes VALUES (4);
CREATE TABLE made_by_the_bad_version (n INTEGER);
"""
CONTENT = "SELECT id, text FROM notes ORDER BY id; SELECT count(*) FROM short"
TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema IN ('public', 'notes') ORDER BY 1"


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_database_comes_back_as_it_was_dumped(request: pytest.FixtureRequest, kind: str) -> None:
    server, data = request.getfixturevalue(kind), example(kind).data
    server.ask(GOOD)
    content, tables = server.ask(CONTENT), server.ask(TABLES)
    assert "äöü" in content
    assert server.commands(data.before)
    assert server.commands(data.dump)
    server.ask(BAD)
    assert "made_by_the_bad_version" in server.ask(TABLES)
    for _ in range(2):  # a way back that was interrupted loads again
        assert server.commands(data.restore)
        assert (server.ask(CONTENT), server.ask(TABLES)) == (content, tables)
    server.ask("INSERT INTO notes VALUES (5, 'the app can write again')")


def test_a_postgresql_dump_that_breaks_off_changes_nothing(postgresql: Server) -> None:
    data = example("postgresql").data
    postgresql.ask(GOOD)
    assert postgresql.commands(data.dump)
    dump = postgresql.dumps / "notes.sql"
    dump.write_text(dump.read_text().replace("CREATE VIEW", "CREATE NONSENSE"))
    postgresql.ask("INSERT INTO notes VALUES (4, 'newer')")
    content = postgresql.ask(CONTENT)
    assert not postgresql.commands(data.restore)
    assert postgresql.ask(CONTENT) == content


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_dump_that_cannot_be_made_says_so(request: pytest.FixtureRequest, kind: str) -> None:
    server, data = request.getfixturevalue(kind), example(kind).data
    server.ask(GOOD)
    server.dumps.rmdir()
    assert not server.commands(data.dump)


def test_a_redis_of_the_apps_own_is_saved_as_the_files_that_it_leaves(home: Path, tmp_path: Path) -> None:
    needs("redis-server", "redis-cli")
    units = example("redis").service.units
    assert units[0] == "redis-server@notes.service", "the server is stopped after the app and started before it"
    data, socket = home / "redis", str(home / "sock")
    data.mkdir()
    os.chown(data, NOBODY, NOBODY)
    line = ["redis-server", "--port", "0", "--unixsocket", socket, "--dir", str(data), "--save", "900 1"]
    ask = ["redis-cli", "-s", socket]
    server = Server(home, {}, ask)
    store, spec = make_data_store(), DataSpec((data,))
    with running(line, home, [*ask, "ping"], {}):
        server.run([*ask, "set", "note", "good"])
        store.hot(spec, tmp_path / "backup", None, lambda: False)
    store.cold(spec, tmp_path / "backup")
    store.seal(tmp_path / "backup", {})
    with running(line, home, [*ask, "ping"], {}):
        server.run([*ask, "flushall"])
        server.run([*ask, "set", "other", "bad"])
    store.restore(spec, tmp_path / "backup", tmp_path / "aside")
    with running(line, home, [*ask, "ping"], {}):
        assert server.run([*ask, "get", "note"]).strip() == "good"
        assert server.run([*ask, "keys", "*"]).split() == ["note"]
