"""Somebody else's doing with tunnels and addresses (SPEC 9).

What is up on a node that does not lead, and what is gone from the one that does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from ipaddress import ip_interface

from nefia.config.services import AddressConfig, ServiceConfig, WireguardConfig
from nefia.guard.netlink import NETLINK_ROUTE, Netlink


def strays(services: Iterable[ServiceConfig]) -> list[str]:
    """One sentence for each tunnel and address that is up here. Raises OSError.

    To be asked only where this node's own services have ended. A few system calls.
    """
    with closing(Netlink(NETLINK_ROUTE)) as netlink:
        return [sentence for service in services for sentence in _of(service, netlink)]


def is_gone(service: ServiceConfig) -> bool:
    """Whether the link or address of a service that runs here is not there. Raises OSError."""
    if not isinstance(service, WireguardConfig | AddressConfig):
        return False
    with closing(Netlink(NETLINK_ROUTE)) as netlink:
        link = netlink.find_link(service.interface)
        if link is None or isinstance(service, WireguardConfig):
            return link is None
        return not netlink.has_address(ip_interface(service.address), link)


def _of(service: ServiceConfig, netlink: Netlink) -> Iterator[str]:
    match service:
        case WireguardConfig(interface=interface):
            if netlink.find_link(interface) is not None:
                yield (
                    f"{interface} is up on this node, which does not lead; find out who brings it "
                    f"up, and run ip link delete {interface}"
                )
        case AddressConfig(address=address, interface=interface):
            link = netlink.find_link(interface)
            if link is not None and netlink.has_address(ip_interface(address), link):
                yield (
                    f"{interface} of this node has {address} although it does not lead; find out "
                    f"who adds it, and run ip address delete {address} dev {interface}"
                )
        case _:
            return
