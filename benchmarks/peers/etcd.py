"""etcd, by its own gRPC API.

The gRPC library for Python costs seven times as much, and would be part of what is measured. So the
frames of HTTP/2 (RFC 9113) are made here, ready as bytes as all requests of the load generator:
each call is a HEADERS and a DATA frame that differ in the stream id alone, and its answer is a DATA
frame, which gRPC sends for a call that succeeded and for no other.
"""

from __future__ import annotations

import json
import shutil
import socket
import struct
import urllib.request
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.peers.processes import HOST, Servers
from nefia.cli.load import Exchange
from nefia.errors import Internal, NefiaError
from tests.end_to_end.cluster import free_ports, until

PROGRAM = "etcd"
HEARTBEAT_MS = 100
ELECTION_MS = 1000
"""Its defaults."""
HTTP_SECONDS = 2.0

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
INITIAL_WINDOW_SIZE = 4
DEFAULT_WINDOW_BYTES = 65_535
MAX_WINDOW_BYTES = 2**31 - 1
FRAME_HEADER_BYTES = 9
MAX_PAYLOAD_BYTES = 16_000
"""So that a request is one frame of the size that every server takes, and within its window."""


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body


def literal(name: bytes, value: bytes) -> bytes:
    """A header that enters no table (RFC 7541 6.2.2), so that all requests have the same bytes."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def varint(value: int) -> bytes:
    """As protobuf writes lengths."""
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def put_request(key: bytes, value: bytes) -> bytes:
    """`etcdserverpb.PutRequest` with fields 1 and 2, behind the prefix of a gRPC message."""
    message = b"\x0a" + varint(len(key)) + key + b"\x12" + varint(len(value)) + value
    return b"\x00" + struct.pack(">I", len(message)) + message


class Puts:
    """An `Exchange` of KV.Put calls, one stream each, with the flow control of HTTP/2."""

    def __init__(self, authority: str, payload_bytes: int) -> None:
        assert payload_bytes <= MAX_PAYLOAD_BYTES
        self.error: NefiaError | None = None
        self.refused = 0
        self._headers = b"".join(
            literal(name, value)
            for name, value in (
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":path", b"/etcdserverpb.KV/Put"),
                (b":authority", authority.encode()),
                (b"content-type", b"application/grpc"),
                (b"te", b"trailers"),
            )
        )
        self._value = b"x" * payload_bytes
        self._received = bytearray()
        self._window_bytes = DEFAULT_WINDOW_BYTES
        self._answered: set[int] = set()
        """Streams whose DATA has come and whose trailers have not."""
        self._waiting: deque[tuple[int, bytes]] = deque()
        """Requests that do not fit the window yet: how much they take of it, and their bytes."""
        settings = struct.pack(">HI", INITIAL_WINDOW_SIZE, MAX_WINDOW_BYTES)
        room = struct.pack(">I", MAX_WINDOW_BYTES - DEFAULT_WINDOW_BYTES)
        self._control = [
            PREFACE,
            frame(SETTINGS, 0, 0, settings),
            frame(WINDOW_UPDATE, 0, 0, room),
        ]

    def request(self, number: int) -> bytes:
        stream = 2 * number + 1
        body = put_request(b"%08x" % number, self._value)
        call = frame(HEADERS, END_HEADERS, stream, self._headers)
        self._waiting.append((len(body), call + frame(DATA, END_STREAM, stream, body)))
        return b""

    def owed(self) -> bytes:
        ready, self._control = self._control, []
        while self._waiting and self._waiting[0][0] <= self._window_bytes:
            taken_bytes, request = self._waiting.popleft()
            self._window_bytes -= taken_bytes
            ready.append(request)
        return b"".join(ready)

    def feed(self, data: bytes) -> list[int]:
        received = self._received
        received += data
        done: list[int] = []
        at = 0
        while len(received) >= at + FRAME_HEADER_BYTES:
            end = at + FRAME_HEADER_BYTES + int.from_bytes(received[at : at + 3], "big")
            if len(received) < end:
                break
            kind, flags, stream = struct.unpack_from(">BBI", received, at + 3)
            if kind == DATA:
                done.append(stream // 2)
                self._answered.add(stream)
            elif kind == HEADERS:
                if flags & END_STREAM:
                    self._end(stream)
            else:
                self._hear(kind, flags, stream, bytes(received[at + FRAME_HEADER_BYTES : end]))
            at = end
        del received[:at]
        return done

    def _end(self, stream: int) -> None:
        """The trailers have come. An error has no DATA frame before them."""
        if stream in self._answered:
            self._answered.remove(stream)
        else:
            self._refuse(f"etcd refused call {stream // 2}")

    def _refuse(self, what: str) -> None:
        self.refused += 1
        self.error = self.error or Internal(what)

    def _hear(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        """Frames that are about the connection."""
        if kind == WINDOW_UPDATE and stream == 0:
            self._window_bytes += int.from_bytes(body, "big")
        elif kind in (SETTINGS, PING) and not flags & ACK:
            self._control.append(frame(kind, ACK, 0, body if kind == PING else b""))
        elif kind in (RESET, GOAWAY):
            self._refuse(f"etcd broke off: {body!r}")


class EtcdCluster:
    """Debian's etcd with its default timing, every node in a directory of its own."""

    @staticmethod
    def missing() -> str:
        """What has to be installed first; empty if it is there."""
        return "" if shutil.which(PROGRAM) else "apt-get install etcd-server"

    def __init__(self, directory: Path, nodes: int = 3) -> None:
        ports = free_ports(2 * nodes)
        self._clients = [f"{HOST}:{port}" for port in ports[:nodes]]
        peers = [f"http://{HOST}:{port}" for port in ports[nodes:]]
        everyone = ",".join(f"n{number}={url}" for number, url in enumerate(peers))
        self._servers = Servers(
            directory,
            [
                [
                    PROGRAM,
                    f"--name=n{number}",
                    f"--data-dir={directory / f'n{number}'}",
                    f"--listen-peer-urls={peers[number]}",
                    f"--initial-advertise-peer-urls={peers[number]}",
                    f"--listen-client-urls=http://{client}",
                    f"--advertise-client-urls=http://{client}",
                    f"--initial-cluster={everyone}",
                    f"--heartbeat-interval={HEARTBEAT_MS}",
                    f"--election-timeout={ELECTION_MS}",
                    "--logger=zap",
                    "--log-level=warn",
                ]
                for number, client in enumerate(self._clients)
            ],
        )

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._servers)
            until(self._leader, "etcd has a leader")
            self._running = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._running.__exit__(kind, error, trace)

    @property
    def pids(self) -> Sequence[int]:
        return self._servers.pids

    @property
    def changes(self) -> int:
        """How many changes the leader has applied since it was made."""
        return int(self._status(until(self._leader, "etcd has a leader"))["header"]["revision"])

    def connect(self, payload_bytes: int) -> tuple[socket.socket, Exchange]:
        leader: str = until(self._leader, "etcd has a leader")
        host, _, port = leader.rpartition(":")
        connection = socket.create_connection((host, int(port)))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, Puts(leader, payload_bytes)

    def _leader(self) -> str | None:
        """The client address of the node that all nodes take for the leader."""
        statuses = {client: self._status(client) for client in self._clients}
        for client, status in statuses.items():
            own = status.get("header", {}).get("member_id")
            if own and all(other.get("leader") == own for other in statuses.values()):
                return client
        return None

    @staticmethod
    def _status(client: str) -> dict[str, Any]:
        url = f"http://{client}/v3/maintenance/status"
        try:
            with urllib.request.urlopen(url, b"{}", timeout=HTTP_SECONDS) as answer:
                return dict(json.load(answer))
        except OSError:
            return {}
