"""Servers that fail, lie, stall or never end: the update ends with a sentence, and the app runs on untouched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.release_server import Authority, ReleaseServer
from tests.system.container import Container
from tests.system.hostile import (
    CACHE,
    DROP_IN,
    HostilePublisher,
    assert_says,
    refused_and_remembered,
    reload,
    untouched,
)
from tests.system.notes import Notes

pytestmark = pytest.mark.attack

# Small, so that the tests need not wait as long as a real slow server may take.
SETTINGS = """\
[limits]
index = "3s"
download = "3s"
index_bytes = "1M"
sums_bytes = "100K"
download_bytes = "4M"
"""
INDEX = "/files/index.json"
ARTIFACT = "/files/notes-*.tar.gz"
SIGNATURE = "/files/notes-*.tar.gz.asc"
SUMS = "/files/SHA256SUMS-*"


@pytest.fixture(scope="module")
def notes(container: Container, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    with HostilePublisher(tmp_path_factory.mktemp("publisher")) as publisher:
        app = Notes(container, publisher)
        app.set_up(trial="500ms", settings=SETTINGS)
        app.install("1.0")
        yield app


@pytest.fixture
def publisher(notes: Notes) -> Iterator[HostilePublisher]:
    assert isinstance(notes.publisher, HostilePublisher)
    notes.publisher.publish_next()
    yield notes.publisher
    notes.publisher.server.behave()


AT_THE_INDEX = {
    "is not there": ("status", {"status": 404}, ("nothing of that name (404)", "Check the names and addresses")),
    "gives a server fault": ("status", {"status": 500}, ("the server has a fault (500)", "Try again later")),
    "never ends": ("endless", {}, ("larger than 1048576 bytes", "`index_bytes`")),
    "drips": ("drip", {"interval_s": 0.2}, ("took longer than 3 s", "[limits]")),
    "drips its headers": ("drip-headers", {}, ("took longer than 3 s", "[limits]")),
    "redirects to itself": ("redirect-loop", {}, ("redirects more than 5 times",)),
    "redirects to a file": ("redirect", {"to": "file:///etc/passwd"}, ("redirects to 'file:///etc/passwd'", "no http")),
    "is a web page": ("body", {"body": "<html>Not here"}, ("is not JSON", "Is the address right?")),
    "is nested without end": ("deep-json", {}, ("nested more than 64 levels deep",)),
    "has a number for a version": (
        "body", {"body": '{"releases": [{"version": 9.0}]}'},
        ("releases[0].version: expected a text, found a number", "tell the publisher"),
    ),
    "has a date that is no number": (
        "body", {"body": '{"releases": [{"version": "9.0", "published": NaN}]}'}, ("NaN is not a number",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", AT_THE_INDEX)
def test_a_check_says_what_is_wrong_when_the_index(notes: Notes, publisher: HostilePublisher, fault: str) -> None:
    kind, options, says = AT_THE_INDEX[fault]
    publisher.server.misbehave(kind, INDEX, **options)
    refused_and_remembered(notes, "check", "notes", says=("cannot ", "index.json", *says))


AT_A_FILE = {
    "is not there": (ARTIFACT, "status", {"status": 404}, ("nothing of that name (404)", "Check the names")),
    "gives a server fault": (ARTIFACT, "status", {"status": 500}, ("has a fault (500)", "Try again later")),
    "never ends": (ARTIFACT, "endless", {}, ("larger than 4194304 bytes", "`download_bytes`")),
    "drips": (ARTIFACT, "drip", {}, ("took longer than 3 s", "[limits]")),
    "falls silent": (ARTIFACT, "silence", {}, ("took longer than 3 s", "Try again later")),
    "is cut off every time": (ARTIFACT, "length", {"add": 1000}, ("cannot read",)),
    "redirects to a file": (ARTIFACT, "redirect", {"to": "file:///etc/passwd"}, ("'file:///etc/passwd'", "no http")),
    "is not even HTTP": (ARTIFACT, "garbage", {}, ("cannot read",)),
    "comes compressed once more": (ARTIFACT, "gzip", {}, ("encoded it ('gzip')", "no digest fits")),
    "is damaged on its way": (ARTIFACT, "corrupt", {}, ("its sha256 is", "the checksums say", "Do not install it")),
    "has no sums": (SUMS, "status", {"status": 404}, ("SHA256SUMS-", "nothing of that name (404)")),
    "has sums that never end": (SUMS, "endless", {}, ("larger than 102400 bytes", "`sums_bytes`")),
    "has a signature that fails": (SIGNATURE, "status", {"status": 500}, (".asc", "has a fault (500)")),
    "has a signature that drips": (SIGNATURE, "drip", {}, (".asc", "took longer than 3 s")),
}


@pytest.mark.parametrize("fault", AT_A_FILE)
def test_an_update_says_what_is_wrong_when_the_release(notes: Notes, publisher: HostilePublisher, fault: str) -> None:
    path, kind, options, says = AT_A_FILE[fault]
    publisher.server.misbehave(kind, path, **options)
    refused_and_remembered(notes, "update", "notes", says=says)


def test_a_file_that_never_ends_leaves_nothing_on_the_disk(notes: Notes, publisher: HostilePublisher) -> None:
    publisher.server.misbehave("endless", ARTIFACT)
    for _ in range(2):
        publisher.publish_next()
        notes.slotctl("update", "notes", status=1)
    assert "partial" not in notes.machine.run(["ls", CACHE]).stdout


@pytest.fixture
def small_disk(notes: Notes) -> Iterator[None]:
    """Downloads lie on a file system of 48 MiB, and may be larger than that."""
    settings = "/etc/slotd/slotd.toml.d/large.toml"
    notes.machine.write_file(settings, '[limits]\ndownload_bytes = "1G"\ndownload = "1min"\n')
    notes.machine.run("mount -t tmpfs -o size=48M tmpfs /var/cache/slotd && systemctl restart slotd")
    yield
    notes.machine.run(f"rm {settings} && systemctl stop slotd && umount /var/cache/slotd && systemctl start slotd")


def test_a_file_that_never_ends_does_not_fill_the_disk(
    notes: Notes, publisher: HostilePublisher, small_disk: None
) -> None:
    publisher.server.misbehave("endless", ARTIFACT)
    says = ("/var/cache/slotd/notes has room for 16 MiB beside the 32 MiB that stay free", "Free some space")
    refused_and_remembered(notes, "update", "notes", says=says)
    free = notes.machine.run("df --output=avail -k /var/cache/slotd | tail -1").stdout
    assert int(free) > 45 * 1024


def test_what_one_failed_download_left_goes_with_the_next(notes: Notes, publisher: HostilePublisher) -> None:
    publisher.server.misbehave("drip", ARTIFACT, etag='"one"', times=1)
    notes.slotctl("update", "notes", status=1)
    left = notes.machine.run(["ls", CACHE]).stdout
    assert "partial" in left, "a download that can be gone on with is kept"
    publisher.publish_next()
    publisher.server.misbehave("status", ARTIFACT, status=404)
    notes.slotctl("update", "notes", status=1)
    assert "partial" not in notes.machine.run(["ls", CACHE]).stdout


def test_a_missing_artifact_is_waited_for(notes: Notes, publisher: HostilePublisher) -> None:
    version = publisher.publish_next()
    publisher.leave_out(version, f"notes-{version}.tar.gz")
    with untouched(notes):
        printed = notes.slotctl("update", "notes", status=3)
    assert_says(printed, f"{version} was passed over", f"notes-{version}.tar.gz is not there (yet)")


@pytest.mark.parametrize(("file", "key"), [("SHA256SUMS-{}", "checksums"), ("notes-{}.tar.gz.asc", "signature")])
def test_a_missing_proof_is_waited_for_and_nothing_is_downloaded(
    notes: Notes, publisher: HostilePublisher, file: str, key: str
) -> None:
    version = publisher.publish_next()
    publisher.leave_out(version, file.format(version))
    with untouched(notes):
        printed = notes.slotctl("update", "notes", status=3)
    assert_says(printed, f"{version} was passed over: it is not complete (yet)", f"no file {file.format(version)}")
    assert_says(printed, f"change `{key}` under [verify]")
    assert not publisher.server.seen(f"/files/notes-{version}.tar.gz")


def test_a_release_called_latest_is_no_release(notes: Notes, publisher: HostilePublisher) -> None:
    index = json.dumps({"releases": [{"version": "latest", "assets": {"notes-latest.tar.gz": "index.json"}}]})
    publisher.server.misbehave("body", INDEX, body=index)
    with untouched(notes):
        printed = notes.slotctl("update", "notes", status=3)
    assert_says(printed, "latest")
    assert notes.json("status", "notes")["available"] == ""


def test_an_index_cannot_send_us_to_the_files_of_this_host(notes: Notes, publisher: HostilePublisher) -> None:
    index = {"releases": [{"version": "9.0", "assets": {"notes-9.0.tar.gz": "file:///etc/shadow"}}]}
    publisher.server.misbehave("body", INDEX, body=json.dumps(index))
    with untouched(notes):
        printed = notes.slotctl("update", "notes", status=3)
    assert_says(printed, "notes-9.0.tar.gz", "passed over")


# ── https ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def https(notes: Notes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReleaseServer]:
    """The same releases by https, from an authority that this machine trusts."""
    assert isinstance(notes.publisher, HostilePublisher)
    authority = Authority.make(tmp_path_factory.mktemp("authority"))
    with ReleaseServer(notes.publisher.server.root, tls=authority) as server:
        notes.machine.copy_in(Path(authority.ca), "/etc/slotd/test-ca.pem")
        notes.machine.write_file(
            "/run/systemd/system/slotd.service.d/ca.conf",
            "[Service]\nEnvironment=SSL_CERT_FILE=/etc/slotd/test-ca.pem\n",
        )
        notes.machine.write_file(DROP_IN, f'[source]\nurl = "{server.url}{INDEX}"\n')
        notes.machine.run("systemctl daemon-reload && systemctl restart slotd")
        yield server
        notes.machine.run(f"rm -r {DROP_IN} /run/systemd/system/slotd.service.d && systemctl daemon-reload")
        notes.machine.run("systemctl restart slotd")


@pytest.fixture
def honest(https: ReleaseServer, publisher: HostilePublisher) -> Iterator[ReleaseServer]:
    yield https
    https.behave()


def test_https_is_followed(notes: Notes, honest: ReleaseServer) -> None:
    assert_says(notes.slotctl("check", "notes"), "is available")
    assert honest.seen(INDEX)


@pytest.mark.parametrize(("command", "path"), [("check", INDEX), ("update", ARTIFACT), ("update", SIGNATURE)])
def test_a_redirect_to_plain_http_is_not_followed(
    notes: Notes, honest: ReleaseServer, publisher: HostilePublisher, command: str, path: str
) -> None:
    asked = len(publisher.server.requests)
    honest.misbehave("redirect", path, to=f"{publisher.server.url}{{path}}")
    says = ("cannot read https://", "redirects from https to plain http", "Use an address that stays with https")
    refused_and_remembered(notes, command, "notes", says=says)
    assert len(publisher.server.requests) == asked


def test_a_server_that_nobody_vouches_for_is_not_asked(notes: Notes, honest: ReleaseServer, tmp_path: Path) -> None:
    with ReleaseServer(honest.root, tls=Authority.make(tmp_path / "other")) as stranger:
        text = notes.machine.read_file(DROP_IN)
        notes.machine.write_file(DROP_IN, f'[source]\nurl = "{stranger.url}{INDEX}"\n')
        reload(notes)
        refused_and_remembered(notes, "check", "notes", says=("certificate", "add that to the system's certificates"))
        assert not stranger.seen()
        notes.machine.write_file(DROP_IN, text)
        reload(notes)


def test_an_honest_release_still_gets_through_afterwards(notes: Notes, publisher: HostilePublisher) -> None:
    before = notes.state()
    version = publisher.publish_next()
    notes.slotctl("update", "notes")
    after = notes.wait_state()
    assert (after["version"], after["digest"]) == (version, before["digest"])
