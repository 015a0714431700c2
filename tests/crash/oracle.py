"""What must hold after every fault, judged from outside: by HTTP, the disk, systemd, the journal and `slotctl`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.crash.world import LATER, NEW, OLD, WITNESS, World
from tests.system.remembered import COPIES, LEFTOVERS, READ, check_app, check_history

UP_S = 8.0  # how long the app may take to answer once all jobs have ended
APPS = "/var/lib/slotd/apps/notes"
QUARANTINE = "/var/lib/slotd/quarantine/notes"
# What a daemon says that could not write into its history; what it could not write is not asked for there.
LOST = "could not be written into the history"
ENDS = {"updated": NEW, "failed": OLD, "rolled-back": OLD, "cancelled": OLD}  # result of an update -> what runs then
LOOK = f"""
for n in $(seq {int(UP_S / 0.1)}); do  # whom systemd starts again and again, as the disk was full, is not up yet
    systemctl is-active notes.service | grep -q activating || break; sleep 0.1
done
part() {{ printf '\\036%s\\n' "$1"; }}
part status; slotctl --json status notes
part current; readlink {APPS}/current
part files; cd {APPS}/current/ && find . -type f ! -path './.slotd/*' -exec sha256sum {{}} + | LC_ALL=C sort -k2
part record; cat {APPS}/current/.slotd/slot.json
part copies; {COPIES.format(name="notes")}
part known; python3 -c "$READ"
part lost; journalctl --sync; journalctl --quiet --unit=slotd --since="$SINCE" --grep='{LOST}' --output=cat
part leftovers; find /var/lib/slotd /var/cache/slotd /var/lib/notes {LEFTOVERS}
part workers; systemctl list-units --all --plain --no-legend 'slotd-worker*'
part masked; systemctl list-unit-files --no-legend --state=masked,masked-runtime 'notes*' 'slotd*'
part jobs; systemctl list-jobs --no-legend --plain | grep -v 'No jobs' || true
part active; systemctl is-active notes.service
part failed; systemctl list-units --failed --plain --no-legend 'slotd*'
part ran; cat /var/lib/notes/data/ran/* 2>/dev/null
part witness; cat {WITNESS} 2>/dev/null
part aside; for d in {QUARANTINE}/*/; do test -e "$d/header.json" && ls "$d"data/0/ran; done 2>/dev/null
part journal; journalctl --quiet --since="$SINCE" --output=json --output-fields=SLOTD_RESULT \
    SLOTD_JOB=$JOB
part end
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at the machine. `state` is what the app says of itself; empty when it does not answer."""

    state: dict[str, Any]
    status: dict[str, Any]
    parts: dict[str, str]

    @property
    def version(self) -> str:
        return str(self.state.get("version", ""))


def look(world: World) -> Seen:
    said = world.machine.run(LOOK, check=False, env={"JOB": str(world.job), "SINCE": world.since, "READ": READ}).stdout
    parts = {}
    for part in said.split("\036")[1:]:
        name, _, text = part.partition("\n")
        parts[name] = text.strip()
    assert "end" in parts, f"the machine could not be looked at:\n{said}"
    try:
        state = world.notes.wait_state(timeout_s=UP_S)
    except (OSError, ValueError):
        state = {}
    status = json.loads(parts["status"]) if parts["status"].startswith("{") else {}
    return Seen(state, status, parts)


def check_whole(world: World, seen: Seen, *, expected: tuple[str, ...]) -> None:
    """Promises 1 and 3: one whole version answers, on its own data, and nothing that the other wrote is lost."""
    assert seen.state, f"the app does not answer; it is {seen.parts['active']}; status: {_short(seen.status)}"
    assert seen.version in expected, f"{seen.version} runs, not {' or '.join(expected)}; {_short(seen.status)}"
    found = {key: value for key, value in seen.state.items() if key != "version"}
    assert found == world.before, f"the data of {seen.version} are {found}, not {world.before}"
    assert seen.parts["files"] == world.publisher.files[seen.version], (
        f"slot {seen.parts['current']} is not {seen.version} whole"
    )
    ran, witness = set(seen.parts["ran"].split()), set(seen.parts["witness"].split())
    if seen.version == OLD:
        assert NEW not in ran, "the old version runs on data that the new one wrote"
        if NEW in witness:
            assert NEW in seen.parts["aside"].split(), "what the new version wrote is in no sealed quarantine"
    else:
        assert ran == {OLD, NEW}, f"the data of {NEW} were written by {ran}"


def check_told(world: World, seen: Seen) -> None:
    """Promise 8: status, history and journal say what is."""
    status = seen.status
    assert status.get("version") == seen.version, f"slotctl says {status.get('version')}, {seen.version} answers"
    assert status.get("trial") is None, "a trial is still open"
    assert status.get("job") is None, f"a job is still there: {status.get('job')}"
    assert status["state"] in ("idle", "update-available", "awaiting-approval"), f"the app is {status['state']}"
    known = json.loads(seen.parts["known"])
    check_app("notes", seen.version, seen.parts["current"], seen.parts["record"], seen.parts["copies"], known)
    if not seen.parts["lost"]:
        check_history("notes", seen.version, known)
    if world.job:
        results = [json.loads(line).get("SLOTD_RESULT") for line in seen.parts["journal"].splitlines()]
        _check_end(world, seen, [result for result in results if result], "the journal")
        _check_end(world, seen, [known["jobs"].get(str(world.job))], "the row")
        ends = [end.removeprefix("update-") for end in known["ends"].get(str(world.job), ())]
        if ends or not seen.parts["lost"]:
            _check_end(world, seen, ends, "the history")


def _check_end(world: World, seen: Seen, results: list[str], where: str) -> None:
    """Whoever says how the job ended says what is. The last word counts: what a disk that died was told is lost."""
    last = results[-1] if results else "nothing"
    assert ENDS.get(last) == seen.version, f"{seen.version} runs, and {where} of job {world.job} says {last}"


def check_tidy(seen: Seen) -> None:
    """Nothing half-made, masked, waiting or failed is left."""
    for part in ("leftovers", "workers", "masked", "jobs", "failed"):
        assert not seen.parts[part], f"{part}: {seen.parts[part]}"
    assert seen.parts["active"] == "active", f"notes.service is {seen.parts['active']}"


def check(world: World, *, expected: tuple[str, ...]) -> Seen:
    """All of it, once a job has settled."""
    seen = look(world)
    check_whole(world, seen, expected=expected)
    check_told(world, seen)
    check_tidy(seen)
    return seen


def check_job_works(world: World) -> None:
    """The next job does what it should: a backup, with the app stopped and started."""
    before = world.notes.wait_state()
    world.notes.slotctl("backup", "notes")
    assert world.notes.wait_state() == before


def check_update_works(world: World) -> None:
    """A normal update afterwards, all of it; where the newest runs already, a backup."""
    if world.notes.wait_state()["version"] == LATER:
        return check_job_works(world)
    world.publisher.calm()
    world.publisher.offer(LATER)
    before = world.notes.wait_state()
    world.notes.slotctl("update", "notes")
    after = world.notes.wait_state()
    assert after["version"] == LATER
    assert after["digest"] == before["digest"]


def _short(status: dict[str, Any]) -> str:
    keys = ("state", "version", "held", "hold_reason", "last_error", "trial")
    return ", ".join(f"{key}={status[key]!r}" for key in keys if status.get(key))
