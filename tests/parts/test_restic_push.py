"""Second copies: pushed to a repository elsewhere, and brought back whole where the first are lost."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.s3_server import S3Server
from tests.sftp_server import SftpServer
from tests.system.container import free_port
from tests.trees import DAEMON, look

from slotd import errors
from slotd.core.schema import BackupPolicy
from slotd.data import DataSpec, make_data_store
from slotd.data.restic_push import Second, environment_of, is_pushed
from slotd.host.restic import Restic
from slotd.model import Backup
from slotd.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners can be given away by root only")
LABELS = ("app=notes", "version=1.0", "reason=update")


@pytest.fixture
def live(tmp_path: Path) -> Path:
    top = tmp_path / "srv" / "data"
    (top / "sub").mkdir(parents=True)
    for number in range(20):
        (top / "sub" / f"note {number}").write_text(f"note {number}")
    os.chown(top / "sub" / "note 3", 4711, 4712)
    os.link(top / "sub" / "note 1", top / "same")
    (top / "secret").write_text("secret")
    (top / "secret").chmod(0o600)
    return top


@pytest.fixture
def backup(live: Path, tmp_path: Path) -> Path:
    dest = tmp_path / "state" / "backups" / "notes" / "20260101T000000Z-7"
    store = make_data_store()
    store.hot(DataSpec((live,)), dest, None, lambda: False)
    store.cold(DataSpec((live,)), dest)
    store.seal(dest, {"app": "notes", "id": dest.name, "version": "1.0", "reason": "update", "created_at": 1.0})
    return dest


def made(address: str, tmp_path: Path, secret: bytes = b"pass") -> Second:
    restic = Restic(address, secret, tmp_path / "home", cache=True)
    restic.run("init")
    return Second(restic)


def test_a_backup_that_is_lost_here_comes_back_from_there_and_can_be_restored(
    live: Path, backup: Path, tmp_path: Path
) -> None:
    second, good = made(str(tmp_path / "far"), tmp_path), look(live)
    second.push(backup, LABELS)
    assert is_pushed(backup, str(tmp_path / "far"))
    assert not is_pushed(backup, "/elsewhere")
    shutil.rmtree(backup)
    (live / "secret").write_text("bad")
    header = second.bring("notes", backup.name, backup)
    assert (header["version"], header["reason"]) == ("1.0", "update")
    store = make_data_store()
    assert store.verify(backup) == []
    store.restore(DataSpec((live,)), backup, tmp_path / "aside")
    assert look(live) == good
    assert (tmp_path / "aside" / "data" / "0" / "secret").read_text() == "bad"


def test_only_what_is_new_is_sent_again(live: Path, backup: Path, tmp_path: Path) -> None:
    second = made(str(tmp_path / "far"), tmp_path)
    second.push(backup, LABELS)
    first = sum(path.stat().st_size for path in (tmp_path / "far" / "data").rglob("*") if path.is_file())
    second.push(backup, LABELS)
    again = sum(path.stat().st_size for path in (tmp_path / "far" / "data").rglob("*") if path.is_file())
    assert again - first < first


def test_a_repository_that_is_not_there_is_said_and_nothing_counts_as_pushed(backup: Path, tmp_path: Path) -> None:
    second = Second(Restic(str(tmp_path / "nowhere"), b"pass", tmp_path / "home", cache=True))
    with pytest.raises(errors.Failed, match="it is not there"):
        second.push(backup, LABELS)
    assert not is_pushed(backup, str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists(), "a push never makes a repository"


def test_an_id_that_was_never_pushed_is_said(backup: Path, tmp_path: Path) -> None:
    second = made(str(tmp_path / "far"), tmp_path)
    with pytest.raises(errors.NoSuchBackup):
        second.bring("notes", "20260101T000000Z-8", tmp_path / "back")


def test_a_copy_that_is_not_what_it_says_is_refused_and_what_is_here_stays(backup: Path, tmp_path: Path) -> None:
    second = made(str(tmp_path / "far"), tmp_path)
    (target,) = (backup / "data" / "0").glob("secret")
    target.write_text("other!")  # of the same size, after the seal
    second.push(backup, LABELS)
    target.write_text("secret")
    with pytest.raises(errors.Failed, match="cannot use what came back"):
        second.bring("notes", backup.name, backup)
    assert make_data_store().is_sealed(backup)


def test_a_link_in_place_of_the_copy_leads_to_no_other_and_what_is_here_stays(backup: Path, tmp_path: Path) -> None:
    second = made(str(tmp_path / "far"), tmp_path)
    (tmp_path / "link").symlink_to(backup)
    tags = ("slotd", "pass=push", f"id={backup.name}", *LABELS)
    second.restic.run("backup", *(f"--tag={tag}" for tag in tags), "--", str(tmp_path / "link"))
    with pytest.raises(errors.Failed, match="is not a directory in it"):
        second.bring("notes", backup.name, backup)
    assert make_data_store().is_sealed(backup)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SftpServer]:
    with SftpServer(tmp_path / "sshd", free_port()) as server:
        yield server


@pytest.fixture
def ssh(server: SftpServer, tmp_path: Path) -> Path:
    """A directory with an `ssh` of its own home: its key is let in, and it knows the host."""
    programs, home = tmp_path / "bin", tmp_path / "home-of-ssh"
    for path in (programs, home):
        path.mkdir(mode=0o700)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / "id"], check=True)
    server.let_in((home / "id.pub").read_text())
    (home / "known").write_text(server.known)
    (home / "config").write_text(f"IdentityFile {home}/id\nIdentitiesOnly yes\nUserKnownHostsFile {home}/known\n")
    (programs / "ssh").write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {home}/config "$@"\n')
    (programs / "ssh").chmod(0o755)
    return programs


def test_by_sftp_it_is_the_same(backup: Path, tmp_path: Path, server: SftpServer, ssh: Path) -> None:
    address = f"{server.address}{tmp_path}/far"
    restic = Restic(address, b"pass", tmp_path / "home", cache=True, path=f"{ssh}:/usr/bin:/bin")
    restic.run("init")
    second = Second(restic)
    second.push(backup, LABELS)
    shutil.rmtree(backup)
    second.bring("notes", backup.name, backup)
    assert make_data_store().verify(backup) == []


def test_what_is_wrong_with_the_way_to_an_sftp_server_is_said_with_what_to_do(
    backup: Path, tmp_path: Path, server: SftpServer, ssh: Path
) -> None:
    address, home = f"{server.address}{tmp_path}/far", tmp_path / "home-of-ssh"
    second = Second(Restic(address, b"pass", tmp_path / "home", cache=True, path=f"{ssh}:/usr/bin:/bin"))

    def said() -> str:
        with pytest.raises(errors.Failed) as caught:
            second.push(backup, LABELS)
        assert not is_pushed(backup, address)
        assert address in str(caught.value)
        return str(caught.value)

    assert "it is not there" in said()
    server.let_in("")
    assert "does not let root's key in" in said()
    (home / "known").write_text("")
    assert "its host is not known here yet. Log in there once as root" in said()
    (home / "known").write_text(server.known)
    server.stop()
    assert "Connection refused" in said()
    server.new_host_key()
    server.start()
    assert "shows another key than the one that is known" in said()


def test_by_s3_it_is_the_same_and_what_is_wrong_is_said(backup: Path, tmp_path: Path) -> None:
    with S3Server(tmp_path / "s3", free_port()) as server:
        address, keys = f"{server.address}copies", environment_of(server.environment.encode())
        restic = Restic(address, b"pass", tmp_path / "home", cache=True, environment=keys)
        with pytest.raises(errors.Failed, match=r"it is not there: .*Make it with `restic init`"):
            Second(restic).push(backup, LABELS)
        restic.run("init")
        Second(restic).push(backup, LABELS)
        shutil.rmtree(backup)
        Second(restic).bring("notes", backup.name, backup)
        assert make_data_store().verify(backup) == []
        stranger = dataclasses.replace(restic, environment=keys | {"AWS_SECRET_ACCESS_KEY": "wrong"})
        with pytest.raises(errors.Failed, match=r"does not take the keys .*Mend what the credential of push_env"):
            Second(stranger).push(backup, LABELS)
    with pytest.raises(errors.Failed, match=r"cannot reach the restic repository .*connection refused"):
        Second(restic).push(backup, LABELS)


def test_what_a_service_needs_to_know_is_read_line_by_line_and_nothing_else_is_taken() -> None:
    assert environment_of(b"# S3\nAWS_ACCESS_KEY_ID=one\n\nAWS_SECRET_ACCESS_KEY=t=wo\n") == {
        "AWS_ACCESS_KEY_ID": "one",
        "AWS_SECRET_ACCESS_KEY": "t=wo",
    }
    for text in (b"LD_PRELOAD=/tmp/x.so", b"PATH=/tmp", b"AWS_ACCESS_KEY_ID"):
        with pytest.raises(errors.Failed, match="no variable of a storage service"):
            environment_of(text)


DEFINITION = """
[service]
units = ["notes.service"]
[source]
type = "directory"
path = "/srv/releases"
[verify]
require = ["sha256"]
checksums = "SHA256SUMS"
[data]
paths = ["{live}"]
[backup]
push = "{push}"
push_credential = "restic-push"
"""


def slotd(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`slotd WORDS` as its unit would run it."""
    own = {
        "CONFIGURATION_DIRECTORY": str(tmp_path / "etc"),
        "STATE_DIRECTORY": str(tmp_path / "state"),
        "CACHE_DIRECTORY": str(tmp_path / "cache"),
        "RUNTIME_DIRECTORY": str(tmp_path / "run"),
        "CREDENTIALS_DIRECTORY": str(tmp_path / "credentials"),
        "PYTHONPATH": str(DAEMON),
    }
    line = [sys.executable, "-m", "slotd", *words]
    return subprocess.run(line, env=os.environ | own, capture_output=True, text=True, timeout=600, check=False)


