"""What the release server serves as forges do: the releases API of GitHub, of Gitea and of GitLab, with their files."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tests.release_shelf import Published, iso, sha256, versions

if TYPE_CHECKING:
    from tests.release_pages import Handler

Query = Mapping[str, list[str]]

# How each wants a token to be shown: the header, and what stands before it.
TOKENS = {"gitea": ("authorization", "token "), "gitlab": ("private-token", "")}


def _number(*parts: str) -> int:
    return zlib.crc32(" ".join(parts).encode())


def _page(
    handler: Handler, base: str, found: list[Published], query: Query, size_key: str, most: int
) -> tuple[list[Published], dict[str, str]]:
    """The releases of the page that is asked for, and the Link header to the next, as all three have it."""
    size = min(int(query.get(size_key, ["30"])[0]), most)
    page = int(query.get("page", ["1"])[0])
    headers = {}
    if page * size < len(found):
        link = f"{handler.owner.url}{base}?{size_key}={size}"
        last = -(-len(found) // size)
        headers["Link"] = f'<{link}&page={page + 1}>; rel="next", <{link}&page={last}>; rel="last"'
    return found[(page - 1) * size : page * size], headers


# --- GitHub ---


def github(handler: Handler, pieces: list[str], query: Query) -> None:
    root = handler.owner.root / "github"
    if pieces[:1] == ["download"] and len(pieces) == 5:
        return handler.file(root / pieces[1] / pieces[2] / quote(pieces[3], safe="") / pieces[4])
    if pieces[:1] != ["repos"] or pieces[3:4] != ["releases"] or not (root / pieces[1] / pieces[2]).is_dir():
        return handler.json({"message": "Not Found"}, status=404)
    name = f"{pieces[1]}/{pieces[2]}"
    found = versions(root / name)
    if pieces[4:5] == ["assets"]:
        return _github_asset(handler, name, found, pieces[5])
    shown, headers = _page(handler, f"/github/repos/{name}/releases", found, query, "per_page", 100)
    headers |= {"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "59"}
    return handler.json([_github_release(handler, name, each) for each in shown], headers=headers, has_etag=True)


def _said(release: Published) -> dict[str, Any]:
    """What GitHub and Gitea say alike of a release."""
    return {
        "id": _number(release.tag),
        "tag_name": release.tag,
        "name": release.said.get("name", release.tag),
        "draft": release.said.get("draft", False),
        "prerelease": release.said.get("prerelease", False),
        "created_at": release.said.get("created", release.published),
        "published_at": None if release.said.get("draft") else release.published,
        "body": release.said.get("notes"),
        "author": {"login": "someone"},
    }


def _github_release(handler: Handler, name: str, release: Published) -> dict[str, Any]:
    base = f"{handler.owner.url}/github"
    tag = quote(release.tag, safe="")
    assets = []
    for path in release.files():
        number = _github_id(name, release, path)
        assets.append(
            {
                "id": number,
                "name": path.name,
                "state": release.about(path).get("state", "uploaded"),
                "size": release.size(path),
                "digest": release.digest(path),
                "content_type": "application/octet-stream",
                "url": f"{base}/repos/{name}/releases/assets/{number}",
                "browser_download_url": f"{base}/download/{name}/{tag}/{quote(path.name)}",
                "created_at": release.published,
                "updated_at": iso(path.stat().st_mtime),
            }
        )
    return _said(release) | {
        "assets": assets,
        "tarball_url": f"{base}/tarball/{name}/{tag}",
        "zipball_url": f"{base}/zipball/{name}/{tag}",
    }


def _github_id(name: str, release: Published, path: Path) -> int:
    return _number(name, release.tag, path.name, sha256(path))


def _github_asset(handler: Handler, name: str, found: list[Published], number: str) -> None:
    for release in found:
        for path in release.files():
            if str(_github_id(name, release, path)) == number:
                if handler.headers.get("accept") == "application/octet-stream":
                    return handler.file(path)
                return handler.json({"id": int(number), "name": path.name})
    return handler.json({"message": "Not Found"}, status=404)


# --- Gitea: no ETags, no digests; the size of a page is the server's to bound ---


def gitea(handler: Handler, pieces: list[str], query: Query) -> None:
    root = handler.owner.root / "gitea"
    if pieces[2:4] == ["releases", "download"] and len(pieces) == 6:
        return handler.file(root / pieces[0] / pieces[1] / quote(pieces[4], safe="") / pieces[5])
    is_list = pieces[:3] == ["api", "v1", "repos"] and pieces[5:] == ["releases"]
    if not is_list or not (root / pieces[3] / pieces[4]).is_dir():
        return handler.json({"message": "The target couldn't be found."}, status=404)
    name = f"{pieces[3]}/{pieces[4]}"
    found = versions(root / name)
    shown, headers = _page(handler, f"/gitea/api/v1/repos/{name}/releases", found, query, "limit", 50)
    headers["X-Total-Count"] = str(len(found))
    return handler.json([_gitea_release(handler, name, each) for each in shown], headers=headers)


def _gitea_release(handler: Handler, name: str, release: Published) -> dict[str, Any]:
    base = f"{handler.owner.url}/gitea/{name}/releases/download/{quote(release.tag, safe='')}"
    assets = [
        {
            "id": _number(name, release.tag, path.name),
            "name": path.name,
            "size": release.size(path),
            "download_count": 7,
            "created_at": release.published,
            "uuid": "6f8a3ad6-0d3c-4a6a-9f3e-0f5d1c8e2b7a",
            "browser_download_url": release.about(path).get("link") or f"{base}/{quote(path.name)}",
        }
        for path in release.files()
    ]
    return _said(release) | {"assets": assets}


# --- GitLab: a release has links; those of its registry are API addresses, the others redirect ---


def gitlab(handler: Handler, pieces: list[str], query: Query) -> None:
    root = handler.owner.root / "gitlab"
    if "-" in pieces:
        return _gitlab_download(handler, root, pieces)
    if pieces[:3] != ["api", "v4", "projects"] or len(pieces) < 5:
        return handler.json({"message": "404 Not Found"}, status=404)
    name = _gitlab_project(root, pieces[3])
    if pieces[4:6] == ["packages", "generic"] and len(pieces) == 9:
        return handler.file(root / name / quote(pieces[7], safe="") / pieces[8])
    if not name or pieces[4:] != ["releases"]:
        return handler.json({"message": "404 Project Not Found"}, status=404)
    found = versions(root / name)
    base = f"/gitlab/api/v4/projects/{quote(name, safe='')}/releases"
    shown, headers = _page(handler, base, found, query, "per_page", 100)
    return handler.json([_gitlab_release(handler, name, each) for each in shown], headers=headers, has_etag=True)


def _gitlab_project(root: Path, word: str) -> str:
    """The project that a path or a number names; empty if there is none."""
    names = [str(path.parent.parent.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    return next((name for name in names if word in (name, str(_number(name)))), "")


def _gitlab_release(handler: Handler, name: str, release: Published) -> dict[str, Any]:
    base = f"{handler.owner.url}/gitlab"
    tag = quote(release.tag, safe="")
    links = []
    for path in release.files():
        registry = f"{base}/api/v4/projects/{_number(name)}/packages/generic/{path.parent.parent.name}/{tag}"
        link = release.about(path).get("link", "registry")
        url = {"registry": f"{registry}/{quote(path.name)}", "page": f"{base}/{name}/-/package_files/1/download"}
        links.append(
            {
                "id": _number(name, release.tag, path.name),
                "name": path.name,
                "url": url.get(link, link),
                "direct_asset_url": f"{base}/{name}/-/releases/{tag}/downloads/{quote(path.name)}",
                "link_type": "package",
            }
        )
    sources = [{"format": kind, "url": f"{base}/{name}/-/archive/{tag}/x.{kind}"} for kind in ("zip", "tar.gz")]
    return {
        "tag_name": release.tag,
        "name": release.said.get("name", release.tag),
        "description": release.said.get("notes"),
        "created_at": release.said.get("created", release.published),
        "released_at": release.published,
        "upcoming_release": release.said.get("upcoming", False),
        "author": {"username": "someone"},
        "assets": {"count": len(links) + len(sources), "sources": sources, "links": links},
    }


def _gitlab_download(handler: Handler, root: Path, pieces: list[str]) -> None:
    """The permanent address of a release's file leads to where the link does."""
    at = pieces.index("-")
    name = "/".join(pieces[:at])
    if pieces[at + 1 : at + 2] != ["releases"] or pieces[at + 3 : at + 4] != ["downloads"] or len(pieces) != at + 5:
        return handler.answer(302, headers={"Location": "/gitlab/users/sign_in"})  # a page for people
    release = next((each for each in versions(root / name) if each.tag == pieces[at + 2]), None)
    links = _gitlab_release(handler, name, release)["assets"]["links"] if release else []
    url = next((str(link["url"]) for link in links if link["name"] == pieces[-1]), "")
    return handler.answer(302, headers={"Location": url}) if url else handler.answer(404)


FORGES: dict[str, Callable[[Handler, list[str], Query], None]] = {"github": github, "gitea": gitea, "gitlab": gitlab}
