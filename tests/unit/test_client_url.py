"""URLs and options: understood whole, or refused with the part that is wrong."""

import dataclasses
import ssl

import pytest

from pulsering.errors import ConfigError
from pulsering.options import ClientOptions, seconds_of
from pulsering.url import Address, parse_url


def test_url_names_seeds_cluster_and_options() -> None:
    url = parse_url("presence://h1:7401,h2/prod?timeout=100ms&attempts=2")
    assert url.seeds == (Address("h1", 7401), Address("h2", 7400))
    assert (url.cluster, url.tls) == ("prod", False)
    assert url.options == {"timeout": "100ms", "attempts": "2"}


def test_url_with_tls_and_ipv6() -> None:
    url = parse_url("presences://[::1]:7400,[fe80::1]/")
    assert url.tls
    assert url.seeds == (Address("::1", 7400), Address("fe80::1", 7400))
    assert str(url.seeds[0]) == "[::1]:7400"
    assert url.cluster == ""


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("redis://h1", "scheme"),
        ("h1:7400", "scheme"),
        ("", "scheme"),
        ("presence://", "hosts"),
        ("presence://h1,,h2", "hosts"),
        ("presence://h1,h1:7400", "twice"),
        ("presence://h1:0", "port"),
        ("presence://h1:65536", "port"),
        ("presence://h1:", "port"),
        ("presence://h1:x", "port"),
        ("presence://:7400", "host"),
        ("presence://::1:7400", "brackets"),
        ("presence://[::1]7400", r"IPv6|url"),
        ("presence://user:secret@h1", "user"),
        ("presence://h1/a/b", "path"),
        ("presence://h1/" + "x" * 64, "63"),
        ("presence://h1?timeout", "query"),
        ("presence://h1?timeout=1s&timeout=2s", "twice"),
        ("presence://h1#x", "fragment"),
    ],
)
def test_bad_url_is_refused_by_the_part_that_is_wrong(url: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part) as caught:
        parse_url(url)
    assert isinstance(caught.value, ValueError)
    assert "secret" not in str(caught.value)


def test_url_must_be_text() -> None:
    with pytest.raises(ConfigError, match="int"):
        parse_url(7400)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "seconds"), [(0.25, 0.25), (2, 2.0), ("250ms", 0.25), ("1.5s", 1.5), ("1m", 60.0), (None, None)]
)
def test_durations_are_seconds_or_text_with_a_unit(value: float | str | None, seconds: float | None) -> None:
    assert seconds_of("timeout", value) == seconds


@pytest.mark.parametrize(
    "value", [0, -1, "0ms", "250", "1 week", "", float("nan"), float("inf"), True, [], "ms"]
)
def test_a_duration_of_nothing_is_an_error_and_none_is_no_limit(value: object) -> None:
    with pytest.raises(ConfigError, match=r"timeout.*None for no limit"):
        seconds_of("timeout", value)  # type: ignore[arg-type]


def test_options_come_from_url_and_keywords_and_keywords_win() -> None:
    options = ClientOptions.from_mapping(
        {"timeout": 1, "attempts": 1}, {"timeout": "2s", "max_connections": "4", "connect_timeout": "none"}
    )
    assert (options.timeout, options.attempts, options.max_connections) == (1.0, 1, 4)
    assert options.connect_timeout is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"timeout": 0}, "timeout"),
        ({"timout": 1}, "did you mean timeout"),
        ({"zzz": 1}, "there are agent"),
        ({"attempts": 0}, "attempts.*1..10"),
        ({"attempts": True}, "attempts"),
        ({"attempts": "x"}, "attempts"),
        ({"min_connections": 3, "max_connections": 2}, "max_connections.*below"),
        ({"linger": -1}, "linger"),
        ({"linger": None}, "linger"),
        ({"hedge": 0}, "hedge.*p95"),
        ({"hedge": "p99"}, "hedge.*p95"),
        ({"ssl": "yes"}, "SSLContext"),
        ({"agent": "x" * 64}, "63 bytes"),
        ({"agent": 5}, "agent"),
    ],
)
def test_bad_option_is_named(given: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ClientOptions.from_mapping(given, {})


@pytest.mark.parametrize(
    ("text", "hedge"), [("p95", "p95"), ("20ms", 0.02), ("none", None), ("NONE", None), ("1s", 1.0)]
)
def test_a_hedge_is_a_duration_a_percentile_or_none(text: str, hedge: object) -> None:
    assert ClientOptions.from_mapping({}, {"hedge": text}).hedge == hedge
    assert ClientOptions().hedge is None


def test_ssl_context_cannot_come_from_a_url() -> None:
    with pytest.raises(ConfigError, match="keyword"):
        ClientOptions.from_mapping({}, {"ssl": "1"})
    assert ClientOptions(ssl=ssl.create_default_context()).ssl is not None


def test_every_option_is_documented() -> None:
    """Each field is followed by its docstring."""
    import inspect

    source = inspect.getsource(ClientOptions)
    for field in dataclasses.fields(ClientOptions):
        _, _, rest = source.partition(f"    {field.name}: ")
        assert rest.split("\n")[1].lstrip().startswith('"""'), field.name
