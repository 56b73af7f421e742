"""When a peer counts as lost (SPEC 5, crash fast path)."""

from __future__ import annotations

from nefia.net.presence import REFUSAL_FRESH_SECONDS, Presence

LONG = 10 * REFUSAL_FRESH_SECONDS


def connected() -> Presence:
    presence = Presence()
    assert not presence.opened("out", "run-1")
    assert not presence.opened("in", "run-1")
    return presence


def test_all_ended_and_then_refused_is_lost_once() -> None:
    presence = connected()
    assert not presence.ended("out", 1.0)
    assert not presence.ended("in", 1.0)
    assert presence.refused(1.0)
    assert not presence.refused(1.1)


def test_refused_just_before_the_last_one_ended_is_lost() -> None:
    presence = connected()
    assert not presence.ended("out", 1.0)
    assert not presence.refused(1.0)
    assert presence.ended("in", 1.0)


def test_a_refusal_of_long_ago_does_not_count() -> None:
    presence = connected()
    assert not presence.ended("out", 1.0)
    assert not presence.refused(1.0)
    assert not presence.ended("in", 1.0 + LONG)
    assert presence.refused(1.0 + LONG)


def test_one_connection_left_is_not_lost() -> None:
    presence = connected()
    assert not presence.ended("out", 1.0)
    assert not presence.refused(1.0)


def test_ended_without_a_refusal_is_not_lost() -> None:
    presence = connected()
    assert not presence.ended("out", 1.0)
    assert not presence.ended("in", 1.0)
    assert not presence.connected


def test_another_incarnation_means_that_the_first_is_lost() -> None:
    presence = connected()
    assert presence.opened("new", "run-2")
    assert not presence.opened("new too", "run-2")
    assert not presence.ended("out", 1.0), "a connection of the old process"
    assert presence.connected


def test_after_a_goodbye_nothing_is_lost() -> None:
    presence = connected()
    presence.goodbye("in")
    assert not presence.ended("in", 1.0)
    assert not presence.ended("out", 1.0)
    assert not presence.refused(1.0)
    assert not presence.opened("new", "run-2")
    assert not presence.ended("new", 2.0)
    assert presence.refused(2.0), "the goodbye was that of run-1"


def test_a_connection_that_was_under_way_does_not_take_a_goodbye_back() -> None:
    presence = connected()
    presence.goodbye("in")
    assert not presence.opened("late", "run-1")
    for connection in ("in", "out", "late"):
        assert not presence.ended(connection, 1.0)
    assert not presence.refused(1.0)


def test_a_goodbye_of_an_old_connection_is_not_that_of_the_new_process() -> None:
    presence = connected()
    presence.opened("new", "run-2")
    presence.goodbye("out")
    assert not presence.ended("new", 1.0)
    assert presence.refused(1.0)


def test_the_same_process_can_be_lost_again_after_it_was_back() -> None:
    presence = connected()
    presence.ended("out", 1.0)
    presence.ended("in", 1.0)
    assert presence.refused(1.0)
    assert not presence.opened("again", "run-1")
    assert not presence.ended("again", 5.0)
    assert presence.refused(5.0)


def test_who_was_never_there_is_not_lost() -> None:
    assert not Presence().refused(1.0)
