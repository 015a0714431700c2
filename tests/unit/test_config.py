"""A definition is read whole, or refused with every reason at once: file, key, what was found, what is allowed."""

from __future__ import annotations

import copy
import itertools
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotd.core.config import parse_app, parse_settings
from slotd.core.consistency import conflicts
from slotd.core.forms import overlap
from slotd.core.schema import App, BackupPolicy, Data, Policy, Service, Settings, Slots
from slotd.core.template import expand_command
from slotd.errors import Misconfigured
from slotd.model import Mode

FILE = "/etc/slotd/apps.d/astrbot.toml"

WHOLE = """
description = "AstrBot chat bot"

[service]
units = ["astrbot.service"]
user = "astrbot"
start_timeout = "90s"

[source]
type = "github"
repository = "AstrBotDevs/AstrBot"
asset = "astrbot-{version}-linux-{arch}.tar.zst"
url = "https://git.example.org/api/"
channel = "stable"
scheme = "pep440"
versions = ">=4.20,<5"
credential = "github-token"

[verify]
require = ["sha256", "openpgp"]
checksums = "SHA256SUMS"
signature = "{asset}.asc"
keys = ["astrbot.gpg"]
fingerprints = ["0123 4567 89ab cdef 0123  4567 89ab cdef 0123 4567"]

[slots]
engine = "directory"
root = "/srv/slots/astrbot"
unpack = "auto"
strip = 1
prepare = [["uv", "sync", "--frozen"], ["sh", "-c", "echo ${HOME} {slot}"]]
network = true
migrate = [["{slot}/bin/migrate", "--from", "{previous}"]]
links = { "server/storage" = "/var/lib/anythingllm/storage" }
writable = false
max_size = "4G"
max_files = 200000

[data]
paths = ["/var/lib/astrbot/data"]
exclude = ["temp", "backups"]
sqlite = ["data_v4.db"]
before = [["pg_dump", "-f", "{data}/dump"]]
after = []

[backup]
enabled = true
retention = "14d"
keep = 1
releases = 2

[policy]
mode = "auto"
apply = "check"
delay = "30s"
min_age = "0"
attempts = 3
trial = "10min"
on_failure = "stop"

[rollout]
ring = 1
ring_delay = "7d"
fraction = 0.5
fleet_lock = ""

[[health]]
type = "http"
url = "http://127.0.0.1:6185/api/stat/versions"
status = 200
json = { "data.astrbot_version" = "{version}", "data.ready" = true }
interval = "2s"
timeout = 5
grace = "60s"
failures = 3

[[health]]
type = "tcp"
port = 6185

[[health]]
type = "exec"
command = ["{slot}/bin/check", "{version}"]

[[health]]
type = "unit"
unit = "astrbot.service"
"""


def document() -> dict[str, Any]:
    return tomllib.loads(WHOLE)


def read(said: Mapping[str, Any], *more: tuple[str, Mapping[str, Any]], name: str = "astrbot", **options: Any) -> App:
    return parse_app(name, [(FILE, said), *more], **options)


def problems(change: str, *, name: str = "astrbot") -> tuple[str, ...]:
    """What is said of the whole definition with `change`, TOML, laid over it."""
    with pytest.raises(Misconfigured) as caught:
        read(document(), ("/etc/slotd/apps.d/astrbot.toml.d/50-change.toml", tomllib.loads(change)), name=name)
    return caught.value.problems


def test_every_key_of_the_manual_is_read() -> None:
    app = read(document())
    assert app.name == "astrbot"
    assert app.description == "AstrBot chat bot"
    assert app.service.units == ("astrbot.service",)
    assert app.service.start_timeout_s == 90
    assert app.source.repository == "AstrBotDevs/AstrBot"
    assert app.source.asset == ("astrbot-{version}-linux-{arch}.tar.zst",)
    assert app.source.url == "https://git.example.org/api"
    assert app.verify.require == ("sha256", "openpgp")
    assert app.verify.fingerprints == ("0123456789ABCDEF0123456789ABCDEF01234567",)
    assert app.slots.strip == 1
    assert app.slots.prepare[0] == ("uv", "sync", "--frozen")
    assert app.slots.links == {"server/storage": "/var/lib/anythingllm/storage"}
    assert app.slots.max_size == 4 * 1024**3
    assert app.data.sqlite == ("data_v4.db",)
    assert app.backup.retention_s == 14 * 86400
    assert app.policy.mode is Mode.AUTO
    assert app.policy.trial_s == 600
    assert app.rollout.ring == 1
    assert app.rollout.fraction == 0.5
    assert [each.type for each in app.health] == ["http", "tcp", "exec", "unit"]
    assert app.health[0].json == {"data.astrbot_version": "{version}", "data.ready": "true"}
    assert app.health[0].timeout_s == 5
    assert app.health[1].host == "127.0.0.1"
    assert app.files == (FILE,)


