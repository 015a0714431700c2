"""The PyPI source: both of its APIs, the host's own pip, and which files fit this host."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.release_server import ReleaseServer

from slotd.core.schema import Limits, Source
from slotd.errors import Misconfigured, SourceFailed
from slotd.sources import Listing
from slotd.sources.pypi import addresses, fits_python, pip_files, rank
from slotd.sources.work import fetch, list_releases, listing_from_json

JSON_API = "/pypi-index/pypi/*"
WHEEL = "note_pad-{}-py3-none-any.whl"
SDIST = "note_pad-{}.tar.gz"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ReleaseServer]:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PIP_INDEX_URL", "PIP_CONFIG_FILE", "PIP_NO_INDEX", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"):
        monkeypatch.delenv(name, raising=False)
    with ReleaseServer() as running:
        yield running


def source(server: ReleaseServer, **more: Any) -> Source:
    return Source(**{"type": "pypi", "package": "Note.Pad", "url": f"{server.url}/pypi-index"} | more)


def listing(source: Source, limits: Limits | None = None) -> Listing:
    limits = limits or Limits()
    plain = {"source": {name: getattr(source, name) for name in ("type", "package", "url", "scheme")}}
    return listing_from_json(list_releases(plain, [], lambda said: None), source, limits)


def publish(server: ReleaseServer, version: str, *names: str, **said: Any) -> None:
    files = {name.format(version): f"{name} {version}".encode() for name in names or (WHEEL, SDIST)}
    server.release("pypi/note-pad", version, files, **{"published": "2026-01-31T12:00:00Z"} | said)


def test_each_version_is_a_release_with_its_files_and_digests(server: ReleaseServer) -> None:
    publish(server, "1.9")
    publish(server, "1.10")
    found = listing(source(server)).releases
    assert [release.version for release in found] == ["1.10", "1.9"]
    assert [asset.name for asset in found[0].assets] == [WHEEL.format("1.10"), SDIST.format("1.10")]
    assert found[0].published == 1769860800.0
    assert all(asset.digest.startswith("sha256:") and asset.size > 0 for asset in found[0].assets)


@pytest.mark.parametrize("kind", ["json", "html"])
def test_an_index_that_has_only_the_simple_api_gives_the_same(server: ReleaseServer, kind: str) -> None:
    publish(server, "1.0", yanked=True)
    publish(server, "1.1")
    whole = listing(source(server)).releases
    server.misbehave("status", JSON_API, status=404)
    if kind == "html":
        page = "".join(
            f'<a data-requires-python="&gt;=3.5" href="../../files/note-pad/{version}/{name.format(version)}#sha256='
            f'{release.assets[place].digest[7:]}"{" data-yanked" if release.yanked else ""}>{name}</a>'
            for release in whole
            for version in [release.version]
            for place, name in enumerate((WHEEL, SDIST))
        )
        server.misbehave("body", "/pypi-index/simple/note-pad/", body=f"<!DOCTYPE html>{page}", type="text/html")
    simple = listing(source(server)).releases
    assert [release.version for release in simple] == ["1.1", "1.0"]
    assert [release.yanked for release in simple] == [False, True]
    for one, other in zip(whole, simple, strict=True):
        assert [(a.name, a.url, a.digest) for a in one.assets] == [(a.name, a.url, a.digest) for a in other.assets]


def test_a_file_of_the_index_can_be_fetched(server: ReleaseServer, tmp_path: Path) -> None:
    publish(server, "1.0")
    asset = listing(source(server)).releases[0].assets[0]
    with (tmp_path / "file").open("w+b") as file:
        request = {"url": asset.url, "kind": "http", "expected_size": asset.size}
        done = fetch(request, [file.fileno()], lambda said: None)
    assert f"sha256:{done['sha256']}" == asset.digest


def test_yanked_releases_are_marked(server: ReleaseServer) -> None:
    publish(server, "1.0", yanked=True)
    publish(server, "1.1")
    assert {release.version: release.yanked for release in listing(source(server)).releases} == {
        "1.0": True,
        "1.1": False,
    }


def test_files_for_other_hosts_are_left_out(server: ReleaseServer) -> None:
    publish(
        server,
        "1.0",
        "note_pad-{}-cp311-cp311-win_amd64.whl",
        "note_pad-{}-py2-none-any.whl",
        "note_pad-{}-cp399-cp399-macosx_11_0_arm64.whl",
        "note_pad-{}.win32.exe",
        "note_pad-{}-py3.11.egg",
        SDIST,
    )
    publish(server, "1.1", "note_pad-{}-cp311-cp311-win_amd64.whl")
    found = listing(source(server)).releases
    assert [(release.version, [asset.name for asset in release.assets]) for release in found] == [
        ("1.0", [SDIST.format("1.0")])
    ]


def test_versions_for_another_python_are_left_out_and_that_is_said(server: ReleaseServer) -> None:
    publish(server, "2.0", requires_python=">=99")
    publish(server, "1.0", requires_python=">=3.5")
    found = listing(source(server))
    assert [release.version for release in found.releases] == ["1.0"]
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert found.warnings == (f"1 versions up to 2.0 were left out: 2.0 needs Python >=99, this host has {here}.",)


def test_a_wheel_made_for_this_host_is_better_than_a_general_one_and_that_than_a_source() -> None:
    native = f"x-1-cp{sys.version_info.major}{sys.version_info.minor}-abi3-linux_x86_64.whl"
    general, archive = rank("x-1-py3-none-any.whl"), rank("x-1.tar.gz")
    assert general is not None
    assert archive is not None
    assert general < archive
    fitting = rank(native)
    assert fitting is None or fitting < general  # None on another machine
    assert rank("x-1-py2-none-any.whl") is None
    assert rank("nonsense.whl") is None


def test_a_requirement_that_cannot_be_read_excludes_nothing() -> None:
    assert fits_python("")
    assert fits_python(">=3.5,!=3.6.*")
    assert fits_python("about 3")
    assert not fits_python("<3")


def test_the_index_is_the_one_that_the_hosts_pip_is_set_to(
    server: ReleaseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, "1.0")
    (tmp_path / ".config" / "pip").mkdir(parents=True)
    config = tmp_path / ".config" / "pip" / "pip.conf"
    config.write_text(f"[global]\nindex_url = {server.url}/pypi-index/simple/\n")
    assert len(listing(source(server, url="")).releases) == 1
    assert server.requests[-1].path == "/pypi-index/pypi/note-pad/json"
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/other/simple")
    with pytest.raises(SourceFailed, match="/other/simple/note-pad/"):
        listing(source(server, url=""))
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(Misconfigured, match="use no index"):
        listing(source(server, url=""))


def test_user_and_password_of_pips_index_are_used_and_not_told(
    server: ReleaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, "1.0")
    address = server.url.replace("http://", "http://me:hidden@")
    monkeypatch.setenv("PIP_INDEX_URL", f"{address}/pypi-index/simple")
    (release,) = listing(source(server, url="")).releases
    assert server.requests[0].headers["authorization"] == "Basic bWU6aGlkZGVu"
    assert "hidden" not in str(release)
    monkeypatch.setenv("PIP_INDEX_URL", f"{address}/none/simple")
    with pytest.raises(SourceFailed) as failed:
        listing(source(server, url=""))
    assert "hidden" not in str(failed.value)


def test_without_any_setting_pips_own_default_is_used(server: ReleaseServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    json_url, simple_url = addresses(source(server, url=""))
    assert json_url.startswith("https://")
    assert json_url.endswith("/pypi/note-pad/json")
    assert simple_url.endswith("/simple/note-pad/")


def test_both_forms_of_an_index_address_are_understood(server: ReleaseServer) -> None:
    base = f"{server.url}/pypi-index"
    expected = (f"{base}/pypi/note-pad/json", f"{base}/simple/note-pad/")
    for url in (base, f"{base}/", f"{base}/simple", f"{base}/simple/"):
        assert addresses(source(server, url=url)) == expected
    assert addresses(source(server, url="https://h/root/pypi/+simple"))[1] == "https://h/root/pypi/+simple/note-pad/"


def test_pips_files_are_those_that_pip_reads() -> None:
    files = pip_files({"HOME": "/home/u", "PIP_CONFIG_FILE": "/x/pip.conf"})
    assert files == [
        "/etc/xdg/pip/pip.conf",
        "/etc/pip.conf",
        "/home/u/.pip/pip.conf",
        "/home/u/.config/pip/pip.conf",
        f"{sys.prefix}/pip.conf",
        "/x/pip.conf",
    ]
    assert pip_files({"PIP_CONFIG_FILE": "/dev/null"}) == []


def test_a_package_that_is_not_there_says_so(server: ReleaseServer) -> None:
    with pytest.raises(SourceFailed, match=r"nothing of that name \(404\)"):
        listing(source(server))


@pytest.mark.parametrize("package", ["", "../x", "a/b", "a b", "-x", "x" * 200])
def test_a_package_name_that_cannot_be_is_refused(server: ReleaseServer, package: str) -> None:
    with pytest.raises(Misconfigured):
        listing(source(server, package=package))
    assert not server.requests


@pytest.mark.parametrize(
    "files",
    [
        {"1.0": 5},
        {"1.0": [{"filename": "x-1.0.tar.gz"}]},
        {"1.0": [{"filename": "x-1.0.tar.gz", "url": "https://h/x", "digests": {"sha256": "short"}}]},
        {"1.0": [{"filename": "x-1.0.tar.gz", "url": "https://h/x", "digests": {}, "yanked": 3}]},
        {"1.0": [{"filename": "x-1.0.tar.gz", "url": "https://[::1/x", "digests": {}}]},
    ],
)
def test_a_hostile_index_is_refused(server: ReleaseServer, files: dict[str, Any]) -> None:
    server.misbehave("body", JSON_API, body=json.dumps({"releases": files}))
    simple = [
        entry if isinstance(entry, int) else {**entry, "hashes": entry.get("digests", {})}
        for entry in (files["1.0"] if isinstance(files["1.0"], list) else [files["1.0"]])
    ]
    for entry in simple:
        if isinstance(entry, dict):
            entry["filename"] = "note_pad-1.0.tar.gz"
    server.misbehave(
        "body",
        "/pypi-index/simple/*",
        body=json.dumps({"files": simple}),
        type="application/vnd.pypi.simple.v1+json",
    )
    with pytest.raises(SourceFailed, match="cannot use "):
        listing(source(server))


def test_files_of_another_package_are_not_taken_for_ours(server: ReleaseServer) -> None:
    server.misbehave("status", JSON_API, status=404)
    names = ["note_pad_extra-9.0.tar.gz", "evil-9.0-py3-none-any.whl", "note_pad-1.0.tar.gz", "x" * 3000]
    files = [{"filename": name, "url": f"https://h/{name[:9]}", "hashes": {}} for name in names]
    server.misbehave("body", "/pypi-index/simple/*", body=json.dumps({"files": files}), type="application/json")
    assert [release.version for release in listing(source(server)).releases] == ["1.0"]
