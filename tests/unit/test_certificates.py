"""What a node says about its certificate and key before any client could complain."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization as pem

from pulsering_server.certificates import BadPem, TlsNames, authorities_of, context_of, ends_of, pair_of

NOW = datetime(2026, 11, 25, tzinfo=UTC)
CA = trustme.CA()


@pytest.fixture
def names(tmp_path: Path) -> TlsNames:
    made = CA.issue_cert("node.test", "*.wild.test", "10.0.0.1", "::1", not_after=NOW + timedelta(days=90))
    certificate, key = tmp_path / "node.pem", tmp_path / "node.key"
    made.cert_chain_pems[0].write_to_path(str(certificate))
    made.private_key_pem.write_to_path(str(key))
    return TlsNames(certificate, key)


def test_a_pair_that_fits_says_until_when_and_for_whom(names: TlsNames) -> None:
    leaf = pair_of(names, NOW)
    assert leaf.not_after == NOW + timedelta(days=90)
    for host in ("node.test", "a.wild.test", "10.0.0.1", "::1"):
        assert leaf.covers(host)
    for host in ("wild.test", "a.b.wild.test", "10.0.0.2", "test"):
        assert not leaf.covers(host)


def test_key_and_certificate_may_share_a_file(names: TlsNames, tmp_path: Path) -> None:
    assert names.key is not None
    both = tmp_path / "both.pem"
    both.write_bytes(names.key.read_bytes() + names.certificate.read_bytes())
    assert pair_of(TlsNames(both), NOW) == pair_of(names, NOW)
    context_of(TlsNames(both))


def test_the_dates_of_what_is_in_use_are_told_also_when_they_are_past(
    names: TlsNames, tmp_path: Path
) -> None:
    assert ends_of(names) == {"certificate": NOW + timedelta(days=90)}
    authorities = tmp_path / "clients.pem"
    past = datetime(2020, 1, 1, tzinfo=UTC)
    ended = CA.issue_cert("authority.test", not_before=past - timedelta(days=9), not_after=past)
    authorities.write_bytes(CA.cert_pem.bytes() + ended.cert_chain_pems[0].bytes())
    assert ends_of(names._replace(client_ca=authorities))["client_ca"] == past, "the first to end"


@pytest.mark.parametrize(
    ("when", "words"),
    [
        (NOW + timedelta(days=91), "expired on 2027-02-23"),
        (datetime(1999, 1, 1, tzinfo=UTC), "not valid before .*, or the clock is wrong"),
    ],
)
def test_dates_count(names: TlsNames, when: datetime, words: str) -> None:
    with pytest.raises(BadPem, match=words) as caught:
        pair_of(names, when)
    assert caught.value.key == "certificate"


def test_an_encrypted_key_is_refused_and_nobody_is_asked(names: TlsNames) -> None:
    assert names.key is not None
    key = pem.load_pem_private_key(names.key.read_bytes(), None)
    secret = pem.BestAvailableEncryption(b"secret")
    names.key.write_bytes(key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, secret))
    with pytest.raises(BadPem, match="encrypted") as caught:
        pair_of(names, NOW)
    assert caught.value.key == "key"
    with pytest.raises(BadPem, match="encrypted"):
        context_of(names)


def test_a_binary_certificate_is_recognised(names: TlsNames) -> None:
    names.certificate.write_bytes(ssl.PEM_cert_to_DER_cert(names.certificate.read_text()))
    with pytest.raises(BadPem, match="looks like DER: openssl x509 -inform der"):
        pair_of(names, NOW)


@pytest.mark.parametrize("which", ["certificate", "key"])
def test_a_damaged_file_is_said_to_be(names: TlsNames, which: str) -> None:
    file = getattr(names, which)
    text = file.read_text()
    file.write_text(text[:60] + "!!!!" + text[70:])
    with pytest.raises(BadPem, match="damaged") as caught:
        pair_of(names, NOW)
    assert caught.value.key == which


def test_a_file_of_a_gigabyte_is_not_read_whole(names: TlsNames) -> None:
    with names.certificate.open("r+b") as stream:
        stream.truncate(1 << 30)
    with pytest.raises(BadPem, match="is this it"):
        pair_of(names, NOW)


def test_authorities_hold_until_the_first_of_them_ends(names: TlsNames, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes(CA.cert_pem.bytes() + names.certificate.read_bytes())
    assert authorities_of(file, NOW) == NOW + timedelta(days=90)
    with pytest.raises(BadPem, match="expired"):
        authorities_of(file, NOW + timedelta(days=91))


@pytest.mark.parametrize(
    ("version", "least"), [("1.2", ssl.TLSVersion.TLSv1_2), ("1.3", ssl.TLSVersion.TLSv1_3)]
)
def test_the_context_speaks_nothing_older_than_it_should(
    names: TlsNames, version: str, least: ssl.TLSVersion
) -> None:
    context = context_of(names._replace(minimum_version=version))
    assert context.minimum_version == least
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.verify_mode is ssl.CERT_NONE


def test_with_authorities_the_context_wants_a_certificate(names: TlsNames, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    CA.cert_pem.write_to_path(str(file))
    context = context_of(names._replace(client_ca=file))
    assert context.verify_mode is ssl.CERT_REQUIRED
    file.write_text("")
    with pytest.raises(BadPem, match="cannot be used") as caught:
        context_of(names._replace(client_ca=file))
    assert caught.value.key == "client_ca"