def test_a_short_definition_gets_the_defaults() -> None:
    app = parse_app(
        "radicale",
        [
            (
                FILE,
                {
                    "service": {"units": ["radicale.service"]},
                    "source": {"type": "pypi", "package": "radicale"},
                    "verify": {"require": ["sha256"]},
                },
            )
        ],
    )
    assert app.policy == Policy()
    assert app.backup == BackupPolicy()
    assert app.source.scheme == "pep440"
    assert app.slots.root == ""
    assert app.health == ()


def test_a_package_of_npm_has_semantic_versions_and_a_sha512() -> None:
    said = {"service": {"units": ["verdaccio.service"]}, "source": {"type": "npm", "package": "@scope/verdaccio"}}
    app = parse_app("verdaccio", [(FILE, said | {"verify": {"require": ["sha512"]}})])
    assert app.source.scheme == "semver"
    with pytest.raises(Misconfigured, match='type "npm" gives no sha256 of its own, but sha512;'):
        parse_app("verdaccio", [(FILE, said | {"verify": {"require": ["sha256"]}})])
    said["source"] = {"type": "npm", "package": "x", "credential": "token"}
    with pytest.raises(Misconfigured, match=r"name that server in source\.url"):
        parse_app("verdaccio", [(FILE, said | {"verify": {"require": ["sha512"]}})])


def test_a_drop_in_wins_key_by_key_and_replaces_lists_whole() -> None:
    drop_in = {"policy": {"mode": "manual"}, "service": {"units": ["other.service"]}, "health": []}
    app = read(document(), ("/run/x.toml", drop_in))
    assert app.policy.mode is Mode.MANUAL
    assert app.policy.apply == "check"
    assert app.service.units == ("other.service",)
    assert app.health == ()
    assert app.files == (FILE, "/run/x.toml")


def test_a_drop_in_may_empty_what_may_be_left_out() -> None:
    app = read(document(), ("/run/x.toml", {"source": {"credential": "", "versions": ""}}))
    assert app.source.credential == ""
    assert app.source.versions == ""


def test_the_settings_give_the_defaults_of_policy_and_backup() -> None:
    settings = Settings(policy=Policy(trial_s=99.0, attempts=7), backup=BackupPolicy(keep=5))
    said = document()
    del said["policy"]["attempts"], said["backup"]["keep"]
    app = read(said, settings=settings)
    assert app.policy.attempts == 7
    assert app.backup.keep == 5
    assert app.policy.trial_s == 600


def test_a_problem_names_file_key_what_was_found_and_what_is_allowed() -> None:
    assert problems('[source]\nchannel = "stabel"') == (
        '/etc/slotd/apps.d/astrbot.toml.d/50-change.toml: source.channel is "stabel": '
        'allowed are stable and prerelease (did you mean "stable"?).',
    )


def test_an_unknown_key_names_the_known_ones() -> None:
    (problem,) = problems('[source]\nrepositry = "a/b"')
    assert problem.startswith("/etc/slotd/apps.d/astrbot.toml.d/50-change.toml: source.repositry is not a known key")
    assert 'did you mean "repository"?' in problem
    assert "known in [source] are asset, channel, credential" in problem


def test_all_problems_are_found_at_once() -> None:
    found = problems(
        """
        colour = "red"
        [service]
        user = 5
        start_timeout = true
        [policy]
        trial = 0
        attempts = 0
        [slots]
        strip = true
        [[health]]
        type = "http"
        interval = nan
        """
    )
    keys = ("colour", "service.user", "service.start_timeout", "policy.trial", "policy.attempts", "slots.strip")
    for key in (*keys, "health no. 1: url", "health no. 1: interval"):
        assert any(f" {key} is " in problem for problem in found), (key, found)
    assert len(found) == 8


