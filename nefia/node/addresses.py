"""Whom to dial: the members, and those who speak to this node without being members.

A candidate may know a configuration that this node does not know yet, a new learner has no
configuration at all, and a removed node has to be told so: all of them are answered (4.1), so a
link to them is kept while they are there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from nefia.errors import NotMember
from nefia.net.interface import PeerTarget
from nefia.raft.configuration import Configuration

MAX_GUESTS = 16


def refusal_to(peer: str, configuration: Configuration) -> bytes:
    """The answer to a request that `peer` passes on; empty if it is a member and gets another.

    A certificate outlives its node's membership, so that it alone must not be enough to have
    something changed.
    """
    if peer in configuration.ids:
        return b""
    error = NotMember(f"{peer} is not a member of this cluster, so nothing is done at its request")
    return json.dumps({"ok": False, "error": error.to_json()}).encode()


class AddressBook:
    """Tells `set_peers` whenever the answer changes."""

    def __init__(self, node_id: str, set_peers: Callable[[Mapping[str, PeerTarget]], None]) -> None:
        self._node_id = node_id
        self._set_peers = set_peers
        self._members: dict[str, PeerTarget] = {}
        self._guests: dict[str, PeerTarget] = {}

    def follow(self, configuration: Configuration) -> None:
        """Whoever is no longer a member stays as a guest, to be told of its removal."""
        members = {
            member.id: PeerTarget(member.address, member.instance)
            for member in configuration.members
            if member.id != self._node_id
        }
        former = {peer: t for peer, t in self._members.items() if peer not in members}
        self._members = members
        self._guests = {p: t for p, t in (self._guests | former).items() if p not in members}
        self._tell()

    def add_guest(self, peer: str, address: str) -> None:
        if peer in self._members or peer == self._node_id or not address:
            return
        self._guests.pop(peer, None)
        self._guests[peer] = PeerTarget(address)
        while len(self._guests) > MAX_GUESTS:
            self._guests.pop(next(iter(self._guests)))
        self._tell()

    def drop_guest(self, peer: str) -> None:
        """It has gone; if it comes again it will say so."""
        if self._guests.pop(peer, None):
            self._tell()

    def _tell(self) -> None:
        self._set_peers(self._members | self._guests)
