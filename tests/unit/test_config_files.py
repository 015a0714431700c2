"""Which files make a definition: search order, drop-ins, masks - and which files are not believed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slotd.errors import Failed, Misconfigured
from slotd.host.confdir import FILE_LIMIT
from slotd.host.definitions import Definitions, load, load_file, read_keys
from slotd.host.paths import Paths
from slotd.model import Mode

DEFINITION = """
description = "{name}"
[service]
units = ["{name}.service"]
[source]
type = "pypi"
package = "{name}"
[verify]
require = ["sha256"]
[data]
paths = ["/srv/{name}"]
"""


class Tree:
    """The three directories of a host, vendor's, runtime and administrator's, with the modes that they have there."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.paths = Paths(
            config=(base / "usr", base / "run", base / "etc"),
            state=base / "state",
            cache=base / "cache",
            runtime=base / "run",
        )

    def write(self, where: str, text: str | bytes, mode: int = 0o644) -> Path:
        path = self.base / where
        path.parent.mkdir(parents=True, exist_ok=True)
        for parent in path.relative_to(self.base).parents:
            (self.base / parent).chmod(0o755)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        return path

    def app(self, where: str, name: str = "", extra: str = "") -> Path:
        name = name or Path(where).stem
        return self.write(where, DEFINITION.format(name=name) + extra)

    def load(self) -> Definitions:
        return load(self.paths)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_host_without_any_file_has_no_apps_and_the_default_settings(tree: Tree) -> None:
    found = tree.load()
    assert (found.apps, found.broken, found.settings_problems, found.warnings) == ({}, {}, (), ())


def test_the_administrators_file_takes_the_place_of_the_vendors(tree: Tree) -> None:
    tree.app("usr/apps.d/radicale.toml", extra='[policy]\nmode = "auto"\n')
    tree.app("usr/apps.d/caddy.toml")
    own = tree.app("etc/apps.d/radicale.toml", extra="[policy]\nattempts = 9\n")
    found = tree.load()
    assert sorted(found.apps) == ["caddy", "radicale"]
    assert found.apps["radicale"].policy.attempts == 9
    assert found.apps["radicale"].policy.mode is Mode.APPROVE
    assert found.apps["radicale"].files == (str(own),)


def test_drop_ins_of_all_directories_are_merged_by_file_name_and_a_later_same_name_wins(tree: Tree) -> None:
    tree.app("usr/apps.d/radicale.toml")
    tree.write("etc/apps.d/radicale.toml.d/10-first.toml", "[policy]\nattempts = 1\ntrial = '1min'\n")
    tree.write("usr/apps.d/radicale.toml.d/20-later.toml", "[policy]\nattempts = 2\n")
    tree.write("usr/apps.d/radicale.toml.d/30-same.toml", "[policy]\ndelay = '1s'\n")
    tree.write("run/apps.d/radicale.toml.d/30-same.toml", "[policy]\ndelay = '2s'\n")
    policy = tree.load().apps["radicale"].policy
    assert (policy.attempts, policy.trial_s, policy.delay_s) == (2, 60, 2)


def test_an_empty_file_or_a_link_to_null_masks_what_is_below_it(tree: Tree) -> None:
    tree.app("usr/apps.d/radicale.toml")
    tree.app("usr/apps.d/caddy.toml")
    tree.app("usr/apps.d/gitea.toml")
    tree.write("usr/apps.d/gitea.toml.d/10.toml", "[policy]\nattempts = 1\n")
    tree.write("etc/apps.d/radicale.toml", "")
    (tree.base / "etc/apps.d/caddy.toml").symlink_to("/dev/null")
    tree.write("etc/apps.d/gitea.toml.d/10.toml", "")
    found = tree.load()
    assert sorted(found.apps) == ["gitea"]
    assert found.broken == {}
    assert found.apps["gitea"].policy.attempts == 3


