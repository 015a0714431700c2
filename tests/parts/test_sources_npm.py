"""The npm source: a registry's document, the host's own npm, and what a hostile registry may try."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.npm_package import NpmPackage, integrity
from tests.release_server import ReleaseServer

from slotd.core import npmconf
from slotd.core.schema import Limits, Source
from slotd.errors import Misconfigured, SourceFailed
from slotd.sources import Listing
from slotd.sources.npm import address, npm_files
from slotd.sources.work import fetch, list_releases, listing_from_json


@pytest.fixture
def server() -> Iterator[ReleaseServer]:
    with ReleaseServer() as running:
        yield running


@pytest.fixture
def package(server: ReleaseServer) -> NpmPackage:
    return NpmPackage(server)


def source(at: NpmPackage, **more: Any) -> Source:
    given = {"type": "npm", "package": at.name, "url": at.url, "scheme": "semver"}
    return Source(**(given | more))


def listing(source: Source, limits: Limits | None = None) -> Listing:
    limits = limits or Limits()
    plain: dict[str, Any] = {name: getattr(source, name) for name in ("type", "package", "url", "scheme")}
    request = {"source": plain, "limits": {"index_bytes": limits.index_bytes}}
    return listing_from_json(list_releases(request, [], lambda said: None), source, limits)


def test_each_version_is_a_release_with_its_tarball_its_digest_and_its_date(package: NpmPackage) -> None:
    package.publish("1.9.0")
    package.publish("1.10.0", b"ten")
    found = listing(source(package))
    assert [release.version for release in found.releases] == ["1.10.0", "1.9.0"]
    newest = found.releases[0]
    assert [asset.name for asset in newest.assets] == ["note-pad-1.10.0.tgz"]
    assert newest.assets[0].digest == "sha512:" + hashlib.sha512(b"ten").hexdigest()
    assert newest.published == 1769860800.0
    assert not found.warnings


def test_a_tarball_of_the_registry_can_be_fetched(package: NpmPackage, tmp_path: Path) -> None:
    package.publish("1.0.0", b"the tarball")
    asset = listing(source(package)).releases[0].assets[0]
    with (tmp_path / "file").open("w+b") as file:
        request = {"url": asset.url, "kind": "http", "expected_digest": asset.digest}
        fetch(request, [file.fileno()], lambda said: None)
    assert (tmp_path / "file").read_bytes() == b"the tarball"


def test_a_scoped_package_is_asked_for_by_its_escaped_name(server: ReleaseServer) -> None:
    package = NpmPackage(server, "@acme/note-pad")
    package.publish("2.0.0")
    (release,) = listing(source(package)).releases
    assert release.assets[0].name == "note-pad-2.0.0.tgz"
    assert server.requests[-1].path == "/files/npm/@acme%2Fnote-pad"


def test_the_tag_latest_decides_nothing(package: NpmPackage) -> None:
    package.publish("1.0.0")
    package.publish("3.0.0-beta.2")
    package.publish("2.0.0")
    package.document["dist-tags"] = {"latest": "1.0.0", "next": ["no", "version"]}
    package.write()
    assert [each.version for each in listing(source(package)).releases] == ["3.0.0-beta.2", "2.0.0", "1.0.0"]


def test_a_deprecated_version_is_told_and_marked_as_withdrawn(package: NpmPackage) -> None:
    package.publish("1.0.0", deprecated="loses data")
    package.publish("1.1.0", deprecated="loses\nmore data")
    package.publish("0.9.0", deprecated="")
    package.publish("0.8.0", deprecated=False)
    package.publish("0.7.0", deprecated="old")
    package.publish("2.0.0-beta.1")
    found = listing(source(package))
    yanked = [release.version for release in found.releases if release.yanked]
    assert yanked == ["1.1.0", "1.0.0", "0.7.0"]
    assert found.releases[1].notes == "Deprecated: loses\nmore data"
    assert found.warnings == ("2 versions up to 1.1.0 were deprecated by the publisher: loses more data",)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (lambda content: integrity(content, "sha1"), ""),
        (lambda content: integrity(content, "sha384"), ""),
        (lambda content: None, ""),
        (lambda content: integrity(content, "sha256"), "sha256"),
        (lambda content: f"{integrity(content, 'sha256')} {integrity(content)}?opt", "sha512"),
    ],
    ids=["sha1", "sha384", "none", "sha256", "both"],
)
def test_only_a_digest_that_proves_something_counts(
    package: NpmPackage, given: Callable[[bytes], str | None], kept: str
) -> None:
    package.publish("1.0.0", b"x", dist={"integrity": given(b"x")})
    (asset,) = listing(source(package)).releases[0].assets
    assert asset.digest == (f"{kept}:{hashlib.new(kept, b'x').hexdigest()}" if kept else "")


def test_a_document_that_is_too_large_is_asked_for_in_its_short_form_and_that_is_said(
    package: NpmPackage, server: ReleaseServer
) -> None:
    package.publish("1.0.0")
    short = package.short().decode()
    server.behave()
    server.misbehave("body", "/files/npm/note-pad", times=1, body=json.dumps(package.document | {"readme": "x" * 5000}))
    server.misbehave("body", "/files/npm/note-pad", body=short)
    found = listing(source(package), replace(Limits(), index_bytes=4000))
    assert [(release.version, release.published) for release in found.releases] == [("1.0.0", 0.0)]
    assert found.warnings == ("The registry's document is too large to be read whole; the short one has no dates.",)
    assert [each.headers["accept"] for each in server.requests] == [
        "application/json",
        "application/vnd.npm.install-v1+json",
    ]


def test_a_document_that_is_too_large_in_both_forms_is_refused(package: NpmPackage) -> None:
    package.publish("1.0.0", readme="x" * 5000)
    with pytest.raises(SourceFailed, match="larger than 4000 bytes"):
        listing(source(package), replace(Limits(), index_bytes=4000))


@pytest.mark.parametrize(
    "tarball",
    ["http://127.0.0.2:{port}/x.tgz", "http://127.0.0.1:1/x.tgz", "http://other.example/x.tgz", "x.tgz", "http://[::1"],
)
def test_a_file_that_is_not_on_the_registrys_server_is_left_out_and_that_is_said(
    package: NpmPackage, server: ReleaseServer, tarball: str
) -> None:
    package.publish("1.0.0")
    package.publish("1.1.0", dist={"tarball": tarball.format(port=server.port)})
    found = listing(source(package))
    assert [release.version for release in found.releases] == ["1.0.0"]
    (warning,) = found.warnings
    assert warning.startswith("The version 1.1.0 was left out: ")
    assert warning.endswith(" is not on the registry's own server.")


def test_a_registry_that_has_moved_may_give_files_from_where_it_is_now(
    package: NpmPackage, server: ReleaseServer
) -> None:
    package.publish("1.0.0")
    with ReleaseServer() as old:
        old.misbehave("redirect", to=f"{server.url}{{path}}")
        found = listing(source(package, url=f"{old.url}/files/npm"))
    assert [release.version for release in found.releases] == ["1.0.0"]


def said_of(digest: str) -> dict[str, Any]:
    return {"dist": {"tarball": "http://h/x", "integrity": digest}}


HOSTILE: dict[str, dict[str, Any]] = {
    "another package": {"name": "evil"},
    "no name": {"name": None},
    "versions as a list": {"versions": ["1.0.0"]},
    "a version that is a number": {"versions": {"1.0.0": 5}},
    "no dist": {"versions": {"1.0.0": {}}},
    "an address that is a list": {"versions": {"1.0.0": {"dist": {"tarball": []}}}},
    "an address with a line break": {"versions": {"1.0.0": {"dist": {"tarball": "http://h/\nx"}}}},
    "a digest of another length": {"versions": {"1.0.0": said_of("sha512-YQ==")}},
    "a digest that is no base64": {"versions": {"1.0.0": said_of("sha512-%%")}},
    "two digests of a kind": {"versions": {"1.0.0": said_of(f"{integrity(b'a')} {integrity(b'b')}")}},
    "a deprecation that is a number": {"versions": {"1.0.0": {"dist": {"tarball": "http://h/x"}, "deprecated": 3}}},
    "times as a list": {"time": []},
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_document_is_refused(package: NpmPackage, members: dict[str, Any]) -> None:
    package.publish("1.0.0")
    package.document |= members
    package.write()
    with pytest.raises(SourceFailed, match="cannot use http"):
        listing(source(package))


def test_a_time_that_is_none_is_refused(package: NpmPackage) -> None:
    package.publish("1.0.0", time="yesterday")
    with pytest.raises(SourceFailed, match="it is not a time"):
        listing(source(package))


def test_a_package_that_was_withdrawn_says_so(package: NpmPackage) -> None:
    package.publish("1.0.0")
    del package.document["versions"]
    package.document["time"] |= {"unpublished": {"versions": ["1.0.0"]}}
    package.write()
    with pytest.raises(SourceFailed, match="it has no versions: the package was withdrawn"):
        listing(source(package))


@pytest.mark.parametrize("version", ["../../x", "1.0.0 ; rm", "", "\ud800", "1" * 200])
def test_what_cannot_be_a_version_is_left_out_and_that_is_said(package: NpmPackage, version: str) -> None:
    package.publish("1.0.0")
    package.document["versions"][version] = package.document["versions"]["1.0.0"]
    package.write()
    found = listing(source(package))
    assert [release.version for release in found.releases] == ["1.0.0"]
    assert len(found.warnings) == 1
    assert found.warnings[0].endswith("was left out: that cannot be a version.")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", ".x", "@/x", "@a/b/c", "x" * 300, "%2e"])
def test_a_package_name_that_cannot_be_is_refused(package: NpmPackage, server: ReleaseServer, name: str) -> None:
    with pytest.raises(Misconfigured):
        listing(source(package, package=name))
    assert not server.requests


def test_a_package_that_is_not_there_says_so(package: NpmPackage) -> None:
    with pytest.raises(SourceFailed, match=r"nothing of that name \(404\)"):
        listing(source(package))


# ── the host's own npm ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An npm as a distribution installs it, first in PATH: its folder."""
    root = tmp_path / "usr" / "share" / "npm"
    definitions = root / "lib/utils/config/definitions.js"
    for path, text in (
        (root / "bin/npm-cli.js", "#!/usr/bin/env node\n"),
        (root / "npmrc", f"; not to be changed\nglobalconfig={tmp_path}/etc/npmrc\nprefix=/usr/local\n"),
        (definitions, "define('registry', {\n  default: 'https://npm.example.org/',\n  type: url,\n})\n"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "usr/bin").mkdir()
    (tmp_path / "usr/bin/npm").symlink_to("../share/npm/bin/npm-cli.js")
    (tmp_path / "etc").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/usr/bin")
    for name in (name for name in os.environ if name.lower().startswith("npm_config_")):
        monkeypatch.delenv(name)
    return root


def asked(package: str = "note-pad") -> str:
    return address(Source(type="npm", package=package))


def test_without_any_setting_npms_own_default_is_used(npm: Path) -> None:
    assert asked() == "https://npm.example.org/note-pad"


def test_the_registry_is_the_one_that_the_hosts_npm_is_set_to(
    npm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc/npmrc").write_text(
        "registry = https://company.example/npm/\n@acme:registry=https://acme.example/\n"
    )
    assert asked() == "https://company.example/npm/note-pad"
    assert asked("@acme/x") == "https://acme.example/@acme%2Fx"
    assert asked("@other/x") == "https://company.example/npm/@other%2Fx"
    (tmp_path / "home/.npmrc").write_text("registry='https://mine.example'\n")
    assert asked() == "https://mine.example/note-pad"
    assert asked("@acme/x") == "https://acme.example/@acme%2Fx"
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://env.example/r")
    assert asked() == "https://env.example/r/note-pad"


def test_npms_files_are_those_that_npm_reads(npm: Path, tmp_path: Path) -> None:
    home = {"HOME": "/home/u"}
    assert npm_files(home) == [f"{npm}/npmrc", f"{tmp_path}/etc/npmrc", "/home/u/.npmrc"]
    assert npm_files({"npm_config_userconfig": "/x", "npm_config_globalconfig": "/y"}) == [f"{npm}/npmrc", "/y", "/x"]
    (npm / "npmrc").unlink()
    assert npm_files({"npm_config_prefix": "/opt/n", **home})[1] == "/opt/n/etc/npmrc"


def test_a_host_without_npm_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert npm_files({"HOME": "/h"}) == ["/etc/npmrc", "/h/.npmrc"]
    if "registry" in npmconf.settings(Path("/etc/npmrc").read_text() if Path("/etc/npmrc").exists() else "", {}):
        return  # this machine's own setting counts then
    with pytest.raises(Misconfigured, match="the host has no npm") as failed:
        asked()
    assert "give `url` in [source]" in failed.value.hint


def test_user_and_password_of_npms_registry_are_used_and_not_told(
    npm: Path, package: NpmPackage, server: ReleaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    package.publish("1.0.0")
    registry = package.url.replace("http://", "http://me:hidden@")
    monkeypatch.setenv("npm_config_registry", registry)
    (release,) = listing(source(package, url="")).releases
    assert server.requests[0].headers["authorization"] == "Basic bWU6aGlkZGVu"
    assert "hidden" not in str(release)
    monkeypatch.setenv("npm_config_registry", f"{registry}/none")
    with pytest.raises(SourceFailed) as failed:
        listing(source(package, url=""))
    assert "hidden" not in str(failed.value)


def test_a_token_in_npms_files_is_neither_sent_nor_told(
    npm: Path, tmp_path: Path, package: NpmPackage, server: ReleaseServer
) -> None:
    package.publish("1.0.0")
    (tmp_path / "home/.npmrc").write_text(f"registry={package.url}\n//127.0.0.1:{server.port}/:_authToken=hidden\n")
    assert "hidden" not in str(listing(source(package, url="")))
    assert "hidden" not in str(server.requests)


def test_a_setting_that_is_no_address_is_refused_without_telling_it(npm: Path, tmp_path: Path) -> None:
    for wrong in ("https://${NO_SUCH_VARIABLE}/", "company", "file:///srv/npm", "https://me:hidden@h x/"):
        (tmp_path / "etc/npmrc").write_text(f"registry={wrong}\n")
        with pytest.raises(Misconfigured, match="the host's npm is set to is no address") as failed:
            asked()
        assert "hidden" not in str(failed.value)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("registry=https://a/", "https://a/"),
        ("  registry   =  https://a/  ", "https://a/"),
        ('registry="https://a/"', "https://a/"),
        ("registry=https://a/ # why", "https://a/"),
        ("registry=https://${HOST}/", "https://b/"),
        ("registry=https://a/\nregistry=https://c/", "https://c/"),
        ("; registry=https://a/", ""),
        ("#registry=https://a/", ""),
        ("[other]\nregistry=https://a/", ""),
        ("registry", ""),
        ('registry="https://a/\nregistry=', ""),
        ("\0\n=\n==\n[", ""),
    ],
)
def test_npmrc_is_read_as_npm_reads_it(text: str, found: str) -> None:
    assert npmconf.registry([text], {"HOST": "b"}) == found


def test_the_default_is_found_in_the_source_of_old_and_new_npm() -> None:
    old = "define('registry', {\n  default: 'https://npm.example.org/',\n"
    new = "  registry: new Definition('registry', {\n    default: 'https://npm.example.org/',\n"
    assert npmconf.default_registry(old) == npmconf.default_registry(new) == "https://npm.example.org/"
    assert npmconf.default_registry("define('replace-registry-host', {\n  default: 'npmjs',") == ""


def test_a_real_npm_agrees_where_there_is_one() -> None:
    try:
        words = ["npm", "config", "get", "registry", "--location=project"]
        done = subprocess.run(words, cwd="/", capture_output=True, text=True, check=True, timeout=60)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("no npm here")
    assert asked() == f"{done.stdout.strip().rstrip('/')}/note-pad"
