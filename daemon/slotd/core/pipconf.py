"""Which index the host's own pip uses, by pip's own rules."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterable, Mapping

from slotd.errors import Misconfigured

# How pip's own source (pip/_internal/models/index.py) names the index that it uses where nothing is configured.
_DEFAULT = re.compile(r'^PyPI = PackageIndex\(\s*"(https://[^"\s]+)"', re.MULTILINE)


def default_index(pip_source: str) -> str:
    """The address of pip's default index in the text of its module `models/index.py`; empty if it is not there."""
    match = _DEFAULT.search(pip_source)
    return f"{match[1].rstrip('/')}/simple" if match else ""


def index_url(texts: Iterable[str], environment: Mapping[str, str]) -> str:
    """`index-url` from the texts of pip's configuration files, the strongest last, and from `PIP_INDEX_URL`, which
    beats them all. `[install]` beats `[global]`, whichever file it is in. Empty: pip's default. Raises `Misconfigured`
    if pip may use no index.
    """
    found: dict[tuple[str, str], str] = {}
    for text in texts:
        parser = configparser.RawConfigParser()
        try:
            parser.read_string(text)
        except configparser.Error:
            continue
        for section in ("global", "install"):
            if parser.has_section(section):
                for key, value in parser.items(section):
                    found[section, key.replace("_", "-").lower().removeprefix("--")] = value.strip()

    def setting(key: str) -> str:
        own = environment.get(f"PIP_{key.upper().replace('-', '_')}", "").strip()
        return own or found.get(("install", key), "") or found.get(("global", key), "")

    if setting("no-index").lower() in ("1", "true", "yes", "on"):
        raise Misconfigured(
            "cannot list releases: the host's pip is set to use no index (no-index)",
            hint="Give the index of this app as `url` in [source].",
        )
    return setting("index-url")
