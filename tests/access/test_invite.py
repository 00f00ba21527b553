"""The invite file: comes back equal, is private, never overwrites, and says the fix."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from atoll.access.addresses import Address, is_loopback, parse_address, refuse_plain_listener
from atoll.access.errors import AccessError, AlreadyThereError, TooOpenError
from atoll.access.invite import Invite, read_invite, write_invite
from atoll.access.tokens import new_secret

FAR = (Address("lagoon.example.org", 7777), Address("2001:db8::1", 7777))


def invite() -> Invite:
    return Invite("reef", FAR, "-----BEGIN CERTIFICATE-----\n", new_secret())


def test_an_invite_comes_back_equal(tmp_path: Path) -> None:
    path, written = tmp_path / "run.invite", invite()
    write_invite(path, written)
    assert read_invite(path) == written
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o277])
def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_invite(tmp_path / "run.invite", invite())
    finally:
        os.umask(before)
    assert (tmp_path / "run.invite").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o666])
def test_an_invite_that_others_can_read_is_refused_with_the_fix(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "run.invite"
    write_invite(path, invite())
    path.chmod(mode)
    with pytest.raises(TooOpenError, match=f"chmod 600 {path}"):
        read_invite(path)
    path.chmod(0o400)
    read_invite(path)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path, first = tmp_path / "run.invite", invite()
    write_invite(path, first)
    with pytest.raises(AlreadyThereError, match="not overwritten"):
        write_invite(path, invite())
    assert read_invite(path) == first


def test_the_secret_is_not_in_a_repr() -> None:
    shown = invite()
    assert shown.secret.reveal() not in repr(shown) + str(shown)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"extra": 1}, "unknown field `extra`"),
        ({"addresses": []}, "no address"),
        ({"addresses": ["lagoon"]}, "host:port"),
        ({"secret": "short"}, "43 URL-safe"),
        ({"ca_pem": ""}, "no certificate to check lagoon"),
        ({"run": ""}, "names its run"),
        ({"run": 5}, r"\$\.run"),
    ],
)
def test_a_bad_invite_is_refused_and_its_secret_not_shown(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    good, bad, written = tmp_path / "good", tmp_path / "bad", invite()
    write_invite(good, written)
    bad.write_text(json.dumps(json.loads(good.read_text()) | change))
    bad.chmod(0o600)
    with pytest.raises(AccessError, match=message) as caught:
        read_invite(bad)
    assert written.secret.reveal() not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_missing_or_absurd_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match=r"cannot read .*No such file"):
        read_invite(tmp_path / "none")
    large = tmp_path / "large"
    large.touch(0o600)
    os.truncate(large, 2 << 20)
    with pytest.raises(AccessError, match="larger than"):
        read_invite(large)


def test_without_a_certificate_only_this_machine_is_gone_to() -> None:
    near = Invite("reef", (Address("127.0.0.1", 7777), Address("localhost", 1)), "", new_secret())
    assert not near.has_tls and invite().has_tls


@pytest.mark.parametrize("text", ["a:1", "10.0.0.1:65535", "[::1]:80", "lagoon.example.org:7777"])
def test_addresses_are_read_as_they_are_written(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "a", "a:", ":1", "a:0", "a:65536", "::1:80", "https://a:1", "a b:1", "a:1\n", "[x]:1"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(AccessError):
        parse_address(text)


def test_only_this_machine_may_be_listened_at_in_the_open() -> None:
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost", "LOCALHOST"):
        assert is_loopback(host)
        refuse_plain_listener(host)
    for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.example.org", "lagoon"):
        with pytest.raises(AccessError, match="without TLS"):
            refuse_plain_listener(host)