def test_the_unit_pushes_what_is_new_once_and_brings_back_what_even_the_state_has_lost(
    live: Path, backup: Path, tmp_path: Path
) -> None:
    far = tmp_path / "far"
    (tmp_path / "etc" / "apps.d").mkdir(parents=True)
    (tmp_path / "etc" / "apps.d" / "notes.toml").write_text(DEFINITION.format(live=live, push=far))
    for name in ("credentials", "run", "cache"):
        (tmp_path / name).mkdir()
    save(tmp_path, Backup(backup.name, "notes", "backup", "1.0", "update", 1.0, path=str(backup), sealed=True))

    waits = slotd(tmp_path, "push")
    assert waits.returncode == 1
    assert "'restic-push'" in waits.stderr
    assert not is_pushed(backup, str(far))

    (tmp_path / "credentials" / "restic-push").write_text("pass\n")
    made(str(far), tmp_path)
    for _ in range(2):
        done = slotd(tmp_path, "push")
        assert done.returncode == 0, done.stderr
    assert len(os.listdir(far / "snapshots")) == 1

    shutil.rmtree(tmp_path / "state")
    done = slotd(tmp_path, "bring", "notes", backup.name)
    assert done.returncode == 0, done.stderr
    (row,) = rows(tmp_path)
    assert (row.id, row.version, row.reason, row.sealed) == (backup.name, "1.0", "update", True)
    assert make_data_store().verify(Path(row.path)) == []


