"""What a definition may say of where its backups lie."""

from __future__ import annotations

import pytest

from slotd.core.config import parse_app
from slotd.errors import Misconfigured

BASE = {
    "service": {"units": ["notes.service"]},
    "source": {"type": "directory", "path": "/srv/releases"},
    "verify": {"require": ["sha256"], "checksums": "SHA256SUMS"},
    "data": {"paths": ["/srv/notes/data"]},
}


@pytest.mark.parametrize(
    ("backup", "says"),
    [
        ({"store": "borg"}, '"tree", "restic"|tree or restic|allowed'),
        (
            {"store": "restic", "repository": "sftp:backup@nas:/repo"},
            "directory of this host: the way back needs no net",
        ),
        ({"store": "restic", "repository": "/srv/notes/data/repo"}, "must not be one inside the other"),
        ({"store": "restic", "credential": "../passwd"}, "a credential is named by"),
        ({"store": "restic", "max_size": "5G"}, "make it 0, and use backup.retention"),
        ({"repository": "/srv/backup"}, 'belongs to store = "restic"'),
    ],
)
def test_a_store_that_could_not_bring_the_data_back_is_refused(backup: dict[str, object], says: str) -> None:
    with pytest.raises(Misconfigured, match=says):
        parse_app("notes", [("notes.toml", BASE | {"backup": backup})])


def test_a_repository_beside_the_data_is_taken() -> None:
    app = parse_app("notes", [("notes.toml", BASE | {"backup": {"store": "restic", "repository": "/srv/backup"}})])
    assert (app.backup.store, app.backup.repository) == ("restic", "/srv/backup")