def test_the_message_shows_the_first_problem_and_how_many_more() -> None:
    with pytest.raises(Misconfigured) as caught:
        read({**document(), "a": 1, "b": 2})
    assert "astrbot" in caught.value.message
    assert "a is not a known key" in caught.value.message
    assert "1 more" in caught.value.message
    assert "slotctl verify astrbot" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        # wrong types: bool is no number, a number is no text
        ('description = ["x"]', "description is a list: a text is needed"),
        ('service = "x"', 'service is "x": a table is needed'),
        ("[service]\nunits = 'a.service'", "a list of texts is needed"),
        ("[policy]\nattempts = true", "policy.attempts is true: a whole number is needed"),
        ("[policy]\nattempts = 2.5", "policy.attempts is 2.5: a whole number is needed"),
        ('[slots]\nnetwork = "yes"', 'slots.network is "yes": true or false is needed'),
        ("[slots]\nnetwork = 1", "slots.network is 1: true or false is needed"),
        ("[policy]\ntrial = 2024-06-01", "policy.trial is a date or time"),
        ("[rollout]\nfraction = true", "rollout.fraction is true: a number is needed"),
        ("[service]\nunits = [5]", "service.units holds 5: a text is needed"),
        ("health = 5", "health is 5: an array of tables"),
        # numbers and times that cannot be
        ("[rollout]\nfraction = nan", "rollout.fraction is nan"),
        ("[rollout]\nfraction = 1.5", "from 0 to 1"),
        ("[rollout]\nfraction = -0.1", "from 0 to 1"),
        ("[policy]\ntrial = '8d'", "at most 7d"),
        ("[policy]\ntrial = '0'", "policy.trial is \"0\""),
        ("[policy]\ntrial = -5", "negative"),
        ("[policy]\ntrial = inf", "policy.trial is inf"),
        ("[policy]\nattempts = 101", "from 1 to 100"),
        ("[policy]\nmin_age = 'infinity'", "at most 365d"),
        ("[policy]\nmode = 'automatic'", "allowed are manual, approve and auto"),
        ("[backup]\nretention = ''", "it is empty"),
        ("[slots]\nmax_size = '4X'", "a size is a number with K, M, G or T"),
        ("[slots]\nmax_size = 0", "at least 1"),
        ("[slots]\nmax_files = 99999999", "from 1 to 10000000"),
        ("[slots]\nstrip = 'all'", "or a whole number from 0 to 16"),
        # versions
        ("[source]\nversions = 'latest'", '"latest" says nothing about a version'),
        ("[source]\nversions = '4.20'", "is no specifier"),
        ("[source]\nscheme = 'semver'\nversions = '>=x'", "no version of the scheme semver"),
        ("[source]\nscheme = 'calver'", "allowed are pep440, semver and date"),
        # sources
        ("[source]\ntype = 'hawkbit'", "this is not supported yet; supported are github, gitea, gitlab, pypi, npm"),
        ("[source]\ntype = 'oci'", "this is not supported yet"),
        ("[source]\ntype = 'gitea'\nurl = ''", 'source.url is missing: type "gitea" needs the address of its server'),
        ("[source]\ntype = 'gitlab'\nrepository = '0'", "or the project's number"),
        ("[source]\ntype = 'gitlab'\nrepository = 'a/../b'", "or the project's number"),
        ("[source]\ntype = 'git-hub'", 'did you mean "github"?'),
        ("[source]\ntype = 'pypi'", "source.package is missing"),
        ("[source]\ntype = 'npm'\npackage = 'Aa/b'", 'like "n8n" or "@scope/name"'),
        ("[source]\ntype = 'directory'", "source.path is missing"),
        ("[source]\npackage = 'x'", 'it belongs to type pypi or npm and means nothing with type "github"'),
        ("[source]\nrepository = ''", "source.repository is missing"),
        ("[source]\nrepository = 'https://github.com/a/b'", '"owner/name"'),
        ("[source]\nrepository = '../b'", '"owner/name"'),
        ("[source]\nasset = []", "source.asset is missing"),
        ("[source]\nasset = 'app-{verion}.tar'", '"{verion}" is no placeholder here; known are {version} {tag}'),
        ("[source]\nasset = 'x/app'", 'without "/"'),
        ("[source]\nasset = 'app}'", "a brace that belongs to no placeholder"),
        ("[source]\nurl = 'http://example.org'", "write https"),
        ("[source]\nurl = 'ftp://example.org'", "no http or https address"),
        ("[source]\nurl = 'https://user:secret@example.org'", "use `credential`"),
        ("[source]\nurl = 'https://'", "no http or https address"),
        ("[source]\nurl = 'https://exa mple.org'", "no blanks"),
        ("[source]\ncredential = '../secret'", "a credential is named by"),
        ("[source]\nmirrors = ['http://m.example.org/{asset}']", "plain http could be changed on its way"),
        ("[source]\nmirrors = ['https://m.example.org/app.zip']", "each release has an address of its own"),
        ("[source]\nmirrors = ['https://{version}.example.org/']", "which server it is, no placeholder decides"),
        ("[source]\nmirrors = ['https://m.example.org/{slot}']", "is no placeholder here"),
        ("[source]\nmirrors = ['https://user:secret@m.example.org/{tag}']", "use `credential`"),
        # verification
        ("[verify]\nrequire = []", "verify.require is missing: nothing is installed unverified"),
        ("[verify]\nrequire = ['md5']", 'holds "md5": allowed are sha256, sha512, openpgp, minisign, sigstore and tuf'),
        ("[verify]\nrequire = ['tuf', 'openpgp']", 'verify.require and source.type must both be "tuf" or neither'),
        ("[source]\ntype = 'tuf'\nurl = 'https://t.example.org'", 'verify.require and source.type must both be "tuf"'),
        ("[policy]\nquiet = '20y'", "policy.quiet"),
        ("[verify]\nrequire = ['sha256', 'sha256', 'openpgp']", "it is listed twice"),
        ("[verify]\nkeys = []", "it needs the publisher's key in verify.keys"),
        ("[verify]\nkeys = ['/etc/key.gpg']", "the name of a file in keys.d"),
        ("[verify]\nkeys = ['../key.gpg']", "the name of a file in keys.d"),
        ("[verify]\nsignature = ''", "verify.signature is \"\": it is empty"),
        ("[verify]\nrequire = ['sha512', 'openpgp']\nchecksums = ''", "gives no sha512 of its own"),
        ("[verify]\nfingerprints = ['DEADBEEF']", "key ids are too short"),
        ("[verify]\nsigners = 2", 'verify.signers is 2: verify.fingerprints lets only 1 sign'),
        ("[verify]\nsigners = 17", "verify.signers"),
        ("[verify]\nrequire = ['sha256']\nsigners = 2", 'verify.signers is 2: it is used by "openpgp" only'),
        ("[verify]\nrequire = ['sigstore']\nissuer = 'https://i.example.org'", "verify.identity is not given"),
        ("[verify]\nrequire = ['sigstore']\nidentity = 'a@example.org'", "verify.issuer is not given"),
        ("[verify]\nidentity = 'a@example.org'", 'verify.identity is given: it is used by "sigstore" only'),
        ("[verify]\nidentity = 'https://x/{asset}'", '"{asset}" is no placeholder here; known are {version} {tag}'),
        ("[verify]\nissuer = 'http://i.example.org'", "plain http could be changed on its way"),
        ("[verify]\nrequire = ['sha256']", "keys are used by"),
        # units, users
        ("[service]\nunits = []", "service.units names no unit"),
        ("[service]\nunits = ['astrbot']", 'like "astrbot.service"'),
        ("[service]\nunits = ['a.mount']", "ends in one of .service"),
        ("[service]\nunits = ['a@.service']", "name an instance"),
        ("[service]\nunits = ['../a.service']", "made of letters"),
        ("[service]\nunits = ['dbus.service']", "needs this unit"),
        ("[service]\nunits = ['slotd.service']", "needs this unit"),
        ("[service]\nuser = '0'", "a user is given by name"),
        # places
        ("[slots]\nroot = 'slots'", "a path begins with /"),
        ("[slots]\nroot = '/srv/../etc/x'", 'has no ".." in it'),
        ("[slots]\nroot = '/srv/x/'", 'write it in its shortest form, "/srv/x"'),
        ("[slots]\nroot = '/srv//x'", "shortest form"),
        ("[slots]\nroot = '/'", "belongs to the whole system"),
        ("[slots]\nroot = '/var/lib/slotd'", "slotd keeps its own state"),
        ("[slots]\nroot = '/var/lib/slotd/backups/x'", "slotd keeps its own state"),
        ("[data]\npaths = ['/etc']", "belongs to the whole system"),
        ("[data]\npaths = ['/usr']", "belongs to the whole system"),
        ("[data]\npaths = ['/var']", "belongs to the whole system"),
        ("[data]\npaths = ['/home']", "belongs to the whole system"),
        ("[data]\npaths = ['/proc/1']", "belongs to the whole system"),
        ("[data]\npaths = ['/srv/slots/astrbot/a/data']", "neither may be inside the other"),
        ("[data]\npaths = ['/srv/slots']", "neither may be inside the other"),
        ("[data]\npaths = ['/var/lib/slotd/x']", "slotd keeps its own files in /var/lib/slotd"),
        ("[data]\npaths = ['/srv/d', '/srv/d/e']", "one is inside the other"),
        ("[data]\nexclude = ['../x']", "inside a directory"),
        ("[data]\nsqlite = ['/x.db']", "inside a directory"),
        ("[slots]\nlinks = { '../x' = '/srv/y' }", "inside a directory"),
        ("[slots]\nlinks = { '.slotd/x' = '/srv/y' }", "slotd keeps its own record"),
        ("[slots]\nlinks = { x = 'y' }", "a path begins with /"),
        ("[slots]\nlinks = { x = 5 }", "a path is needed"),
        ("[slots]\nlinks = { x = '/srv/slots/astrbot/b' }", "a link leads out of them"),
        # commands
        ("[slots]\nprepare = ['uv', 'sync']", 'write [["uv", "sync"]]'),
        ("[slots]\nprepare = ['uv sync']", 'write [["uv", "sync"]]'),
        ("[slots]\nprepare = [[]]", "its first word is the program to run"),
        ("[slots]\nprepare = [['']]", "its first word is the program to run"),
        ("[slots]\nprepare = [['echo', '{slots}']]", "{slots} is no placeholder here"),
        ("[slots]\nprepare = [['echo', 5]]", "every word of it is a text"),
        ("[slots]\nprepare = [['a\\u0000b']]".replace("'", '"'), "control character"),
        # not yet
        ("[slots]\nengine = 'oci'", "this is not supported yet; supported are directory"),
        ("[rollout]\nfleet_lock = 'https://lock.example.org'", "this is not supported yet"),
        ("[[rollout.gate]]\ntype = 'prometheus'\nurl = 'http://[::1]'\nquery = 'x'\nbelow = 1", "not supported"),
        ("[[rollout.gate]]\ntype = 'prometheus'\nquery = 'x'", "a gate says what its value must be"),
        ("[[health]]\ntype = 'dbus'", "this is not supported yet; supported are unit, http, tcp and exec"),
        # probes
        ("[[health]]\ntype = 'http'", "health no. 1: url is missing"),
        ("[[health]]\ntype = 'http'\nurl = 'http://example.org/'", "probes reach this host only"),
        ("[[health]]\ntype = 'http'\nurl = 'http://127.0.0.1.example.org/'", "probes reach this host only"),
        ("[[health]]\ntype = 'http'\nurl = 'http://localhost/{vers}'", "no placeholder"),
        ("[[health]]\ntype = 'http'\nurl = 'http://[::1]/'\ninterval = 0", "interval is 0"),
        ("[[health]]\ntype = 'http'\nurl = 'http://[::1]/'\nstatus = 99", "from 100 to 599"),
        ("[[health]]\ntype = 'http'\nurl = 'http://[::1]/'\nport = 5", "it belongs to type tcp"),
        ("[[health]]\ntype = 'http'\nurl = 'http://[::1]/'\njson = { a = [1] }", "a text, number or flag is needed"),
        ("[[health]]\ntype = 'tcp'", "health no. 1: port is missing"),
        ("[[health]]\ntype = 'tcp'\nport = 70000", "from 1 to 65535"),
        ("[[health]]\ntype = 'tcp'\nport = 80\nhost = '10.0.0.1'", "probes reach this host only"),
        ("[[health]]\ntype = 'exec'", "health no. 1: command is missing"),
        ("[[health]]\ntype = 'exec'\ncommand = ['{artifact}']", "known are {slot} {version}"),
        ("[[health]]\ntype = 'unit'\nunit = 'other.service'", "must be one of service.units"),
        ("[[health]]\ntype = 'unit'\nfailures = 0", "from 1 to 1000"),
        ("[[health]]\nurl = 'x'", "health no. 1: type is missing"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_words(change: str, words: str) -> None:
    found = problems(change)
    assert any(words in problem for problem in found), found
    assert all(problem.startswith("/etc/slotd/apps.d/astrbot.toml") for problem in found)
    assert all(problem.endswith(".") for problem in found)


@pytest.mark.parametrize(
    "name", ["", "Astrbot", "../etc", "a/b", "a..b", ".hidden", "-x", "a b", "a" * 65, "é", "a\n", "a\\x00"]
)
def test_an_unsafe_name_is_refused(name: str) -> None:
    assert "the app's name, from the file's, is" in problems("", name=name)[0]


@pytest.mark.parametrize("name", ["a", "0ad", "n8n", "my-app_2.x", "a" * 64])
def test_a_safe_name_is_taken(name: str) -> None:
    assert read(document(), name=name).name == name


@pytest.mark.parametrize(
    "change",
    [
        "[backup]\nretention = 0",
        "[backup]\nretention = '0'\nkeep = 0",
        "[backup]\nretention = 'infinity'",
        "[source]\nurl = 'http://127.0.0.1:8080/api'",
        "[source]\nurl = 'http://localhost/'",
        "[source]\nurl = 'http://[::1]:9/x'",
        "[source]\nasset = ['a-{version}', 'b-{tag}-{os}']",
        "[slots]\nstrip = 'auto'",
        "[slots]\nstrip = 0",
        "[slots]\nroot = '/var/lib/slotd/apps/other'",
        """[slots]\nprepare = [['sh', '-c', 'echo ${slot} {"a": {"b": 1}} {{slot}} | awk "{ print }"']]""",
        "[policy]\ndelay = 0\nmin_age = 0",
        "[policy]\ntrial = '7d'",
        "[rollout]\nfraction = 0",
        "[rollout]\nfraction = 1",
        "[service]\nunits = ['a.socket', 'worker@1.service', 'systemd-x\\\\x2d.timer']",
        "[verify]\nrequire = ['minisign']\nkeys = ['app.pub']\nfingerprints = []",
        "[verify]\nsignature = '{checksums}.asc'",
        "[data]\npaths = ['/etc/astrbot', '/home/astrbot/data']\nexclude = ['*.tmp', 'cache/**']",
        "[[health]]\ntype = 'http'\nurl = 'https://localhost:8443/{version}?x=1'\njson = { a = 3, b = 'x' }",
    ],
)
def test_what_is_unusual_but_sound_is_taken(change: str) -> None:
    said = {"health": [], **tomllib.loads(change)}
    assert read(document(), ("/run/drop-in.toml", said)).name == "astrbot"


def test_only_known_words_in_braces_are_filled_in_and_never_a_second_time() -> None:
    values = {"slot": "/srv/a b", "version": "{slot}"}
    command = ("sh", "-c", '${slot} {{slot}} {slot} {version} {"a": {}} awk {print $1}', "{slot}/bin")
    assert expand_command(command, values) == (
        "sh",
        "-c",
        '${slot} {slot} /srv/a b {slot} {"a": {}} awk {print $1}',
        "/srv/a b/bin",
    )


def test_a_wrong_value_does_not_draw_a_second_complaint_after_it() -> None:
    assert len(problems("[service]\nunits = ['astrbot']\n[[health]]\ntype = 'tcp'\nport = 1")) == 1
    assert len(problems("[verify]\nchecksums = 5\nrequire = ['sha512', 'openpgp']")) == 1


def test_the_problem_is_laid_at_the_file_that_said_it() -> None:
    with pytest.raises(Misconfigured) as caught:
        read(
            {**document(), "colour": 1},
            ("/run/10.toml", {"policy": {"attempts": 0}}),
            ("/run/20.toml", {"policy": {"apply": "timer"}}),
        )
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["/run/10.toml", FILE]


def test_a_foreign_value_cannot_write_to_the_terminal_or_flood_it() -> None:
    with pytest.raises(Misconfigured) as caught:
        read({**document(), "\x1b[31mred": 1, "description": "x\x1b]0;y\x07", "long" * 500: 2})
    for problem in caught.value.problems:
        assert problem.isprintable()
        assert len(problem) < 700


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.datetimes() | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
).filter(lambda value: value is not None)
paths = st.sampled_from(
    [(table, key) for table, keys in document().items() if isinstance(keys, dict) for key in keys]
    + [(table, "") for table in document()]
)


