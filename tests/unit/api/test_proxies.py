"""Whose address a request has: a caller cannot make one up, whatever it sends."""

from ipaddress import ip_network

import pytest

from taskforge_server.api.rest.proxies import Proxies

PROXIES = Proxies([ip_network("10.0.0.0/24"), ip_network("fd00::7")])
PEER = "10.0.0.1"


@pytest.mark.parametrize(
    ("peer", "said", "caller"),
    [
        (PEER, ["192.0.2.7"], "192.0.2.7"),
        (PEER, ["8.8.8.8, 10.0.0.9, 192.0.2.7"], "192.0.2.7"),
        (PEER, ["8.8.8.8", "192.0.2.7"], "192.0.2.7"),
        (PEER, ["8.8.8.8, 192.0.2.7, 10.0.0.2,fd00::7"], "192.0.2.7"),
        (PEER, ["2001:db8::9"], "2001:db8::9"),
        (PEER, ["[2001:db8::9]:4711"], "2001:db8::9"),
        (PEER, ["192.0.2.7:4711"], "192.0.2.7"),
        (PEER, ["::ffff:192.0.2.7"], "192.0.2.7"),
        ("::ffff:10.0.0.1", ["192.0.2.7"], "192.0.2.7"),
        # Nobody but proxies, or what is no address: the last one who is known.
        (PEER, [], PEER),
        (PEER, [""], PEER),
        (PEER, ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        (PEER, ["8.8.8.8, unknown"], PEER),
        (PEER, ["8.8.8.8, _secret, 10.0.0.2"], "10.0.0.2"),
        # Who is no proxy may say what he likes.
        ("192.0.2.66", ["8.8.8.8"], "192.0.2.66"),
        ("10.0.1.1", ["8.8.8.8"], "10.0.1.1"),
        ("", ["8.8.8.8"], ""),
    ],
)
def test_the_caller(peer: str, said: list[str], caller: str) -> None:
    assert PROXIES.caller(peer, said) == caller


def test_by_default_nobody_is_trusted() -> None:
    assert Proxies().caller("127.0.0.1", ["8.8.8.8"]) == "127.0.0.1"
