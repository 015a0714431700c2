"""Version specifiers, `>=4.20,<5`: one grammar for every scheme, that of PEP 440.

pep440 is left to `packaging`. For semver and date the same operators are read here, and a version may be cut short
(`<5`, `>=2024-06`): what is missing is its beginning. As in PEP 440, `<5` leaves out the prereleases of 5 itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version as Pep440

from slotd.core.version import TEXT_LIMIT, Version, parse

_CLAUSE = re.compile(r"(===|==|!=|<=|>=|~=|<|>)\s*(\S+)", re.ASCII)
_SHORT_SEMVER = re.compile(r"v?([0-9]+)(?:\.([0-9]+))?", re.ASCII)
_SHORT_DATE = re.compile(r"([0-9]{4})(?:[-.]?([0-9]{2}))?", re.ASCII)
_CLAUSES_LIMIT = 32


@dataclass(frozen=True, slots=True)
class _Clause:
    operator: str
    version: Version
    below: Version | None = None  # for ~= and ==X.*: the first version that is no longer in


@dataclass(frozen=True, slots=True)
class Specifier:
    """A parsed specifier; an empty one allows every version."""

    text: str
    pep440: SpecifierSet | None = None
    clauses: tuple[_Clause, ...] = field(default=())

    def allows(self, version: Version) -> bool:
        """True if `version` is in. Prereleases are judged by the channel, not here."""
        if self.pep440 is not None:
            return isinstance(version.key, Pep440) and self.pep440.contains(version.key, prereleases=True)
        return all(_allows(clause, version) for clause in self.clauses)


def parse_specifier(scheme: str, text: str) -> Specifier:
    """Raises `ValueError` with what is wrong, in words that fit behind "… is <value>: "."""
    if not text.strip():
        return Specifier("")
    if text.strip().lower() in ("latest", "newest", "stable"):
        raise ValueError(
            f'"{text.strip()}" says nothing about a version; write a specifier like ">=4.20,<5", '
            "or leave the key out to follow the newest release"
        )
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > _CLAUSES_LIMIT or len(text) > _CLAUSES_LIMIT * TEXT_LIMIT:
        raise ValueError("it has too many parts")
    for part in parts:
        if _CLAUSE.fullmatch(part) is None:
            raise ValueError(f'"{part}" is no specifier; each part is one of == != <= >= < > ~= and a version')
    if scheme == "pep440":
        try:
            return Specifier(text, pep440=SpecifierSet(text))
        except InvalidSpecifier:
            raise ValueError("it is no PEP 440 specifier; write one like >=4.20,<5") from None
    return Specifier(text, clauses=tuple(_parse_clause(scheme, part) for part in parts))


def _parse_clause(scheme: str, part: str) -> _Clause:
    found = _CLAUSE.fullmatch(part)
    assert found is not None
    operator, operand = found[1], found[2]
    if operator == "===":
        raise ValueError("=== is only for pep440; write ==")
    wildcard = operand.endswith(".*")
    if wildcard and operator not in ("==", "!="):
        raise ValueError(f'"{part}": .* goes with == and != only')
    operand = operand.removesuffix(".*")
    version, numbers = _operand(scheme, operand)
    if version is None or (wildcard and not numbers):
        example = "1.4.0" if scheme == "semver" else "2024-06-01"
        raise ValueError(f'"{operand}" is no version of the scheme {scheme}, like {example}')
    if operator == "~=":
        whole = 3
        length = len(numbers) if numbers else whole
        if length < 2:
            raise ValueError(f'"{part}": ~= needs at least two numbers, like ~=1.4')
        leading = numbers or _numbers_of(version)
        return _Clause(operator, version, _after(scheme, leading[: length - 1]))
    if wildcard or (numbers and operator in ("==", "!=")):
        return _Clause(operator, version, _after(scheme, numbers))
    return _Clause(operator, version)


def _operand(scheme: str, text: str) -> tuple[Version | None, tuple[int, ...]]:
    """The version, and the numbers that were given if it was cut short."""
    whole = parse(scheme, text)
    if whole is not None:
        return whole, ()
    short = (_SHORT_SEMVER if scheme == "semver" else _SHORT_DATE).fullmatch(text)
    if short is None or len(text) > TEXT_LIMIT:
        return None, ()
    numbers = tuple(int(number) for number in short.groups() if number is not None)
    return _padded(scheme, numbers), numbers


def _padded(scheme: str, numbers: tuple[int, ...]) -> Version | None:
    if scheme == "semver":
        return parse(scheme, ".".join(str(n) for n in (*numbers, 0, 0)[:3]))
    year, month, day = (*numbers, 1, 1)[:3]
    return parse(scheme, f"{year:04}-{month:02}-{day:02}")


def _numbers_of(version: Version) -> tuple[int, ...]:
    return tuple(version.key[:3])


def _after(scheme: str, numbers: tuple[int, ...]) -> Version:
    """The first version behind all that begin with `numbers`."""
    *front, last = numbers
    if scheme == "date" and len(numbers) == 2 and last == 12:
        front, last, numbers = [], numbers[0], numbers[:1]
    after = _padded(scheme, (*front, last + 1))
    if after is None:
        raise ValueError(f"nothing comes after {'.'.join(str(n) for n in numbers)}")
    return after


def _allows(clause: _Clause, version: Version) -> bool:
    low, high = clause.version, clause.below
    if clause.operator == "==":
        return version == low if high is None else low <= version and _is_below(version, high)
    if clause.operator == "!=":
        return version != low if high is None else not (low <= version and _is_below(version, high))
    if clause.operator == "~=":
        assert high is not None
        return low <= version and _is_below(version, high)
    if clause.operator == "<":
        return _is_below(version, low)
    if clause.operator == ">":
        return version > low
    return version <= low if clause.operator == "<=" else version >= low


def _is_below(version: Version, limit: Version) -> bool:
    """`<5` does not let 5.0.0-rc.1 in (PEP 440, "Exclusive ordered comparison")."""
    if version.is_prerelease and not limit.is_prerelease and _numbers_of(version) == _numbers_of(limit):
        return False
    return version < limit
