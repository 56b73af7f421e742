"""The roles and the one table of legal transitions (paper, figure 4; learners: 4.2.1).

A candidate asks for pre-votes first (9.6); both halves are the role CANDIDATE to the outside.
What the outside also calls a state, `Learner`, `Uninitialized` and `Removed`, is a follower seen
through its configuration: see `core.Raft.state_name`.
"""

from __future__ import annotations

from enum import Enum


class Role(Enum):
    FOLLOWER = "Follower"
    PRE_CANDIDATE = "PreCandidate"
    CANDIDATE = "Candidate"
    LEADER = "Leader"


TRANSITIONS: dict[Role, frozenset[Role]] = {
    # A pre-candidate begins again as a pre-candidate when its round was lost.
    Role.FOLLOWER: frozenset({Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE}),
    Role.PRE_CANDIDATE: frozenset({Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE}),
    # A candidate whose election came to nothing asks for pre-votes anew.
    Role.CANDIDATE: frozenset({Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE, Role.LEADER}),
    Role.LEADER: frozenset({Role.FOLLOWER}),
}
"""From a role to those that may follow it. FOLLOWER to CANDIDATE is TimeoutNow (3.10)."""
