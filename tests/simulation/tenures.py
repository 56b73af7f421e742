"""That no two nodes may run the leader's services at once (SPEC 9), over a whole simulation.

A tenure begins when the leader may start services: its no-op is committed, the tenures that its
voters know of are over, and its lease runs. It ends at the last lease's end plus the stop budget,
also if the process has died or stands still: then it is the guard that ends them.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from attrs import define

from nefia.raft.core import Raft

if TYPE_CHECKING:
    from tests.simulation.core_node import SimulatedNode


@define
class _Tenure:
    """In real time. `instance` is that of the data directory, which one guard serves."""

    node_id: str
    term: int
    begin: float
    end: float


class Overlap(Exception):
    """Two nodes might have run the services at once."""


class Tenures:
    """All tenures of one simulation. A new one may begin only when all of other nodes are over."""

    def __init__(self) -> None:
        self.begun = 0
        self._current: dict[str, _Tenure] = {}

    def observe(self, node: SimulatedNode, raft: Raft, now: float) -> None:
        """After an input of a leader. Raises Overlap."""
        leader = raft.leader
        assert leader
        if raft.commit_index < leader.term_start or raft.lease_end == -inf:
            return
        end = node.real(raft.lease_end + raft.options.stop_budget)
        mine = self._current.get(node.id)
        if mine is not None and mine.term == raft.term:
            mine.end = max(mine.end, end)
            return
        if node.local(now) < leader.clear_at or node.local(now) >= raft.lease_end:
            return
        mine = _Tenure(node.id, raft.term, now, end)
        for other in self._current.values():
            if other.node_id != node.id and other.end > mine.begin:
                raise Overlap(
                    f"{mine.node_id} may run services in term {mine.term} from {mine.begin:.4f} "
                    f"on, {other.node_id} in term {other.term} until {other.end:.4f}"
                )
        self._current[node.id] = mine
        self.begun += 1
