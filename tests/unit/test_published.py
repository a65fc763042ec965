"""Of what is published only the topology counts, the higher epoch wins, and a URL that is none is said."""

import pytest

from pulsering_server.config import ClusterConfig, ConfigErrors, parse_config
from pulsering_server.etcd_url import EtcdUrl, parse_etcd_url
from pulsering_server.published import AGREED, Published

SOURCE = "etcd://127.0.0.1:2379/pulsering/test"


def text_of(epoch: int, names: str = "ab", more: str = "") -> str:
    nodes = "".join(f"  - {{name: {name}, address: 'h-{name}:7400'}}\n" for name in names)
    return f"version: 1\ncluster: c\nepoch: {epoch}\ntopology: {SOURCE}\n{more}nodes:\n{nodes}"


def over(published: str, file: str) -> ClusterConfig:
    source = Published(SOURCE)
    source.text = published
    return source.over(parse_config(file))


def test_a_newer_topology_is_followed_and_all_else_stays_the_node_s_own() -> None:
    """Who may write the key places users; limits, tokens and certificates are not theirs to change."""
    theirs = "limits: {memory: 2GiB}\nauth: {insecure_no_token: true}\nadmin: {insecure_no_token: true}\n"
    found = over(text_of(2, "abc", theirs), text_of(1, "ab", "limits: {memory: 3GiB}\n"))
    assert found.epoch == 2
    assert found.topology() == parse_config(text_of(2, "abc")).topology()
    assert found.limits.memory_bytes == 3 << 30
    assert not found.auth.insecure_no_token
    assert not found.admin.insecure_no_token
    assert found.published == SOURCE


def test_all_that_a_topology_is_made_of_is_taken_over() -> None:
    """Else a node would mix two of them, and have a hash that nobody else has."""
    published = parse_config(
        "version: 1\ncluster: other\nepoch: 9\nttl: 30s\nticks: 40\nreplicas: 1\nhash_seed: 7\n"
        "nodes: [{name: x, address: 'x:1'}]\n"
    )
    file = parse_config(text_of(1))
    for name in AGREED:
        assert getattr(published, name) != getattr(file, name), f"{name} is told apart by this test"
    merged = file.model_copy(update={name: getattr(published, name) for name in AGREED})
    assert merged.topology() == published.topology()


def test_a_file_that_is_ahead_counts_until_the_key_has_caught_up() -> None:
    """A node that joins is started with the file that is about to be applied."""
    assert over(text_of(1, "ab"), text_of(2, "abc")).topology() == parse_config(text_of(2, "abc")).topology()
    assert over(text_of(2, "abcd"), text_of(2, "abc")).epoch == 2


def test_of_equal_epochs_the_key_counts() -> None:
    assert len(over(text_of(2, "abcd"), text_of(2, "abc")).nodes) == 4


def test_nothing_published_is_the_file() -> None:
    assert over("", text_of(1)) == parse_config(text_of(1))


def test_a_broken_text_is_told_by_where_it_is_published() -> None:
    with pytest.raises(ConfigErrors, match=SOURCE):
        over("version: 1\n", text_of(1))


def test_a_url_names_hosts_key_and_files() -> None:
    assert parse_etcd_url("etcd://h1,h2:99,[::1]:7/a/b%20c") == EtcdUrl(
        ("h1:2379", "h2:99", "[::1]:7"), "a/b c"
    )
    assert parse_etcd_url("etcds://h/k?ca=/a.pem&cert=b.pem&cert_key=c") == EtcdUrl(
        ("h:2379",), "k", True, "/a.pem", "b.pem", "c"
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (7, "expected the URL"),
        ("cluster.yaml", "expected the URL"),
        ("http://h/k", "scheme 'http'"),
        ("etcd://h:2379", "no key"),
        ("etcd://h:2379/", "no key"),
        ("etcd:///k", "bad host ''"),
        ("etcd://h,,i/k", "bad host ''"),
        ("etcd://h:port/k", "bad host 'h:port'"),
        ("etcd://user:word@h/k", "no user and password"),
        ("etcd://h/k?ca=x", "for etcds"),
        ("etcds://h/k?timeout=1", "option 'timeout'"),
        ("etcds://h/k?ca=", "option 'ca'"),
        ("etcd://[::1/k", "no URL"),
    ],
)
def test_what_is_no_url_of_a_key_is_refused_with_a_reason(text: object, why: str) -> None:
    with pytest.raises(ValueError, match=why.replace("[", r"\[")):
        parse_etcd_url(text)
