"""A TUF repository of our own, made with python-tuf's metadata API: real keys, and every way to serve it wrong.

Run by a Python that has python-tuf and slotd. It is told what to do by lines of JSON: to change the repository, which
it writes as a web server would serve it, or to do what a worker does, without starting one for each.
"""

from __future__ import annotations

import copy
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

ROLES = ("root", "timestamp", "snapshot", "targets")


class Repository:
    def __init__(self, folder: Path, *, consistent: bool = True) -> None:
        self.folder = folder
        self.ends = datetime.now(UTC).replace(microsecond=0) + timedelta(days=7)
        self.signers: dict[str, list[CryptoSigner]] = {role: [CryptoSigner.generate_ed25519()] for role in ROLES}
        self.root = Root(expires=self.ends + timedelta(days=30), consistent_snapshot=consistent)
        for role, signers in self.signers.items():
            self.root.add_key(signers[0].public_key, role)
        self.timestamp, self.snapshot = Timestamp(expires=self.ends), Snapshot(expires=self.ends)
        self.roles: dict[str, Targets] = {"targets": Targets(expires=self.ends)}
        for place in ("metadata", "targets"):
            (folder / place).mkdir(parents=True, exist_ok=True)
        self.publish_root()

    # -- one thing each; `publish` makes it seen ---------------------------------------------------

    def publish_root(self, *, by: list[CryptoSigner] | None = None, skip: bool = False) -> None:
        """`by`: who signs beside its own keys; `skip`: it is made, and not served."""
        signers = [*(by or []), *self.signers["root"]]
        data = self._signed(self.root, signers)
        (self.folder / "pinned.json").write_bytes(data) if self.root.version == 1 else None
        if not skip:
            self._write(f"{self.root.version}.root.json", data)

    def rotate(self, *roles: str, skip: bool = False, signed_by_old: bool = True) -> None:
        """New keys for these roles, in a new root."""
        old = list(self.signers["root"])
        for role in roles:
            for signer in self.signers[role]:
                self.root.revoke_key(signer.public_key.keyid, role)
            self.signers[role] = [CryptoSigner.generate_ed25519()]
            self.root.add_key(self.signers[role][0].public_key, role)
        self.root.version += 1
        self.publish_root(by=old if signed_by_old and "root" in roles else None, skip=skip)

    def demand(self, role: str, threshold: int) -> None:
        """So many keys must sign for a role; it has so many from now on."""
        while len(self.signers[role]) < threshold:
            signer = CryptoSigner.generate_ed25519()
            self.signers[role].append(signer)
            self.root.add_key(signer.public_key, role)
        self.root.roles[role].threshold = threshold
        self.root.version += 1
        self.publish_root()

    def add(self, path: str, data: bytes, *, role: str = "targets", custom: dict[str, Any] | None = None) -> None:
        target = TargetFile.from_data(path, data, ["sha256"])
        if custom:
            target.unrecognized_fields["custom"] = custom
        self.roles[role].targets[path] = target
        parent, _, name = path.rpartition("/")
        served = self.folder / "targets" / parent
        served.mkdir(parents=True, exist_ok=True)
        prefix = f"{target.hashes['sha256']}." if self.root.consistent_snapshot else ""
        (served / f"{prefix}{name}").write_bytes(data)

    def name(self, path: str, data: str) -> None:
        """A file that is named and not served."""
        self.roles["targets"].targets[path] = TargetFile.from_data(path, data.encode(), ["sha256"])

    def add_file(self, path: str, file: str) -> None:
        self.add(path, Path(file).read_bytes())

    def delegate(self, name: str, paths: list[str], *, by: str = "targets", terminating: bool = False) -> None:
        signer = CryptoSigner.generate_ed25519()
        self.signers[name] = [signer]
        role = DelegatedRole(name, [signer.public_key.keyid], 1, terminating, paths)
        delegator = self.roles[by]
        if delegator.delegations is None:
            delegator.delegations = Delegations({}, {})
        delegator.delegations.keys[signer.public_key.keyid] = signer.public_key
        assert delegator.delegations.roles is not None
        delegator.delegations.roles[name] = role
        self.roles[name] = Targets(expires=self.ends)

    def publish(self) -> None:
        """Every role of targets, the snapshot, the timestamp, each one version on."""
        for name, role in self.roles.items():
            role.version += 1
            data = self._signed(role, self.signers[name])
            quoted = quote(name, safe="")
            self._write(f"{role.version}.{quoted}.json", data, plain=f"{quoted}.json")
            self.snapshot.meta[f"{name}.json"] = MetaFile(role.version)
        self.snapshot.version += 1
        self.publish_snapshot()

    def hide(self, role: str) -> None:
        """The snapshot names this role no more, though others delegate to it."""
        del self.snapshot.meta[f"{role}.json"]
        self.snapshot.version += 1
        self.publish_snapshot()

    def publish_snapshot(self) -> None:
        data = self._signed(self.snapshot, self.signers["snapshot"])
        self._write(f"{self.snapshot.version}.snapshot.json", data, plain="snapshot.json")
        self.timestamp.snapshot_meta = MetaFile.from_data(self.snapshot.version, data, ["sha256"])
        self.timestamp.version += 1
        self.publish_timestamp()

    def publish_timestamp(self) -> None:
        self._write("timestamp.json", self._signed(self.timestamp, self.signers["timestamp"]))

    def expire(self, role: str) -> None:
        found = {"root": self.root, "timestamp": self.timestamp, "snapshot": self.snapshot}.get(role) or self.roles[
            role
        ]
        found.expires = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)

    def strangers_keys(self, role: str) -> None:
        """From now on somebody else signs for the role."""
        self.signers[role] = [CryptoSigner.generate_ed25519() for _ in self.signers[role]]

    def fewer(self, role: str) -> None:
        self.signers[role] = self.signers[role][:1]

    def set_version(self, role: str, version: int) -> None:
        found = {"root": self.root, "timestamp": self.timestamp, "snapshot": self.snapshot}.get(role) or self.roles[
            role
        ]
        found.version = version

    # ----------------------------------------------------------------------------------------------

    def _signed(self, signed: Any, signers: list[CryptoSigner]) -> bytes:
        metadata = Metadata(copy.deepcopy(signed))
        for signer in signers:
            metadata.sign(signer, append=True)
        return metadata.to_bytes()

    def _write(self, name: str, data: bytes, *, plain: str = "") -> None:
        (self.folder / "metadata" / (name if self.root.consistent_snapshot or not plain else plain)).write_bytes(data)


def main() -> None:
    """Lists of [what, arguments, keywords], each answered by a line; `new` makes another repository."""
    from slotd.sources import tuf as source
    from slotd.verify import tuf as verifier

    verbs = {"collect": source.collect, "judge": verifier.judge}
    repository: Repository | None = None
    for line in sys.stdin:
        what, arguments, keywords = json.loads(line)
        if what == "new":
            repository = Repository(Path(arguments[0]), **keywords)
        elif what in verbs:
            print(json.dumps(verbs[what](arguments[0], [], lambda _: None)), flush=True)
            continue
        else:
            if what == "add":
                arguments[1] = arguments[1].encode()
            getattr(repository, what)(*arguments, **keywords)
        print("{}", flush=True)


if __name__ == "__main__":
    main()
