"""What the nodes say during a drill, kept for the verdict."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nefia.drill.judging import Leader, Node
from nefia.drill.ways import Way

ANSWER_SECONDS = 0.5
"""What a daemon may take to answer; one that is frozen is not asked."""
READ_SECONDS = 10.0
PAGE_RECORDS = 500
EVENTS = 100
ELECTED = "elected"


class Watch:
    def __init__(self, ways: Iterable[Way]) -> None:
        self.ways = list(ways)
        self.claims: set[tuple[int, str]] = set()
        """Terms, and who said to lead them."""
        self.digests: dict[int, dict[str, str]] = {}
        """By applied index and digest, a node that showed it."""

    def look(self, without: str | None = None) -> dict[str, dict[str, Any]]:
        """The status of every node that answers, but of `without`, by its id."""
        found = {}
        for way in self.ways:
            status = way.status(ANSWER_SECONDS) if way.node_id != without else None
            if status is not None:
                found[way.node_id] = status
                self._keep(status)
        return found

    def _keep(self, status: dict[str, Any]) -> None:
        if status["is_leader"]:
            self.claims.add((status["term"], status["node_id"]))
        holders = self.digests.setdefault(status["applied_index"], {})
        holders.setdefault(status["digest"], status["node_id"])

    def remember_history(self, way: Way) -> None:
        """Who was elected in which term, as this node has it. Raises NefiaError."""
        result = way.ask("history", READ_SECONDS, limit=EVENTS, consistency="local")
        for event in result["events"]:
            if event["kind"] == ELECTED:
                self.claims.add((event["term"], event["node_id"]))


def leader_of(statuses: dict[str, dict[str, Any]]) -> Leader | None:
    """Who leads, as the node says that knows of the newest term; None if that knows nobody."""
    newest = max(statuses.values(), key=lambda status: int(status["term"]), default=None)
    if newest is None or newest["leader_id"] is None:
        return None
    return Leader(newest["leader_id"], newest["term"])


def node_at(way: Way, queue: str) -> Node:
    """What the node holds of the drill's queue. Raises NefiaError."""
    status = way.ask("status", READ_SECONDS)
    numbers: list[int] = []
    position: dict[str, str] = {}
    while True:
        page = way.ask(
            "queue_list",
            READ_SECONDS,
            queue=queue,
            consistency="local",
            limit=PAGE_RECORDS,
            **position,
        )
        numbers += [task["payload"] for task in page["tasks"]]
        if page["cursor"] is None:
            return Node(status["applied_index"], status["digest"], tuple(numbers))
        position = {"cursor": page["cursor"]}
