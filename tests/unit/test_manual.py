"""The manual pages: complete, in order, true to the code, and readable by those who read manual pages."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "packaging"))

from manual import commands, keys, roff  # noqa: E402

from slotd.__main__ import build_parser  # noqa: E402
from slotd.cli.parser import build  # noqa: E402
from slotd.core import schema  # noqa: E402
from slotd.core.config import parse_app, parse_settings  # noqa: E402
from slotd.core.validate import Report, Section  # noqa: E402

PAGES = {"slotctl.1": "slotctl.md", "slotd.8": "slotd.md", "slotd.toml.5": "slotd.toml.md"}
PAGES["slotd-app.toml.5"] = "slotd-app.toml.md"
CHAPTERS = [(page, chapter) for page, chapters in keys.CHAPTERS.items() for chapter in chapters]
TERMINAL = os.environ | {"LC_ALL": "C.UTF-8", "MANWIDTH": "1000", "MANROFFOPT": "-c", "MAN_KEEP_FORMATTING": ""}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All pages as they are installed."""
    directory = tmp_path_factory.mktemp("man")
    subprocess.run([REPOSITORY / "packaging" / "man-page", "--all", directory], check=True)
    return directory


def shown(tree: Path, name: str) -> str:
    """A page as `man` shows it, each paragraph in one line."""
    done = subprocess.run(["man", "-M", tree, name], env=TERMINAL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return re.sub(r".\x08", "", done.stdout)


def entries(page: str) -> Iterator[tuple[str, str, str]]:
    """Chapter, key, and what is said of it."""
    for chapter in re.split(r"(?m)^## ", (REPOSITORY / "docs" / page).read_text())[1:]:
        for part in re.split(r"(?m)^### `", chapter)[1:]:
            yield chapter.split("\n", 1)[0], part.split("`", 1)[0], part.split("\n", 1)[1]


def test_every_page_is_a_document_or_a_unit_and_no_unit_lacks_one(tree: Path) -> None:
    meant = {path.name for path in (REPOSITORY / "units").iterdir() if path.is_file()}
    for path in (REPOSITORY / "docs").glob("*.md"):
        if found := roff.title(path.read_text()):
            meant.add(found[0])
    assert {path.name.rpartition(".")[0] for path in tree.rglob("*.*") if path.is_file()} == meant
    assert {path.name for path in (tree / "man8").iterdir()} <= {f"{name}.8" for name in {*meant, "slotd"}}
    assert "user" not in meant


def test_apropos_finds_the_daemon_by_each_of_its_units(tree: Path) -> None:
    name = shown(tree, "slotd").split("SYNOPSIS")[0].partition("NAME")[2]
    told = {word.strip() for word in name.partition(" - ")[0].split(",")}
    assert told == {"slotd"} | {path.name for path in (REPOSITORY / "units").iterdir() if path.is_file()}


def test_those_who_read_of_the_programs_are_sent_to_the_bus(tree: Path) -> None:
    for page in ("slotctl", "slotd"):
        assert "org.slotd1(5)" in shown(tree, page).split("SEE ALSO")[1]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_what_people_look_for_in_a_manual_page(tree: Path, page: str) -> None:
    text = (tree / f"man{page[-1]}" / page).read_text()
    chapters = re.findall(r'^\.SH "?([^"\n]+)"?$', text, re.MULTILINE)
    wanted = ["NAME", "SYNOPSIS", "DESCRIPTION", "FILES", "ENVIRONMENT", "EXIT STATUS", "EXAMPLES", "SEE ALSO"]
    assert [chapter for chapter in chapters if chapter in wanted] == wanted
    assert "OPTIONS" in chapters or "TOP LEVEL" in chapters


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_clean_to_man_and_mandoc(tree: Path, page: str) -> None:
    path = tree / f"man{page[-1]}" / page
    done = subprocess.run(["man", "--warnings", "-l", path], env=TERMINAL, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) > 40
    linted = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", path], capture_output=True, text=True)
    assert linted.stdout == ""


def test_no_markdown_is_left_in_a_page(tree: Path) -> None:
    for page in PAGES:
        text = shown(tree, page.rpartition(".")[0])
        assert "](" not in text
        assert "<!--" not in text
        assert "**" not in text
        outside = [line for line in text.splitlines() if "`" in line]
        assert outside == [], page


@pytest.mark.parametrize("path", sorted((REPOSITORY / "units").rglob("*.*")), ids=lambda path: str(path.name))
def test_man_knows_every_unit_and_every_page_that_a_unit_names(tree: Path, path: Path) -> None:
    assert "slotd.service" in shown(tree, path.name)
    named = re.findall(r"^Documentation=(.*)$", path.read_text(), re.MULTILINE)
    assert named, "systemctl status shows nobody where to read on"
    for word in " ".join(named).split():
        found = re.fullmatch(r"man:([\w.@-]+)\((\d)\)", word)
        assert found, word
        assert (tree / f"man{found[2]}" / f"{found[1]}.{found[2]}").is_file(), word


@pytest.mark.parametrize("page", PAGES)
def test_the_pages_that_a_page_names_are_there_or_others(tree: Path, page: str) -> None:
    text = (tree / f"man{page[-1]}" / page).read_text().replace("\\-", "-")
    for name, section in re.findall(r"\\fB([\w.@-]+)\\fR\((\d)\)", text):
        is_ours = name.startswith(("slot", "org.slotd"))
        assert not is_ours or (tree / f"man{section}" / f"{name}.{section}").is_file(), f"{name}({section})"


# -- keys -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "chapter"), CHAPTERS)
def test_the_keys_of_a_chapter_are_those_that_the_reader_obeys(page: str, chapter: str) -> None:
    told = {key for where, key, _ in entries(page) if where == chapter}
    assert told
    assert told == set(keys.facts(*keys.CHAPTERS[page][chapter]))


@pytest.mark.parametrize(("page", "chapter"), CHAPTERS)
def test_a_key_has_a_sentence_its_facts_and_an_example_that_the_reader_takes(page: str, chapter: str) -> None:
    reader, _ = keys.CHAPTERS[page][chapter]
    facts = keys.facts(*keys.CHAPTERS[page][chapter])
    for where, key, text in entries(page):
        if where != chapter:
            continue
        sentence, fact, example, *_ = [part for part in text.split("\n\n") if part.strip()]
        assert sentence.strip().endswith("."), key
        assert fact.strip().lower() == f"> {facts[key]}.".lower()
        values = tomllib.loads(example)
        assert list(values) == [key]
        assert problems(reader, values, key) == [], f"{chapter} {key}: the reader does not take the example"


def problems(reader: Any, values: dict[str, Any], key: str) -> list[str]:
    """What the reader says of `key`, whatever type this may be a key of."""
    found = []
    for kind in (*keys.SOURCES, *keys.PROBES, ""):
        report = Report({}, "")
        reader(Section(({"type": kind} if kind else {}) | values, (), report))
        found.append([line for line in report.problems if re.match(rf"{key} (is|holds) ", line)])
    return min(found, key=len)


def test_what_is_not_supported_yet_is_no_entry() -> None:
    told = {(chapter, key) for page in keys.CHAPTERS for chapter, key, _ in entries(page)}
    refused = {("[rollout]", "gate"), ("[rollout]", "fleet_lock"), ("Top level", "metrics"), ("Top level", "notify")}
    for chapter, key in refused:
        reader = (keys.CHAPTERS["slotd.toml.md"] | {"[rollout]": keys.CHAPTERS["slotd-app.toml.md"]["[rollout]"]})[
            chapter
        ][0]
        assert ((chapter, key) in told) != keys.is_refused(reader, key)


def test_the_defaults_are_those_of_the_schema() -> None:
    facts = keys.facts(*keys.CHAPTERS["slotd-app.toml.md"]["[policy]"])
    assert facts["mode"].endswith(f"default `{schema.Policy().mode}`")
    assert facts["attempts"] == f"a whole number, 1 to 100; default `{schema.Policy().attempts}`"
    assert facts["trial"] == "a time span, `10ms` to `7d`; default `10min`"


def test_the_examples_of_whole_files_are_taken_as_they_stand() -> None:
    for page, parse in (("slotd-app.toml.md", lambda each: parse_app("app", [("", each)])), ("slotd.toml.md", None)):
        text = (REPOSITORY / "docs" / page).read_text().split("## Examples")[1]
        examples = re.findall(r"(?m)^    # /etc.*\n(?:    .*\n|\n(?=    ))*", text)
        assert examples
        for example in examples:
            values = tomllib.loads(example)
            assert parse(values) if parse else parse_settings([("", values)])


# -- commands ---------------------------------------------------------------------------------------


def help_text(parser: Any, *command: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as end:
        parser.parse_args([*command, "--help"])
    assert end.value.code == 0
    return out.getvalue()


@pytest.mark.parametrize(("page", "parser"), [("slotctl", build()), ("slotd", build_parser())])
def test_the_page_and_help_never_disagree(tree: Path, page: str, parser: Any) -> None:
    text = " ".join(shown(tree, page).split())
    common = commands.common_names(parser)
    leaves = list(commands.leaves(parser))
    assert leaves
    for name, sub in leaves:
        printed = " ".join(help_text(parser, *name.split()).split())
        assert f"{name} {commands.usage(sub, common)}".strip() in text
        for action in commands.own_options(sub, common):
            for option in action.option_strings:
                assert option in printed
                assert option in text
            said = commands.help_of(sub, action)
            assert said in text
            assert said[1:-1] in printed


def test_the_page_says_every_exit_code_that_help_says(tree: Path) -> None:
    text = shown(tree, "slotctl")
    told = re.search(r"exit codes: (.*(?:\n +.*)*)", help_text(build()))
    assert told
    assert "130 interrupted" in told[1]
    for code, meaning in re.findall(r"(\d+) ([^,]+)", " ".join(told[1].split())):
        assert re.search(rf"(?m)^ +{code} +{re.escape(meaning[0].upper() + meaning[1:])}", text), code


def test_every_command_and_option_is_in_the_completion_of_every_shell(tmp_path: Path) -> None:
    subprocess.run([REPOSITORY / "packaging" / "completion", tmp_path], check=True)
    scripts = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(scripts) == 3
    for path in scripts:
        text = path.read_text()
        for name, sub in commands.leaves(build()):
            assert name in text or f"_{name.replace(' ', '_')}() {{" in text  # zsh has a function for each
            for action in commands.own_options(sub, set()):
                assert all(option.removeprefix("--") in text for option in action.option_strings), (path, name)
