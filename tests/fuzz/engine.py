"""Runs one target under atheris, in a process of its own: `engine.py TARGET CORPUS CRASHES SECONDS`.

It has to be a program: the modules to be watched are instrumented as they are imported, and libFuzzer ends the process.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

MOST_BYTES = 64 * 1024
_WATCHED = ["slotd", "tests.fuzz", "tomllib", "json", "html.parser", "_markupbase", "packaging", "semver", "base64"]


def main() -> None:
    name, corpus, crashes, seconds = sys.argv[1:5]
    with atheris.instrument_imports(include=_WATCHED):
        from tests.fuzz import target as targets

        target = targets.load(name)
    for number, seed in enumerate((*target.seeds, *(path.read_bytes() for path in targets.found(name)))):
        (Path(corpus) / f"seed-{number:03}").write_bytes(seed)
    words = Path(crashes) / f"{name}.dict"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))

    def one(data: bytes) -> None:
        targets.offer(target, data)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        # Every other input keeps its form, the rest is changed as bytes.
        if target.mutate is not None and seed % 2:
            return target.mutate(data, most, seed)
        return bytes(atheris.Mutate(data, most))

    options = [
        *(f"-max_total_time={seconds}", f"-max_len={MOST_BYTES}", f"-dict={words}", f"-artifact_prefix={crashes}/"),
        *("-print_final_stats=1", "-timeout=120", "-rss_limit_mb=2048", "-verbosity=1", corpus),
    ]
    atheris.Setup([sys.argv[0], *options], one, custom_mutator=mutate if target.mutate else None)
    atheris.Fuzz()


def _escaped(word: str) -> str:
    return "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\x{b:02x}" for b in word.encode())


if __name__ == "__main__":
    main()
