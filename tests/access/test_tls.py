"""TLS: handshakes in memory between the two contexts, and everything that must not succeed."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from atoll.access.errors import AccessError, AlreadyThereError, TooOpenError
from atoll.access.tls import (
    Credentials,
    client_context,
    issue_server,
    make_authority,
    read_credentials,
    server_context,
    write_credentials,
)

HOSTS = ["lagoon.example.org", "127.0.0.1", "::1"]


class Wire:
    """Both ends of a TLS connection, joined by memory."""

    def __init__(self, server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> None:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(to_client, to_server, server_hostname=host)
        self.server = server.wrap_bio(to_server, to_client, server_side=True)

    def shake_hands(self) -> None:
        waiting = [self.client, self.server]
        for _ in range(10):
            for end in list(waiting):
                try:
                    end.do_handshake()
                    waiting.remove(end)
                except ssl.SSLWantReadError:
                    continue
            if not waiting:
                return
        raise AssertionError("the handshake does not end")


def server_of(directory: Path, authority: Credentials, hosts: list[str]) -> ssl.SSLContext:
    certificate, key = directory / "server.pem", directory / "server.key"
    write_credentials(issue_server(authority, hosts), certificate, key)
    return server_context(certificate, key)


@pytest.mark.parametrize("host", HOSTS)
def test_a_learner_with_the_invite_gets_through(tmp_path: Path, host: str) -> None:
    authority = make_authority("reef")
    client = client_context(authority.certificate_pem)
    wire = Wire(server_of(tmp_path, authority, HOSTS), client, host)
    wire.shake_hands()
    assert wire.client.version() == "TLSv1.3"
    wire.client.write(b"hello")
    assert wire.server.read() == b"hello"


@pytest.mark.parametrize("host", ["other.example.org", "127.0.0.2", "example.org"])
def test_a_host_that_the_certificate_does_not_name_is_refused(tmp_path: Path, host: str) -> None:
    authority = make_authority("reef")
    client = client_context(authority.certificate_pem)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch|not valid for"):
        Wire(server_of(tmp_path, authority, HOSTS), client, host).shake_hands()


def test_another_runs_authority_is_refused_even_under_the_same_name(tmp_path: Path) -> None:
    server = server_of(tmp_path, make_authority("reef"), HOSTS)
    client = client_context(make_authority("reef").certificate_pem)
    with pytest.raises(ssl.SSLCertVerificationError):
        Wire(server, client, HOSTS[0]).shake_hands()


def test_a_server_certificate_cannot_sign_others(tmp_path: Path) -> None:
    authority = make_authority("reef")
    middle = issue_server(authority, HOSTS)
    leaf = issue_server(middle, HOSTS)
    chain = Credentials(leaf.certificate_pem + middle.certificate_pem, leaf.key_pem)
    write_credentials(chain, tmp_path / "c", tmp_path / "k")
    server = server_context(tmp_path / "c", tmp_path / "k")
    with pytest.raises(ssl.SSLCertVerificationError):
        Wire(server, client_context(authority.certificate_pem), HOSTS[0]).shake_hands()


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    authority = make_authority("reef")
    old = issue_server(authority, HOSTS, valid_days=0)
    write_credentials(old, tmp_path / "c", tmp_path / "k")
    server = server_context(tmp_path / "c", tmp_path / "k")
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        Wire(server, client_context(authority.certificate_pem), HOSTS[0]).shake_hands()


def test_old_versions_of_tls_are_not_spoken(tmp_path: Path) -> None:
    authority = make_authority("reef")
    server = server_of(tmp_path, authority, HOSTS)
    client = client_context(authority.certificate_pem)
    assert server.minimum_version == client.minimum_version == ssl.TLSVersion.TLSv1_2
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    wire = Wire(server, client, HOSTS[0])
    wire.shake_hands()
    assert wire.client.version() == "TLSv1.2"


def test_the_authority_comes_back_from_disk_and_still_signs(tmp_path: Path) -> None:
    authority = make_authority("reef" * 30)
    write_credentials(authority, tmp_path / "ca.pem", tmp_path / "ca.key")
    again = read_credentials(tmp_path / "ca.pem", tmp_path / "ca.key")
    assert again == authority
    wire = Wire(
        server_of(tmp_path, again, HOSTS), client_context(authority.certificate_pem), HOSTS[0]
    )
    wire.shake_hands()


def test_keys_are_private_on_disk_and_in_a_repr(tmp_path: Path) -> None:
    authority = make_authority("reef")
    certificate, key = tmp_path / "ca.pem", tmp_path / "ca.key"
    write_credentials(authority, certificate, key)
    assert key.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in repr(authority)
    with pytest.raises(AlreadyThereError):
        write_credentials(authority, certificate, key)
    key.chmod(0o644)
    for use in (read_credentials, server_context):
        with pytest.raises(TooOpenError, match=r"chmod 600 .*ca\.key"):
            use(certificate, key)


def test_what_cannot_be_used_is_refused_by_name(tmp_path: Path) -> None:
    authority = make_authority("reef")
    with pytest.raises(AccessError, match="at least one host"):
        issue_server(authority, [])
    with pytest.raises(AccessError, match="neither an IP address nor a host name"):
        issue_server(authority, ["https://lagoon"])
    with pytest.raises(AccessError, match="does not belong"):
        issue_server(Credentials(authority.certificate_pem, make_authority("x").key_pem), HOSTS)
    with pytest.raises(AccessError, match="not readable PEM"):
        issue_server(Credentials("", ""), HOSTS)
    with pytest.raises(AccessError, match="copy the invite again"):
        client_context("nonsense")
    with pytest.raises(AccessError, match="atoll init"):
        server_context(tmp_path / "none", tmp_path / "none")
