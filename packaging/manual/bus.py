"""The D-Bus reference as Markdown, from dbus/*.xml, where a comment before each element describes it.

Update:                         the member's name, or the interface's; what follows is for people:
Words.                          paragraphs
- version s: words              a key of a dictionary: of the options, or of what is given
Action: update; …               the polkit action (without org.slotd1.) and when it is another one
Errors: NoSuchApp Busy          the errors of slotd's own that only this member gives
As org.slotd1.Manager.Update, … the same as that one

`gdbus-codegen --generate-docbook` takes the comments, too. Programs that introspect see none of them.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ORDER = ("org.slotd1.Manager", "org.slotd1.App", "org.slotd1.Job")
TITLES = {"method": "Methods", "signal": "Signals", "property": "Properties"}
EMITS = "org.freedesktop.DBus.Property.EmitsChangedSignal"


@dataclass(frozen=True)
class Doc:
    """What a comment says. `keys` holds (`version s`, words); `same_as` the member whose description this is."""

    words: tuple[str, ...]
    keys: tuple[tuple[str, str], ...] = ()
    action: str = ""
    errors: tuple[str, ...] = ()
    same_as: str = ""

    @property
    def actions(self) -> tuple[str, ...]:
        """The polkit actions that it names, with their prefix."""
        return tuple(f"org.slotd1.{part.split()[0]}" for part in self.action.split(";") if part.strip())


@dataclass(frozen=True)
class Member:
    """A method, signal or property."""

    kind: str
    name: str
    signature: str
    doc: Doc
    emits: str = ""


@dataclass(frozen=True)
class Interface:
    name: str
    doc: Doc
    members: tuple[Member, ...]

    def member(self, name: str) -> Member:
        return next(member for member in self.members if member.name == name)


def read(directory: Path) -> dict[str, Interface]:
    """The interfaces by name. Raises `ValueError` for an element that has no comment of its name before it."""
    return {name: _interface(directory / f"{name}.xml") for name in ORDER}


def _interface(path: Path) -> Interface:
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    root = ElementTree.parse(path, parser).getroot()
    [(element, doc)] = _described(root, path)
    members = tuple(
        Member(str(each.tag), each.get("name", ""), _signature(each), said, _emits(each))
        for each, said in _described(element, path)
    )
    return Interface(element.get("name", ""), doc, members)


def _described(parent: ElementTree.Element, path: Path) -> Iterator[tuple[ElementTree.Element, Doc]]:
    comment = ""
    for element in parent:
        if element.tag is ElementTree.Comment:
            comment = element.text or ""
            continue
        name, _, text = comment.strip().partition(":\n")
        if name != element.get("name"):
            raise ValueError(
                f"{path.name}: {element.tag} {element.get('name')} is not described by a comment before it"
            )
        yield element, _doc(text)
        comment = ""


def _doc(text: str) -> Doc:
    words, keys, said = [], [], {"Action": "", "Errors": ""}
    for paragraph in re.split(r"\n\s*\n", text):
        for item in re.split(r"\n\s*(?=- |Action: |Errors: )", paragraph.strip()):
            line = " ".join(item.split())
            head, _, rest = line.partition(": ")
            if head in said:
                said[head] = rest
            elif line.startswith("- "):
                keys.append((head.removeprefix("- "), rest))
            elif line:
                words.append(line)
    same = re.match(r"As (org\.slotd1\.\w+\.\w+),", words[0]) if words else None
    return Doc(tuple(words), tuple(keys), said["Action"], tuple(said["Errors"].split()), same[1] if same else "")


def _emits(element: ElementTree.Element) -> str:
    return next((note.get("value", "") for note in element.iter("annotation") if note.get("name") == EMITS), "")


def _signature(element: ElementTree.Element) -> str:
    """`Update(s app, a{sv} options) → o job`, `Version s`."""
    if element.tag == "property":
        return f"{element.get('name')} {element.get('type')}"
    given = {"in": [], "out": []}
    for arg in element.iter("arg"):
        given[arg.get("direction", "in")].append(f"{arg.get('type')} {arg.get('name')}")
    back = f" → {', '.join(given['out'])}" if given["out"] else ""
    return f"{element.get('name')}({', '.join(given['in'])}){back}"


def reference(interfaces: Mapping[str, Interface]) -> str:
    """A chapter for each interface."""
    return "\n".join(line for one in interfaces.values() for line in _chapter(one, interfaces)) + "\n"


def _chapter(interface: Interface, interfaces: Mapping[str, Interface]) -> Iterator[str]:
    yield f"## {interface.name}\n"
    for words in interface.doc.words:
        yield f"{words}\n"
    for kind, title in TITLES.items():
        members = [member for member in interface.members if member.kind == kind]
        if members:
            yield f"### {title}\n"
        for member in members:
            yield from _entry(member, interfaces)


def _entry(member: Member, interfaces: Mapping[str, Interface]) -> Iterator[str]:
    yield f"#### `{member.signature}`\n"
    doc = member.doc
    if doc.same_as:
        where, _, name = doc.same_as.rpartition(".")
        sentence = interfaces[where].member(name).doc.words[0].split(". ")[0].rstrip(".")
        yield f"{sentence}. As `{doc.same_as}`, which see.\n"
        return
    for words in doc.words:
        yield f"{words}\n"
    if doc.keys:
        yield "\n".join(f"- `{key}`: {words}" for key, words in doc.keys) + "\n"
    facts = []
    if doc.action:
        rest = doc.action.split("; ")[1:]
        more = "".join(f"; `org.slotd1.{part.split(' ', 1)[0]}` {part.split(' ', 1)[1]}" for part in rest)
        facts.append(f"Action: `{doc.actions[0]}`{more}.")
    if doc.errors:
        facts.append(f"Errors: {', '.join(f'`{name}`' for name in doc.errors)}.")
    if member.emits == "const":
        facts.append("Never changes.")
    if facts:
        yield f"> {' '.join(facts)}\n"


def actions(policy: Path) -> str:
    """The polkit actions, as a table: name, what an active local user must do, what it is for."""
    needs = {"yes": "nothing", "auth_admin_keep": "an administrator's password", "auth_admin": "the same, each time"}
    lines = ["| action | what it is for, and what a person at the machine must give |", "|---|---|"]
    for action in ElementTree.parse(policy).iter("action"):
        active = action.findtext("defaults/allow_active", "")
        lines.append(f"| `{action.get('id')}` | {action.findtext('description')}: {needs.get(active, active)} |")
    return "\n".join(lines) + "\n"
