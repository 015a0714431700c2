"""What the fuzzer starts from and what it has found is offered to the parsers here too, without the fuzzer."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fuzz import target as targets

from slotd.core.simpleindex import links

FOUND = [pytest.param(name, path, id=f"{name}-{path.name}") for name in targets.NAMES for path in targets.found(name)]


@pytest.mark.parametrize("name", targets.NAMES)
def test_a_parser_takes_most_of_what_its_fuzzing_starts_from(name: str) -> None:
    target = targets.load(name)
    taken = [targets.offer(target, seed) for seed in target.seeds]
    assert sum(taken) * 2 > len(taken)


@pytest.mark.attack
@pytest.mark.parametrize("name, path", FOUND)
def test_what_crashed_a_parser_once_is_taken_or_refused(name: str, path: Path) -> None:
    targets.offer(targets.load(name), path.read_bytes())


@pytest.mark.attack
@pytest.mark.parametrize(
    "piece", ["<!--", "<![", "<a ", "<a x='", "</a ", "<a href=x ", "<a href=x><script>", "<a href='"]
)
def test_a_page_of_tags_that_never_end_costs_no_more_than_its_length(piece: str) -> None:
    target = targets.load("releases")
    targets.offer(target, b"t" + piece.encode() * 100_000)  # one second of the processor for each MB, and not hours


@pytest.mark.parametrize(
    "page",
    [
        '<!-- <a href="no"> --><a href="f-1.whl">',
        '<script>"<a href=no>"</script><A HREF=f-1.whl >',
        "<img alt='<a href=\"no\">'><a class=x href='f-1.whl'/>",
        '<![CDATA[<b></b>]]><a href="f-1.whl" href="no">',
        '<a href="f-1.whl"><a href="no',
        '<a href="f-1.whl"><a href="no"',
        '<a href="&#102;-1.whl"><!-- <a href="no">',
        '<a\nhref = "f-1.whl"\n></a><abbr href="no"><aside href=no>',
    ],
)
def test_a_page_has_the_links_that_a_browser_would_show(page: str) -> None:
    assert [each["filename"] for each in links(page.encode(), 10)] == ["f-1.whl"]
