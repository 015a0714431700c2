"""`verify`, `enable`, `disable`: read the definitions themselves, without a bus."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import keys

from slotd.cli.main import main

DEFINITION = """
[service]
units = ["notes.service"]
user = "notes"
[source]
type = "directory"
path = "/srv/releases"
asset = "notes-{version}.tar.gz"
[verify]
require = ["sha256", "openpgp"]
checksums = "SHA256SUMS"
keys = ["publisher.gpg"]
"""


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration directory with one good app and a real key."""
    directory = tmp_path / "etc"
    (directory / "apps.d").mkdir(parents=True)
    (directory / "keys.d").mkdir()
    (directory / "apps.d/notes.toml").write_text(DEFINITION)
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", ""]
    try:
        subprocess.run([*gpg, "--quick-gen-key", "Publisher <p@example.org>", "ed25519", "sign", "1d"], check=True)
        with (directory / "keys.d/publisher.gpg").open("wb") as key:
            subprocess.run([*gpg, "--export"], check=True, stdout=key)
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "gpg-agent"], check=False)
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(directory))
    return directory


def test_a_good_definition_is_called_good_and_its_keys_are_named(etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "notes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"notes: good ({etc}/apps.d/notes.toml)"
    assert lines[1].startswith("  key publisher.gpg: openpgp ")
    assert lines[1].endswith("Publisher <p@example.org>")


def test_every_problem_of_a_definition_is_told_at_once(etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = DEFINITION.replace("units =", "unit =") + '[policy]\ntrial = "nan"\n'
    (etc / "apps.d/bad.toml").write_text(bad)
    assert main(["verify"]) == 1
    out = capsys.readouterr().out
    assert "service.unit is not a known key" in out
    assert "policy.trial" in out
    assert "notes: good" in out


@pytest.fixture
def homes() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as path:
        yield Path(path)
        keys.stop_agents([home for home in Path(path).iterdir() if home.is_dir()])


@pytest.mark.parametrize("fault", ["expired", "revoked"])
def test_a_key_that_is_no_longer_good_is_not_called_good(
    etc: Path, homes: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    key = keys.openpgp_key(homes / "a", expired=fault == "expired")
    if fault == "revoked":
        key.revoke()
    old, good = key.public(), (etc / "keys.d/publisher.gpg").read_bytes()
    (etc / "keys.d/publisher.gpg").write_bytes(old)
    assert main(["verify", "notes"]) == 1
    said = capsys.readouterr().out
    why = "expired on 2020-12-31" if fault == "expired" else "has been revoked"
    assert f"the key file publisher.gpg: its key {key.fingerprint} {why}. Nothing that it signs is installed" in said
    # Beside a good one it is what a publisher leaves behind when keys are changed.
    (etc / "keys.d/publisher.gpg").write_bytes(old + good)
    assert main(["verify", "notes"]) == 0
    said = capsys.readouterr().out
    assert f"warning: the key file publisher.gpg: its key {key.fingerprint} {why}. What it signs is not" in said


def test_what_is_not_there_yet_is_a_warning(etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = DEFINITION.replace("notes", "no-such-thing").replace("/srv/releases", "/nonexistent")
    (etc / "apps.d/other.toml").write_text(other)
    assert main(["verify", "--json", "other"]) == 0
    [finding] = json.loads(capsys.readouterr().out)["apps"]
    assert finding["warnings"] == [
        "service.units: there is no unit file no-such-thing.service yet.",
        "service.user: there is no user no-such-thing yet.",
        "source.path: there is no directory /nonexistent.",
    ]


def test_a_missing_key_is_told_beside_other_problems(etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (etc / "apps.d/notes.toml").write_text(DEFINITION.replace("units =", "unit =").replace("publisher", "nobody"))
    assert main(["verify", "notes"]) == 1
    out = capsys.readouterr().out
    assert "service.unit is not a known key" in out
    assert "nobody.gpg: there is no such key" in out


def test_a_key_that_is_none_is_a_problem(etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (etc / "keys.d/publisher.gpg").write_text("not a key")
    assert main(["verify", "--json", "notes"]) == 1
    [finding] = json.loads(capsys.readouterr().out)["apps"]
    assert "publisher.gpg" in finding["problems"][0]
    (etc / "keys.d/publisher.gpg").unlink()
    assert main(["verify", "notes"]) == 1
    assert "there is no such key" in capsys.readouterr().out


def test_a_file_that_is_not_installed_yet_can_be_verified(
    etc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft = tmp_path / "draft.toml"
    draft.write_text(DEFINITION.replace("notes", "draft"))
    assert main(["verify", str(draft)]) == 0
    assert capsys.readouterr().out.startswith("draft: good")
    draft.write_text("[service\n")
    assert main(["verify", str(draft)]) == 1
    assert main(["verify", str(tmp_path / "nothing.toml")]) == 1


def test_an_app_that_is_not_defined_gets_a_name_that_is_close(etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("verify", "enable", "disable"):
        assert main([command, "nots"]) == 1
        assert "Did you mean notes?" in capsys.readouterr().err


def test_enable_without_root_says_how(etc: Path, readable_source: Path) -> None:
    code = """if True:
        import os, sys
        from slotd.cli.main import main
        if os.geteuid() == 0:
            os.setuid(65534)
        sys.exit(main(["enable", "notes"]))
    """
    path = {"PYTHONPATH": str(readable_source / "daemon")}
    run = subprocess.run(["/usr/bin/python3", "-c", code], env=path, capture_output=True, text=True, check=False)
    assert run.returncode == 5
    assert "sudo slotctl enable notes" in run.stderr
