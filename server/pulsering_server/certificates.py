"""Certificates and keys as files: what is wrong with them, until when they hold, the context made of them.

Files are PEM, read by ``cryptography`` so that each mistake has its own words, and then by OpenSSL, which has
the last one. The time is passed in: that certificates have dates is the one reason why a node cares what day
it is. Invariant: no message has anything of a key in it, and nobody is ever asked for a password.
"""

import ssl
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from pulsering import limits

__all__ = [
    "BadPem",
    "Leaf",
    "TlsNames",
    "authorities_of",
    "context_of",
    "ends_of",
    "pair_of",
    "private_key_of",
]

_MINIMUM: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class BadPem(ValueError):
    """A file cannot be used. ``key`` is the key of ``tls`` that names it; the message does not."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class TlsNames(NamedTuple):
    """The files, as paths that can be opened, and the oldest version that is spoken."""

    certificate: Path
    key: Path | None = None
    client_ca: Path | None = None
    minimum_version: str = "1.2"


class Leaf(NamedTuple):
    """What matters of a certificate."""

    not_after: datetime
    hosts: frozenset[str]
    """Names and addresses that it is for, lower case."""

    def covers(self, host: str) -> bool:
        """Whether a client that dialled ``host`` would accept it."""
        wild = f"*.{host.partition('.')[2]}"
        return host in self.hosts or wild in self.hosts


def pair_of(names: TlsNames, now: datetime) -> Leaf:
    """Check a node's certificate and its key; ``BadPem`` says what is wrong with either."""
    certificate = _certificates("certificate", names.certificate)[0]
    _check_dates("certificate", certificate, now)
    key = private_key_of(names)
    if certificate.public_key() != key.public_key():
        raise BadPem("key" if names.key else "certificate", _mismatch(names))
    return Leaf(certificate.not_valid_after_utc, _hosts(certificate))


def private_key_of(names: TlsNames) -> PrivateKeyTypes:
    """Read the key, whether or not it is that of the certificate."""
    key, file = ("key", names.key) if names.key else ("certificate", names.certificate)
    data = _read(key, file)
    if b"PRIVATE KEY-----" not in data:
        missing = "" if names.key else "; if the key is in a file of its own, tls.key names it"
        raise BadPem(key, f"no private key in PEM in it{missing}")
    try:
        return load_pem_private_key(data, password=None)
    except TypeError:
        raise BadPem(
            key, "the key is encrypted, and a node has nobody to ask for a password: decrypt it"
        ) from None
    except ValueError:
        raise BadPem(key, "the private key in it is damaged") from None


def authorities_of(file: Path, now: datetime) -> datetime:
    """Check the authorities of clients; until when the first of them holds."""
    found = _certificates("client_ca", file)
    for certificate in found:
        _check_dates("client_ca", certificate, now)
    return min(certificate.not_valid_after_utc for certificate in found)


def ends_of(names: TlsNames) -> dict[str, datetime]:
    """Until when the files hold, past or not, by the keys of ``tls`` that name them."""
    ends = {"certificate": _certificates("certificate", names.certificate)[0].not_valid_after_utc}
    if names.client_ca is not None:
        found = _certificates("client_ca", names.client_ca)
        ends["client_ca"] = min(each.not_valid_after_utc for each in found)
    return ends


def context_of(names: TlsNames) -> ssl.SSLContext:
    """Make a node's context; ``BadPem`` for what OpenSSL does not like about files that were checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _MINIMUM[names.minimum_version]
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0  # clients hold their connections for weeks: nobody resumes a session
    try:
        context.load_cert_chain(names.certificate, names.key, password=_no_password)
    except (OSError, ValueError) as error:
        raise BadPem("certificate", f"cannot be used: {_reason(error)}") from None
    if names.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(names.client_ca)
        except (OSError, ValueError) as error:
            raise BadPem("client_ca", f"cannot be used: {_reason(error)}") from None
    return context


def _certificates(key: str, file: Path) -> list[x509.Certificate]:
    data = _read(key, file)
    if b"-----BEGIN CERTIFICATE-----" not in data:
        binary = data[:1] == b"\x30"
        hint = "; it looks like DER: openssl x509 -inform der turns it into PEM" if binary else ""
        raise BadPem(key, f"no certificate in PEM (-----BEGIN CERTIFICATE-----) in it{hint}")
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        raise BadPem(key, "a certificate in it is damaged") from None


def _read(key: str, file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            data = stream.read(limits.PEM_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        raise BadPem(key, f"cannot be read: {_reason(error)}") from None
    if len(data) > limits.PEM_BYTES_MAX:
        raise BadPem(key, "larger than 1 MiB: is this it?")
    return data


def _check_dates(key: str, certificate: x509.Certificate, now: datetime) -> None:
    if now > certificate.not_valid_after_utc:
        raise BadPem(key, f"expired on {certificate.not_valid_after_utc:%Y-%m-%d}: clients would refuse it")
    if now < certificate.not_valid_before_utc:
        raise BadPem(
            key,
            f"not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC, or the clock is wrong",
        )


def _hosts(certificate: x509.Certificate) -> frozenset[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    return frozenset((*map(str.lower, names.get_values_for_type(x509.DNSName)), *addresses))


def _mismatch(names: TlsNames) -> str:
    if names.key:
        return f"not the key of the certificate in {names.certificate.name}"
    return "its private key is not that of its first certificate"


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error)