@given(st.lists(st.tuples(paths, values), min_size=1, max_size=4))
def test_whatever_stands_in_a_definition_it_is_read_or_refused_and_never_breaks_the_reader(
    changes: list[tuple[tuple[str, str], Any]],
) -> None:
    said = copy.deepcopy(document())
    for (table, key), value in changes:
        if not key:
            said[table] = value
        elif isinstance(said.get(table), dict):
            said[table][key] = value
    try:
        read(said)
    except Misconfigured as error:
        assert all(problem.startswith(FILE) for problem in error.problems)  # noqa: PT017


# -- settings --------------------------------------------------------------------------------------


def test_settings_are_read_with_limits_and_defaults() -> None:
    settings = parse_settings(
        [
            (
                "/etc/slotd/slotd.toml",
                tomllib.loads(
                    """
                    max_parallel = 4
                    bandwidth = "2M"
                    [policy]
                    mode = "auto"
                    [backup]
                    keep = 3
                    [limits]
                    download_bytes = "1G"
                    download = "1h"
                    redirects = 0
                    least_bytes_per_s = 10
                    """
                ),
            )
        ]
    )
    assert settings.max_parallel == 4
    assert settings.bandwidth == 2 * 1024**2
    assert settings.policy.mode is Mode.AUTO
    assert settings.backup.keep == 3
    assert settings.limits.download_bytes == 1024**3
    assert settings.limits.download_s == 3600
    assert settings.limits.redirects == 0
    assert settings.limits.least_bytes_per_s == 10
    assert parse_settings([]) == Settings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_parallel = 0", "from 1 to 64"),
        ("max_parallell = 2", 'did you mean "max_parallel"?'),
        ("metrics = '/var/lib/node-exporter/slotd.prom'", "this is not supported yet"),
        ("[[notify]]\ntype = 'webhook'", "notify is not supported yet"),
        ("[[notify]]\ntype = 'pigeon'", "allowed are exec, webhook, apprise and alertmanager"),
        ("bandwidth = -1", "negative"),
        ("[limits]\ndownload = 0", "limits.download is 0"),
        ("[limits]\ndownload_s = 5", "not a known key"),
    ],
)
def test_bad_settings_are_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        parse_settings([("/etc/slotd/slotd.toml", tomllib.loads(text))])
    assert any(words in problem for problem in caught.value.problems), caught.value.problems


