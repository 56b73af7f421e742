"""The timing of the protocol. All times in seconds."""

from __future__ import annotations

import math

from attrs import field, frozen

HEARTBEATS_PER_LEASE = 5
"""So that the lease holds through a lost heartbeat, and two, with room for the answer (SPEC 5)."""

ELECTION_SPREAD = 0.15
"""The random part of an election timeout, as a share of it: small, since retries are quick."""

RANK_STAGGER_SECONDS = 0.030
RANK_JITTER_SECONDS = 0.010
"""After a crash of the leader survivors ask one after the other, so as not to split the vote."""

RETRY_SECONDS = (0.010, 0.100)
"""A lost round is tried again after a random time from this range ..."""

QUICK_RETRIES = 8
"""... so many times; then at the pace of the election timeout, since somebody else may lead."""

GRANT_HOLD_SECONDS = (0.100, 0.150)
"""Whoever granted a pre-vote leaves the field to that candidate for so long."""


@frozen
class Options:
    """`leader_lease` < `heartbeat_timeout` <= `election_timeout`; see SPEC 1 for each.

    `may_lead`: whether this node is to lead while others can; if not, it is a witness.
    """

    heartbeat_timeout: float = 1.0
    election_timeout: float = 1.0
    leader_lease: float = field(default=0.5)
    may_lead: bool = True

    @leader_lease.validator
    def _lease_ends_before_others_elect(self, _attribute: object, value: float) -> None:
        assert 0 < value < self.heartbeat_timeout

    @property
    def witness_delay(self) -> float:
        """How much later than others this node stands for election: two attempts of theirs."""
        return 0.0 if self.may_lead else 2 * self.election_timeout

    @property
    def stop_budget(self) -> float:
        """What services have to stop in once the lease has ended (SPEC 1)."""
        return self.heartbeat_timeout - self.leader_lease

    @property
    def tenure_ms(self) -> int:
        """Lease plus stop budget: see `tenure`."""
        return math.ceil((self.leader_lease + self.stop_budget) * 1000)

    @property
    def heartbeat_interval(self) -> float:
        return self.leader_lease / HEARTBEATS_PER_LEASE
