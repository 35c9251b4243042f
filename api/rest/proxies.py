"""Whose address a request has: that of its connection, or what trusted proxies say of it.

    X-Forwarded-For: <said by the caller>, …, <said by the first proxy>, <said by the last>
                     anything              ◄── read from the right, while who said it is trusted

The first address from the right that is no trusted proxy's is the caller's: it was written by one.
What stands left of it the caller may have made up. `Forwarded` is not read: a proxy that writes the
one header hands the other on as the caller sent it.
"""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from taskforge_server.engine.config import Network

HEADER = "X-Forwarded-For"


class Proxies:
    """The proxies of an installation; none trusts nobody."""

    def __init__(self, networks: Sequence[Network] = ()) -> None:
        self._networks = tuple(networks)

    def caller(self, peer: str, headers: Iterable[str]) -> str:
        """Who made the request; `headers` are the values of HEADER in their order."""
        if not self._networks:
            return peer
        hop = _address(peer)
        said = ",".join(headers).split(",")
        while hop is not None and said and self._trusts(hop):
            before = _address(said.pop())
            if before is None:
                break  # what a proxy does not know, or no proxy wrote
            hop, peer = before, str(before)
        return peer

    def _trusts(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Of `1.2.3.4`, `1.2.3.4:5`, `2001:db8::1`, `[2001:db8::1]:5`; None for anything else."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # A listener for both kinds shows an IPv4 peer like this.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
