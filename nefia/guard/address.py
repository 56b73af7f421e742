"""A floating address, and how the network is told where it is now (SPEC 9).

Neighbours keep the last holder's hardware address for minutes. So the new holder announces itself:
IPv4 by gratuitous ARP (RFC 5227, section 2.3 and 3), IPv6 by unsolicited neighbour advertisements
(RFC 4861, section 7.2.6). A frame may be lost, and a switch may not forward yet: several are sent.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_interface

from nefia.config.services import AddressConfig
from nefia.guard.netlink import NETLINK_ROUTE, Netlink, add_address, delete_address
from nefia.guard.plan import Do, Plan

ANNOUNCED_AFTER_SECONDS = (0.1, 0.3, 0.6, 1.0, 2.0, 5.0, 10.0)
"""Since the start; besides the first, which is part of it. Each with the lease's next renewal."""

ETH_ARP, ETH_IPV6 = 0x0806, 0x86DD
BROADCAST = b"\xff" * 6
ALL_NODES = IPv6Address("ff02::1")
ALL_NODES_MAC = bytes.fromhex("333300000001")

_ETHERNET_HARDWARE = 1
_REQUEST, _REPLY = 1, 2
_ICMPV6, _HOP_LIMIT = 58, 255
_ADVERTISEMENT, _OVERRIDE, _TARGET_MAC_OPTION = 136, 0x20000000, 2
_MAC_BYTES = 6


def arp_frames(address: IPv4Address, mac: bytes) -> tuple[bytes, ...]:
    """The address announced as a request and as a reply: some devices heed only one of them."""
    return tuple(_arp(kind, address, mac) for kind in (_REQUEST, _REPLY))


def _arp(kind: int, address: IPv4Address, mac: bytes) -> bytes:
    head = struct.pack("!HHBBH", _ETHERNET_HARDWARE, 0x0800, _MAC_BYTES, 4, kind)
    # The target's hardware address means nothing in a request (RFC 5227, section 2.1.1).
    target = bytes(_MAC_BYTES) if kind == _REQUEST else BROADCAST
    body = head + mac + address.packed + target + address.packed
    return BROADCAST + mac + struct.pack("!H", ETH_ARP) + body


def advertisement_frames(address: IPv6Address, mac: bytes) -> tuple[bytes, ...]:
    """One unsolicited neighbour advertisement to all nodes, with the override flag."""
    option = struct.pack("!BB", _TARGET_MAC_OPTION, 1) + mac
    rest = struct.pack("!I", _OVERRIDE) + address.packed + option
    unsummed = struct.pack("!BBH", _ADVERTISEMENT, 0, 0) + rest
    pseudo = address.packed + ALL_NODES.packed + struct.pack("!II", len(unsummed), _ICMPV6)
    icmp = struct.pack("!BBH", _ADVERTISEMENT, 0, _checksum(pseudo + unsummed)) + rest
    ip = struct.pack("!IHBB", 6 << 28, len(icmp), _ICMPV6, _HOP_LIMIT)
    frame = ip + address.packed + ALL_NODES.packed + icmp
    return (ALL_NODES_MAC + mac + struct.pack("!H", ETH_IPV6) + frame,)


def _checksum(content: bytes) -> int:
    """RFC 1071; `content` has an even length."""
    total: int = sum(struct.unpack(f"!{len(content) // 2}H", content))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def plan_of(
    config: AddressConfig,
    now: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
) -> Plan:
    """Raises OSError without a netlink socket. `now` is in seconds."""
    floating = _Floating(config, now)
    goes = Do(f"remove {config.address} from {config.interface}", floating.remove)
    return Plan(
        leftovers=(goes,),
        start=(
            Do(f"add {config.address} to {config.interface}", floating.add),
            Do(f"announce {config.address}", floating.announce, may_fail=True),
        ),
        stop=(goes,),
        fence=floating.remove,
        is_present=floating.is_present,
        renew=floating.on_lease,
    )


class _Floating:
    """What is held ready of one address."""

    def __init__(self, config: AddressConfig, now: Callable[[], float]) -> None:
        self._address = ip_interface(config.address)
        self._interface = config.interface
        self._now = now
        self._netlink = Netlink(NETLINK_ROUTE)
        self._to_announce: list[float] = []
        """When, the next one last."""

    def add(self) -> None:
        link = self._netlink.find_link(self._interface)
        if link is None:
            raise OSError(f"there is no interface {self._interface}")
        self._netlink.request(add_address(self._address, link))
        began = self._now()
        self._to_announce = [began + after for after in reversed(ANNOUNCED_AFTER_SECONDS)]

    def remove(self) -> None:
        self._to_announce.clear()
        link = self._netlink.find_link(self._interface)
        if link is not None:
            self._netlink.request_gone(delete_address(self._address, link))

    def is_present(self) -> bool:
        link = self._netlink.find_link(self._interface)
        return link is not None and self._netlink.has_address(self._address, link)

    def announce(self) -> None:
        """Raises OSError: no such interface, or one that carries no Ethernet frames."""
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.setblocking(False)
            raw.bind((self._interface, 0))
            mac = raw.getsockname()[4]
            if len(mac) != _MAC_BYTES:
                return
            for frame in _frames(self._address.ip, mac):
                raw.send(frame)

    def on_lease(self, _end: float) -> None:
        if self._to_announce and self._now() >= self._to_announce[-1]:
            self._to_announce.pop()
            try:
                self.announce()
            except OSError:
                # The next one may get through; whether the address is there is not the question.
                return


def _frames(address: IPv4Address | IPv6Address, mac: bytes) -> tuple[bytes, ...]:
    if isinstance(address, IPv4Address):
        return arp_frames(address, mac)
    return advertisement_frames(address, mac)
