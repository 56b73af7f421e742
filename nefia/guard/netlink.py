"""Netlink messages that are made beforehand and sent when it matters (rtnetlink(7)).

A library would do more than is wanted in a process that has to stay small, and would allocate at
the one moment when nothing may. All of it is a socket, a header and attributes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv6Interface
from typing import TypeAlias

Interface: TypeAlias = IPv4Interface | IPv6Interface

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
REPLACE, CREATE, APPEND = 0x100, 0x400, 0x800

MAX_ANSWER_BYTES = 32 * 1024
"""The kernel sends a dump in pieces of at most so many."""
MAX_ANSWER_PIECES = 1000
"""Of one dump; a machine with more addresses than that fill is not one that nefia runs on."""

_ERROR, _DONE = 2, 3
_DELETE_LINK, _NEW_ADDRESS, _DELETE_ADDRESS, _GET_ADDRESS = 17, 20, 21, 22
_LINK_NAME = 3
_ADDRESS, _LOCAL = 1, 2
_NO_DAD = 0x02
"""An IPv6 address is used at once. Its last holder is gone by then, whatever others find."""

_SIOCGIFINDEX = 0x8933
"""netdevice(7)."""
_IFREQ = struct.Struct("16si20x")

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ADDRESS_HEADER = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_ALIGNMENT = 4


def attribute(kind: int, value: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size % _ALIGNMENT)


def message(kind: int, flags: int, *body: bytes) -> bytes:
    content = b"".join(body)
    return _HEADER.pack(_HEADER.size + len(content), kind, REQUEST | flags, 0, 0) + content


def delete_link(name: str) -> bytes:
    """RTM_DELLINK by name, so that it holds for a link that is only made later."""
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    return message(_DELETE_LINK, ACK, body, attribute(_LINK_NAME, name.encode() + b"\0"))


def add_address(address: Interface, link: int) -> bytes:
    """RTM_NEWADDR on the interface of index `link`; right also where it is there already."""
    return _address_message(_NEW_ADDRESS, ACK | CREATE | REPLACE, address, link)


def delete_address(address: Interface, link: int) -> bytes:
    """RTM_DELADDR on the interface of index `link`."""
    return _address_message(_DELETE_ADDRESS, ACK, address, link)


def _address_message(kind: int, flags: int, address: Interface, link: int) -> bytes:
    own_flags = _NO_DAD if address.version == 6 else 0
    header = (_family(address), address.network.prefixlen, own_flags, 0, link)
    ip = address.ip.packed
    both = attribute(_LOCAL, ip) + attribute(_ADDRESS, ip)
    return message(kind, flags, _ADDRESS_HEADER.pack(*header), both)


def _family(address: Interface) -> socket.AddressFamily:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


class Netlink:
    """A socket to one of the kernel's subsystems.

    The kernel answers while a request is being sent, so that nothing here waits.
    """

    def __init__(self, subsystem: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, subsystem)
        self._socket.setblocking(False)
        self._socket.bind((0, 0))
        self._answer = bytearray(MAX_ANSWER_BYTES)

    def close(self) -> None:
        self._socket.close()

    def __del__(self) -> None:
        # A plan is data that is dropped, and holds one of these.
        self.close()

    def request(self, content: bytes | bytearray) -> None:
        """Send messages of which the last asks for an acknowledgement.

        Raises OSError with the first error that the kernel answers.
        """
        self._socket.send(content)
        first_error = 0
        for kind, start, _ in self._answers():
            if kind == _ERROR:
                (negative,) = struct.unpack_from("=i", self._answer, start)
                first_error = first_error or -negative
        if first_error:
            raise OSError(first_error, os.strerror(first_error))

    def request_gone(self, content: bytes | bytearray) -> None:
        """`request` for a deletion: what is not there is as good as deleted."""
        try:
            self.request(content)
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.EADDRNOTAVAIL, errno.ENOENT):
                raise

    def find_link(self, name: str) -> int | None:
        """The index of the interface; None if there is none of that name. Raises OSError."""
        asked = bytearray(_IFREQ.pack(name.encode(), 0))
        try:
            fcntl.ioctl(self._socket, _SIOCGIFINDEX, asked)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        index: int = _IFREQ.unpack(asked)[1]
        return index

    def has_address(self, address: Interface, link: int) -> bool:
        """Whether the interface of index `link` has the address. Raises OSError."""
        header = _ADDRESS_HEADER.pack(_family(address), 0, 0, 0, 0)
        self._socket.send(message(_GET_ADDRESS, DUMP, header))
        wanted = attribute(_ADDRESS, address.ip.packed)
        found = False
        for kind, start, end in self._answers():
            if kind == _NEW_ADDRESS:
                _, prefix, _, _, index = _ADDRESS_HEADER.unpack_from(self._answer, start)
                attributes = bytes(self._answer[start + _ADDRESS_HEADER.size : end])
                found |= (
                    index == link and prefix == address.network.prefixlen and wanted in attributes
                )
        return found

    def _answers(self) -> Iterator[tuple[int, int, int]]:
        """Of all that has been answered, the kind of each message and where its body is."""
        for _ in range(MAX_ANSWER_PIECES):
            try:
                size = self._socket.recv_into(self._answer)
            except BlockingIOError:
                return
            start = 0
            while start < size:
                length, kind, _, _, _ = _HEADER.unpack_from(self._answer, start)
                yield kind, start + _HEADER.size, start + length
                start += length + -length % _ALIGNMENT