# -- several apps ----------------------------------------------------------------------------------


def test_two_apps_may_not_share_a_unit_a_slot_or_data() -> None:
    one = read(document(), name="one")
    other = read(document(), ("/run/o.toml", {"slots": {"root": "/srv/slots/astrbot/x"}}), name="other")
    alone = read(
        document(),
        (
            "/run/a.toml",
            {
                "service": {"units": ["alone.service"]},
                "slots": {"root": "/srv/alone"},
                "data": {"paths": ["/srv/alone-data"]},
                "health": [],
            },
        ),
        name="alone",
    )
    found = conflicts({"one": one, "other": other, "alone": alone}, "/var/lib/slotd")
    assert sorted(found) == ["one", "other"]
    assert any("the unit astrbot.service belongs to the app other too" in problem for problem in found["one"])
    assert any("/srv/slots/astrbot" in problem for problem in found["other"])
    assert any("the data path /var/lib/astrbot/data" in problem for problem in found["one"])


_PLACES = st.lists(st.sampled_from(["/", "/a", "/a/b", "/a/b/c", "/ab", "/a/bc", "/d"]), max_size=2, unique=True)


@given(st.lists(st.tuples(_PLACES, st.sampled_from(["x.service", "y.service", "z.service"])), max_size=5))
def test_whoever_is_inside_another_is_found_however_many_apps_there_are(apps: list[tuple[list[str], str]]) -> None:
    made = {
        f"app{number}": App(
            name=f"app{number}",
            service=Service(units=(unit,)),
            data=Data(paths=tuple(paths)),
            slots=Slots(root=f"/slots/{number}"),
        )
        for number, (paths, unit) in enumerate(apps)
    }
    expected = set()
    for one, other in itertools.permutations(made, 2):
        mine, theirs = made[one].data.paths, made[other].data.paths
        places = [(a, b) for a in (*mine, made[one].slots.root) for b in (*theirs, made[other].slots.root)]
        if made[one].service.units == made[other].service.units or any(overlap(a, b) for a, b in places):
            expected |= {one, other}
    assert set(conflicts(made, "/var/lib/slotd")) == expected
