"""Health and metrics from a status, without a listener."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from nefia.http.health import not_following, not_leading, not_ready
from nefia.http.metrics import Meters
from nefia.raft.effects import LeaderChanged, RoleChanged
from nefia.raft.roles import Role
from tests.admin.statuses import BOTH, LEADING, NONE, gone, peer, status

ROOT = Path(__file__).parents[2]
HEARD = [peer("node-2", heard_ms=40), peer("node-3", heard_ms=35)]
LEADER = status(HEARD, **LEADING)
FOLLOWER = status(BOTH)
LEADERLESS = status([gone("node-2"), gone("node-3")], **NONE, healthy=False)
LAPSED = status(HEARD, **LEADING | {"lease_left_ms": 0})
UNCERTAIN = status(HEARD, **LEADING | {"lease_left_ms": None})
SILENT = status(BOTH, last_contact_ms=1000)
NEVER = status(BOTH, last_contact_ms=None)
CANDIDATE = status(BOTH, **NONE, state="Candidate")
LEARNER = status(BOTH, state="Learner")
WAITING = status([], **NONE, state="Uninitialized")
REMOVED = status([], state="Removed")


@pytest.mark.parametrize(
    ("judge", "yes"),
    [
        (not_leading, [LEADER]),
        (not_following, [FOLLOWER, LEARNER]),
        (not_ready, [LEADER, FOLLOWER, LEARNER]),
    ],
)
def test_who_is_what(
    judge: Callable[[dict[str, Any]], list[str]], yes: list[dict[str, Any]]
) -> None:
    for each in (
        LEADER,
        FOLLOWER,
        LEADERLESS,
        LAPSED,
        UNCERTAIN,
        SILENT,
        NEVER,
        CANDIDATE,
        LEARNER,
        WAITING,
        REMOVED,
    ):
        assert (judge(each) == []) == (each in yes), each


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def shown(text: bytes, name: str, **labels: str) -> float | None:
    return samples(text).get((f"nefia_{name}", tuple(sorted(labels.items()))))


VPN = {"name": "vpn", "kind": "wireguard", "state": "running", "failures": 0, "error": None}
QUEUE = {"pending": 3, "leased": 2, "done": 1, "dead": 4, "cancelled": 0, "ready": 2}
MEMBERS = [{"id": "node-1", "local": True, "lag": 0}, {"id": "node-2", "local": False, "lag": 12}]


def test_metrics_of_a_leader() -> None:
    known = LEADER | {
        "certificate_expires_at": "2026-01-02T00:00:00Z",
        "services": [VPN, VPN | {"name": "hub", "state": "starting", "failures": 2}],
    }
    text = Meters().exposition(known, MEMBERS, {"mail": QUEUE})
    assert shown(text, "up") == 1
    assert shown(text, "is_leader") == 1
    assert shown(text, "state", state="Leader") == 1
    assert shown(text, "state", state="Follower") == 0
    assert shown(text, "term") == 7
    assert shown(text, "lease_left_seconds") == 0.43
    assert shown(text, "leader_contact_age_seconds") is None
    assert shown(text, "peer_lag_entries", peer="node-2") == 12
    assert shown(text, "peer_lag_entries", peer="node-1") is None
    assert shown(text, "peer_contact_age_seconds", peer="node-3") == 0.035
    assert shown(text, "queue_tasks", queue="mail", state="dead") == 4
    assert shown(text, "certificate_expiry_timestamp_seconds") == 1767312000
    assert shown(text, "service_running", service="vpn") == 1
    assert shown(text, "service_running", service="hub") == 0
    assert shown(text, "service_failures", service="hub") == 2


def test_metrics_without_a_leader() -> None:
    text = Meters().exposition(LEADERLESS, [], {})
    assert shown(text, "has_leader") == 0
    assert shown(text, "healthy") == 0
    assert shown(text, "leader_contact_age_seconds") == 12.34
    assert shown(text, "peer_connected", peer="node-2") == 0


def test_metrics_without_an_answer() -> None:
    text = Meters().exposition(None, [], {})
    assert shown(text, "up") == 0
    assert shown(text, "term") is None


def test_writes_are_counted() -> None:
    meters = Meters()
    meters.write_seconds.observe(0.003)
    meters.write_seconds.observe(7)
    text = meters.exposition(None, [], {})
    assert shown(text, "log_write_seconds_bucket", le="0.002") == 0
    assert shown(text, "log_write_seconds_bucket", le="0.005") == 1
    assert shown(text, "log_write_seconds_count") == 2


def test_elections_are_counted() -> None:
    meters = Meters()
    for old, new in pairwise(
        (Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE, Role.PRE_CANDIDATE, Role.CANDIDATE)
    ):
        meters.heed(RoleChanged(old, new, 2, None, ""))
    meters.heed(RoleChanged(Role.CANDIDATE, Role.LEADER, 2, "node-1", ""))
    meters.heed(LeaderChanged(2, "node-1"))
    text = meters.exposition(None, [], {})
    assert shown(text, "elections_begun_total") == 2
    assert shown(text, "elections_won_total") == 1


@pytest.mark.parametrize(
    "file",
    [
        "packaging/prometheus-alerts.yaml",
        "packaging/grafana-dashboard.json",
        "docs/observability.md",
    ],
)
def test_what_is_shown_elsewhere_exists(file: str) -> None:
    """Alerts and dashboards on a metric of another name would be silent for ever."""
    known = LEADER | {
        "certificate_expires_at": "2026-01-02T00:00:00Z",
        "services": [VPN],
        "last_contact_ms": 1,
    }
    exposed = samples(Meters().exposition(known, MEMBERS, {"mail": QUEUE}))
    names = {name for name, _ in exposed} | {
        name.removesuffix("_count") for name, _ in exposed if name.endswith("_count")
    }
    text = (ROOT / file).read_text()
    used = set(re.findall(r"\bnefia_[a-z_]+", text))
    assert len(used) > 10
    assert used - names == set()
    if file.endswith(".md"):
        undocumented = {n for n in names if not re.search("_(bucket|sum|count|created)$", n)}
        assert undocumented - used == set()


def test_the_alerts_are_yaml_and_the_dashboard_json() -> None:
    alerts = YAML(typ="safe").load(ROOT / "packaging/prometheus-alerts.yaml")
    rules = alerts["groups"][0]["rules"]
    assert all({"alert", "expr", "labels", "annotations"} <= rule.keys() for rule in rules)
    dashboard = json.loads((ROOT / "packaging/grafana-dashboard.json").read_text())
    assert all(panel["targets"] for panel in dashboard["panels"])
