"""The machine as a whole: time, digest, snapshots, and that `apply` takes anything."""

from __future__ import annotations

from typing import get_args

import pytest
from attrs import evolve
from msgspec.structs import replace

from nefia.errors import DataDamaged, LeaseLost, NotFound
from nefia.state import commands, digest, queue
from nefia.state.commands import (
    AckTask,
    AdvanceTime,
    CancelTask,
    Change,
    ClaimTasks,
    Command,
    ExtendTask,
    FailTask,
    NewTask,
    PushTasks,
    UpdateSession,
)
from nefia.state.machine import Machine
from nefia.state.records import KINDS, Counters, Refusal, TimeOutcome
from tests.hash_seeds import printed_under_hash_seeds
from tests.state.state_driver import DAY_MS, HOUR_MS, NEW_SESSION, Driver
from tests.state.words import Words


def busy() -> Driver:
    """A driver whose machine holds something of every kind."""
    driver = Driver.of(Words)
    for number in range(20):
        driver.open(
            id=f"{number * 7919:016x}", host=f"host-{number % 3}", labels={"n": f"{number}"}
        )
        driver.push(
            b"%d" % number,
            request_id=f"request-{number}",
            queue="ab"[number % 2],
            priority=number % 3,
            delay_ms=(number % 4) * 100,
            key=f"key-{number}",
        )
    for claimed in driver.claims(limit=4):
        driver.do(AckTask(claimed.id, claimed.token, b"1"), f"ack-{claimed.id}")
    driver.claims(limit=2)
    driver.do(CancelTask("8"))
    driver.do(CancelTask("99"), "refused")
    driver.do(commands.RecordEvent("elected", "node-1", 1, "", "", 0))
    driver.do(commands.AcquireTenure(1))
    for key in "ba":
        driver.do(commands.Remember("wg0", key, "192.0.2.7:51820"))
    driver.do(commands.ApplicationCommand("words", b"a"))
    return driver


# Time.


def test_time_never_goes_back() -> None:
    driver = Driver()
    driver.do(AdvanceTime())
    driver.wait(-500)
    task = driver.push()
    assert driver.machine.time_ms == task.created_ms == driver.now_ms + 500


def test_entries_without_a_command_count_and_change_nothing_else() -> None:
    driver = busy()
    before = list(driver.machine.snapshot_records())[1:]
    index = driver.machine.applied_index
    driver.machine.skip(index + 1)
    assert driver.machine.applied_index == index + 1
    assert list(driver.machine.snapshot_records())[1:] == before


def test_the_next_expiry_is_the_earliest_of_all_kinds() -> None:
    driver = Driver()
    assert driver.machine.next_expiry_ms() is None
    assert driver.do(AdvanceTime()) == TimeOutcome()
    start_ms = driver.now_ms
    driver.push()
    assert driver.machine.next_expiry_ms() is None
    driver.do(CancelTask("1"))
    assert driver.machine.next_expiry_ms() == start_ms + DAY_MS
    driver.do(AdvanceTime(), "r")
    assert driver.machine.next_expiry_ms() == start_ms + HOUR_MS
    driver.open()
    assert driver.machine.next_expiry_ms() == start_ms + HOUR_MS // 2
    driver.push()
    driver.claim()
    assert driver.machine.next_expiry_ms() == start_ms + 30_000
    driver.push(delay_ms=10)
    assert driver.machine.next_expiry_ms() == start_ms + 10


def test_in_the_end_everything_that_can_expire_has_expired() -> None:
    driver = busy()
    while (expiry_ms := driver.machine.next_expiry_ms()) is not None:
        driver.now_ms = max(driver.now_ms, expiry_ms)
        driver.do(AdvanceTime())
    pending = [stats.pending for stats in driver.machine.queue_stats().values()]
    assert sum(pending) == 20 - 5
    assert len(list(driver.machine.snapshot_records())) == 1 + 15 + 1 + 2 + 2


# Snapshots and digest.


