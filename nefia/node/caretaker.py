"""What a leader does about its members unasked: it learns who they are, and buries the dead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress

import structlog
from attrs import evolve, field, frozen

from nefia.clock import sleep
from nefia.errors import NefiaError, NotLeader
from nefia.node.membership import Membership
from nefia.raft.configuration import MET, REMOVED, Configuration, Member, Note
from nefia.raft.epoch import first_of_epoch
from nefia.units import format_duration

LOOK_SECONDS = 0.5
"""How often the leader looks at its members."""
LAG_SAMPLES = 20
"""Looks at a learner's lag from which it is estimated when it has caught up."""
MIN_VOTERS_AFTER_CLEANUP = 3
"""`dead_peer_cleanup` never leaves fewer voters than tolerate a failure."""

_log = structlog.get_logger("nefia.node")


@frozen
class Caretaker:
    """`features` are this node's own.

    `dead_after_seconds`: how long a member may be silent before it is removed; None: for ever.
    """

    membership: Membership
    features: int
    dead_after_seconds: float | None
    _lags: dict[str, deque[tuple[float, int]]] = field(factory=dict)

    async def run(self) -> None:
        """Runs in the leadership scope. What cannot be done now is tried at the next look."""
        self._lags.clear()
        while True:
            self.membership.replica.post(self._look)
            await sleep(self.membership.clock, LOOK_SECONDS)
            if self._epoch_is_due:
                await self.membership.services().stand_down("another state was restored")
                self.membership.replica.post(self._begin_epoch)

    def _look(self, now: float) -> None:
        self._sample_lags(now)
        self.record_met(now)
        self._remove_dead(now)

    @property
    def _next_epoch(self) -> int:
        """The first term of that which the newest task token belongs to."""
        return first_of_epoch(self.membership.replica.applier.machine.last_token)

    @property
    def _epoch_is_due(self) -> bool:
        """Tokens of a newer epoch than the term's: a snapshot was restored (`raft.epoch`)."""
        raft = self.membership.replica.raft
        leads = raft.leader is not None and not raft.leader.transferring
        return leads and self._next_epoch > raft.term

    def _begin_epoch(self, now: float) -> None:
        if self._epoch_is_due:
            self.membership.replica.raft.begin_epoch(now, self._next_epoch)

    # Who is met.

    def record_met(self, now: float) -> None:
        """Who is met for the first time is remembered by its data directory (SPEC 2).

        So is the feature level that it is met with, now that it may be upgraded or, until all
        others are, downgraded. A voter's is never below the level in force (SPEC 6).
        """
        for member in self._configuration.members:
            known = self._as_met(member)
            if known != member:
                note = Note(MET, member.id)
                self._change(now, self._configuration.with_member(known, note))
                return

    def _as_met(self, member: Member) -> Member:
        in_force = self._configuration.features if member.voter else 0
        if member.id == self.membership.replica.raft.node_id:
            return evolve(member, features=max(in_force, self.features))
        welcome = self.membership.met(member.id)
        if welcome is None:
            return member
        instance = member.instance or welcome.instance_id
        if welcome.instance_id != instance:
            return member  # another data directory under its name: not the member
        return evolve(member, instance=instance, features=max(in_force, welcome.features))

    def _change(self, now: float, configuration: Configuration) -> None:
        leader = self.membership.replica.raft.leader
        if leader is None or leader.transferring or not leader.may_change:
            return
        with suppress(NotLeader):  # no longer, at this very moment
            self.membership.replica.raft.change(now, configuration)

    # Who is dead.

    def _remove_dead(self, now: float) -> None:
        """One member that has been silent for too long, if the cluster can do without it."""
        if self.dead_after_seconds is None:
            return
        for node_id in self._silent(now, self.dead_after_seconds):
            new = self._configuration.without(node_id)
            fewer = new.voters != self._configuration.voters
            if fewer and len(new.voters) < MIN_VOTERS_AFTER_CLEANUP:
                continue
            with suppress(NefiaError):
                self.membership.check_quorum_without(node_id, now, force=False)
                why = f"silent for {format_duration(self.dead_after_seconds)} (dead_peer_cleanup)"
                note = Note(REMOVED, node_id, why)
                self._change(now, self._configuration.without(node_id, note))
                _log.warning("dead_peer_removed", peer=node_id, reason=why)
                return

    def _silent(self, now: float, seconds: float) -> Iterator[str]:
        """Members that this leader has not heard for so long: not before it has led for so long."""
        leader = self.membership.replica.raft.leader
        if leader is None or not leader.may_change:
            return
        for node_id in sorted(self._configuration.ids & leader.progress.keys()):
            heard_at = leader.progress[node_id].heard_at
            if now - (leader.began_at if heard_at is None else heard_at) > seconds:
                yield node_id

    # How learners get on.

    def _sample_lags(self, now: float) -> None:
        leader = self.membership.replica.raft.leader
        learners = self._configuration.ids - self._configuration.voters
        for gone in self._lags.keys() - learners:
            del self._lags[gone]
        for node_id in learners & (leader.progress.keys() if leader else set()):
            assert leader is not None
            lag = self.membership.replica.raft.log.last_index - leader.progress[node_id].match_index
            self._lags.setdefault(node_id, deque(maxlen=LAG_SAMPLES)).append((now, lag))

    def estimate_ms(self, node_id: str) -> int | None:
        """When a learner will have caught up, at the pace of the last seconds; None: unknown."""
        samples = self._lags.get(node_id)
        if not samples or len(samples) < 2:
            return None
        (first_at, first_lag), (last_at, last_lag) = samples[0], samples[-1]
        if last_lag >= first_lag or last_at <= first_at:
            return None
        return round(last_lag * (last_at - first_at) / (first_lag - last_lag) * 1000)

    @property
    def _configuration(self) -> Configuration:
        return self.membership.replica.raft.log.configuration
