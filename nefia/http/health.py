"""What load balancers and probes ask, answered from a status. Pure.

Each function says why not, a clause each; an empty list means yes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Status = Mapping[str, Any]


def not_ready(status: Status) -> list[str]:
    """Ready: a member that knows a leader, leading with a lease or following."""
    state = status["state"]
    if state in ("Uninitialized", "Removed"):
        return [f"this node is no member: its state is {state}"]
    if status["leader_id"] is None:
        return ["no leader is known"]
    return not_leading(status) if state == "Leader" else not_following(status)


def not_leading(status: Status) -> list[str]:
    """Leading: with a lease that still holds now, since a deposed leader must get no traffic."""
    if status["state"] != "Leader":
        return [f"this node does not lead: its state is {status['state']}"]
    left_ms = status["evidence"]["lease_left_ms"]
    return [] if left_ms is not None and left_ms > 0 else ["the lease has run out"]


def not_following(status: Status) -> list[str]:
    """Following: heard the leader within `heartbeat_timeout`, so that what it shows is fresh."""
    if status["state"] not in ("Follower", "Learner"):
        return [f"this node does not follow: its state is {status['state']}"]
    if status["leader_id"] is None:
        return ["no leader is known"]
    heard_ms, limit_ms = status["last_contact_ms"], status["evidence"]["heartbeat_timeout_ms"]
    if heard_ms is None or heard_ms >= limit_ms:
        return [f"the leader was not heard within {limit_ms} ms"]
    return []
