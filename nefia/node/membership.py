"""What operators ask of the leader about its members: add, remove, hand over (SPEC 2).

The core makes and commits each single-server change; here are the checks before it that need more
than the log, and the waiting afterwards.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from attrs import evolve, frozen

from nefia.clock import NodeClock, sleep
from nefia.errors import (
    NefiaError,
    NewerFormat,
    NotMember,
    OtherCluster,
    OutcomeUnknown,
    PeerUnreachable,
    WouldLoseQuorum,
)
from nefia.net.dialling import PeerRefused
from nefia.net.handshake import Welcome
from nefia.node.applier import overtaken
from nefia.node.chronicle import TRANSFER, Chronicle
from nefia.node.leading import LeaderServices
from nefia.node.replica import Replica
from nefia.raft.configuration import ADDED, MOVED, REMOVED, Configuration, Member, Note
from nefia.raft.quorum import majority
from nefia.state.application import other_machine

PREFLIGHT_SECONDS = 5.0
PREFLIGHT_PATIENCE_SECONDS = 3.0
"""For how long a new node may refuse connections, as one does whose daemon was just started."""
PREFLIGHT_AGAIN_SECONDS = 0.2
RECORD_SECONDS = 0.5
"""What writing down a transfer may take before leadership is handed over without that."""
PROMOTION_SECONDS = 60.0
"""How long an add waits for the learner to catch up. It goes on without the waiting."""
TRANSFER_SECONDS = 10.0

Probe = Callable[[str, str, float], Awaitable[Welcome]]
"""(address, expected node id, timeout in seconds); see `Mesh.probe`."""


@frozen
class Membership:
    """The operations of one node, which must lead for each: else they raise NotLeader, NoLeader.

    `met` names whom this node is connected to; see `Mesh.met`.
    """

    replica: Replica
    clock: NodeClock
    cluster_id: Callable[[], str]
    probe: Probe
    met: Callable[[str], Welcome | None]
    chronicle: Chronicle
    services: Callable[[], LeaderServices]
    apply_timeout: float

    # Adding.

    async def add(
        self,
        node_id: str,
        address: str,
        *,
        wait: bool = True,
        preflight: bool = True,
        reason: str = "",
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """{"changed": bool, "member": {...}}; `dry_run`: see `_preview`.

        Raises what `Mesh.probe` does, OtherCluster, NewerFormat, OtherMachine, ChangeInProgress,
        OutcomeUnknown.
        """
        self._require_leader()
        old = self._configuration.get(node_id)
        if old is not None and old.address == address:
            if dry_run:
                return self._preview(self._configuration)
            if wait and old.promote:
                await self._await_promotion(node_id)
            return self._added(node_id, changed=False)
        learner = old or Member(node_id, address, voter=False, promote=True)
        if preflight:
            learner = await self._preflight(evolve(learner, address=address))

        def with_it(now: float) -> Configuration:
            there = self._configuration.get(node_id)  # perhaps since the preflight only
            if there is None:
                return self._configuration.with_member(learner, Note(ADDED, node_id, reason))
            instance, features = learner.instance or there.instance, learner.features
            moved = evolve(there, address=address, instance=instance, features=features)
            return self._configuration.with_member(moved, Note(MOVED, node_id, reason))

        if dry_run:
            voter = evolve(learner, voter=True, promote=False)
            return self._preview(self._configuration.with_member(voter))
        await self._change(with_it)
        if wait:
            await self._await_promotion(node_id)
        return self._added(node_id, changed=True)

    async def _preflight(self, member: Member) -> Member:
        """Talk to the node before anything is changed; returns what is known of it then."""
        node_id, address = member.id, member.address
        welcome = await self._patient_probe(address, node_id)
        if welcome.cluster_id not in ("", self.cluster_id()):
            raise OtherCluster(
                f"{node_id} at {address} belongs to another cluster, {welcome.cluster_id}",
                hint=f"if that is over, stop {node_id} and remove its data directory",
            )
        if member.instance and welcome.instance_id != member.instance:
            raise OtherCluster(
                f"{node_id} at {address} has another data directory than the member {node_id}",
                hint=f"remove {node_id} first, then add it again",
            )
        needed = self._configuration.features
        if welcome.features < needed:
            raise NewerFormat(
                f"{node_id} at {address} runs an older version of nefia: this cluster has the "
                f"feature level {needed} and that version knows {welcome.features}",
                hint=f"upgrade {node_id} first",
            )
        machine = self.replica.applier.machine.machine_name
        if machine and welcome.machine != machine:
            raise other_machine(machine, welcome.machine, f"{node_id} at {address}")
        return evolve(member, instance=welcome.instance_id, features=welcome.features)

    async def _patient_probe(self, address: str, node_id: str) -> Welcome:
        patient_until = self.clock.now() + PREFLIGHT_PATIENCE_SECONDS
        while True:
            try:
                return await self.probe(address, node_id, PREFLIGHT_SECONDS)
            except PeerRefused:
                if self.clock.now() >= patient_until:
                    raise
            await sleep(self.clock, PREFLIGHT_AGAIN_SECONDS)

    async def _await_promotion(self, node_id: str) -> None:
        def settled() -> bool:
            member = self._configuration.get(node_id)
            committed = self.replica.raft.log.configuration_index <= self.replica.raft.commit_index
            return member is None or (committed and not member.promote)

        if await self._until(settled, PROMOTION_SECONDS):
            return
        raise OutcomeUnknown(
            f"{node_id} was added as a learner and has not caught up within "
            f"{PROMOTION_SECONDS:.0f} s; the leader goes on and makes it a voter when it has",
            changed=True,
            hint="see nefia cluster members; nefia cluster remove-peer cancels it",
        )

    def _added(self, node_id: str, *, changed: bool) -> dict[str, Any]:
        member = self._configuration.get(node_id)
        shown = None
        if member is not None:
            shown = {"id": member.id, "address": member.address, "voter": member.voter}
        return {"changed": changed, "member": shown}

    # Removing.

    async def remove(
        self, node_id: str, *, force: bool = False, reason: str = "", dry_run: bool = False
    ) -> dict[str, Any]:
        """{"changed": True}; `dry_run`: see `_preview`.

        Raises NotMember, WouldLoseQuorum, ChangeInProgress, OutcomeUnknown, and NotLeader if the
        change was dropped.
        """
        self._require_leader()
        if self._configuration.get(node_id) is None:
            raise NotMember(
                f"{node_id} is no member of this cluster",
                hint="see nefia cluster members",
            )

        def without(now: float) -> Configuration:
            self.check_quorum_without(node_id, now, force=force)
            return self._configuration.without(node_id, Note(REMOVED, node_id, reason))

        if dry_run:
            return self._preview(without(self.clock.now()))
        if node_id != self.replica.raft.node_id:
            await self._change(without)
        else:
            self.check_quorum_without(node_id, self.clock.now(), force=force)
            async with self._stood_down("this node is removed"):
                await self._change(without)
        return {"changed": True}

    def check_quorum_without(self, node_id: str, now: float, *, force: bool) -> None:
        """Raises WouldLoseQuorum if the cluster cannot, or should not, do without that member."""
        old, new = self._configuration, self._configuration.without(node_id)
        if not new.voters:
            raise WouldLoseQuorum(
                f"{node_id} is the last voter: a cluster without voters decides nothing",
                hint="to end the cluster, stop the daemon and remove its data directory",
            )
        if node_id not in old.voters:
            return
        answering = self.answering(now)
        left, needed = len(answering & new.voters), majority(new.voters)
        if left < needed:
            raise WouldLoseQuorum(
                f"without {node_id}, only {left} of {len(new.voters)} voters answer "
                f"and {needed} are needed: the cluster would stop at once",
                hint="bring the other nodes back first; --force does not override this",
            )
        silent = sorted(new.voters - answering)
        if silent and left == needed and node_id in answering and not force:
            raise WouldLoseQuorum(
                f"without {node_id}, the cluster would stop at the next failure, "
                f"since {', '.join(silent)} does not answer",
                hint=f"remove or repair {silent[0]} first, or add --force",
            )

    def answering(self, now: float) -> frozenset[str]:
        """The members that the leader has heard within `heartbeat_timeout`, itself included."""
        raft = self.replica.raft
        if raft.leader is None:
            return frozenset()
        since = now - raft.options.heartbeat_timeout
        heard = {
            node_id
            for node_id, progress in raft.leader.progress.items()
            if progress.heard_at is not None and progress.heard_at >= since
        }
        return frozenset(heard | {raft.node_id})

    def _preview(self, new: Configuration) -> dict[str, Any]:
        """What a change would come to: {"changed": False, "before": {...}, "after": {...}}."""
        answering = self.answering(self.clock.now())

        def shown(configuration: Configuration) -> dict[str, Any]:
            voters = configuration.voters
            needed = majority(voters)
            return {
                "voters": sorted(voters),
                "learners": sorted(configuration.ids - voters),
                "quorum": needed,
                "answering": sorted(voters & answering),
                "failure_tolerance": len(voters & answering) - needed,
            }

        old = self._configuration
        answering |= new.ids - old.ids  # a new node counts as there: it has just been dialled
        return {"changed": False, "before": shown(old), "after": shown(new)}

    # Handing over.

    async def transfer(self, to: str | None, reason: str = "") -> dict[str, Any]:
        """{"leader_id", "term", "phases": {"record_ms", "stop_ms", ...}} (3.10).

        The phases are `record_ms`, `stop_ms` (of the services), `catch_up_ms` and `election_ms`.
        Raises ChangeInProgress, NotMember, PeerUnreachable, OutcomeUnknown.
        """
        self._require_leader()
        raft = self.replica.raft
        if to is not None and (to not in self._configuration.voters or to == raft.node_id):
            raise NotMember(f"{to} is no other voter of this cluster")
        await self._require_successor(to)
        asked = self.clock.now()
        with self.clock.deadline_scope(asked + RECORD_SECONDS):
            await self.chronicle.record(TRANSFER, to or "", f"from {raft.node_id}", reason)
        self._require_leader()
        recorded = self.clock.now()
        async with self._stood_down(reason or "leadership is handed over"):
            stopped = self.clock.now()
            phases = await self._hand_over(to)
        before = {
            "record_ms": _milliseconds(recorded - asked),
            "stop_ms": _milliseconds(stopped - recorded),
        }
        return {"leader_id": raft.leader_id, "term": raft.term, "phases": before | phases}

    async def _require_successor(self, to: str | None) -> None:
        """Nothing is stopped for a hand-over that cannot come about. Raises PeerUnreachable."""

        def answers() -> bool:
            if to is None:
                return self._successor() is not None
            return to in self.answering(self.clock.now())

        if not await self._until(answers, self.replica.raft.options.heartbeat_timeout):
            self._require_leader()
            silent = "no other voter answers" if to is None else f"{to} does not answer"
            raise PeerUnreachable(
                f"{silent}, so that this node goes on leading", hint="see nefia cluster members"
            )

    def _successor(self) -> str | None:
        """The best of the voters that answer: no witness if possible, then the longest log."""
        raft = self.replica.raft
        if raft.leader is None:
            return None
        progress = raft.leader.progress
        others = (self.answering(self.clock.now()) & self._configuration.voters) - {raft.node_id}

        def rank(peer: str) -> tuple[bool, int, str]:
            welcome = self.met(peer)
            may_lead = welcome is None or welcome.may_lead
            return may_lead, progress[peer].match_index, peer

        return max(others, key=rank, default=None)

    @asynccontextmanager
    async def _stood_down(self, reason: str) -> AsyncIterator[None]:
        """Services have stopped in good order; should this node go on leading, it is in a new term.

        In each term services are started once, so that a guard never confuses two tenures.
        """
        stood_down = await self.services().stand_down(reason)
        try:
            yield
        except NefiaError:
            if stood_down:
                self.replica.resign("services have stopped, and the hand-over has failed")
            raise

    async def _hand_over(self, to: str | None) -> dict[str, int]:
        """The durations of its phases in milliseconds."""
        raft = self.replica.raft
        self._require_leader()
        began, term = self.clock.now(), raft.term
        target = await self.replica.ask(partial(self._begin_transfer, to))

        def decided() -> bool:
            return raft.leader is None or raft.leader.handed_over or not raft.leader.transferring

        def elected() -> bool:
            return raft.term > term and raft.leader_id is not None

        await self._until(decided, TRANSFER_SECONDS)
        caught_up = self.clock.now()
        if raft.leader and not raft.leader.transferring:
            raise PeerUnreachable(
                f"{target} did not catch up in time, so this node still leads",
                hint="see the lag in nefia cluster members -o wide",
            )
        if not await self._until(elected, TRANSFER_SECONDS):
            raise OutcomeUnknown(
                f"leadership was handed to {target}, but no new leader is known yet",
                changed=True,
                hint="see nefia cluster status",
            )
        if raft.leader is not None:
            raise PeerUnreachable(
                f"{target} did not take over, so this node leads again",
                hint=f"see in nefia cluster members whether {target} answers",
            )
        return {
            "catch_up_ms": _milliseconds(caught_up - began),
            "election_ms": _milliseconds(self.clock.now() - caught_up),
        }

    def _begin_transfer(self, to: str | None, now: float) -> str:
        return self.replica.raft.transfer(now, to or self._successor())

    # What they share.

    @property
    def _configuration(self) -> Configuration:
        return self.replica.raft.log.configuration

    def _require_leader(self) -> None:
        raft = self.replica.raft
        self.replica.require_member()
        if raft.leader is None:
            raise self.replica.not_leader()

    @property
    def _term_is_open(self) -> bool:
        raft = self.replica.raft
        return raft.leader is None or raft.commit_index >= raft.leader.term_start

    async def _change(self, make: Callable[[float], Configuration]) -> None:
        """Make and commit one change. Raises what the core does, and OutcomeUnknown."""
        raft = self.replica.raft
        # A leader that has only just begun may change nothing yet: that is over in a moment.
        await self._until(lambda: self._term_is_open, self.apply_timeout)
        self._require_leader()
        index, term = await self.replica.ask(lambda now: (raft.change(now, make(now)), raft.term))

        if not await self._until(lambda: raft.commit_index >= index, self.apply_timeout):
            raise OutcomeUnknown(
                "the change of the members was proposed, but no majority has confirmed it",
                hint="see nefia cluster members before trying again",
            )
        if raft.log.term_at(index) != term:
            raise overtaken()

    async def _until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Wait for `done()`, looked at whenever `Replica.changed`."""
        with self.clock.deadline_scope(self.clock.now() + seconds):
            while not done():
                await self.replica.changed.wait()
        return done()


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
