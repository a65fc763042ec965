"""One address gets its share of the connections, and not all of them."""

import pytest
from support.loops import on_each_loop
from support.served import served

from pulsering.wire import ErrorCode
from pulsering_server.addresses import Addresses, holder_of
from pulsering_server.stats import Close


@on_each_loop
async def test_an_address_beyond_its_share_is_refused_and_others_are_not() -> None:
    async with served(connections_per_address=2) as node, node.peer() as first, node.peer() as second:
        await first.greet()
        await second.greet()
        async with node.peer() as third:
            error = await third.error()
            assert error.code == ErrorCode.BUSY
            assert error.message == "this address has its 2 of node a already"
        assert node.listener.addresses.take("127.0.0.2"), "another address"
        node.listener.addresses.give("127.0.0.2")
        await node.until(lambda: node.stats.connections_closed[Close.PER_ADDRESS] == 1)
        await first.close()
        await node.until(lambda: node.stats.connections_open == 1)
        async with node.peer() as fourth:
            await fourth.greet()
    assert len(node.listener.addresses) == 0, "who is gone takes no memory"


@on_each_loop
async def test_without_a_bound_one_address_may_have_all() -> None:
    async with served(connections=2) as node, node.peer() as first, node.peer() as second:
        await first.greet()
        await second.greet()
        async with node.peer() as third:
            assert (await third.error()).message == "node a has its 2 connections already"


@pytest.mark.parametrize(
    ("host", "holder"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_network_of_ipv6_counts_as_one(host: str, holder: str) -> None:
    assert holder_of(host) == holder


def test_what_is_counted_is_given_back() -> None:
    addresses = Addresses(1)
    assert addresses.take("a")
    assert not addresses.take("a")
    addresses.give("a")
    addresses.give("a")
    assert addresses.take("a")
