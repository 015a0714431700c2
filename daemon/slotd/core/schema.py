"""What a definition says, as values. Field names are the TOML keys; a time span ends in `_s` (seconds).

The one place for defaults: the parser, the manual and the tests read them here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from slotd.model import Mode

INFINITE_S = float("inf")


@dataclass(frozen=True, slots=True)
class Service:
    units: tuple[str, ...] = ()
    user: str = ""
    start_timeout_s: float = 90.0


@dataclass(frozen=True, slots=True)
class Source:
    """`asset` holds one template per artifact; `path`, `package`, `image`, `repository` belong to their types."""

    type: str = ""
    repository: str = ""
    package: str = ""
    image: str = ""
    path: str = ""
    asset: tuple[str, ...] = ()
    url: str = ""
    mirrors: tuple[str, ...] = ()
    channel: str = "stable"
    scheme: str = "pep440"
    versions: str = ""
    credential: str = ""


@dataclass(frozen=True, slots=True)
class Verify:
    require: tuple[str, ...] = ()
    checksums: str = ""
    signature: str = "{asset}.asc"
    keys: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] = ()
    identity: str = ""  # of sigstore: who signs, to whom `issuer` gave that name, and from which repository
    issuer: str = ""
    repository: str = ""
    signers: int = 1  # how many of the OpenPGP keys must have signed
    bundles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Slots:
    """`root` empty means the state directory's `apps/NAME`. `strip` is `"auto"` or a number of components."""

    engine: str = "directory"
    root: str = ""
    unpack: str = "auto"
    strip: str | int = "auto"
    prepare: tuple[tuple[str, ...], ...] = ()
    network: bool = False
    migrate: tuple[tuple[str, ...], ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    writable: bool = False
    max_size: int = 4 * 1024**3
    max_files: int = 200_000


@dataclass(frozen=True, slots=True)
class Data:
    paths: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    sqlite: tuple[str, ...] = ()
    before: tuple[tuple[str, ...], ...] = ()
    after: tuple[tuple[str, ...], ...] = ()
    dump: tuple[tuple[str, ...], ...] = ()
    restore: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class BackupPolicy:
    """`repository` empty means slotd's own in the state directory; `credential` empty a password of its own."""

    enabled: bool = True
    retention_s: float = 14 * 86400.0
    keep: int = 1
    max_size: int = 0  # 0: no bound
    releases: int = 2
    store: str = "tree"
    repository: str = ""
    credential: str = ""
    push: str = ""
    push_credential: str = ""
    push_environment: str = ""
    push_required: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    mode: Mode = Mode.APPROVE
    apply: str = "timer"
    delay_s: float = 30.0
    min_age_s: float = 0.0
    quiet_s: float = 180 * 86400.0
    attempts: int = 3
    trial_s: float = 600.0
    on_failure: str = "rollback"


@dataclass(frozen=True, slots=True)
class Gate:
    type: str
    url: str
    query: str
    below: float | None = None
    above: float | None = None


@dataclass(frozen=True, slots=True)
class Rollout:
    ring: int = 0
    ring_delay_s: float = 7 * 86400.0
    fraction: float = 1.0
    fleet_lock: str = ""
    gate: tuple[Gate, ...] = ()


@dataclass(frozen=True, slots=True)
class Health:
    """One probe. `type`: unit http tcp exec dbus prometheus; the keys beside it belong to their types."""

    type: str
    url: str = ""
    status: int = 200
    body: str = ""
    json: Mapping[str, str] = field(default_factory=dict)
    host: str = ""
    port: int = 0
    command: tuple[str, ...] = ()
    unit: str = ""
    interval_s: float = 2.0
    timeout_s: float = 5.0
    grace_s: float = 60.0
    failures: int = 3


@dataclass(frozen=True, slots=True)
class App:
    """A whole definition. `files` are the paths it was read from, the main file first."""

    name: str
    description: str = ""
    service: Service = field(default_factory=Service)
    source: Source = field(default_factory=Source)
    verify: Verify = field(default_factory=Verify)
    slots: Slots = field(default_factory=Slots)
    data: Data = field(default_factory=Data)
    backup: BackupPolicy = field(default_factory=BackupPolicy)
    policy: Policy = field(default_factory=Policy)
    rollout: Rollout = field(default_factory=Rollout)
    health: tuple[Health, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Every bound on foreign input, in one place. Bytes, seconds, counts."""

    index_bytes: int = 32 * 1024**2  # one page of a release index
    index_pages: int = 20
    index_releases: int = 5000
    index_s: float = 60.0
    notes_bytes: int = 64 * 1024
    sums_bytes: int = 1024**2
    signature_bytes: int = 64 * 1024
    download_bytes: int = 8 * 1024**3
    bundle_bytes: int = 32 * 1024**3
    delta_index_bytes: int = 16 * 1024**2  # of what says which parts of a release are here already
    download_s: float = 4 * 3600.0
    least_bytes_per_s: int = 1024  # over any 30 s
    redirects: int = 5
    verify_s: float = 600.0
    unpack_s: float = 1800.0
    prepare_s: float = 1800.0
    path_bytes: int = 4096
    path_depth: int = 64
    worker_memory: int = 512 * 1024**2
    output_bytes: int = 256 * 1024  # what is kept of a command's output
    source_state_bytes: int = 64 * 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """`slotd.toml`."""

    max_parallel: int = 2
    notify: tuple[Mapping[str, object], ...] = ()
    metrics: str = ""
    bandwidth: int = 0  # bytes per second, 0 = unlimited
    policy: Policy = field(default_factory=Policy)
    backup: BackupPolicy = field(default_factory=BackupPolicy)
    limits: Limits = field(default_factory=Limits)
    files: tuple[str, ...] = ()
