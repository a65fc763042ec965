"""Who a client is to a node: tokens and certificates from files, followed, and told in no message."""

import ssl
from pathlib import Path

import pytest
import trustme

from pulsering import ClientOptions, ConfigError, PresenceClient, limits
from pulsering.credentials import TOKEN_VARIABLE, TlsFiles, TokenSource, explain
from pulsering.messages import Hello, decode_hello, encode_map

TOKEN = "0123456789abcdef" * 2
OTHER = "fedcba9876543210" * 2


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> dict[str, str]:
    """A certificate, its key, the authority's and another key, each in a file."""
    ours, others = authority.issue_cert("service.test"), authority.issue_cert("other.test")
    parts = {
        "ca": authority.cert_pem,
        "certificate": ours.cert_chain_pems[0],
        "key": ours.private_key_pem,
        "other": others.private_key_pem,
        "both": ours.private_key_and_cert_chain_pem,
    }
    for name, blob in parts.items():
        blob.write_to_path(str(tmp_path / name))
    (tmp_path / "nothing").write_text("nothing in PEM")
    return {name: str(tmp_path / name) for name in (*parts, "nothing", "missing")}


def test_an_option_comes_before_the_environment(tmp_path: Path) -> None:
    told = {TOKEN_VARIABLE: OTHER}
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\nand more that is not for us")
    assert TokenSource(TOKEN, None, told).current() == TOKEN
    assert TokenSource(None, str(file), told).current() == TOKEN
    assert TokenSource(None, None, told).current() == OTHER
    assert TokenSource(None, None, {}).current() == ""


def test_a_token_that_was_replaced_is_used_from_the_next_connection_on(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    source = TokenSource(None, str(file), {})
    file.write_text(OTHER)
    assert source.current() == OTHER


def test_a_file_that_has_become_unusable_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    source = TokenSource(None, str(file), {})
    for unusable in (b"", b"  \n", "geheim€".encode(), b"x" * 300):
        file.write_bytes(unusable)
        assert source.current() == TOKEN
    file.unlink()
    assert source.current() == TOKEN


@pytest.mark.parametrize("bad", ["", "a b", "tab\there", "gehe\x1bim", "geheimnis€", "x" * 257])
def test_what_cannot_be_a_token_is_refused_without_being_told(bad: str) -> None:
    with pytest.raises(ConfigError, match="option token") as caught:
        ClientOptions(token=bad)
    assert not bad or bad not in str(caught.value)


def test_no_text_that_is_made_of_options_or_of_a_hello_has_the_token() -> None:
    options = ClientOptions(token=TOKEN)
    hello = Hello(1, 1, "demo", 0, 0, "test", options.token_now())
    for text in (repr(options), str(options), repr(hello), f"{hello}", f"{options}"):
        assert TOKEN not in text
    assert options.token_now() == hello.token == TOKEN


def test_a_token_in_a_url_is_refused_as_urls_are_logged() -> None:
    with pytest.raises(ConfigError, match="never in a URL") as caught:
        PresenceClient.from_url(f"presence://h1:7400?token={TOKEN}")
    assert TOKEN not in str(caught.value)


def test_a_hello_without_a_token_is_as_it_always_was() -> None:
    """So that nodes of before, and recorded bytes, see no difference."""
    hello = Hello(1, 1, "demo", 0, 0, "test")
    assert b"token" not in encode_map(hello)
    assert decode_hello(encode_map(hello)) == hello
    longest = hello._replace(token="x" * limits.TOKEN_LETTERS_MAX)
    assert decode_hello(encode_map(longest)) == longest


def test_files_for_tls_make_a_context_that_checks_names(files: dict[str, str]) -> None:
    options = ClientOptions(tls_ca=files["ca"], tls_certificate=files["certificate"], tls_key=files["key"])
    context = options.tls_now()
    assert context is not None
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.cert_store_stats()["x509_ca"] == 1
    assert ClientOptions.from_mapping({"tls_certificate": Path(files["both"])}, {}).tls_now() is not None
    assert ClientOptions().tls_now() is None


@pytest.mark.parametrize(
    ("ca", "certificate", "key", "words"),
    [
        ("missing", None, None, r"tls_ca: .*missing: cannot be read: No such file"),
        ("nothing", None, None, r"tls_ca: .*nothing: no certificates in PEM"),
        (None, "missing", "key", r"tls_certificate: .*missing: cannot be read"),
        (None, "certificate", "missing", r"tls_key: .*missing: cannot be read"),
        (None, "certificate", "other", r"tls_key: .*other is not the key of .*certificate"),
        (None, "certificate", None, r"the key in a file of its own: option tls_key"),
        (None, "nothing", "key", r"tls_certificate: .*nothing: no certificate and key in PEM"),
        (None, None, "key", r"tls_key: only together with tls_certificate"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    files: dict[str, str], ca: str | None, certificate: str | None, key: str | None, words: str
) -> None:
    given = {"tls_ca": ca, "tls_certificate": certificate, "tls_key": key}
    with pytest.raises(ConfigError, match=words):
        ClientOptions.from_mapping({name: files[file] for name, file in given.items() if file}, {})


def test_an_encrypted_key_is_refused_and_nobody_is_asked(files: dict[str, str], tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as pem

    key = pem.load_pem_private_key(Path(files["key"]).read_bytes(), None)
    secret = pem.BestAvailableEncryption(b"secret")
    locked = tmp_path / "locked"
    locked.write_bytes(key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, secret))
    with pytest.raises(ConfigError, match="encrypted"):
        ClientOptions(tls_certificate=files["certificate"], tls_key=str(locked))


def test_certificates_that_were_replaced_make_a_new_context(files: dict[str, str]) -> None:
    source = TlsFiles(files["ca"], None, None)
    first = source.current()
    assert source.current() is first
    Path(files["ca"]).write_text("half a fi")
    assert source.current() is first, "an unusable file changes nothing"
    trustme.CA().cert_pem.write_to_path(files["ca"])
    assert source.current() is not first


@pytest.mark.parametrize("option", ["tls_ca", "tls_certificate"])
def test_options_of_tls_without_tls_are_a_mistake(files: dict[str, str], option: str) -> None:
    with pytest.raises(ConfigError, match=f"option {option}: only together with presences://"):
        PresenceClient.from_url("presence://h1:7400", **{option: files["both"]})  # type: ignore[arg-type]


def test_a_context_and_files_exclude_each_other(files: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="not together with"):
        ClientOptions(ssl=ssl.create_default_context(), tls_ca=files["ca"])


def test_errors_of_other_kinds_are_left_as_they_are() -> None:
    assert explain(ConnectionResetError("reset")) == ""
