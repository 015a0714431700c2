"""The reference of the D-Bus interface: every member is described, and what is said of it is what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from slotd import errors
from slotd.model import AppView, Backup
from slotd.service import app, job, manager
from slotd.service.interface import Interface
from slotd.service.verbs import VERBS, about_all

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "packaging"))

from manual import bus  # noqa: E402

SERVED = {each.name: each for each in (manager.INTERFACE, app.INTERFACE, job.INTERFACE)}
DESCRIBED = bus.read(REPOSITORY / "dbus")
MEMBERS = [(name, member) for name, interface in DESCRIBED.items() for member in interface.members]
PAGE = (REPOSITORY / "docs" / "dbus.md").read_text()


def shape(element: ElementTree.Element | None) -> Any:
    assert element is not None
    return element.tag, sorted(element.items()), [shape(child) for child in element]


@pytest.mark.parametrize("interface", SERVED.values(), ids=lambda interface: interface.name)
def test_the_shipped_description_is_what_is_served(interface: Interface) -> None:
    shipped = ElementTree.parse(REPOSITORY / "dbus" / f"{interface.name}.xml").getroot()
    assert shape(shipped.find("interface")) == shape(ElementTree.fromstring(interface.xml()))


@pytest.mark.parametrize(("interface", "member"), MEMBERS, ids=lambda each: getattr(each, "name", each))
def test_a_member_is_described_in_sentences(interface: str, member: bus.Member) -> None:
    assert member.doc.words
    assert [words for words in member.doc.words if not words.endswith(".")] == []
    assert set(member.doc.errors) <= set(errors.BY_NAME)
    assert f"#### `{member.signature}`\n" in PAGE


def test_a_member_without_a_comment_of_its_name_is_noticed(tmp_path: Path) -> None:
    for name in bus.ORDER:
        text = (REPOSITORY / "dbus" / f"{name}.xml").read_text()
        (tmp_path / f"{name}.xml").write_text(text.replace("      Hold:\n", "      Hild:\n"))
    with pytest.raises(ValueError, match=r"Manager\.xml: method Hold is not described"):
        bus.read(tmp_path)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_the_options_and_actions_of_a_verb_are_those_that_the_code_takes(verb: Any) -> None:
    doc = DESCRIBED["org.slotd1.Manager"].member(verb.name).doc
    assert [key for key, _ in doc.keys] == [f"{key} {kind}" for key, kind in verb.options.items()]
    view = AppView("notes", backups=(Backup("b1", "notes", "backup", "1.0", "manual", 0.0, "/b1"),))
    args = {"SetMode": ["auto"]}.get(verb.name, ["b1" if arg.name == "backup" else "1.0" for arg in verb.args])
    example = {
        "paths": ["notes.db"],
        "from": "/opt/notes",
        "present": True,
        "data": "keep",
        "version": "1.0",
        "to": "1.0",
        "force": True,
        "now": True,
    }
    asked = [verb.ask(view, args, {})] + [verb.ask(view, args, {key: example[key]}) for key in verb.options]
    assert set(doc.actions) == {f"org.slotd1.{question.action}" for question in asked}
    assert DESCRIBED["org.slotd1.App"].member(verb.name).doc.same_as == f"org.slotd1.Manager.{verb.name}"


@pytest.mark.parametrize("member", ["CheckAll", "ApplyAll", "Import", "Reload"])
def test_the_actions_of_what_concerns_all_apps_are_those_that_the_code_asks_for(member: str) -> None:
    doc = DESCRIBED["org.slotd1.Manager"].member(member).doc
    assert doc.actions == (f"org.slotd1.{about_all(member).action}",)


def test_every_polkit_action_is_that_of_a_method_and_the_other_way_round() -> None:
    policy = ElementTree.parse(REPOSITORY / "packaging" / "org.slotd1.policy")
    shipped = {action.get("id") for action in policy.iter("action")}
    assert {action for _, member in MEMBERS for action in member.doc.actions} == shipped
    assert set(re.findall(r"^\| `(org\.slotd1\.[\w-]+)`", PAGE, re.MULTILINE)) == shipped


def test_every_error_has_its_line() -> None:
    table = PAGE.split("## Errors")[1].split("## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(errors.BY_NAME)


def test_the_clients_that_the_page_names_are_there() -> None:
    linked = re.findall(r"\]\((examples/[^)]+)\)", PAGE)
    assert linked
    assert [path for path in linked if not (REPOSITORY / "docs" / path).is_file()] == []


def test_the_page_is_clean_to_man_and_mandoc(tmp_path: Path) -> None:
    page = tmp_path / "org.slotd1.5"
    command = [REPOSITORY / "packaging" / "man-page", REPOSITORY / "docs" / "dbus.md"]
    page.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    done = subprocess.run(["man", "--warnings", "-l", "-Tutf8", page], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Update(s app, a{sv} options)" in re.sub(r".\x08|\x1b\[\d+m", "", done.stdout)
    linted = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True)
    assert linted.stdout == ""
