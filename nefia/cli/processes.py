"""Which processes of this machine are the members' daemons, and what CPU time they have used.

Linux tells by /proc. What cannot be found out is None: a member on another machine, or one that
belongs to another user.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

_PROC = Path("/proc")
_TCP_TABLES = (_PROC / "net/tcp", _PROC / "net/tcp6")
_UNIX_TABLE = _PROC / "net/unix"
_UNIX_FIELDS = 8
_ACCEPTS = 0x10000  # __SO_ACCEPTCON, linux/net.h
_LISTENS = "0A"
_CREDENTIALS = struct.Struct("3i")


def cpu_seconds(pid: int | None) -> float | None:
    """User and system time of all threads of the process, or None."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def server_of(connection: socket.socket) -> int | None:
    """The process that listens at the other end of a connected Unix socket."""
    size = _CREDENTIALS.size
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid: int = _CREDENTIALS.unpack(credentials)[0]
    return pid or None


def listeners_at(addresses: Mapping[str, str]) -> dict[str, int | None]:
    """By name: the process that listens at the `host:port` of that name, if it is on this machine.

    Only literal addresses are looked at, since a name might take long to resolve.
    """
    ports = {name: _local_port(address) for name, address in addresses.items()}
    inodes = {port: inode for port, inode in _listening() if port in ports.values()}
    owners = dict(_owners(inodes.values()))
    return {name: owners.get(inodes.get(port or 0, "")) for name, port in ports.items()}


def unix_sockets_of(pid: int | None) -> list[str]:
    """The paths at which the process listens on Unix sockets; none of one that is not known."""
    if pid is None:
        return []
    inodes = dict(_unix_listening())
    held = {inode for inode, owner in _owners(inodes) if owner == pid}
    return sorted(inodes[inode] for inode in held)


def _unix_listening() -> Iterator[tuple[str, str]]:
    """Inode and path of every Unix socket that listens at one."""
    for line in _UNIX_TABLE.read_text().splitlines()[1:]:
        fields = line.split(maxsplit=_UNIX_FIELDS - 1)
        if len(fields) == _UNIX_FIELDS and int(fields[3], 16) & _ACCEPTS:
            yield fields[6], fields[7]


def _local_port(address: str) -> int | None:
    host, _, port = address.rpartition(":")
    try:
        literal = ip_address(host.strip("[]"))
    except ValueError:
        return None
    family = socket.AF_INET if literal.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.bind((str(literal), 0))  # Only an address of this machine can be bound to.
        return int(port)
    return None


def _listening() -> Iterator[tuple[int, str]]:
    """Port and inode of every TCP socket that listens."""
    for table in _TCP_TABLES:
        with suppress(OSError):
            for line in table.read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENS:
                    yield int(fields[1].rpartition(":")[2], 16), fields[9]


def _owners(inodes: Iterable[str]) -> Iterator[tuple[str, int]]:
    """The inodes, as far as they are sockets of a process that may be looked at, and its pid."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    for process in _PROC.iterdir() if wanted else ():
        if process.name.isdecimal():
            with suppress(OSError):
                for descriptor in (process / "fd").iterdir():
                    inode = wanted.get(os.readlink(descriptor))
                    if inode is not None:
                        yield inode, int(process.name)