def test_one_bad_file_breaks_its_own_app_only(tree: Tree) -> None:
    tree.app("etc/apps.d/good.toml")
    tree.write("etc/apps.d/bad.toml", "[service\nunits = 5\n")
    tree.app("etc/apps.d/dropped.toml")
    tree.write("etc/apps.d/dropped.toml.d/1.toml", "nonsense = 1\n")
    tree.app("etc/apps.d/Upper Case.toml", "upper")
    found = tree.load()
    assert sorted(found.apps) == ["good"]
    assert sorted(found.broken) == ["Upper Case", "bad", "dropped"]
    (problem,) = found.broken["bad"].problems
    assert problem.startswith(f"{tree.base}/etc/apps.d/bad.toml: is not valid TOML:")
    assert "line 1, column 9" in problem
    assert found.broken["dropped"].problems[0].startswith(f"{tree.base}/etc/apps.d/dropped.toml.d/1.toml: nonsense")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"description = '\xff'", "is not UTF-8 text (at line 1, column 16)"),
        (b"a = 1\nb = [\xc3]", "at line 2, column 6"),
        (b"a = " + b"[" * 5000, "nested too deeply"),
        (b"a = " + b"9" * 5000, "is not valid TOML"),
        (b"\x00", "is not valid TOML"),
        (b"# " + b"x" * FILE_LIMIT, "is larger than 1024 KiB"),
    ],
)
def test_bytes_that_are_no_definition_are_told_with_their_place(tree: Tree, content: bytes, words: str) -> None:
    tree.write("etc/apps.d/bad.toml", content)
    tree.app("etc/apps.d/good.toml")
    found = tree.load()
    assert sorted(found.apps) == ["good"]
    assert words in found.broken["bad"].problems[0]


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_may_write_is_not_believed(tree: Tree, mode: int) -> None:
    path = tree.app("etc/apps.d/radicale.toml")
    path.chmod(mode)
    found = tree.load()
    assert found.apps == {}
    assert "others than its owner may write it" in found.broken["radicale"].problems[0]
    assert f"chmod go-w {path}" in found.broken["radicale"].problems[0]


def test_a_file_in_a_directory_that_others_may_write_is_not_believed(tree: Tree) -> None:
    tree.app("etc/apps.d/radicale.toml")
    (tree.base / "etc/apps.d").chmod(0o777)
    assert "may write in this directory" in tree.load().broken["radicale"].problems[0]


def test_a_drop_in_that_others_may_write_breaks_its_app(tree: Tree) -> None:
    tree.app("etc/apps.d/radicale.toml")
    tree.write("etc/apps.d/radicale.toml.d/1.toml", "[policy]\nmode = 'auto'\n", 0o666)
    found = tree.load()
    assert found.apps == {}
    assert "1.toml: others than its owner may write it" in found.broken["radicale"].problems[0]


def test_a_file_of_another_user_is_not_believed_nor_one_that_a_foreign_link_leads_to(tree: Tree) -> None:
    os.chown(tree.app("etc/apps.d/radicale.toml"), 65534, 65534)
    good = tree.app("elsewhere/caddy.toml")
    link = tree.base / "etc/apps.d/caddy.toml"
    link.symlink_to(good)
    assert sorted(tree.load().apps) == ["caddy"], "a link of root's own is as good as the file"
    os.chown(link, 65534, 65534, follow_symlinks=False)
    found = tree.load()
    assert "belongs to user id 65534; it must belong to root" in found.broken["radicale"].problems[0]
    assert "the link belongs to user id 65534" in found.broken["caddy"].problems[0]


def test_what_is_no_regular_file_is_refused_and_does_not_hang(tree: Tree) -> None:
    tree.app("etc/apps.d/good.toml")
    os.mkfifo(tree.base / "etc/apps.d/pipe.toml", 0o644)
    (tree.base / "etc/apps.d/folder.toml").mkdir()
    (tree.base / "etc/apps.d/broken.toml").symlink_to("nowhere")
    (tree.base / "etc/apps.d/zero.toml").symlink_to("/dev/zero")
    found = tree.load()
    assert sorted(found.apps) == ["good"]
    for name in ("pipe", "folder", "zero"):
        assert "is not a regular file" in found.broken[name].problems[0]
    assert "No such file" in found.broken["broken"].problems[0]