def test_what_lies_in_a_repository_here_is_pushed_as_files_and_comes_back_without_it(
    live: Path, tmp_path: Path
) -> None:
    far, state, good = tmp_path / "far", tmp_path / "state", look(live)
    dest = state / "backups" / "notes" / "20260101T000000Z-8"
    store = make_data_store(BackupPolicy(store="restic"), state / "restic" / "notes")
    store.hot(DataSpec((live,)), dest, None, lambda: False)
    store.cold(DataSpec((live,)), dest)
    store.seal(dest, {"app": "notes", "id": dest.name, "version": "1.0", "reason": "update", "created_at": 1.0})
    save(tmp_path, Backup(dest.name, "notes", "backup", "1.0", "update", 1.0, path=str(dest), sealed=True))
    (tmp_path / "etc" / "apps.d").mkdir(parents=True)
    definition = DEFINITION.format(live=live, push=far) + 'store = "restic"\n'
    (tmp_path / "etc" / "apps.d" / "notes.toml").write_text(definition)
    for name in ("credentials", "run", "cache"):
        (tmp_path / name).mkdir()
    (tmp_path / "credentials" / "restic-push").write_text("pass\n")
    made(str(far), tmp_path)
    done = slotd(tmp_path, "push")
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(dest)) == ["data", "pushed.json", "restic.json", "tmp", "tree.json"], (
        "nothing stays beside"
    )
    shutil.rmtree(state)
    done = slotd(tmp_path, "bring", "notes", dest.name)
    assert done.returncode == 0, done.stderr
    (live / "secret").write_text("bad")
    make_data_store().restore(DataSpec((live,)), dest, tmp_path / "aside")
    assert look(live) == good


def save(tmp_path: Path, row: Backup) -> None:
    store = Store(tmp_path / "state" / "state.db")
    store.save(row)
    store.close()


def rows(tmp_path: Path) -> Any:
    store = Store(tmp_path / "state" / "state.db")
    try:
        return store.backups("notes")
    finally:
        store.close()
