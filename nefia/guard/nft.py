"""nftables messages, made beforehand: a table that drops what a port sends and receives.

In nft's own words, for `wg0` and 51820:

    table inet nefia_wg0 {
        set lease { type inet_service; flags timeout; }
        chain incoming {
            type filter hook input priority raw; policy accept;
            udp dport 51820 udp dport != @lease drop
        }
        chain outgoing {
            type filter hook output priority raw; policy accept;
            udp sport 51820 udp sport != @lease drop
            udp sport 51820 ip saddr set 192.0.2.10
        }
    }

The last line is there if packets are to leave from one address. It is written without connection
tracking, which could change the port as well.

Bare numbers of attributes are those of linux/netfilter/nf_tables.h, each in an enum of its own: 2
in the message of a set is NFTA_SET_NAME. A test has nft itself read back what is made here.
"""

from __future__ import annotations

import re
import socket
import struct
from ipaddress import IPv4Address, ip_address

from nefia.guard.netlink import ACK, APPEND, CREATE, attribute, message

_SUBSYSTEM = 10
_BATCH_BEGIN, _BATCH_END = 16, 17
_NEW_TABLE, _DELETE_TABLE = 0, 2
_NEW_CHAIN, _NEW_RULE, _NEW_SET = 3, 6, 9
_NEW_ELEMENT, _DELETE_ELEMENT = 12, 14

_INET = 1
_INPUT, _OUTPUT = 1, 3
_RAW_PRIORITY = -300
_ACCEPT, _DROP = 1, 0
_VERDICT_REGISTER, _REGISTER = 0, 1
_META_FAMILY, _META_PROTOCOL = 15, 16
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_SOURCE_PORT, _DESTINATION_PORT = 0, 2
_PORT_BYTES = 2
_SERVICE_TYPE = 13
_TIMEOUT_FLAG = 0x10
_INVERTED = 1
_EQUAL = 0

_GENERIC = struct.Struct(">BBH")
_TIMEOUT = struct.Struct(">Q")
_NESTED = 0x8000
_SET = b"lease\0"
_SET_ID = 1


def table_name(interface: str) -> str:
    """nft's names have fewer characters than those of interfaces."""
    return "nefia_" + re.sub(r"[^A-Za-z0-9_.-]", "_", interface)


def removal(interface: str) -> bytes:
    return _batch(_nftables(_DELETE_TABLE, 0, attribute(1, _name(interface))))


def _name(interface: str) -> bytes:
    return table_name(interface).encode() + b"\0"


class LeaseMessages:
    """Of one interface and port. Each is a batch, performed as a whole or not at all."""

    def __init__(self, interface: str, port: int, source: str | None) -> None:
        name = _name(interface)
        table = attribute(1, name)
        elements = table + attribute(2, _SET)
        flush = _nftables(_DELETE_ELEMENT, 0, elements)
        element = _element(port)
        self.make = _batch(
            _nftables(_NEW_TABLE, CREATE, table),
            _nftables(_DELETE_TABLE, 0, table),
            _nftables(_NEW_TABLE, CREATE, table),
            _nftables(_NEW_SET, CREATE, _set(name)),
            _nftables(_NEW_CHAIN, CREATE, _chain(name, b"incoming\0", _INPUT)),
            _nftables(_NEW_CHAIN, CREATE, _chain(name, b"outgoing\0", _OUTPUT)),
            *(
                _nftables(_NEW_RULE, CREATE | APPEND, _rule(name, chain, expressions))
                for chain, expressions in _rules(port, source)
            ),
        )
        self.remove = removal(interface)
        self.silence = _batch(flush)
        self._renew = bytearray(_batch(flush, _nftables(_NEW_ELEMENT, CREATE, elements + element)))
        self._timeout_at = self._renew.index(element) + len(element) - _TIMEOUT.size

    def renew(self, milliseconds: int) -> bytearray:
        """Flush and add: an element that is there keeps its old timeout before Linux 6.12."""
        _TIMEOUT.pack_into(self._renew, self._timeout_at, milliseconds)
        return self._renew


def _nftables(kind: int, flags: int, *attributes: bytes) -> bytes:
    header = _GENERIC.pack(_INET, 0, 0)
    return message(_SUBSYSTEM << 8 | kind, ACK | flags, header, *attributes)


