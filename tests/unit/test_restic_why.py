"""What restic said when it failed, as it was recorded, becomes a sentence with what to do."""

from __future__ import annotations

import pytest

from slotd.errors import NoSpace, SlotdError
from slotd.host.restic_why import Ended, failure

SFTP, HERE = "sftp:backup@nas.example:/srv/slotd", "/srv/backup/restic"
NO_SESSION = f"Fatal: unable to open repository at {SFTP}: unable to start the sftp session, error: EOF"
FULL_THERE = 'Fatal: unable to save snapshot: Write: sftp: "Failure" (SSH_FX_FAILURE)'
FULL_HERE = (
    "Fatal: unable to save snapshot: write sm/r/data/3b/3b70d6c6ff6e165ec3-tmp-2047396986: no space left on device"
)
LOCKED = """unable to create lock in backend: repository is already locked by PID 16537 on vm by root (UID 0, GID 0)
lock was created at 2026-11-22 09:56:49 (1.227259898s ago)
storage ID 1239ae38
the `unlock` command can be used to remove stale locks"""


def said(repository: str, text: str, ssh: str = "", verb: str = "backup") -> SlotdError:
    return failure(repository, verb, Ended(1, "", text), lambda: ssh)


@pytest.mark.parametrize(
    ("ssh", "sentence", "hint"),
    [
        (
            "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nHost key verification failed.",
            "its host shows another key than the one that is known. Nothing was sent.",
            "ssh-keygen -R HOST",
        ),
        ("Host key verification failed.", "its host is not known here yet.", "compare the fingerprint"),
        (
            "backup@nas.example: Permission denied (publickey).",
            "does not let root's key in: backup@nas.example: Permission denied (publickey).",
            "authorized_keys",
        ),
        (
            "ssh: Could not resolve hostname nas.example: Name or service not known",
            "not resolve hostname",
            "Try the way",
        ),
        ("", "unable to start the sftp session", "Try the way"),
    ],
)
def test_why_ssh_does_not_get_there_is_asked_of_ssh_itself(ssh: str, sentence: str, hint: str) -> None:
    error = said(SFTP, NO_SESSION, ssh)
    assert sentence in error.message
    assert hint in error.hint


def test_a_full_disk_is_told_apart_here_and_there() -> None:
    here = said(HERE, FULL_HERE)
    assert isinstance(here, NoSpace)
    assert "its disk is full" in here.message
    there = said(SFTP, FULL_THERE)
    assert "its host could not write" in there.message
    assert "quota there is full" in there.hint


def test_a_lock_names_who_holds_it() -> None:
    error = said(SFTP, LOCKED)
    assert "another process has locked it" in error.message
    assert "by PID 16537 on vm" in error.message
    assert "restic unlock" in error.hint


@pytest.mark.parametrize(("repository", "hint"), [(HERE, "Mount the disk"), (SFTP, "restic init")])
def test_a_repository_that_is_not_there_is_mounted_or_made(repository: str, hint: str) -> None:
    error = said(
        repository, "Fatal: unable to open config file: Lstat: file does not exist\nIs there a repository at …"
    )
    assert "it is not there" in error.message
    assert hint in error.hint


def test_foreign_words_are_shown_without_what_would_move_the_cursor() -> None:
    assert "\x1b" not in str(said(SFTP, NO_SESSION, "Permission denied \x1b[2J"))
