"""Nothing leaves before what it rests on is durable (paper, figure 2)."""

from __future__ import annotations

from attrs import define, field

from nefia.raft.configuration import Configuration
from nefia.raft.durability import Durability
from nefia.raft.effects import Write
from nefia.raft.entries import Entry, HardState, SnapshotMeta
from nefia.raft.log import Log
from nefia.raft.messages import AppendReply, Message, VoteReply

TERM = 3


def vote(term: int = TERM) -> VoteReply:
    return VoteReply(sender="a", recipient="b", term=term, granted=True)


def reply(match_index: int) -> AppendReply:
    return AppendReply(
        sender="a", recipient="b", term=TERM, round=1, success=True, match_index=match_index
    )


@define
class Disk:
    """A log and its durability, in the hands of a test."""

    log: Log = field(factory=Log)
    durability: Durability = field(factory=lambda: Durability(0))

    def append(self, *terms: int) -> None:
        first = self.log.last_index + 1
        self.log.append([Entry(first + i, term) for i, term in enumerate(terms)])
        self.durability.log_changed(first)

    def truncate(self, index: int) -> None:
        self.log.truncate_from(index)
        self.durability.log_changed(index)

    def write(self) -> Write | None:
        return self.durability.next_write(0.0, HardState(TERM), self.log)

    def finish(self, write: Write | None) -> list[Message]:
        assert write
        return self.durability.persisted(write.sequence, TERM)


def test_a_vote_waits_for_the_term_and_vote_it_rests_on() -> None:
    disk = Disk()
    disk.durability.hard_state_changed()
    assert disk.durability.send(vote()) == []
    assert not disk.durability.hard_state_is_durable
    write = disk.write()
    assert write
    assert write.hard_state == HardState(TERM)
    assert disk.finish(write) == [vote()]
    assert disk.durability.hard_state_is_durable
    assert disk.durability.send(vote()) == [vote()]


def test_an_acknowledgement_waits_for_its_entries_only() -> None:
    disk = Disk()
    disk.append(1, 1)
    disk.finish(disk.write())
    disk.append(1)
    assert disk.durability.send(reply(2), 2) == [reply(2)]
    assert disk.durability.send(reply(3), 3) == []
    assert disk.finish(disk.write()) == [reply(3)]


def test_what_comes_during_a_write_waits_for_the_next() -> None:
    disk = Disk()
    disk.append(1)
    first = disk.write()
    disk.append(1)
    assert disk.durability.send(reply(2), 2) == []
    assert disk.write() is None
    assert disk.finish(first) == []
    assert disk.durability.durable_index == 1
    second = disk.write()
    assert second
    assert [entry.index for entry in second.entries] == [2]
    assert disk.finish(second) == [reply(2)]


def test_a_hard_state_during_a_write_is_not_taken_for_durable() -> None:
    disk = Disk()
    disk.append(1)
    first = disk.write()
    disk.durability.hard_state_changed()
    assert disk.durability.send(vote()) == []
    assert disk.finish(first) == []
    assert not disk.durability.hard_state_is_durable
    assert disk.finish(disk.write()) == [vote()]


def test_entries_replaced_during_their_write_are_not_durable() -> None:
    disk = Disk()
    disk.append(1, 1, 1)
    first = disk.write()
    disk.truncate(2)
    disk.append(2, 2)
    disk.finish(first)
    assert disk.durability.durable_index == 1
    second = disk.write()
    assert second
    assert [(entry.index, entry.term) for entry in second.entries] == [(2, 2), (3, 2)]
    disk.finish(second)
    assert disk.durability.durable_index == 3


def test_one_write_takes_all_that_changed() -> None:
    disk = Disk()
    disk.append(1)
    disk.append(2)
    disk.truncate(2)
    disk.append(3, 3)
    write = disk.write()
    assert write
    assert [(entry.index, entry.term) for entry in write.entries] == [(1, 1), (2, 3), (3, 3)]
    disk.finish(write)
    assert disk.write() is None


def test_a_snapshot_replaces_what_was_still_to_be_written() -> None:
    disk = Disk()
    disk.append(1, 1)
    first = disk.write()
    snapshot = SnapshotMeta(10, 2, Configuration(), 0)
    disk.log.reset(snapshot)
    disk.durability.log_replaced(snapshot)
    assert disk.durability.send(reply(10), 10) == []
    assert disk.finish(first) == []
    assert disk.durability.durable_index == 0
    second = disk.write()
    assert second
    assert (second.snapshot, second.entries) == (snapshot, ())
    assert disk.finish(second) == [reply(10)]
    assert disk.durability.durable_index == 10


def test_what_an_old_term_said_is_dropped() -> None:
    disk = Disk()
    disk.durability.hard_state_changed()
    disk.durability.send(vote(term=TERM - 1))
    disk.durability.send(vote())
    assert disk.finish(disk.write()) == [vote()]