def test_what_editors_and_packages_leave_behind_is_no_definition(tree: Tree) -> None:
    tree.app("etc/apps.d/good.toml")
    for name in ("good.toml~", ".good.toml.swp", ".hidden.toml", "good.toml.dpkg-old", "README"):
        tree.write(f"etc/apps.d/{name}", "nonsense")
    found = tree.load()
    assert sorted(found.apps) == ["good"]
    assert found.broken == {}


def test_a_name_that_is_no_text_is_shown_escaped(tree: Tree) -> None:
    tree.app("etc/apps.d/good.toml")
    (tree.base / "etc/apps.d" / os.fsdecode(b"b\xe9\x1b.toml")).write_text("x = 1")
    (name,) = tree.load().broken
    assert name.isprintable()
    assert all(problem.isprintable() for problem in tree.load().broken[name].problems)


def test_drop_ins_without_a_definition_are_told(tree: Tree) -> None:
    tree.write("etc/apps.d/gone.toml.d/1.toml", "[policy]\nattempts = 1\n")
    found = tree.load()
    assert found.broken == {}
    assert found.warnings == (f"{tree.base}/etc/apps.d/gone.toml.d: has no effect, there is no gone.toml.",)


def test_two_apps_on_one_place_are_both_refused_and_the_third_runs_on(tree: Tree) -> None:
    tree.app("etc/apps.d/one.toml", "same")
    tree.app("etc/apps.d/two.toml", "same")
    tree.app("etc/apps.d/three.toml")
    found = tree.load()
    assert sorted(found.apps) == ["three"]
    assert sorted(found.broken) == ["one", "two"]
    assert "the unit same.service belongs to the app two too" in found.broken["one"].problems[0]


def test_data_may_not_lie_in_this_hosts_state_directory(tree: Tree) -> None:
    tree.app("etc/apps.d/one.toml", extra="").write_text(
        DEFINITION.format(name="one").replace("/srv/one", f"{tree.paths.state}/apps/one/data")
    )
    assert "neither may be inside the other" in tree.load().broken["one"].problems[0]


# -- settings and keys -----------------------------------------------------------------------------


def test_the_settings_are_found_like_definitions_and_give_their_defaults(tree: Tree) -> None:
    tree.write("usr/slotd.toml", "max_parallel = 5\n")
    tree.write("etc/slotd.toml", "[policy]\nmode = 'auto'\n")
    tree.write("run/slotd.toml.d/10.toml", "[policy]\nattempts = 8\n")
    tree.app("etc/apps.d/radicale.toml")
    found = tree.load()
    assert found.settings.max_parallel == 2, "the vendor's file was replaced whole"
    assert found.apps["radicale"].policy.mode is Mode.AUTO
    assert found.apps["radicale"].policy.attempts == 8


def test_bad_settings_are_told_and_leave_the_defaults_and_the_apps(tree: Tree) -> None:
    tree.write("etc/slotd.toml", "max_parallel = 0\n[policy]\nmode = 'auto'\n")
    tree.app("etc/apps.d/radicale.toml")
    found = tree.load()
    assert "max_parallel is 0" in found.settings_problems[0]
    assert found.apps["radicale"].policy.mode is Mode.APPROVE


SIGNED = "[source]\ntype = 'pypi'\npackage = 'x'\n[verify]\nrequire = ['openpgp']\nkeys = ['x.gpg']\n"


def test_a_definition_without_its_key_is_broken_until_the_key_is_there(tree: Tree) -> None:
    tree.write("etc/apps.d/x.toml", "[service]\nunits = ['x.service']\n" + SIGNED)
    assert "there is no such key" in tree.load().broken["x"].problems[0]
    key = tree.write("usr/keys.d/x.gpg", b"\x99key")
    assert sorted(tree.load().apps) == ["x"]
    assert read_keys(tree.paths, ["x.gpg"]) == {"x.gpg": b"\x99key"}
    key.chmod(0o666)
    assert "others than its owner may write it" in tree.load().broken["x"].problems[0]
    with pytest.raises(Misconfigured, match="others than its owner"):
        read_keys(tree.paths, ["x.gpg"])


