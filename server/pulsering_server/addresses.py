"""How many connections each address holds, so that no single one can take all there are.

An IPv6 peer is counted by its network of 64 bits, as whoever has one address there has all of them; an IPv4
address in IPv6 clothes (``::ffff:10.0.0.1``) as what it is. Invariant: only addresses that hold a connection
take memory.
"""

import ipaddress
from functools import lru_cache

__all__ = ["Addresses", "holder_of"]


class Addresses:
    """Counts connections by holder; ``most`` is what each may have, None: no bound."""

    def __init__(self, most: int | None) -> None:
        self.most = most
        self._held: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._held)

    def take(self, holder: str) -> bool:
        """Count a connection; whether it is within the bound. It is counted in any case: ``give`` it back."""
        held = self._held[holder] = self._held.get(holder, 0) + 1
        return self.most is None or held <= self.most

    def give(self, holder: str) -> None:
        """A connection has ended."""
        held = self._held[holder] - 1
        if held:
            self._held[holder] = held
        else:
            del self._held[holder]


@lru_cache(maxsize=1024)
def holder_of(host: str) -> str:
    """Whom a peer's address is counted for."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))
