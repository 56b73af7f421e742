"""The history: what it takes from the log, and that it is bounded and the same everywhere."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from attrs import evolve

from nefia.raft.configuration import (
    ADDED,
    FOUNDED,
    MOVED,
    RECOVERED,
    REMOVED,
    Configuration,
    Member,
    Note,
)
from nefia.raft.epoch import EPOCH_SHIFT, epoch_of, first_of_next_epoch
from nefia.state.commands import Change, RecordEvent
from nefia.state.limits import MAX_DETAIL_CHARACTERS, MAX_EVENTS
from nefia.state.machine import Machine
from tests.state.state_driver import Driver

WALL_MS = 1_700_000_000_000


def members(voters: Iterable[str], learners: Iterable[str] = (), **note: object) -> Configuration:
    return Configuration(
        [Member(name, f"{name}:9700", voter=True) for name in voters]
        + [Member(name, f"{name}:9700", voter=False) for name in learners],
        Note(**note),  # type: ignore[arg-type]
    )


def configure(machine: Machine, configuration: Configuration, term: int = 2) -> None:
    machine.configure(machine.applied_index + 1, term, configuration)


def elected(machine: Machine, time_ms: int, utc_ms: int, term: int = 2) -> None:
    event = RecordEvent("elected", "a", term, "no leader is known", "", utc_ms)
    machine.apply(machine.applied_index + 1, [Change(time_ms, "", event)])


def test_what_a_configuration_changed_is_in_the_history_with_it() -> None:
    machine = Machine()
    configure(machine, members("a", kind=FOUNDED, node_id="a", utc_ms=WALL_MS), term=1)
    elected(machine, time_ms=5_000, utc_ms=WALL_MS + 60_000)
    configure(
        machine, members("a", "b", kind=ADDED, node_id="b", reason="more room", time_ms=9_000)
    )
    configure(machine, members("a", "b", kind=MOVED, node_id="b", time_ms=9_500))
    founded, by, added, moved = machine.history(10)
    assert (founded.number, founded.index, founded.term, founded.kind) == (1, 1, 1, FOUNDED)
    assert (by.kind, by.node_id, by.detail) == ("elected", "a", "no leader is known")
    assert (added.kind, added.node_id, added.reason) == (ADDED, "b", "more room")
    assert added.detail == "voters: a; learners: b"
    assert moved.detail == "now at b:9700"


def test_times_are_those_of_the_leaders_wall_clock() -> None:
    """Cluster time stands still while no node runs; what is past must not move by that."""
    machine = Machine()
    elected(machine, time_ms=1_000, utc_ms=WALL_MS)
    configure(machine, members("a", kind=ADDED, node_id="b", time_ms=4_000))
    day_ms = 86_400_000
    elected(machine, time_ms=5_000, utc_ms=WALL_MS + day_ms)
    configure(machine, members("a", kind=REMOVED, node_id="b", time_ms=6_000))
    assert [event.utc_ms - WALL_MS for event in machine.history(10)] == [
        0,
        3_000,
        day_ms,
        day_ms + 1_000,
    ]


def test_a_configuration_without_a_note_is_no_event() -> None:
    machine = Machine()
    configure(machine, members("a"))
    assert (machine.applied_index, machine.history(10)) == (1, [])


def test_it_is_bounded_and_the_oldest_go_first() -> None:
    machine = Machine()
    for number in range(MAX_EVENTS + 7):
        elected(machine, number, WALL_MS + number)
    numbers = [event.number for event in machine.history(MAX_EVENTS)]
    assert numbers[-1] == MAX_EVENTS + 7
    assert sum(kind == "event" for kind, _ in machine.snapshot_records()) == MAX_EVENTS
    assert [event.number for event in machine.history(3)] == numbers[-3:]


def test_an_answer_is_bounded_in_bytes() -> None:
    machine = Machine()
    for number in range(MAX_EVENTS):
        detail = "x" * MAX_DETAIL_CHARACTERS
        event = RecordEvent("elected", "a", 2, detail, "", WALL_MS)
        machine.apply(number + 1, [Change(0, "", event)])
    page = machine.history(MAX_EVENTS)
    assert 0 < len(page) < MAX_EVENTS
    assert page[-1].number == MAX_EVENTS, "the newest are shown"


@pytest.mark.parametrize("count", [0, 1, MAX_EVENTS + 3])
def test_a_snapshot_holds_it_and_the_digest_stands_for_it(count: int) -> None:
    machine = Machine()
    empty = machine.digest()
    for number in range(count):
        elected(machine, number, WALL_MS)
    other = Machine.from_records(machine.snapshot_records())
    assert other.digest() == machine.digest()
    assert (machine.digest() == empty) is (count == 0)
    assert other.history(MAX_EVENTS) == machine.history(MAX_EVENTS)
    for each in (machine, other):
        elected(each, count + 1, WALL_MS)
    assert other.digest() == machine.digest()
    assert other.history(1)[0].number == count + 1


def test_two_histories_that_differ_have_different_digests() -> None:
    one, other = Machine(), Machine()
    elected(one, 0, WALL_MS)
    elected(other, 0, WALL_MS + 1)
    assert one.digest() != other.digest()


def test_a_new_epoch_raises_the_tokens() -> None:
    """Whoever holds a token of before a recovery, or of a node left out, holds a smaller one."""
    driver = Driver()
    driver.push()
    driver.push()
    (before,) = driver.claims()
    term = first_of_next_epoch(7)
    configure(driver.machine, members("a", kind=RECOVERED, node_id="a"), term=term)
    (after,) = driver.claims()
    assert before.token == 1
    assert (epoch_of(after.token), after.token) == (1, (1 << EPOCH_SHIFT) + 1)
    configure(driver.machine, members("a"), term=term + 5)
    driver.push()
    assert driver.claims()[0].token == after.token + 1, "once an epoch"


def test_epochs() -> None:
    assert first_of_next_epoch(0) == 1 << EPOCH_SHIFT
    assert first_of_next_epoch(5, (1 << EPOCH_SHIFT) + 9, 7) == 2 << EPOCH_SHIFT
    assert epoch_of(first_of_next_epoch(5)) == 1
    assert first_of_next_epoch(first_of_next_epoch(1)) == 2 << EPOCH_SHIFT


def test_the_feature_level_is_what_all_voters_support() -> None:
    configuration = members("abc", "d")
    assert configuration.features == 0
    for member in configuration.members:
        configuration = configuration.with_member(evolve(member, features=3))
    assert configuration.features == 3
    older = evolve(configuration.members[1], features=2)
    assert configuration.with_member(older).features == 2
    learner = evolve(configuration.members[3], features=1)
    assert configuration.with_member(learner).features == 3
