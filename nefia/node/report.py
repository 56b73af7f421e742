"""What a node tells people about itself and its cluster: the objects of SPEC 3."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from nefia.net.link import PeerStatus
from nefia.node.evidence import evidence
from nefia.raft.configuration import Member
from nefia.raft.core import Raft
from nefia.raft.quorum import majority


def status(
    raft: Raft,
    *,
    now: float,
    cluster_id: str,
    lineage: str,
    reachable: AbstractSet[str],
    digest: str,
    peers: Mapping[str, PeerStatus],
) -> dict[str, Any]:
    """The object of `status -o json`. `reachable`: the members that answer, this node included."""
    configuration = raft.log.configuration
    leader = configuration.get(raft.leader_id or "")
    voters = configuration.voters
    up = len(voters & reachable)
    state = raft.state_name
    return {
        "node_id": raft.node_id,
        "state": state,
        "is_leader": state == "Leader",
        "leader_id": raft.leader_id,
        "leader_addr": leader.address if leader else None,
        "term": raft.term,
        "commit_index": raft.commit_index,
        "applied_index": raft.applied_index,
        "last_index": raft.log.last_index,
        "feature_level": configuration.features,
        "cluster_id": cluster_id or None,
        "lineage": lineage or None,
        "failure_tolerance": up - majority(voters) if voters else 0,
        "healthy": leader is not None and state != "Removed" and up == len(voters),
        "last_contact_ms": _last_contact_ms(raft, now),
        "digest": digest,
        "services": [],
        "evidence": evidence(raft, peers, now),
    }


def _last_contact_ms(raft: Raft, now: float) -> int | None:
    """Since the leader was heard; None for the leader itself and where none was."""
    if raft.leader is not None or raft.heard_at == -math.inf:
        return None
    return round((now - raft.heard_at) * 1000)


def members(
    raft: Raft,
    *,
    now: float,
    reachable: AbstractSet[str],
    estimate_ms: Callable[[str], int | None],
) -> list[dict[str, Any]]:
    """One object for each member, sorted by id, unreachable ones included.

    `estimate_ms` says when a learner will have caught up, if that is known.
    """
    shown = [
        _member(raft, member, now, member.id in reachable)
        for member in raft.log.configuration.members
    ]
    for member in shown:
        if not member["voter"]:
            member["estimate_ms"] = estimate_ms(member["id"])
    return shown


def _member(raft: Raft, member: Member, now: float, reachable: bool) -> dict[str, Any]:
    local = member.id == raft.node_id
    shown: dict[str, Any] = {
        "id": member.id,
        "address": member.address,
        "state": _state(raft, member, reachable),
        "local": local,
        "voter": member.voter,
        "reachable": reachable,
        "last_contact_ms": 0 if local else None,
        "match_index": raft.log.last_index if local else None,
        "lag": 0 if local and raft.leader else None,
        "feature_level": member.features,
    }
    progress = raft.leader.progress.get(member.id) if raft.leader else None
    if progress is not None:
        shown["match_index"] = progress.match_index
        shown["lag"] = raft.log.last_index - progress.match_index
        if progress.heard_at is not None:
            shown["last_contact_ms"] = round((now - progress.heard_at) * 1000)
    return shown


def _state(raft: Raft, member: Member, reachable: bool) -> str:
    if member.id == raft.node_id:
        return raft.state_name
    if member.id == raft.leader_id:
        return "Leader"
    if not reachable:
        return "Unreachable"
    return "Follower" if member.voter else "Learner"
