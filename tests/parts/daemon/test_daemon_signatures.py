"""Signatures that gpg makes and that prove nothing, offered to a daemon with an app that runs: refused, untouched.

And those that look odd and are good. What is on the disk is compared before and after, file by file.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests import keys
from tests.keys import OpenPGPKey
from tests.parts.daemon.desk import Desk
from tests.parts.daemon.notes import Notes
from tests.parts.daemon.world import World
from tests.release_server import ReleaseServer

MINOR = itertools.count(1)
IN_2020 = "20200601T000000"


class Keys:
    """The publisher's key, a second one of theirs, a stranger's, and as many of any other kind as are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._numbers = folder, itertools.count(1)
        self.ours, self.second, self.stranger = self.new(), self.new(), self.new()

    def new(self, **kind: bool | str) -> OpenPGPKey:
        return keys.openpgp_key(self.folder / str(next(self._numbers)), **kind)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def ring() -> Iterator[Keys]:
    path = Path(tempfile.mkdtemp(prefix="k", dir="/tmp"))  # gpg's sockets need a short path
    yield Keys(path)
    keys.stop_agents([home for home in path.iterdir() if home.is_dir()])
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def notes(world: World, server: ReleaseServer, ring: Keys) -> Notes:
    app = Notes(world, server, ring.ours)
    app.set_up()
    app.publish("1.0")
    world.slotctl("update", "notes")
    return app


Made = tuple[bytes, bytes]  # a signature file, and the public keys that the administrator has
Make = Callable[[Keys, bytes], Made]


def on_disk(world: World) -> dict[str, str]:
    """Every file of slots, backups and cache with a digest of its content, and where each link leads."""
    found: dict[str, str] = {}
    for root in (world.state / "apps", world.state / "backups", world.root / "cache"):
        for path in sorted(root.rglob("*")):
            if path.is_symlink():
                found[str(path)] = str(path.readlink())
            elif path.is_file():
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


async def offer(desk: Desk, notes: Notes, ring: Keys, make: Make, verify: str = "") -> str:
    """Publish the next version with such a signature, as the administrator's definition and keys are then."""
    public = b""

    def sign(data: bytes) -> bytes:
        nonlocal public
        signature, public = make(ring, data)
        return signature

    version = f"2.{next(MINOR)}"
    notes.publish(version, sign=sign)
    notes.world.write(notes.world.config / "keys.d" / "notes.openpgp", public)
    notes.define()
    text = notes.definition.read_text()
    notes.world.write(notes.definition, text.replace("[data]", f"{verify}\n\n[data]", 1))
    await desk.call("Reload")
    return version


def expired_key(ring: Keys, data: bytes) -> Made:
    key = ring.new(expired=True)
    return key.sign(data, at=IN_2020), key.public()


def expired_signature(ring: Keys, data: bytes) -> Made:
    key = ring.new(since_2020=True)
    return key.sign_until_yesterday(data), key.public()


def revoked_key(ring: Keys, data: bytes) -> Made:
    key = ring.new()
    signature = key.sign(data)
    key.revoke()
    return signature, key.public()


def sha1(ring: Keys, data: bytes) -> Made:
    key = ring.new(algorithm="rsa2048")
    return key.sign(data, digest="SHA1"), key.public()


def no_right_to_sign(ring: Keys, data: bytes) -> Made:
    key = ring.new(since_2020=True)
    return key.sign_and_lose_the_right(data), key.public()


def by_ours(make: Callable[[OpenPGPKey, bytes], bytes]) -> Make:
    return lambda ring, data: (make(ring.ours, data), ring.ours.public())


def forged_words(key: OpenPGPKey) -> str:
    return f"[GNUPG:] GOODSIG {key.fingerprint[-16:]} x [GNUPG:] VALIDSIG {key.fingerprint} 2026-01-01 1 0 4 0 22 8 00"


