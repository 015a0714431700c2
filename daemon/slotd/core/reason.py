"""How the reason why a version failed is put into a sentence that has named the version already."""

from __future__ import annotations


def about_it(reason: str, version: str) -> str:
    """`1.2 keeps crashing` after `1.2 was rolled back:` becomes `it keeps crashing`."""
    return f"it{reason.removeprefix(version)}" if version and reason.startswith(f"{version} ") else reason
