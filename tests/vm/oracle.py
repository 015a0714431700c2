"""Whether a machine ended right: by what answers outside and what lies on the disk, not by what slotd says alone."""

from __future__ import annotations

from typing import Any

from tests.vm.world import GuestNotes

SIGNED = "signed by 2.0"


def expected(before: dict[str, Any], version: str) -> dict[str, Any]:
    """The data that this version had or made. 2.0 leaves its name in what it migrates."""
    data = before["data"]
    if version == "1.0":
        return {"schema": 1, "notes": data["notes"], "files": data["files"], "whole": "ok"}
    files = dict(sorted({**data["files"], "signed-2.0.txt": SIGNED}.items()))
    return {"schema": 2, "notes": [*data["notes"], SIGNED], "files": files, "whole": "ok"}


def judge(notes: GuestNotes, before: dict[str, Any], *, good: bool, was_signed: bool) -> tuple[str, list[str]]:
    """The version that a settled machine ended on, and what is wrong with it: nothing, if it ended right.

    `good`: whether 2.0 deserves to stay. `was_signed`: whether 2.0 was seen to have written into the data.
    """
    wrong: list[str] = []

    def require(holds: bool, otherwise: str) -> None:
        if not holds:
            wrong.append(otherwise)

    answer = notes.wait_state(timeout_s=300)
    found = notes.look()
    version = str(answer["version"])
    status = notes.json("status", "notes")
    status = status[0] if isinstance(status, list) else status
    require(version in ("1.0", "2.0") and (good or version == "1.0"), f"{version} answers")
    require(found["slot"]["version"] == version, f"{version} answers, the active slot holds {found['slot']['version']}")
    require(status["version"] == version, f"{version} answers, status says {status['version']}")
    require(found["data"] == expected(before, version), f"the data beside {version} are {found['data']}")
    require(not found["trials"], f"a trial is open: {found['trials']}")
    last = found["jobs"][-1] if found["jobs"] else {}
    require(last.get("state") in ("done", "failed"), f"the last job is {last}")
    if len(found["jobs"]) > 1:
        right = ("updated",) if version == "2.0" else ("rolled-back", "failed")
        require(last.get("result") in right, f"{version} answers, and the last job ended {last}")
        told = {"2.0": ("updated",), "1.0": ("rolled-back", "update-failed")}[version]
        kinds = [event["kind"] for event in found["events"]]
        require(any(kind in told for kind in kinds[len(before["events"]) :]), f"history tells {kinds[-6:]}")
    for copy in found["copies"]:
        require(bool(copy["exists"] and copy["sealed"]), f"the copy {copy['path']} is not whole")
    require(not found["unknown"], f"nobody knows of {found['unknown']}")
    if version == "1.0" and was_signed:
        aside = [each for copy in found["copies"] if copy["kind"] == "quarantine" for each in copy["contents"]]
        kept = any("signed-2.0.txt" in each["files"] or SIGNED in each["notes"] for each in aside)
        require(kept, "what 2.0 wrote is in no quarantine")
    return version, wrong
