"""Who is in the cluster: members, voters, learners, and the single-server change (4.1, 4.2.1)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from attrs import field, frozen


@frozen
class Member:
    """One node of the cluster.

    `instance` is the random id of its data directory, empty until the leader has first met it; a
    node that answers under this id with another instance has lost its log (a wiped disk) and must
    not vote on what it no longer knows. `promote` says that this learner is to become a voter once
    it has caught up; every leader pursues it. `features` is the newest feature level that it
    understood when it was last met (`nefia.state.features`), 0 until then.
    """

    id: str
    address: str
    voter: bool
    promote: bool = False
    instance: str = ""
    features: int = 0


@frozen
class Note:
    """What a configuration changed, for `cluster history`; the protocol does not look at it.

    `kind` is one of those below, `node_id` whom it concerns, `reason` the operator's, and `time_ms`
    the cluster time at which the leader made it. `utc_ms` is instead of that in what is made
    without a leader, by init and recover; 0 otherwise.
    """

    kind: str = ""
    node_id: str = ""
    reason: str = ""
    time_ms: int = 0
    utc_ms: int = 0


_NO_NOTE = Note()

FOUNDED = "founded"
ADDED = "added"
PROMOTED = "promoted"
MOVED = "moved"
MET = "met"
REMOVED = "removed"
RECOVERED = "recovered"


def _sorted_by_id(members: Iterable[Member]) -> tuple[Member, ...]:
    return tuple(sorted(members, key=lambda member: member.id))


@frozen
class Configuration:
    """The members, sorted by id. A value: every change makes a new one, with a note of its own."""

    members: tuple[Member, ...] = field(default=(), converter=_sorted_by_id)
    note: Note = _NO_NOTE

    def __attrs_post_init__(self) -> None:
        ids = [member.id for member in self.members]
        assert len(set(ids)) == len(ids), f"duplicate member ids: {ids}"

    @cached_property
    def voters(self) -> frozenset[str]:
        return frozenset(member.id for member in self.members if member.voter)

    @cached_property
    def ids(self) -> frozenset[str]:
        return frozenset(member.id for member in self.members)

    @cached_property
    def _by_id(self) -> dict[str, Member]:
        return {member.id: member for member in self.members}

    def get(self, node_id: str) -> Member | None:
        return self._by_id.get(node_id)

    def get_instance(self, node_id: str, instance: str) -> Member | None:
        """As `get`, but not an earlier node of that name; an empty instance stands for any.

        A node that was wiped and added again reads the old log from its beginning, and passes
        configurations in which its former self could have been a majority.
        """
        member = self.get(node_id)
        if member is None or (member.instance and instance and member.instance != instance):
            return None
        return member

    def is_voter(self, node_id: str) -> bool:
        member = self.get(node_id)
        return member is not None and member.voter

    @cached_property
    def features(self) -> int:
        """The feature level that all voters support, as far as the log says (SPEC 6)."""
        return min((member.features for member in self.members if member.voter), default=0)

    def with_member(self, member: Member, note: Note = _NO_NOTE) -> Configuration:
        """This configuration with `member` added, or replaced if its id is there already."""
        return Configuration((*self.without(member.id).members, member), note)

    def without(self, node_id: str, note: Note = _NO_NOTE) -> Configuration:
        return Configuration((m for m in self.members if m.id != node_id), note)


def is_single_server_change(old: Configuration, new: Configuration) -> bool:
    """Whether at most one voter comes or goes, so that any two majorities overlap (4.1)."""
    return len(old.voters ^ new.voters) <= 1
