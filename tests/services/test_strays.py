"""What is found on a node that does not lead."""

from __future__ import annotations

import sys
from pathlib import Path

from nefia.config.services import AddressConfig, CommandConfig, ServiceConfig, WireguardConfig
from nefia.services.strays import is_gone, strays
from tests.hosts import Host, needs_hosts

FOUND = """
from pathlib import Path
from nefia.config.services import AddressConfig, WireguardConfig
from nefia.services.strays import strays
print(*strays([
    WireguardConfig(name="tunnel", config=Path("/etc/wireguard/wg0.conf")),
    AddressConfig(name="floating", address="192.0.2.10/24", interface="lo"),
]), sep="\\n")
"""


def test_nothing_is_up_here() -> None:
    services: list[ServiceConfig] = [
        WireguardConfig(name="tunnel", config=Path("/etc/wireguard/no-such-link.conf")),
        AddressConfig(name="floating", address="192.0.2.10/24", interface="lo"),
        AddressConfig(name="other", address="127.0.0.1/8", interface="no-such-link"),
        CommandConfig(name="app", run=("true",)),
    ]
    assert strays(services) == []


def test_what_a_leader_has_lost() -> None:
    tunnel = WireguardConfig(name="tunnel", config=Path("/etc/wireguard/no-such-link.conf"))
    elsewhere = AddressConfig(name="other", address="127.0.0.1/8", interface="no-such-link")
    assert is_gone(tunnel)
    assert is_gone(elsewhere)
    assert is_gone(AddressConfig(name="floating", address="192.0.2.10/24", interface="lo"))
    assert not is_gone(WireguardConfig(name="tunnel", config=Path("/etc/wireguard/lo.conf")))
    assert not is_gone(AddressConfig(name="floating", address="127.0.0.1/8", interface="lo"))
    assert not is_gone(CommandConfig(name="app", run=("true",)))


@needs_hosts
def test_what_is_up_is_named_with_what_to_do() -> None:
    with Host() as host:
        host.run("ip", "link", "add", "wg0", "type", "bridge")
        host.run("ip", "address", "add", "192.0.2.10/24", "dev", "lo")
        tunnel, address = host.run(sys.executable, "-c", FOUND).splitlines()
        assert tunnel.startswith("wg0 is up on this node, which does not lead")
        assert address.startswith("lo of this node has 192.0.2.10/24 although it does not lead")
        for sentence in (tunnel, address):
            host.run(*sentence.partition("and run ")[2].split())
        assert host.run(sys.executable, "-c", FOUND) == "\n"
