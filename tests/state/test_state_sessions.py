"""Sessions (SPEC 8): lifetimes, shortened ids, lists."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from nefia.errors import Conflict, InvalidArgument, NotFound
from nefia.state import sessions
from nefia.state.commands import (
    AdvanceTime,
    CloseSession,
    SetRetention,
    TouchSession,
    UpdateSession,
)
from nefia.state.limits import MAX_ANSWER_BYTES
from tests.state.state_driver import DAY_MS, NEW_SESSION, Driver

MINUTE_MS = 60_000


def test_open_stamps_the_times_of_the_entry() -> None:
    driver = Driver()
    session = driver.open(labels={"b": "2", "a": "1"})
    assert (session.created_ms, session.last_used_ms) == (driver.now_ms, driver.now_ms)
    assert session.expires_ms == driver.now_ms + 30 * MINUTE_MS
    assert list(session.labels) == ["a", "b"]
    assert driver.machine.get_session(session.id) == session


def test_opening_under_an_id_that_is_there_is_a_conflict() -> None:
    driver = Driver()
    driver.open()
    assert driver.refused(NEW_SESSION) == "conflict"


@pytest.mark.parametrize(
    "command", [TouchSession(NEW_SESSION.id), UpdateSession(NEW_SESSION.id, None, None)]
)
def test_touch_and_update_renew_the_idle_timeout(command: TouchSession | UpdateSession) -> None:
    driver = Driver()
    driver.open()
    for _ in range(3):
        driver.wait(29 * MINUTE_MS)
        session = driver.session(command)
        assert session.expires_ms == driver.now_ms + 30 * MINUTE_MS
    driver.wait(30 * MINUTE_MS)
    assert driver.refused(command) == "not_found"


def test_use_does_not_prolong_the_ttl() -> None:
    driver = Driver()
    opened = driver.open(ttl_ms=60 * MINUTE_MS, idle_timeout_ms=40 * MINUTE_MS)
    driver.wait(39 * MINUTE_MS)
    assert driver.session(TouchSession(opened.id)).expires_ms == opened.ttl_end_ms
    driver.wait(21 * MINUTE_MS)
    driver.do(AdvanceTime())
    with pytest.raises(NotFound):
        driver.machine.get_session(opened.id)


def test_update_changes_what_it_names_and_nothing_else() -> None:
    driver = Driver()
    opened = driver.open(labels={"a": "1"})
    assert driver.session(UpdateSession(opened.id, "/tmp", None)).labels == {"a": "1"}
    updated = driver.session(UpdateSession(opened.id, None, {"z": "9", "b": "2"}))
    assert updated.cwd == "/tmp"
    assert list(updated.labels.items()) == [("b", "2"), ("z", "9")]
    assert driver.session(UpdateSession(opened.id, None, {})).labels == {}


def test_close_answers_with_the_session_and_removes_it() -> None:
    driver = Driver()
    opened = driver.open()
    assert driver.session(CloseSession(opened.id)) == opened
    assert driver.refused(CloseSession(opened.id)) == "not_found"
    assert driver.machine.list_sessions() == ((), None)


def test_a_prefix_of_eight_digits_is_enough_if_it_is_unique() -> None:
    driver = Driver()
    first = driver.open(id="aaaaaaaa00000001")
    second = driver.open(id="aaaaaaaa11111111")
    assert driver.machine.get_session("aaaaaaaa0") == first
    assert driver.session(TouchSession("aaaaaaaa1")) == second
    with pytest.raises(Conflict):
        driver.machine.get_session("aaaaaaaa")
    with pytest.raises(NotFound):
        driver.machine.get_session("aaaaaaa")
    with pytest.raises(NotFound):
        driver.machine.get_session("aaaaaaaa2")


def test_a_whole_id_wins_over_longer_ones_that_begin_with_it() -> None:
    driver = Driver()
    short = driver.open(id="aaaaaaaa")
    driver.open(id="aaaaaaaa11111111")
    assert driver.machine.get_session("aaaaaaaa") == short


def test_lists_come_in_pages_in_the_order_of_ids() -> None:
    driver = Driver()
    for number in (3, 1, 2, 0):
        driver.open(id=f"{number:016x}", host=f"host-{number % 2}")
    ids, cursor = [], ""
    while True:
        page, following = driver.machine.list_sessions(limit=3, cursor=cursor)
        ids += [session.id for session in page]
        if following is None:
            break
        cursor = following
    assert ids == [f"{number:016x}" for number in range(4)]
    page, _ = driver.machine.list_sessions("host-1")
    assert [session.host for session in page] == ["host-1", "host-1"]
    assert driver.machine.list_sessions("nowhere") == ((), None)


def test_a_page_ends_before_the_answer_gets_too_big() -> None:
    driver = Driver()
    for number in range(20):
        driver.open(id=f"{number:016x}", labels={"note": "x" * 10_000})
    page, cursor = driver.machine.list_sessions(limit=20)
    assert 1 < len(page) < 20
    assert cursor == page[-1].id
    assert sum(session.size_bytes for session in page) <= MAX_ANSWER_BYTES


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_page_limits_are_checked(limit: int) -> None:
    with pytest.raises(InvalidArgument):
        Driver().machine.list_sessions(limit=limit)


def test_expired_sessions_are_hidden_while_they_wait_to_be_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions, "MAX_EXPIRIES_PER_APPLY", 2)
    driver = Driver()
    for number in range(5):
        driver.open(id=f"{number:016x}")
    driver.wait(DAY_MS)
    driver.do(AdvanceTime())
    machine = driver.machine
    assert machine.list_sessions() == ((), None)
    assert driver.refused(TouchSession(f"{4:016x}")) == "not_found"
    overdue_ms = machine.next_expiry_ms()
    assert overdue_ms is not None
    assert overdue_ms < machine.time_ms
    driver.do(AdvanceTime())
    assert machine.next_expiry_ms() is None


def test_expired_sessions_are_collected_once_an_interval() -> None:
    driver = Driver(now_ms=0)
    driver.do(SetRetention(DAY_MS, 600_000))
    for number in range(3):
        driver.open(id=f"{number:016x}", idle_timeout_ms=60_000 + number)
    assert driver.machine.next_expiry_ms() == 60_000
    driver.wait(60_001)
    driver.do(AdvanceTime())
    assert len(driver.machine.list_sessions()[0]) == 1
    assert driver.machine.next_expiry_ms() == 60_002
    driver.wait(10_000)
    driver.do(AdvanceTime())
    assert driver.machine.next_expiry_ms() == 600_000
    driver.wait(529_998)
    driver.do(AdvanceTime())
    assert driver.machine.list_sessions() == ((), None)
    assert sessions_held(driver) == 3
    driver.wait(1)
    driver.do(AdvanceTime())
    assert sessions_held(driver) == 0
    assert driver.machine.next_expiry_ms() is None


def test_an_expired_session_stands_in_nobodys_way() -> None:
    driver = Driver(now_ms=0)
    driver.open(id="a" * 16, idle_timeout_ms=1000)
    driver.wait(1000)
    assert driver.open(id="a" * 16).created_ms == 1000
    assert sessions_held(driver) == 1


def test_collection_comes_early_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 2)
    driver = Driver(now_ms=0)
    driver.open(id="a" * 16, idle_timeout_ms=1000)
    driver.open(id="b" * 16)
    driver.wait(1000)
    driver.open(id="c" * 16)
    assert driver.refused(replace(NEW_SESSION, id="d" * 16)) == "overloaded"


def sessions_held(driver: Driver) -> int:
    return sum(kind == "session" for kind, _ in driver.machine.snapshot_records())


def test_the_number_of_sessions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 1)
    driver = Driver()
    first = driver.open()
    another = replace(NEW_SESSION, id="f" * 16)
    assert driver.refused(another, "r") == "overloaded"
    driver.do(CloseSession(first.id))
    assert driver.session(another, "r").id == another.id