def test_a_key_of_the_administrator_goes_before_the_vendors_and_an_empty_one_is_none(tree: Tree) -> None:
    tree.write("usr/keys.d/x.gpg", b"vendor")
    tree.write("etc/keys.d/x.gpg", b"own")
    assert read_keys(tree.paths, ["x.gpg"]) == {"x.gpg": b"own"}
    tree.write("etc/keys.d/x.gpg", b"")
    with pytest.raises(Misconfigured, match="empty"):
        read_keys(tree.paths, ["x.gpg"])
    with pytest.raises(Misconfigured, match="no such key") as caught:
        read_keys(tree.paths, ["../x.gpg", "y.gpg"])
    assert len(caught.value.problems) == 2


# -- one file, as `slotctl verify FILE` reads it ---------------------------------------------------


def test_a_single_file_is_read_with_the_drop_ins_beside_it(tree: Tree) -> None:
    path = tree.app("new/radicale.toml")
    tree.write("new/radicale.toml.d/1.toml", "[policy]\nattempts = 4\n")
    app = load_file(path)
    assert (app.name, app.policy.attempts) == ("radicale", 4)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.toml", "", "is empty"),
        ("x.conf", "a = 1", 'ends in ".toml"'),
        ("x.toml", "a = ", "line 1"),
        ("X.toml", "", "is empty"),
    ],
)
def test_a_single_bad_file_is_refused_in_words(tree: Tree, name: str, text: str, words: str) -> None:
    with pytest.raises(Misconfigured, match=words):
        load_file(tree.write(name, text))


def test_a_single_file_is_checked_with_its_keys_if_the_host_is_known(tree: Tree) -> None:
    path = tree.write("x.toml", "[service]\nunits = ['x.service']\n" + SIGNED)
    assert load_file(path).verify.keys == ("x.gpg",)
    with pytest.raises(Misconfigured, match="no such key"):
        load_file(path, tree.paths)
    with pytest.raises(Misconfigured, match="No such file"):
        load_file(tree.base / "absent.toml")


# -- where the files are ---------------------------------------------------------------------------


def test_the_directories_of_a_host_are_those_of_the_manual() -> None:
    paths = Paths.from_environment(False, {})
    assert [str(path) for path in paths.config] == ["/usr/lib/slotd", "/run/slotd", "/etc/slotd"]
    assert (str(paths.state), str(paths.cache)) == ("/var/lib/slotd", "/var/cache/slotd")
    assert paths == Paths()


def test_systemds_variables_go_before_the_defaults_and_the_vendors_directory_stays() -> None:
    paths = Paths.from_environment(
        False,
        {
            "CONFIGURATION_DIRECTORY": "/etc/slotd:/etc/slotd-more",
            "STATE_DIRECTORY": "/srv/state",
            "CACHE_DIRECTORY": "/srv/cache",
            "RUNTIME_DIRECTORY": "/run/other",
        },
    )
    assert [str(p) for p in paths.config] == ["/usr/lib/slotd", "/run/other", "/etc/slotd", "/etc/slotd-more"]
    assert [str(p) for p in (paths.state, paths.cache, paths.runtime)] == ["/srv/state", "/srv/cache", "/run/other"]


def test_a_user_has_the_directories_of_xdg() -> None:
    paths = Paths.from_environment(True, {"HOME": "/home/eve", "XDG_RUNTIME_DIR": "/run/user/7"})
    assert [str(p) for p in paths.config] == ["/etc/xdg/slotd", "/run/user/7/slotd", "/home/eve/.config/slotd"]
    assert str(paths.state) == "/home/eve/.local/state/slotd"
    assert str(paths.cache) == "/home/eve/.cache/slotd"
    moved = {"XDG_CONFIG_HOME": "/c", "XDG_STATE_HOME": "/s", "XDG_CACHE_HOME": "relative", "HOME": "/h"}
    paths = Paths.from_environment(True, {**moved, "XDG_RUNTIME_DIR": "/r", "XDG_CONFIG_DIRS": "/first:/second"})
    assert [str(p) for p in paths.config] == ["/second/slotd", "/first/slotd", "/r/slotd", "/c/slotd"]
    assert (str(paths.state), str(paths.cache)) == ("/s/slotd", "/h/.cache/slotd")


def test_a_user_without_a_home_is_told_so() -> None:
    with pytest.raises(Failed, match="HOME"):
        Paths.from_environment(True, {"HOME": "relative"})