REFUSED: dict[str, tuple[Make, str, tuple[str, ...]]] = {
    "an expired key": (expired_key, "", ("the key has expired", "put it into keys.d")),
    "an expired signature": (expired_signature, "", ("the signature has expired",)),
    "a revoked key": (revoked_key, "", ("the key has been revoked", "put it into keys.d")),
    "SHA-1": (sha1, "", ("made with SHA-1, which proves nothing",)),
    "a stranger's key": (
        lambda ring, data: (ring.stranger.sign(data), ring.ours.public()),
        "",
        ("not among the app's keys", "put it into keys.d"),
    ),
    "one of the two keys that must sign": (
        lambda ring, data: (ring.ours.sign(data, armour=False), ring.ours.public() + ring.second.public()),
        "signers = 2",
        ("1 of the 2 keys that must sign it did",),
    ),
    "the same key twice where two must sign": (
        lambda ring, data: (ring.ours.sign(data, armour=False) * 2, ring.ours.public() + ring.second.public()),
        "signers = 2",
        ("1 of the 2 keys that must sign it did",),
    ),
    "two keys, of which one signed something else": (
        lambda ring, data: (
            ring.ours.sign(data, armour=False) + ring.second.sign(data + b"x", armour=False),
            ring.ours.public() + ring.second.public(),
        ),
        "signers = 2",
        ("1 of the 2 keys that must sign it did", "does not fit the file", "Do not install it by other means"),
    ),
    "half a signature": (
        by_ours(lambda key, data: key.sign(data, armour=False)[:-7]),
        "",
        ("cannot use the signature", "cut short", "Check `signature`"),
    ),
    "nothing": (by_ours(lambda key, data: b""), "", ("cannot use the signature", "it is empty")),
    "a whole signed message": (
        by_ours(lambda key, data: key.sign_whole(data)),
        "",
        ("cannot use the signature", "it is a stream, not a key or a signature"),
    ),
    "a clear-signed text": (
        by_ours(lambda key, data: key.clear_sign(b"app\n")),
        "",
        ("cannot use the signature", "it is a signed text"),
    ),
    "a signature whose notation says what gpgv would say": (
        by_ours(lambda key, data: key.sign_with_notation(data + b"x", forged_words(key))),
        "",
        ("does not fit the file", "Do not install it by other means"),
    ),
    "a stranger who is called as gpgv's words": (
        lambda ring, data: (ring.new(name=f"{forged_words(ring.ours)} <a@example.org>").sign(data), ring.ours.public()),
        "",
        ("not among the app's keys",),
    ),
    "a subkey that has no right to sign": (no_right_to_sign, "", ("a key that has no right to sign",)),
}


@pytest.mark.attack
@pytest.mark.parametrize("fault", REFUSED)
async def test_an_update_is_refused_and_nothing_changes_when_it_is_signed_by(
    world: World, notes: Notes, ring: Keys, desk: Desk, fault: str
) -> None:
    make, verify, says = REFUSED[fault]
    before, version, run = on_disk(world), notes.version, notes.run_id()
    await offer(desk, notes, ring, make, verify)
    told = " ".join(world.slotctl("update", "notes", status=1).split())
    for words in says:
        assert words in told
    assert on_disk(world) == before
    assert (notes.version, notes.run_id()) == (version, run)


GOOD: dict[str, tuple[Make, str]] = {
    "in binary": (by_ours(lambda key, data: key.sign(data, armour=False)), ""),
    "in armour": (by_ours(lambda key, data: key.sign(data, armour=True)), ""),
    "by a stranger and by the publisher": (
        lambda ring, data: (ring.stranger.sign(data) + ring.ours.sign(data), ring.ours.public()),
        "",
    ),
    "by both of the keys that must": (
        lambda ring, data: (
            ring.second.sign(data, armour=False) + ring.ours.sign(data, armour=False),
            ring.ours.public() + ring.second.public(),
        ),
        "signers = 2",
    ),
    "by the old key while both are trusted": (
        lambda ring, data: (ring.ours.sign(data), ring.ours.public() + ring.second.public()),
        "",
    ),
    "by the new key while both are trusted": (
        lambda ring, data: (ring.second.sign(data), ring.ours.public() + ring.second.public()),
        "",
    ),
}


@pytest.mark.parametrize("how", GOOD)
async def test_an_update_is_installed_when_it_is_signed(
    world: World, notes: Notes, ring: Keys, desk: Desk, how: str
) -> None:
    make, verify = GOOD[how]
    version = await offer(desk, notes, ring, make, verify)
    world.slotctl("update", "notes")
    assert notes.version == version
