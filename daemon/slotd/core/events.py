"""Every kind of event that slotd tells, with its journal MESSAGE_ID and its catalogue entry.

The catalogue file is printed from this table when the package is built, so that the two cannot disagree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from slotd.model import Result

ERROR, WARNING, NOTICE, INFO = 3, 4, 5, 6  # syslog priorities


@dataclass(frozen=True, slots=True)
class EventKind:
    """`id` is fixed for ever once released: people match on it. `text` is shown by `journalctl -x`."""

    name: str
    id: str
    priority: int
    subject: str
    text: str
    result: Result = Result.NONE  # how the job ends that tells it


_DOC = "Documentation: man:slotctl(1)"

KINDS: tuple[EventKind, ...] = (
    EventKind(
        "daemon-started",
        "da317d0f4221493fae782c407e252471",
        INFO,
        "slotd is up",
        "The update daemon is running and has read its definitions and its state.",
    ),
    EventKind(
        "job-started",
        "d1ce27e02ee84748b6b5a3b579b2d62a",
        INFO,
        "An update began",
        "Nothing is stopped before the release is verified, unpacked and made ready, and the data are copied.\n"
        "Until then `slotctl cancel @SLOTD_JOB@` ends it. `slotctl status @SLOTD_APP@` shows how far it is.",
    ),
    EventKind(
        "job-resumed",
        "a8747f82c3db48c7bf4bd92e191ff179",
        NOTICE,
        "An interrupted job goes on",
        "slotd was stopped or killed in the middle of this job. It goes on, or back, as the step demands.\n"
        "Why it was: `systemctl status slotd.service`. Nothing needs to be done.",
    ),
    EventKind(
        "step",
        "211323894502414b860beeaea7392a27",
        INFO,
        "A job entered a step",
        "The step is in the field SLOTD_STEP; `slotctl status` shows it too.",
    ),
    EventKind(
        "update-available",
        "e6e72b5957cd41079aa77a09510ba79d",
        NOTICE,
        "A newer release is there",
        "Apply it with `slotctl update @SLOTD_APP@`, or approve it with `slotctl approve`.",
    ),
    EventKind(
        "check-failed",
        "97a9935e877345aebde628a473345752",
        WARNING,
        "The source could not be asked",
        "The running app is not affected, and the next check tries again. If it fails each time, the message says\n"
        "what to look at: the address or the credential in [source], or this host's network.",
    ),
    EventKind(
        "source-quiet",
        "7f3c0e3d6a0b4f6f9d1e5a2c8b4d7e90",
        NOTICE,
        "The source has said nothing new for long",
        "It may be out of use, or somebody keeps releases back from this host. Look whether the publisher still uses\n"
        "the address in [source]. How long is long: `quiet` under [policy].",
    ),
    EventKind(
        "release-skipped",
        "4877a52ac0f84230b17f9150c82485f1",
        INFO,
        "A release was passed over",
        "The message says why. What of it is the definition's wish is in [source] and [policy]: slotd-app.toml(5).\n"
        "A version that failed here before is tried again by `slotctl update @SLOTD_APP@ --force`.",
    ),
    EventKind(
        "release-replaced",
        "83218ea800c440be802800c4ea5a9314",
        NOTICE,
        "A file of a release was replaced at its source",
        "Its bytes are others than when slotd first saw it. Publishers do that, and so does whoever got hold of their\n"
        "account. It is not installed by itself. If the publisher says that it was they, take it with\n"
        "`slotctl approve @SLOTD_APP@ VERSION`.",
    ),
    EventKind(
        "fetched",
        "5b1f0c9e7d7a4c0f8e6d2a91b3c4f517",
        INFO,
        "A release file was fetched in another way than whole from its source",
        "Parts of it were here already, in the file of the version before; or it came from one of the `mirrors` under\n"
        "[source]. How it was verified does not depend on that. SLOTD_FETCHED and SLOTD_SIZE are bytes.",
    ),
    EventKind(
        "shared",
        "0c7a52e84b1d4d3f9a6be1f7258d90c3",
        INFO,
        "Parts of the new version take no room of their own",
        "Files that are the same in both versions lie in the same blocks of the disk; the file system keeps them\n"
        "apart as soon as one is written to. SLOTD_SHARED is how many bytes they have.",
    ),
    EventKind(
        "verification-failed",
        "e6b17dce3ea440d9b5063524ce832cf2",
        ERROR,
        "A release is not what it claims to be",
        "A digest or a signature did not match. Nothing of it was unpacked or run.\n"
        "If it was forged, the version is blocked until its publisher replaces it or an administrator forces it.",
    ),
    EventKind(
        "update-failed",
        "e47ddc24edae49b495bd6b0900f30067",
        ERROR,
        "An update failed before anything was changed",
        "The old version runs on, or runs again. The message says what went wrong; mend it, then\n"
        "`slotctl update @SLOTD_APP@`. An automatic update tries again by itself.",
        Result.FAILED,
    ),
    EventKind(
        "cancelled",
        "d6db2e367aa84ff398e75eb5b5b6c564",
        NOTICE,
        "A job was cancelled",
        "Nothing was changed. To keep the next automatic update from coming: `slotctl hold @SLOTD_APP@`.",
        Result.CANCELLED,
    ),
    EventKind(
        "app-stopped",
        "d435a025d7bc4559bde4de846269f1fe",
        INFO,
        "The app was stopped for its update or its backup",
        "Its data are being brought up to date in the backup; then it starts again, after an update the new version.",
    ),
    EventKind(
        "switched",
        "cb4cc2976037447dbfd2eda98bfabf07",
        NOTICE,
        "The other slot is active now",
        "The new version is on trial: it is watched, and taken back if it is not healthy.",
    ),
    EventKind(
        "start-failed",
        "b5f085b2035b4b6e97012b49185a3fd3",
        WARNING,
        "A start of the new version failed",
        "When its attempts are spent, the old version and its data come back.",
    ),
    EventKind(
        "trial-started",
        "f15f5ac68b73422db1b66fe53029802b",
        NOTICE,
        "The new version is on trial",
        "`slotctl status @SLOTD_APP@` shows what is left of the trial.",
    ),
    EventKind(
        "updated",
        "cb0f6e2efe7c463ebe74adbe2f49c126",
        NOTICE,
        "An update is done",
        "The new version passed its trial. After an update the version before it and its backup are kept for a while;\n"
        "`slotctl rollback @SLOTD_APP@ --data=restore` goes back, `--data=keep` with the data as they are.",
        Result.UPDATED,
    ),
    EventKind(
        "unchanged",
        "903ce9b1063d4f21a9155be20146af1c",
        INFO,
        "The release holds what is installed already",
        "Nothing was stopped or switched, and nothing needs to be done.",
        Result.UNCHANGED,
    ),
    EventKind(
        "rollback-started",
        "bd86091cb4354d459c3fcb9d00e17993",
        WARNING,
        "Going back to the old version",
        "What the failed version wrote is set aside as quarantine: `slotctl backups @SLOTD_APP@`.",
    ),
    EventKind(
        "rolled-back",
        "05684b2c117b43699abe8534c9b249d1",
        WARNING,
        "The old version is back",
        "The version that was left is blocked on this host until its publisher replaces it or someone forces it:\n"
        "`slotctl update @SLOTD_APP@ --force`. What it wrote is kept as quarantine: `slotctl backups @SLOTD_APP@`.",
        Result.ROLLED_BACK,
    ),
    EventKind(
        "rollback-failed",
        "8d597593bb2a48229ff053c5a7b9aa1c",
        ERROR,
        "Going back failed",
        "The app is held. The message names the backup that holds its data.\n"
        "What to do, as far as it came, is in `slotctl status @SLOTD_APP@`; then `slotctl unhold @SLOTD_APP@`.",
        Result.ROLLBACK_FAILED,
    ),
    EventKind(
        "imported",
        "5afa392810fc404fa08f954ed1a2e595",
        NOTICE,
        "A release came in a bundle",
        "It was verified as a download is, and is installed as one: `slotctl status @SLOTD_APP@` says how it is.\n"
        "The fields of this entry name the bundle's digest, who signed it, and who imported it.",
    ),
    EventKind(
        "import-failed",
        "e19fef124b31409a890df4c30c59a4b3",
        WARNING,
        "A bundle was refused",
        "Nothing of it was taken in, and nothing was changed. The message says why.\n"
        "`slotctl bundle inspect FILE` shows what is inside, and who signed it.",
    ),
    EventKind(
        "backup-made",
        "12c4952f9a4c44d5ba32f260afd37a39",
        INFO,
        "A backup was made",
        "It is kept as long as [backup] says; `slotctl backups @SLOTD_APP@` lists it, `slotctl restore` puts it back.",
    ),
    EventKind(
        "restored",
        "f12db618ad55410a8fae5b8bf3e111f3",
        NOTICE,
        "Data were restored",
        "What was there before is kept as quarantine: `slotctl backups @SLOTD_APP@`. `slotctl restore` puts it back.",
    ),
    EventKind(
        "held",
        "ce786f75771e47d4b7c5a243ac515129",
        NOTICE,
        "The app is held",
        "No update is applied until `slotctl unhold`.",
    ),
    EventKind(
        "released",
        "cae07e5602a7422d9439e1bc15231c8b",
        NOTICE,
        "The hold was lifted",
        "Updates are applied again, as the mode of the app says: `slotctl status @SLOTD_APP@`.",
    ),
    EventKind(
        "approved",
        "2772ea205b8e47058faf00cdf78a149d",
        NOTICE,
        "A version was approved",
        "`slotd-apply.timer` lets it be installed, unless the app is held or its mode is manual.",
    ),
    EventKind(
        "mode-changed",
        "adf404dcc5a64845aac054128321918b",
        NOTICE,
        "The mode was changed",
        "It goes before the one in the definition; slotd-app.toml(5) says what each does.",
    ),
    EventKind(
        "misconfigured",
        "9a7fdb7e8cf24a9b8d5498268d7703b7",
        ERROR,
        "A definition cannot be used",
        "The app that it describes is left alone until it is mended; of the settings, the defaults hold.\n"
        "`slotctl verify` lists every problem; after mending, `slotctl reload`.",
    ),
    EventKind(
        "boot-counted",
        "a3d89f45d2c04b03951bfcdce891dace",
        NOTICE,
        "A boot during a trial was counted",
        "When the attempts are spent, the old version comes back before the app starts.",
    ),
    EventKind(
        "verified",
        "0f64d8d88f534cf3881a808b8b3893d2",
        INFO,
        "A release file was verified",
        "Every check that the definition requires has passed; the message names them.",
    ),
    EventKind(
        "update-delayed",
        "0d374023d4fd451e98b75d22d0bf926c",
        NOTICE,
        "An automatic update waits",
        "It can still be cancelled: `slotctl cancel @SLOTD_JOB@`.",
    ),
    EventKind(
        "backup-note",
        "1cb3a2fed6104706861715494fd0b45a",
        INFO,
        "A backup has something to tell",
        "The backup goes on; the message says what it met.",
    ),
    EventKind(
        "database-damaged",
        "cc2117d1012243eab1da8cd4a34a54e1",
        ERROR,
        "A database of the app is damaged",
        "SQLite has found it so in the app's own data, before this update or backup touched anything: the backup\n"
        "holds it as it is. See what the app says of it, `sqlite3 FILE .recover`, and older backups:\n"
        "`@SLOTD_SLOTCTL@ backups @SLOTD_APP@`.",
    ),
    EventKind(
        "command-ended",
        "e51595da38124467ac8882155164ad76",
        INFO,
        "A command of the definition has ended",
        "It is one of `before`, `after` ([data]) or `migrate` ([slots]). All that it said is in the\n"
        "field SLOTD_OUTPUT of this entry, which `-o verbose` shows.",
    ),
    EventKind(
        "backup-verified",
        "a352a56c791f448eb1aa5c925f095d51",
        INFO,
        "A backup was read again and is whole",
        "Every file of it holds what was sealed.",
    ),
    EventKind(
        "verify-failed",
        "52c88f1a88494c818f29794466021833",
        ERROR,
        "A backup is damaged",
        "It does not hold what was sealed; the message says which files. The disk may be failing.\n"
        "`@SLOTD_SLOTCTL@ backup @SLOTD_APP@` makes a new one; what is whole of this one can be restored by path.",
    ),
    EventKind(
        "adopted",
        "cd0b44d4aaee495ea7c9ebde8f5a11de",
        NOTICE,
        "An installation was adopted",
        "What runs is slot a now, and its unit starts it from there.\n"
        "`@SLOTD_SLOTCTL@ release @SLOTD_APP@` gives it back.",
    ),
    EventKind(
        "given-back",
        "ee76d495eccd446390631f20687ed12c",
        NOTICE,
        "An app was given back",
        "Its unit starts what it started before slotd. Data and backups stay where they are.",
    ),
    EventKind(
        "marked-good",
        "157b248083184b7a975cf3d6af802f8f",
        INFO,
        "A version on trial was marked good",
        "An administrator ended the trial; the version stays.",
    ),
    EventKind(
        "warning",
        "fae4196f30224201a73dea8dafaddace",
        WARNING,
        "Something is not as it should be",
        "No job was ended by it. The message says what needs a look.",
    ),
)

BY_NAME: dict[str, EventKind] = {kind.name: kind for kind in KINDS}


def catalogue() -> str:
    """The text of `slotd.catalog`, see journalctl(1) `--update-catalog`.

    One catalogue serves the system's slotd and those of its users: each entry brings the programs to type with it.
    """
    parts = ["# Printed from slotd.core.events; do not edit.\n"]
    for kind in KINDS:
        parts.append(f"-- {kind.id}\nSubject: {kind.subject}\nDefined-By: slotd\n{_DOC}\n\n{kind.text}\n")
    return re.sub(r"`(slotctl|systemctl) ", lambda found: f"`@SLOTD_{found[1].upper()}@ ", "\n".join(parts))
