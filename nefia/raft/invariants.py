"""What must always hold, of one state; each a sentence of the paper or of SPEC 5.

Cheap enough to be checked after every input of a running daemon. Over two successive states and
over whole clusters, the simulator checks more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nefia.raft.roles import Role

if TYPE_CHECKING:
    from nefia.raft.core import Raft


def check(raft: Raft) -> None:
    log = raft.log
    assert log.base_index <= raft.applied_index, "what was compacted was applied"
    assert raft.applied_index <= raft.commit_index, "only committed entries are applied"
    assert raft.commit_index <= log.last_index, "only entries of the log are committed"
    assert raft.durability.durable_index <= log.last_index, "what is durable is in the log"
    assert log.last_term <= raft.term, "no entry is newer than the term"
    assert (raft.role is Role.LEADER) == (raft.leader is not None), "a leader's state ends with it"
    if raft.leader:
        assert raft.leader_id == raft.node_id
        assert raft.hard_state.vote == raft.node_id, "a leader has voted for itself"