def _batch(*messages: bytes) -> bytes:
    begin, end = (
        message(kind, 0, _GENERIC.pack(0, 0, _SUBSYSTEM)) for kind in (_BATCH_BEGIN, _BATCH_END)
    )
    return begin + b"".join(messages) + end


def _nest(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(attributes))


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">i", value))


def _set(table: bytes) -> bytes:
    key = _number(4, _SERVICE_TYPE) + _number(5, _PORT_BYTES)
    return (
        attribute(1, table)
        + attribute(2, _SET)
        + _number(3, _TIMEOUT_FLAG)
        + key
        + _number(10, _SET_ID)
    )


def _element(port: int) -> bytes:
    """The attribute with the one element of the set; its timeout comes last."""
    key = _nest(1, attribute(1, struct.pack(">H", port)))
    return _nest(3, _nest(1, key, attribute(4, _TIMEOUT.pack(0))))


def _chain(table: bytes, name: bytes, hook: int) -> bytes:
    hooked = _nest(4, _number(1, hook), _number(2, _RAW_PRIORITY))
    return (
        attribute(1, table)
        + attribute(3, name)
        + hooked
        + _number(5, _ACCEPT)
        + attribute(7, b"filter\0")
    )


def _rule(table: bytes, chain: bytes, expressions: tuple[bytes, ...]) -> bytes:
    return attribute(1, table) + attribute(2, chain) + _nest(4, *expressions)


def _rules(port: int, source: str | None) -> list[tuple[bytes, tuple[bytes, ...]]]:
    """Chains and what is appended to them."""
    drop = _expression(
        b"immediate", _number(1, _VERDICT_REGISTER), _nest(2, _nest(2, _number(1, _DROP)))
    )
    rules = [
        (chain, (*_is_port(at, port), _load_port(at), _not_in_set(), drop))
        for chain, at in ((b"incoming\0", _DESTINATION_PORT), (b"outgoing\0", _SOURCE_PORT))
    ]
    if source is not None:
        rules.append((b"outgoing\0", (*_is_port(_SOURCE_PORT, port), *_set_source(source))))
    return rules


def _expression(name: bytes, *data: bytes) -> bytes:
    return _nest(1, attribute(1, name + b"\0"), _nest(2, *data))


def _load_meta(key: int) -> bytes:
    return _expression(b"meta", _number(2, key), _number(1, _REGISTER))


def _is(value: bytes) -> bytes:
    return _expression(
        b"cmp", _number(1, _REGISTER), _number(2, _EQUAL), _nest(3, attribute(1, value))
    )


def _load_port(at: int) -> bytes:
    where = _number(2, _TRANSPORT_HEADER) + _number(3, at) + _number(4, _PORT_BYTES)
    return _expression(b"payload", _number(1, _REGISTER), where)


def _is_port(at: int, port: int) -> tuple[bytes, ...]:
    is_udp = (_load_meta(_META_PROTOCOL), _is(bytes([socket.IPPROTO_UDP])))
    return (*is_udp, _load_port(at), _is(struct.pack(">H", port)))


def _not_in_set() -> bytes:
    where = attribute(1, _SET) + _number(4, _SET_ID)
    return _expression(b"lookup", where, _number(2, _REGISTER), _number(5, _INVERTED))


def _set_source(source: str) -> tuple[bytes, ...]:
    """Write the address; the UDP checksum, which covers it, is mended, and IPv4's own."""
    address = ip_address(source)
    is_v4 = isinstance(address, IPv4Address)
    family, offset = (socket.AF_INET, 12) if is_v4 else (socket.AF_INET6, 8)
    load = _expression(b"immediate", _number(1, _REGISTER), _nest(2, attribute(1, address.packed)))
    where = _number(2, _NETWORK_HEADER) + _number(3, offset) + _number(4, len(address.packed))
    header_checksum = _number(6, 1) + _number(7, 10) if is_v4 else _number(6, 0) + _number(7, 0)
    write = _expression(b"payload", _number(5, _REGISTER), where, header_checksum, _number(8, 1))
    return (_load_meta(_META_FAMILY), _is(bytes([family])), load, write)
