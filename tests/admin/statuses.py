"""Statuses with evidence, as nodes give them, for tests of what is made of them."""

from __future__ import annotations

from typing import Any


def peer(node_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": node_id,
        "address": f"10.99.0.{node_id[-1]}:9700",
        "connected": True,
        "since_ms": 60_000,
        "heard_ms": None,
        "error": "",
        "said_goodbye": False,
    } | changes


def gone(node_id: str, **changes: Any) -> dict[str, Any]:
    error = f"10.99.0.{node_id[-1]}:9700: nothing listens there"
    return peer(node_id, connected=False, since_ms=125_000, error=error) | changes


def status(peers: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """Of node-1, a follower of node-2 unless `changes` say else; those of evidence have a dot."""
    shown: dict[str, Any] = {
        "node_id": "node-1",
        "state": "Follower",
        "leader_id": "node-2",
        "leader_addr": "10.99.0.2:9700",
        "cluster_id": "c1",
        "term": 7,
        "commit_index": 40,
        "applied_index": 40,
        "last_index": 40,
        "failure_tolerance": 1,
        "healthy": True,
        "last_contact_ms": 25,
        "services": [],
        "evidence": {
            "voters": ["node-1", "node-2", "node-3"],
            "learners": [],
            "quorum": 2,
            "may_lead": True,
            "heartbeat_timeout_ms": 1000,
            "lease_left_ms": None,
            "write_out_ms": None,
            "election": None,
            "peers": peers,
        },
    }
    for name, value in changes.items():
        if name in shown["evidence"]:
            shown["evidence"][name] = value
        else:
            shown[name] = value
    shown["is_leader"] = shown["state"] == "Leader"
    return shown


BOTH = [peer("node-2"), peer("node-3")]
LEADING = {
    "state": "Leader",
    "leader_id": "node-1",
    "leader_addr": "10.99.0.1:9700",
    "last_contact_ms": None,
    "lease_left_ms": 430,
}
FAILED = {"name": "vpn", "state": "waiting", "error": "wg-quick ended with 1"}
NONE: dict[str, Any] = {"leader_id": None, "leader_addr": None, "last_contact_ms": 12_340}
