"""What the rules know of each type of source: its keys in [source], its server, how it takes a token.

What a type's server says is for its file in `slotd.sources` alone. A new type is that file, a line in its registry and
an entry here: the parser, the manual and `slotctl verify` read this table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from slotd.core import forms
from slotd.core.schema import Source
from slotd.errors import Misconfigured

BEARER = "Authorization: Bearer"
TOGETHER_S = 10.0  # what several that are asked together get beside the time of the first


@dataclass(frozen=True, slots=True)
class SourceType:
    """One type. `key` is the key of [source] that names what is taken (empty: its address does), `form` what that must
    look like, `example` one for the error. `url` is its server where the definition names none, `digests` are what it
    says of each file by itself, `token` is what stands before a token in a request's header.
    """

    key: str = ""
    form: Callable[[str], str] | None = None
    example: str = ""
    url: str = ""
    needs_url: bool = False
    needs_asset: bool = False
    scheme: str = "pep440"
    digests: tuple[str, ...] = ()
    token: str = BEARER
    is_built: bool = True


TYPES: dict[str, SourceType] = {
    "github": SourceType(
        "repository",
        forms.repository,
        "owner/name",
        url="https://api.github.com",
        needs_asset=True,
        digests=("sha256",),
    ),
    "gitea": SourceType(
        "repository",
        forms.repository,
        "owner/name",
        needs_url=True,
        needs_asset=True,
        token="Authorization: token",
    ),
    "gitlab": SourceType(
        "repository",
        forms.repository_path,
        "group/name",
        url="https://gitlab.com",
        needs_asset=True,
        token="PRIVATE-TOKEN:",
    ),
    "pypi": SourceType("package", forms.pypi_package, "radicale", digests=("sha256",)),
    "npm": SourceType("package", forms.npm_package, "n8n", scheme="semver", digests=("sha512",)),
    "http": SourceType(needs_url=True, needs_asset=True, digests=("sha256", "sha512")),
    "tuf": SourceType(needs_url=True, needs_asset=True, digests=("sha256",)),
    "oci": SourceType("image", forms.image, "ghcr.io/owner/name", is_built=False),
    "hawkbit": SourceType(needs_url=True, is_built=False),
    "directory": SourceType("path", forms.absolute_path, "/srv/releases"),
}
UNKNOWN = SourceType()  # of a definition whose type is missing or wrong, which is told already


def having(key: str) -> tuple[str, ...]:
    """The types whose releases `key` of [source] names."""
    return tuple(name for name, each in TYPES.items() if each.key == key)


def credential_host(source: Source) -> str:
    """The address that a source's credential belongs to, for the requests below; empty if the source has none.
    Raises `Misconfigured` where it cannot be known.
    """
    if not source.credential:
        return ""
    address = source.url or TYPES.get(source.type, UNKNOWN).url
    if not address:
        raise Misconfigured(
            f"cannot use the credential {source.credential}: nothing says which server it is for",
            hint="Give the server as `url` in [source]: a credential is shown to no other.",
        )
    return address
