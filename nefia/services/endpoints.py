"""Where a tunnel's peers are heard, kept in the replicated state for the next leader (SPEC 9).

A peer goes on sending to a hub that is gone until it has heard nothing for 15 s (WireGuard paper,
section 6.2). A new hub that knows where it is calls first. The figures are wg's own, `wg show`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Protocol

import trio
from attrs import frozen

from nefia.clock import NodeClock
from nefia.errors import NefiaError

READ_SECONDS = 5.0
MAX_ENDPOINTS = 1000
"""That are remembered of one tunnel: of more peers, those heard last."""
MAX_CHANGES = 100
"""Proposed at one look; a hub that has just come up hears from all its peers at once."""
MAX_SHOWN_PEERS = 100

_PEER_FIELDS = 8
_NO_ENDPOINT = "(none)"


@frozen(kw_only=True)
class PeerFigures:
    """One line of `wg show INTERFACE dump`. `endpoint` is "" if none is known.

    `latest_handshake` in seconds of wall-clock time since 1970, 0 if there was none.
    """

    public_key: str
    endpoint: str
    latest_handshake: int
    received_bytes: int
    sent_bytes: int

    def to_json(self) -> dict[str, Any]:
        return {
            "public_key": self.public_key,
            "endpoint": self.endpoint or None,
            "latest_handshake": _instant(self.latest_handshake) if self.latest_handshake else None,
            "received_bytes": self.received_bytes,
            "sent_bytes": self.sent_bytes,
        }


def _instant(seconds: int) -> str:
    """RFC 3339 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Memory(Protocol):
    """What the replicated state keeps for one service."""

    def remembered(self) -> Mapping[str, str]: ...

    async def remember(self, key: str, value: str) -> None:
        """Return once it is committed; "" forgets. Raises NefiaError."""


def parse_dump(text: str) -> tuple[PeerFigures, ...]:
    """The peers of `wg show INTERFACE dump`: the first line is the interface, with its key.

    A line of another form, which a later wg may write, is left out.
    """
    lines = (line.split("\t") for line in text.splitlines()[1:])
    return tuple(
        PeerFigures(
            public_key=public_key,
            endpoint="" if endpoint == _NO_ENDPOINT else endpoint,
            latest_handshake=int(handshake),
            received_bytes=int(received),
            sent_bytes=int(sent),
        )
        for public_key, _, endpoint, _, handshake, received, sent, _ in (
            line for line in lines if len(line) == _PEER_FIELDS
        )
    )


async def read_peers(interface: str) -> tuple[PeerFigures, ...]:
    """Ask wg; no peers if it knows no such interface, or is not there. Raises OSError."""
    done = await trio.run_process(
        ("wg", "show", interface, "dump"),
        capture_stdout=True,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return parse_dump(done.stdout.decode("ascii", "replace"))


class Endpoints:
    """Of one tunnel while this node runs it. `interface` may be another at its next start."""

    def __init__(
        self,
        interface: str,
        memory: Memory,
        clock: NodeClock,
        read: Callable[[str], Awaitable[tuple[PeerFigures, ...]]] = read_peers,
    ) -> None:
        self.interface = interface
        self._memory = memory
        self._clock = clock
        self._read = read
        self._peers: tuple[PeerFigures, ...] = ()

    async def look(self) -> None:
        """Once. What cannot be read or committed now is left to the next time."""
        with self._clock.deadline_scope(self._clock.now() + READ_SECONDS):
            try:
                self._peers = await self._read(self.interface)
            except OSError:
                return
        for key, value in self._changes()[:MAX_CHANGES]:
            try:
                await self._memory.remember(key, value)
            except NefiaError:
                return

    def _changes(self) -> list[tuple[str, str]]:
        """By public key; "" for a peer that the tunnel has no more.

        Only a handshake shows that the peer is where its endpoint says.
        """
        if not self._peers:
            return []
        heard = [peer for peer in self._peers if peer.endpoint and peer.latest_handshake]
        newest = sorted(heard, key=attrgetter("latest_handshake"), reverse=True)[:MAX_ENDPOINTS]
        found = {peer.public_key: peer.endpoint for peer in newest}
        known = self._memory.remembered()
        gone = known.keys() - {peer.public_key for peer in self._peers}
        forgotten = [(key, "") for key in sorted(gone)]
        return forgotten + [(key, at) for key, at in found.items() if known.get(key) != at]

    def status(self) -> dict[str, Any]:
        """As last read, those with the newest handshake first."""
        newest = sorted(self._peers, key=attrgetter("latest_handshake"), reverse=True)
        return {
            "peer_count": len(newest),
            "peers": [peer.to_json() for peer in newest[:MAX_SHOWN_PEERS]],
        }