def test_a_restored_machine_is_the_same() -> None:
    driver = busy()
    restored = driver.restored()
    assert restored.digest() == driver.machine.digest()
    assert list(restored.snapshot_records()) == list(driver.machine.snapshot_records())
    assert restored.next_expiry_ms() == driver.machine.next_expiry_ms()
    assert restored.queue_stats() == driver.machine.queue_stats()


def test_the_records_of_a_snapshot_do_not_change_while_they_are_written() -> None:
    driver = busy()
    expected = list(driver.machine.snapshot_records())
    records = driver.machine.snapshot_records()
    first = next(records)
    driver.wait(2 * DAY_MS)
    driver.push()
    driver.open(id="e" * 16)
    assert [first, *records] == expected


def test_kinds_name_the_classes_of_records() -> None:
    records = list(busy().machine.snapshot_records())
    assert {kind for kind, _ in records} == set(KINDS)
    assert all(type(record) is KINDS[kind] for kind, record in records)


def test_a_snapshot_without_counters_is_damaged() -> None:
    records = [pair for pair in busy().machine.snapshot_records() if pair[0] != "counters"]
    with pytest.raises(DataDamaged):
        Machine.from_records(records)


def test_the_digest_depends_on_the_state_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on when it was asked for, nor on what came and went between."""
    digests = set()
    for max_uncounted_records, asked_often in ((1000, False), (1000, True), (0, False)):
        monkeypatch.setattr(digest, "MAX_UNCOUNTED_RECORDS", max_uncounted_records)
        driver = Driver()
        for number in range(30):
            driver.push(b"%d" % number, max_attempts=1)
            driver.claims(lease_ms=5)
            driver.wait(number)
            if asked_often:
                driver.machine.digest()
        digests |= {driver.machine.digest(), driver.restored().digest()}
    assert len(digests) == 1
    assert len(digests.pop()) == 64


@pytest.mark.parametrize(
    "change",
    [
        PushTasks((NewTask(b"1"),)),
        ClaimTasks("worker", "", "", 1000, 1),
        UpdateSession(f"{0:016x}", "/elsewhere", None),
        AdvanceTime(),
    ],
)
def test_the_digest_differs_when_anything_differs(change: Command) -> None:
    driver, other = busy(), busy()
    assert driver.machine.digest() == other.machine.digest()
    driver.do(change)
    other.machine.skip(other.machine.applied_index + 1)
    other.now_ms += 1
    driver.do(AdvanceTime())
    other.do(AdvanceTime())
    assert driver.machine.digest() != other.machine.digest()


def test_a_table_forgets_what_came_and_went_unseen() -> None:
    table: digest.Table[int, Counters] = digest.Table()
    empty = table.digest()
    record = Counters(1, 2, 3, 4, 5, 6)
    for key in range(3 * digest.MAX_UNCOUNTED_RECORDS):
        table.put(key, record)
        table.remove(key)
    assert not table._uncounted
    table.put(0, record)
    with_record = table.digest()
    table.put(0, evolve(record, time_ms=0))
    assert table.digest() not in (empty, with_record)
    table.put(0, record)
    assert table.digest() == with_record
    table.remove(0)
    assert table.digest() == empty == 0


SCRIPT = """
from tests.state.test_state_machine import busy
driver = busy()
driver.wait(30_000)
driver.claims(limit=3)
print(driver.machine.digest(), list(driver.machine.snapshot_records()))
print(driver.machine.queue_stats(), driver.machine.list_sessions(), driver.machine.list_tasks())
"""


def test_the_hash_seed_makes_no_difference() -> None:
    outputs = printed_under_hash_seeds(SCRIPT, (0, 1, 2))
    assert len(outputs) == 1
    assert len(outputs.pop()) > 1000


# Anything goes in.

HUGE = 2**70
NO_TEXT = "\ud800\0"
STRANGE: list[Command] = [
    replace(NEW_SESSION, id="", host="", labels={NO_TEXT: NO_TEXT}),
    replace(NEW_SESSION, id=NO_TEXT, ttl_ms=HUGE, idle_timeout_ms=-HUGE),
    replace(NEW_SESSION, ttl_ms=HUGE, idle_timeout_ms=HUGE),
    commands.TouchSession(""),
    commands.TouchSession(NO_TEXT),
    UpdateSession(NEW_SESSION.id, NO_TEXT, {NO_TEXT: ""}),
    commands.CloseSession("*"),
    PushTasks(()),
    PushTasks((NewTask(b"", queue="", host=NO_TEXT, priority=HUGE, delay_ms=-HUGE, key=NO_TEXT),)),
    PushTasks((NewTask(b"\xff", queue=NO_TEXT, delay_ms=HUGE, max_attempts=-1),)),
    PushTasks((NewTask(b"1"),)),
    ClaimTasks("", "", "", -HUGE, 1),
    ClaimTasks(NO_TEXT, "", "", HUGE, HUGE),
    ClaimTasks("", NO_TEXT, NO_TEXT, 0, -1),
    ExtendTask("1", HUGE, HUGE),
    ExtendTask("3", 2, HUGE),
    AckTask("-1", 0, b""),
    FailTask("2", 2, NO_TEXT, HUGE),
    FailTask("3", 3, NO_TEXT, -HUGE),
    CancelTask("1" * 5000),
    commands.RetryTask("\u0663"),
    AdvanceTime(),
    commands.RecordEvent(NO_TEXT, NO_TEXT, HUGE, NO_TEXT, NO_TEXT, -HUGE),
    commands.SetRetention(-HUGE, 0),
    commands.SetRetention(HUGE, HUGE),
    commands.BeginRestore(NO_TEXT, HUGE, HUGE, HUGE, -HUGE, HUGE),
    commands.RestorePart(NO_TEXT, 0, b"\xc1", b""),
    commands.EndRestore(NO_TEXT, HUGE, HUGE),
    commands.EndRestore(NO_TEXT, 0, -HUGE),
    commands.AcquireTenure(-HUGE),
    commands.ReleaseTenure(HUGE),
    commands.AcquireTenure(HUGE),
    commands.Remember(NO_TEXT, NO_TEXT, NO_TEXT),
    commands.ApplicationCommand("words", b"\xff"),
    commands.ApplicationCommand("words", b""),
    PushTasks((NewTask(b"1"),)),
]


def test_apply_never_raises() -> None:
    """But for what `test_state_application` is about."""
    driver = Driver.of(Words)
    assert {type(command) for command in STRANGE} == set(get_args(Command))
    for attempt, now_ms in enumerate((5, -HUGE, 50_000, HUGE)):
        driver.now_ms = now_ms
        for number, command in enumerate(STRANGE):
            driver.do(command)
            driver.do(command, f"{NO_TEXT}{attempt}.{number}")
            driver.do(command, f"{NO_TEXT}{attempt}.{number}")
    assert driver.restored().digest() == driver.machine.digest()


def test_apply_is_total_in_the_order_of_entries_only() -> None:
    machine = Machine()
    with pytest.raises(AssertionError):
        machine.apply(2, [Change(0, "", AdvanceTime())])


def test_a_refusal_becomes_the_error_of_its_code() -> None:
    error = Refusal("lease_lost", "Gone.").to_error()
    assert isinstance(error, LeaseLost)
    assert (error.message, error.changed) == ("Gone.", False)
    assert error.hint
    assert isinstance(Refusal("not_found", "").to_error(), NotFound)


def test_no_apply_does_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is overdue, one apply removes at most the bound of each kind."""
    monkeypatch.setattr(queue, "MAX_EXPIRIES_PER_APPLY", 3)
    driver = Driver()
    for _ in range(10):
        driver.push()
        driver.do(CancelTask(str(driver.machine.queue_stats()["default"].cancelled + 1)))
    driver.wait(DAY_MS)
    left = []
    for _ in range(5):
        driver.do(AdvanceTime())
        left.append(len(driver.machine.list_tasks()[0]))
    assert left == [7, 4, 1, 0, 0]
