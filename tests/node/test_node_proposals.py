"""The queue of changes: how many wait, what goes into one entry, when their time is up."""

from __future__ import annotations

import math

import pytest

from nefia.errors import NefiaError, NoLeader, NoQuorum, OutcomeUnknown, Overloaded
from nefia.node.proposals import (
    MAX_BATCH_BYTES,
    MAX_BATCH_CHANGES,
    MAX_UNSETTLED,
    Proposals,
)
from nefia.state.commands import AdvanceTime, Batch, Change, NewTask, PushTasks
from nefia.state.records import Outcome, TimeOutcome
from nefia.wire import decode_batch

End = Outcome | NefiaError


def filled(count: int, ends: list[End]) -> Proposals:
    proposals = Proposals()
    for number in range(count):
        proposals.add(AdvanceTime(), f"r{number}", ends.append, deadline=10.0 + number)
    return proposals


def test_a_batch_holds_what_was_asked_for_in_its_order() -> None:
    ends: list[End] = []
    proposals = filled(3, ends)
    payload, batch = proposals.next_batch(7)
    changes = tuple(Change(7, f"r{number}", AdvanceTime()) for number in range(3))
    assert decode_batch(payload) == Batch(changes)
    assert tuple(change for change, _ in batch) == changes
    assert not proposals
    for _, proposal in batch:
        proposal.end(TimeOutcome())
        proposal.end(NoLeader("too late"))
    assert ends == [TimeOutcome()] * 3


def test_a_batch_is_bounded_in_changes() -> None:
    proposals = filled(MAX_BATCH_CHANGES + 1, [])
    assert len(proposals.next_batch(0)[1]) == MAX_BATCH_CHANGES
    assert len(proposals.next_batch(0)[1]) == 1


def test_a_batch_is_bounded_in_bytes_but_never_empty() -> None:
    proposals = Proposals()
    large = PushTasks((NewTask(b"x" * (MAX_BATCH_BYTES // 2)),))
    larger = PushTasks((NewTask(b"x" * (MAX_BATCH_BYTES + 1)),))
    for command in (large, large, larger):
        proposals.add(command, "", lambda _: None, deadline=math.inf)
    assert [len(proposals.next_batch(0)[1]) for _ in range(3)] == [1, 1, 1]


def test_too_many_are_refused_until_some_have_ended() -> None:
    proposals = filled(MAX_UNSETTLED, [])
    _, batch = proposals.next_batch(0)  # in the log, but not settled
    with pytest.raises(Overloaded):
        proposals.add(AdvanceTime(), "", lambda _: None, deadline=math.inf)
    batch[0][1].end(TimeOutcome())
    proposals.add(AdvanceTime(), "", lambda _: None, deadline=math.inf)


def test_who_has_waited_too_long_learns_whether_it_may_still_happen() -> None:
    ends: list[End] = []
    proposals = filled(2, ends)
    proposals.next_batch(0)
    proposals.add(AdvanceTime(), "", ends.append, deadline=20.0)
    assert proposals.deadline == 10.0
    proposals.expire(9.9)
    assert ends == []
    proposals.expire(20.0)
    first, second, third = ends
    assert isinstance(first, OutcomeUnknown)
    assert first.details == {"request_id": "r0"}
    assert isinstance(second, OutcomeUnknown)
    assert isinstance(third, NoQuorum)
    assert third.changed is False
    assert proposals.deadline == math.inf
    assert not proposals


def test_what_is_not_in_the_log_can_be_refused_without_a_trace() -> None:
    ends: list[End] = []
    proposals = filled(2, ends)
    gone = NoLeader("none")
    proposals.fail_waiting(gone)
    assert ends == [gone, gone]
    assert not proposals
