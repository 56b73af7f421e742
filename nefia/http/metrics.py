"""Prometheus metrics: what is counted as it happens, and what a status says when it is asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import trio
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from nefia import __version__
from nefia.node.replica import Replica
from nefia.raft.effects import Notice, RoleChanged
from nefia.raft.roles import Role

PROBE_SECONDS = 0.1
"""How often the event loop is looked at."""
LATENCY_BUCKETS_SECONDS = (
    0.0005,
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
)
APPLY_BUCKETS_SECONDS = (0.00005, 0.0001, 0.0002, *LATENCY_BUCKETS_SECONDS)
STATES = ("Leader", "Follower", "Candidate", "Learner", "Uninitialized", "Removed")
TASK_STATES = ("pending", "leased", "done", "dead", "cancelled", "ready")


class Meters:
    """What is counted as it happens. `write_seconds.observe` may be called in any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.write_seconds = Histogram(
            "nefia_log_write_seconds",
            "How long writes to the log took until they were durable.",
            registry=self.registry,
            buckets=LATENCY_BUCKETS_SECONDS,
        )
        self._apply_seconds = Histogram(
            "nefia_apply_seconds",
            "How long it took to apply what was committed together.",
            registry=self.registry,
            buckets=APPLY_BUCKETS_SECONDS,
        )
        self._elections_begun = Counter(
            "nefia_elections_begun", "Elections this node stood in.", registry=self.registry
        )
        self._elections_won = Counter(
            "nefia_elections_won", "Elections this node won.", registry=self.registry
        )
        self.stall_seconds = Histogram(
            "nefia_event_loop_delay_seconds",
            "How much later than it asked for a task was run.",
            registry=self.registry,
            buckets=LATENCY_BUCKETS_SECONDS,
        )

    def attend(self, replica: Replica) -> None:
        """Count what happens to this one too; a node that starts anew has another."""
        replica.applier.took = self._apply_seconds.observe
        replica.notice_observers.append(self.heed)

    def heed(self, notice: Notice) -> None:
        match notice:
            case RoleChanged(new=Role.CANDIDATE):
                self._elections_begun.inc()
            case RoleChanged(new=Role.LEADER):
                self._elections_won.inc()

    async def watch_loop(self) -> None:
        """Measure the event loop until cancelled."""
        while True:
            due = trio.current_time() + PROBE_SECONDS
            await trio.sleep_until(due)
            self.stall_seconds.observe(max(0.0, trio.current_time() - due))

    def exposition(
        self,
        status: Mapping[str, Any] | None,
        members: Iterable[Mapping[str, Any]],
        queues: Mapping[str, Mapping[str, Any]],
    ) -> bytes:
        """The text of one scrape. `members` are the leader's, with their lag; else empty."""
        now = CollectorRegistry()
        now.register(_Now([*_node(status), *_members(members), *_queues(queues)]))
        return generate_latest(self.registry) + generate_latest(now)


class _Now(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


def _gauge(name: str, doc: str, value: float) -> Metric:
    return GaugeMetricFamily(f"nefia_{name}", doc, value)


def _node(status: Mapping[str, Any] | None) -> Iterator[Metric]:
    yield _gauge("up", "Whether the node answers.", status is not None)
    if status is None:
        return
    labels = {"version": __version__, "node_id": status["node_id"]}
    labels["cluster_id"] = status["cluster_id"] or ""
    yield InfoMetricFamily("nefia_node", "This node.", labels)
    state = GaugeMetricFamily("nefia_state", "1 for the state of this node.", labels=["state"])
    for name in STATES:
        state.add_metric([name], status["state"] == name)
    yield state
    yield _gauge("is_leader", "Whether this node leads.", status["is_leader"])
    yield _gauge("has_leader", "Whether a leader is known.", status["leader_id"] is not None)
    yield _gauge("healthy", "A leader is known and all voters answer.", status["healthy"])
    yield _gauge("failure_tolerance", "Voters that may still fail.", status["failure_tolerance"])
    yield _gauge("term", "The Raft term; each election raises it.", status["term"])
    for name in ("commit_index", "applied_index", "last_index"):
        yield _gauge(name, f"The {name.replace('_', ' ')} of the log.", status[name])
    behind = status["commit_index"] - status["applied_index"]
    yield _gauge("apply_lag_entries", "Committed and not yet applied here.", behind)
    yield from _timing(status)
    yield from _peers(status["evidence"]["peers"])
    yield from _services(status["services"])


def _timing(status: Mapping[str, Any]) -> Iterator[Metric]:
    evidence = status["evidence"]
    for name, doc, value_ms in (
        ("leader_contact_age_seconds", "Since the leader was heard.", status["last_contact_ms"]),
        ("lease_left_seconds", "Until the leader's lease ends.", evidence["lease_left_ms"]),
        ("log_write_age_seconds", "Of the write that is out now.", evidence["write_out_ms"] or 0),
    ):
        if value_ms is not None:
            yield _gauge(name, doc, value_ms / 1000)
    if expires := status.get("certificate_expires_at"):
        yield _gauge(
            "certificate_expiry_timestamp_seconds",
            "When this node's certificate expires, in seconds since 1970.",
            datetime.fromisoformat(expires).timestamp(),
        )


def _peers(peers: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    connected = GaugeMetricFamily(
        "nefia_peer_connected", "Whether this node is connected to it.", labels=["peer"]
    )
    heard = GaugeMetricFamily(
        "nefia_peer_contact_age_seconds",
        "Since it last answered the leader; on the leader only.",
        labels=["peer"],
    )
    for peer in peers:
        connected.add_metric([peer["id"]], peer["connected"])
        if peer["heard_ms"] is not None:
            heard.add_metric([peer["id"]], peer["heard_ms"] / 1000)
    yield connected
    yield heard


def _services(services: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    running = GaugeMetricFamily(
        "nefia_service_running", "Whether this node runs it.", labels=["service"]
    )
    failures = GaugeMetricFamily(
        "nefia_service_failures", "How often in a row it has failed.", labels=["service"]
    )
    for service in services:
        running.add_metric([service["name"]], service["state"] == "running")
        failures.add_metric([service["name"]], service["failures"])
    yield running
    yield failures


def _members(members: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    lag = GaugeMetricFamily(
        "nefia_peer_lag_entries", "Entries that it lacks; on the leader only.", labels=["peer"]
    )
    for member in members:
        if not member["local"] and member.get("lag") is not None:
            lag.add_metric([member["id"]], member["lag"])
    yield lag


def _queues(queues: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    tasks = GaugeMetricFamily(
        "nefia_queue_tasks", "Tasks as this node has applied them.", labels=["queue", "state"]
    )
    for queue, stats in sorted(queues.items()):
        for state in TASK_STATES:
            tasks.add_metric([queue, state], stats[state])
    yield tasks
