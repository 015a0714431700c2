"""The door to the programs that sign, with a key of the person who runs them. The daemon never signs anything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from slotd.errors import Failed


def sign(content: bytes, key: str, directory: Path, comment: str) -> bytes:
    """A detached signature: `key` is a file, minisign's secret key, or names one of gpg's. Both may ask for a password.

    `directory` is the caller's alone; `comment`: minisign's, of both kinds. Raises `Failed`.
    """
    message, signature = directory / "message", directory / "message.sig"
    message.write_bytes(content)
    if os.path.isfile(key):
        argv = ["minisign", "-S", "-s", key, "-c", comment, "-t", comment, "-x", str(signature), "-m", str(message)]
        package = "minisign"
    else:
        argv = ["gpg", "--quiet", "--local-user", key, "--output", str(signature), "--detach-sign", str(message)]
        package = "gpg"
    if shutil.which(argv[0]) is None:
        raise Failed(f"cannot sign: {argv[0]} is not installed.", hint=f"Install the package {package}.")
    ended = subprocess.run(argv, stdout=sys.stderr.fileno(), check=False).returncode
    if ended != 0 or not signature.is_file():
        what = f"the file {key}" if package == "minisign" else f"gpg's key {key!r}"
        hint = (
            "What it says stands above." if package == "minisign" else "`gpg --list-secret-keys` lists those there are."
        )
        raise Failed(f"cannot sign with {what}: {argv[0]} ended with status {ended}.", hint=hint)
    return signature.read_bytes()
