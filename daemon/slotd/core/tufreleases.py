"""From the files of a TUF repository to releases.

The version of a file is what its publisher says of it, or else what its name says.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from slotd.core import release as form
from slotd.core.assets import captured, patterns
from slotd.core.foreign import Foreign
from slotd.core.schema import Source
from slotd.core.tufwalk import Target
from slotd.core.version import version_of_tag
from slotd.errors import SourceFailed
from slotd.model import Asset, Release

# In a target's `custom`, beside what other programs keep there.
OWN = "slotd"
_KEYS = ("version", "published", "notes", "yanked", "oldest")


def releases(targets: Iterable[Target], source: Source) -> tuple[tuple[Release, ...], tuple[str, ...]]:
    """Releases, in the order in which the repository names their files, and warnings for what was left out.

    The signed `custom` of a target may hold `{"slotd": {"version", "published", "notes", "yanked", "oldest"}}`. Without
    a version there it is read from the file's name by the definition's `asset`; other files belong to no release.
    """
    known = [pattern for template in source.asset for pattern in patterns(template)]
    found: dict[str, dict[str, Any]] = {}
    warnings: list[str] = []
    for target in targets:
        name = target.path.rpartition("/")[2]
        said = Foreign(target.custom.get(OWN) or {}, f"the target {name[:100]!r}").only(_KEYS)
        tag = said["version"].line(form.TAG_CHARS, "")
        if not tag:
            tag = next(
                (tag for each in known for _, tag in [captured(each, name, source.scheme) or ("", "")] if tag), ""
            )
        version = version_of_tag(source.scheme, tag)
        if not tag:
            continue
        url = f"{source.url}/{target.url}"
        if not (form.is_tag(tag) and form.is_version(version) and form.is_file_name(name) and form.is_url(url)):
            warnings.append(f"The file {name[:60]!r} was left out: its name, version or address cannot be used.")
            continue
        one = found.setdefault(version, {"tag": tag, "assets": {}, "published": 0.0, "notes": "", "oldest": ""})
        if name in one["assets"]:
            warnings.append(f"Two files of {version} are called {name[:60]!r}; the first is used.")
            continue
        one["assets"][name] = Asset(name, url, target.size, target.digest)
        one["published"] = max(one["published"], said["published"].moment())
        one["notes"] = one["notes"] or said["notes"].prose(4096, "")
        one["oldest"] = one["oldest"] or said["oldest"].line(form.VERSION_CHARS, "")
        one["yanked"] = one.get("yanked", False) or said["yanked"].flag(False)
    made = [
        Release(
            version,
            one["tag"],
            one["published"],
            one["notes"],
            one["yanked"],
            tuple(one["assets"].values()),
            one["oldest"],
        )
        for version, one in found.items()
    ]
    return tuple(made), tuple(warnings)


def digest_of(offered: Iterable[Release], version: str, name: str) -> str:
    """The signed digest of one file of one version. Raises `SourceFailed` if the repository does not name it."""
    for release in offered:
        asset = release.asset(name) if release.version == version else None
        if asset is not None:
            return asset.digest
    raise SourceFailed(f"cannot verify {name}: the TUF repository names no such file of {version}")
