"""What a node can say of why there is a leader or none: the facts that `admin.why` explains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nefia.net.link import PeerStatus
from nefia.raft.core import Raft
from nefia.raft.quorum import majority


def evidence(raft: Raft, peers: Mapping[str, PeerStatus], now: float) -> dict[str, Any]:
    """The object `evidence` of a status.

    `election` is the round of votes or pre-votes that is out, None if none is. `write_out_ms`: how
    long the disk has been busy with the present write. `lease_left_ms` is a leader's.
    """
    configuration = raft.log.configuration
    since = raft.durability.out_since
    return {
        "voters": sorted(configuration.voters),
        "learners": sorted(configuration.ids - configuration.voters),
        "quorum": majority(configuration.voters) if configuration.voters else 0,
        "may_lead": raft.options.may_lead,
        "heartbeat_timeout_ms": _ms(raft.options.heartbeat_timeout),
        "lease_left_ms": _ms(raft.lease_end - now) if raft.leader else None,
        "write_out_ms": None if since is None else _ms(now - since),
        "election": _election(raft),
        "peers": [_peer(raft, peer, now) for peer in peers.values()],
    }


def _election(raft: Raft) -> dict[str, Any] | None:
    tally = raft.election.tally
    if tally is None:
        return None
    kind, votes = tally
    silent = raft.log.configuration.voters - votes.keys()
    return {
        "kind": kind,
        "granted": sorted(voter for voter, granted in votes.items() if granted),
        "refused": sorted(voter for voter, granted in votes.items() if not granted),
        "silent": sorted(silent),
    }


def _peer(raft: Raft, peer: PeerStatus, now: float) -> dict[str, Any]:
    """`since_ms`: for so long it has been connected, or not. `heard_ms`: a leader's, by answers."""
    progress = raft.leader.progress.get(peer.peer) if raft.leader else None
    heard_at = progress.heard_at if progress else None
    return {
        "id": peer.peer,
        "address": peer.address,
        "connected": peer.lanes_up > 0,
        "since_ms": _ms(now - peer.since),
        "heard_ms": None if heard_at is None else _ms(now - heard_at),
        "error": peer.error,
        "said_goodbye": peer.said_goodbye,
    }


def _ms(seconds: float) -> int | None:
    return round(seconds * 1000) if math.isfinite(seconds) else None
