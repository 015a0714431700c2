"""Throwaway keys and signatures, made with the real gpg and minisign: good ones, and every kind of bad one."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# gpg and its agent make sockets in the home; their path must stay short (sun_path, 108 bytes): keep homes shallow.
_PAST = "20200101T000000"
_PAST_LATER = "20200601T000000"


@dataclass(frozen=True)
class OpenPGPKey:
    """A key in a home of its own. `fingerprint` is the primary key's."""

    home: Path
    fingerprint: str

    def _gpg(self, *args: str, input: bytes = b"") -> bytes:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", "--no-tty", "--yes", "--pinentry-mode"]
        command += ["loopback", "--passphrase", "", "--trust-model", "always", *args]
        done = subprocess.run(command, input=input, capture_output=True, check=False, env=_environment())
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout

    def public(self, *, armour: bool = False) -> bytes:
        return self._gpg(*(["--armor"] if armour else []), "--export", self.fingerprint)

    def secret(self) -> bytes:
        return self._gpg("--export-secret-keys", self.fingerprint)

    def sign(self, data: bytes, *, armour: bool = True, digest: str = "SHA256", at: str = "") -> bytes:
        """A detached signature. `digest="SHA1"` makes a weak one, `at` (ISO time) one from the past."""
        args = ["--armor"] if armour else []
        args += ["--digest-algo", digest, "--weak-digest", "MD5", "--allow-weak-digest-algos"]
        args += ["--faked-system-time", f"{at}!"] if at else []
        return self._gpg(*args, "--local-user", self.fingerprint, "--detach-sign", input=data)

    def sign_until_yesterday(self, data: bytes) -> bytes:
        """A signature that has expired, by a key that has not."""
        return self._gpg("--armor", "--faked-system-time", f"{_PAST_LATER}!", "--default-sig-expire", "1d",
                         "--local-user", self.fingerprint, "--detach-sign", input=data)  # fmt: skip

    def clear_sign(self, text: bytes) -> bytes:
        return self._gpg("--local-user", self.fingerprint, "--clear-sign", input=text)

    def sign_whole(self, data: bytes) -> bytes:
        """A signed message with its text inside: not a detached signature."""
        return self._gpg("--local-user", self.fingerprint, "--sign", input=data)

    def revoke(self) -> None:
        """Import the revocation certificate that gpg made with the key."""
        path = self.home / "openpgp-revocs.d" / f"{self.fingerprint}.rev"
        self._gpg("--import", input=path.read_bytes().replace(b":-----BEGIN", b"-----BEGIN"))

    def sign_with_notation(self, data: bytes, value: str) -> bytes:
        """A detached signature with a text of the signer's own in it, which gpg and gpgv show."""
        return self._gpg("--armor", "--set-notation", f"forged@example.org={value}", "--local-user", self.fingerprint,
                         "--detach-sign", input=data)  # fmt: skip

    def sign_and_lose_the_right(self, data: bytes) -> bytes:
        """A signature by a subkey that may only authenticate, as its primary key says later. Needs a key of 2020."""
        self._gpg(
            "--faked-system-time", f"{_PAST_LATER}!", "--quick-add-key", self.fingerprint, "ed25519", "sign", "never"
        )
        signature = self.sign(data)
        answers = b"key 1\nchange-usage\nS\nA\nQ\nsave\n"
        command = ["gpg", "--homedir", str(self.home), "--no-tty", "--yes", "--expert", "--pinentry-mode", "loopback"]
        command += ["--passphrase", "", "--command-fd", "0", "--edit-key", self.fingerprint]
        subprocess.run(command, input=answers, capture_output=True, check=True, env=_environment())
        return signature

    def add_signing_subkey(self) -> None:
        self._gpg("--quick-add-key", self.fingerprint, "ed25519", "sign", "never")


def openpgp_key(home: Path, name: str = "Publisher <publisher@example.org>", *, expired: bool = False,
                since_2020: bool = False, algorithm: str = "ed25519", lasts: str = "never") -> OpenPGPKey:  # fmt: skip
    """A new key. `expired`: made and run out in 2020; `lasts`: so long, as gpg says it ("10d")."""
    home.mkdir(mode=0o700, parents=True)
    bare = OpenPGPKey(home, "")
    when = ["--faked-system-time", f"{_PAST}!"] if expired or since_2020 else []
    bare._gpg(*when, "--quick-generate-key", name, algorithm, "sign", "1y" if expired else lasts)
    listed = bare._gpg("--with-colons", "--list-keys").decode()
    fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))
    return OpenPGPKey(home, fingerprint)


def stop_agents(homes: Sequence[Path]) -> None:
    """gpg leaves an agent behind for each home."""
    for home in homes:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False, capture_output=True)


@dataclass(frozen=True)
class MinisignKey:
    home: Path

    @property
    def public(self) -> bytes:
        return (self.home / "minisign.pub").read_bytes()

    @property
    def key_id(self) -> str:
        raw = base64.b64decode(self.public.splitlines()[1])
        return f"{int.from_bytes(raw[2:10], 'little'):016X}"

    def sign(self, data: bytes, *, comment: str = "release", legacy: bool = False) -> bytes:
        message, signature = self.home / "message", self.home / "message.minisig"
        message.write_bytes(data)
        command = ["minisign", "-S", *(["-l"] if legacy else []), "-s", str(self.home / "minisign.key"), "-t", comment]
        subprocess.run(
            [*command, "-x", str(signature), "-m", str(message)], check=True, capture_output=True, input=b"\n"
        )
        return signature.read_bytes()


def minisign_key(home: Path) -> MinisignKey:
    home.mkdir(mode=0o700, parents=True)
    command = ["minisign", "-G", "-W", "-p", str(home / "minisign.pub"), "-s", str(home / "minisign.key")]
    subprocess.run(command, check=True, capture_output=True, input=b"\n")
    return MinisignKey(home)


def _environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": "/nonexistent"}
