"""Sums files as they are met in the wild, and as an attacker would write them."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotd.core.sums import expected
from slotd.errors import VerificationFailed

HEX = hashlib.sha256(b"app").hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()
HEX512 = hashlib.sha512(b"app").hexdigest()


@pytest.mark.parametrize(
    "text",
    [
        f"{HEX}  app.tar.gz\n",
        f"{HEX} *app.tar.gz\n",
        f"{HEX} app.tar.gz\n",
        f"{HEX}\tapp.tar.gz",
        f"{HEX}  ./app.tar.gz\n",
        f"{HEX} *./app.tar.gz\n",
        f"{HEX.upper()}  app.tar.gz\n",
        f"SHA256 (app.tar.gz) = {HEX}\n",
        f"SHA2-256(app.tar.gz)= {HEX}\n",
        f"SHA256 (./app.tar.gz) = {HEX.upper()}\n",
        f"{HEX}\n",
        f"{HEX}",
        f"{HEX}  -\n",
        f"# made by a script\n\n{OTHER}  other.zip\n{HEX}  app.tar.gz\n",
        f"{OTHER}  other.zip\r\n{HEX}  app.tar.gz\r\n",
        f"\ufeff{HEX}  app.tar.gz\r\n",
        f"{HEX}  app.tar.gz\n{HEX} *./app.tar.gz\n",
        f"{HEX512}  app.tar.gz\n{HEX}  app.tar.gz\n",
        f"MD5 (app.tar.gz) = {'0' * 32}\nSHA256 (app.tar.gz) = {HEX}\n",
    ],
)
def test_every_usual_form_gives_the_digest(text: str) -> None:
    assert expected(text.encode(), "app.tar.gz", "sha256") == HEX


def test_a_longer_digest_is_sha512() -> None:
    assert expected(f"{HEX512}  app.tar.gz\n".encode(), "app.tar.gz", "sha512") == HEX512
    assert expected(f"SHA512 (app.tar.gz) = {HEX512}\n".encode(), "app.tar.gz", "sha512") == HEX512
    assert expected(f"{HEX512}  app.tar.gz\n".encode(), "app.tar.gz", "sha256") is None


def test_a_backslash_before_the_digest_marks_an_escaped_name() -> None:
    line = "\\" + HEX + "  a\\\\b\\nc"
    assert expected(line.encode(), "a\\b\nc", "sha256") == HEX
    assert expected(f"{HEX}  a\\\\b\n".encode(), "a\\\\b", "sha256") == HEX


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>404 not found</html>",
        f"{OTHER}  other.zip\n",
        f"{HEX}  my-app.tar.gz\n",
        f"{HEX}  app.tar.gz.asc\n",
        f"{HEX}  ../app.tar.gz\n",
        f"{HEX[:-1]}  app.tar.gz\n",
        f"{HEX}0  app.tar.gz\n",
        f"{HEX}\n{OTHER}\n",
        f"SHA512 (app.tar.gz) = {HEX}\n",
        f"SHA3-256 (app.tar.gz) = {HEX}\n",
        f"{HEX[:40]}  app.tar.gz\n",
    ],
)
def test_what_does_not_list_the_file_gives_nothing(text: str) -> None:
    assert expected(text.encode(), "app.tar.gz", "sha256") is None


def test_two_digests_for_one_name_are_refused() -> None:
    text = f"{HEX}  app.tar.gz\n{OTHER} *./app.tar.gz\n"
    with pytest.raises(VerificationFailed, match=r"2 different sha256 digests for app\.tar\.gz"):
        expected(text.encode(), "app.tar.gz", "sha256")


def test_a_file_that_is_not_text_is_refused() -> None:
    with pytest.raises(VerificationFailed, match="not UTF-8"):
        expected(b"\xff\xfe\x00" + HEX.encode("utf-16-le"), "app.tar.gz", "sha256")


@given(st.binary(max_size=400))
def test_no_bytes_make_it_crash(data: bytes) -> None:
    try:
        found = expected(data, "app", "sha256")
    except VerificationFailed:
        return
    assert found is None or len(found) == 64


@given(
    names=st.lists(
        st.text(
            st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters=" \\*()="), min_size=1, max_size=20
        ),
        min_size=2,
        max_size=8,
        unique=True,
    )
)
def test_each_file_of_many_gets_its_own_digest(names: list[str]) -> None:
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in names if not name.startswith(("./", "-"))}
    text = "".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode()
    for name, digest in digests.items():
        if name == name.strip():
            assert expected(text, name, "sha256") == digest
