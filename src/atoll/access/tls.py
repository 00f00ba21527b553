"""A run's own certificate authority, server certificates, and the two TLS contexts.

Clients trust the run's authority and no other, check the host name, and speak TLS 1.2 or later.
Must never turn verification off, and never write a key that others may read. Keeps invariant 9.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from atoll.access.addresses import as_ip_or_name
from atoll.access.errors import AccessError
from atoll.access.private import read_private, refuse_if_open, write_private

AUTHORITY_DAYS = 3650
SERVER_DAYS = 825
CLOCK_SKEW = timedelta(days=1)
_NAME_CHARS = 64


@dataclass(frozen=True)
class Credentials:
    """A certificate and its key, both PEM. The key is not shown."""

    certificate_pem: str
    key_pem: str = field(repr=False)


def make_authority(run: str, valid_days: int = AUTHORITY_DAYS) -> Credentials:
    """An authority for one run. Its key signs server certificates, and nothing else."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"atoll run {run}")
    usage = _key_usage(signs_certificates=True)
    builder = (
        _builder(name, name, key.public_key(), valid_days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return _credentials(builder.sign(key, hashes.SHA256()), key)


def issue_server(
    authority: Credentials, hosts: Sequence[str], valid_days: int = SERVER_DAYS
) -> Credentials:
    """A server certificate for these names and IP addresses, signed by the authority."""
    if not hosts:
        raise AccessError("a server certificate needs at least one host name or IP address")
    signer, signer_key = _load(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
    issuer_id = signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(_name(f"atoll {hosts[0]}"), signer.subject, key.public_key(), valid_days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(names, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id),
            critical=False,
        )
    )
    return _credentials(builder.sign(signer_key, hashes.SHA256()), key)


def write_credentials(credentials: Credentials, certificate: Path, key: Path) -> None:
    """Two new files of mode 0600, the key first."""
    write_private(key, credentials.key_pem.encode())
    write_private(certificate, credentials.certificate_pem.encode())


def read_credentials(certificate: Path, key: Path) -> Credentials:
    """From files; the key's is refused if others may read it."""
    key_pem = read_private(key)
    try:
        return Credentials(certificate.read_text(), key_pem.decode())
    except (OSError, UnicodeDecodeError) as error:
        raise AccessError(f"cannot read the certificate {certificate}: {error}") from error


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """For a listener. The key's file is refused if others may read it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        refuse_if_open(key, key.stat())
        context.load_cert_chain(certificate, key)
    except OSError as error:
        raise AccessError(
            f"cannot use certificate {certificate} with key {key}: {error}; "
            "make both again with `atoll init`"
        ) from error
    return context


def client_context(ca_pem: str) -> ssl.SSLContext:
    """For a connection: trusts the run's authority only and checks the host name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        context.load_verify_locations(cadata=ca_pem)
    except (ssl.SSLError, ValueError) as error:
        raise AccessError(
            f"the certificate in the invite cannot be read: {error}; copy the invite again"
        ) from error
    assert context.check_hostname and context.verify_mode is ssl.CERT_REQUIRED
    return context


def _load(authority: Credentials) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate(authority.certificate_pem.encode())
        key = serialization.load_pem_private_key(authority.key_pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise AccessError("the authority's certificate or key is not readable PEM") from None
    if (
        not isinstance(key, ec.EllipticCurvePrivateKey)
        or key.public_key() != certificate.public_key()
    ):
        raise AccessError("the authority's key does not belong to its certificate")
    return certificate, key


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, valid_days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=valid_days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _credentials(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Credentials:
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    certificate_pem = certificate.public_bytes(serialization.Encoding.PEM)
    return Credentials(certificate_pem.decode(), key_pem.decode())


def _key_usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:_NAME_CHARS])])


def _general_name(host: str) -> x509.GeneralName:
    parsed = as_ip_or_name(host)
    if isinstance(parsed, ipaddress.IPv4Address | ipaddress.IPv6Address):
        return x509.IPAddress(parsed)
    return x509.DNSName(parsed)
