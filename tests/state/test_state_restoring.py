"""Another state in place of this one: in order, all or nothing, alike on every node."""

from __future__ import annotations

import msgspec
import pytest
from attrs import define, field

from nefia.admin.restoring import encode_step, restore_step, steps
from nefia.errors import InvalidArgument
from nefia.raft.epoch import EPOCH_SHIFT
from nefia.state.commands import (
    AckTask,
    AdvanceTime,
    BeginRestore,
    CancelTask,
    Change,
    ClaimTasks,
    Command,
    EndRestore,
    NewTask,
    OpenSession,
    PushTasks,
    RestorePart,
    RetryTask,
    SetRetention,
)
from nefia.state.limits import MAX_NUMBER
from nefia.state.machine import Machine
from nefia.state.records import Outcome, Refusal, TasksOutcome, TimeOutcome
from nefia.state.restoring import PATIENCE_MS

LATER_MS = 60_000


@define
class Log:
    """Applies commands to a machine, one entry each, and remembers them."""

    machine: Machine = field(factory=Machine)
    entries: list[Change] = field(factory=list)

    def do(self, command: Command, time_ms: int = 1_000) -> Outcome:
        change = Change(time_ms, "", command)
        self.entries.append(change)
        return self.machine.apply(self.machine.applied_index + 1, [change])[0]


def push(number: int) -> PushTasks:
    return PushTasks((NewTask(b"%d" % number, key=f"k-{number}"),))


def source() -> Machine:
    """Tasks 1 to 3, the first done, the second leased; a session."""
    log = Log()
    for number in range(3):
        log.do(push(number))
    log.do(ClaimTasks("w", "", "", 30_000, 2, False))
    log.do(AckTask("1", 1, b"null"))
    log.do(OpenSession("00112233", "h", "", "", "", "", {}, 3_600_000, 3_600_000))
    return log.machine


def restored(log: Log, machine: Machine, term: int = 5, time_ms: int = LATER_MS) -> list[Outcome]:
    made = list(steps("r-1", machine.snapshot_records(), term))
    *others, end = made
    assert isinstance(end, EndRestore)
    first = (end.first >> EPOCH_SHIFT) + 1 << EPOCH_SHIFT
    return [log.do(step, time_ms) for step in (*others, EndRestore("r-1", end.parts, first))]


def test_sessions_and_tasks_are_those_of_the_snapshot() -> None:
    log = Log()
    for number in range(10, 30):
        log.do(push(number))
    assert set(map(type, restored(log, source()))) == {TimeOutcome}
    tasks, _ = log.machine.list_tasks()
    assert tasks == source().list_tasks()[0]
    assert log.machine.list_sessions()[0] == source().list_sessions()[0]
    assert log.machine.get_task("1").state == "done"


def test_numbers_and_tokens_go_on_beyond_both() -> None:
    log = Log()
    for number in range(10, 30):
        log.do(push(number))
    restored(log, source())
    pushed = log.do(push(40), LATER_MS)
    assert isinstance(pushed, TasksOutcome)
    assert pushed.tasks[0].number == 21
    claimed = log.do(ClaimTasks("w", "", "", 30_000, 1, False), LATER_MS)
    assert isinstance(claimed, TasksOutcome)
    assert claimed.tasks[0].number == 2  # its lease has run out meanwhile
    assert claimed.tasks[0].token == (1 << EPOCH_SHIFT) + 1


def test_keys_leases_and_delays_are_there_too() -> None:
    log = Log()
    restored(log, source(), time_ms=1_000)
    again = log.do(push(1))
    assert isinstance(again, TasksOutcome)
    assert again.changed == (False,)
    acked = log.do(AckTask("2", 2, b"null"))
    assert isinstance(acked, TasksOutcome)


def test_time_never_goes_back() -> None:
    old, new = Log(), Log()
    old.do(AdvanceTime(), 5_000)
    restored(old, source(), time_ms=5_000)
    assert old.machine.time_ms == 5_000
    late = Log()
    late.do(AdvanceTime(), 90_000)
    restored(new, late.machine, time_ms=2_000)
    assert new.machine.time_ms == 90_000


def test_nodes_agree_and_so_does_one_that_begins_with_a_snapshot() -> None:
    log = Log()
    log.do(push(10))
    restored(log, source())
    log.do(push(11), LATER_MS)
    other = Log()
    for change in log.entries:
        other.do(change.command, change.time_ms)
    assert other.machine.digest() == log.machine.digest()
    again = Machine.from_records(log.machine.snapshot_records())
    assert again.digest() == log.machine.digest()
    for machine in (again, log.machine):
        machine.apply(machine.applied_index + 1, [Change(LATER_MS, "", push(12))])
    assert again.digest() == log.machine.digest()


def test_before_the_end_nothing_has_changed() -> None:
    log, same = Log(), Log()
    for each in (log, same):
        each.do(push(10))
    *begun, _ = steps("r-1", source().snapshot_records(), 5)
    for step in begun:
        log.do(step)
        same.do(AdvanceTime())
    assert log.machine.restoring
    assert log.machine.digest() == same.machine.digest()


def test_steps_out_of_order_are_refused() -> None:
    log = Log()
    begin, part, end = steps("r-1", source().snapshot_records(), 5)
    assert isinstance(part, RestorePart)
    assert isinstance(log.do(part), Refusal)
    assert isinstance(log.do(end), Refusal)
    log.do(begin)
    assert isinstance(log.do(end), Refusal)
    assert isinstance(log.do(RestorePart("r-2", 0, part.sessions, part.tasks)), Refusal)
    assert isinstance(log.do(RestorePart("r-1", 0, b"\xc1", part.tasks)), Refusal)
    assert log.do(part) == TimeOutcome()
    assert isinstance(log.do(part), Refusal)
    assert log.do(end) == TimeOutcome()
    assert not log.machine.restoring


def test_records_that_make_no_sense_are_refused() -> None:
    tasks = list(source().list_tasks()[0])
    sessions = list(source().list_sessions()[0])
    encode = msgspec.msgpack.encode
    for bad_sessions, bad_tasks in (
        ([], [*tasks, tasks[0]]),
        ([], tasks[::-1]),
        ([], [msgspec.structs.replace(tasks[0], number=0)]),
        ([], [msgspec.structs.replace(tasks[0], number=4)]),  # beyond the last that was given out
        ([], [msgspec.structs.replace(tasks[0], run_at_ms=MAX_NUMBER + 1)]),
        ([msgspec.structs.replace(sessions[0], created_ms=-MAX_NUMBER - 1)], []),
        (sessions * 2, []),
    ):
        log = Log()
        begin, *_ = steps("r-1", source().snapshot_records(), 5)
        log.do(begin)
        part = RestorePart("r-1", 0, encode(bad_sessions), encode(bad_tasks))
        assert isinstance(log.do(part), Refusal)


@pytest.mark.parametrize("bad", [b"", b"\xc1", b"\x91\x9b\xa1\xff", b"\x91\x90", b"\x93"])
def test_bytes_that_are_no_records_are_refused(bad: bytes) -> None:
    """An exception would end every node, and again at each start."""
    log = Log()
    begin, *_ = steps("r-1", source().snapshot_records(), 5)
    for sessions, tasks in ((bad, b"\x90"), (b"\x90", bad)):
        log.do(begin)
        assert isinstance(log.do(RestorePart("r-1", 0, sessions, tasks)), Refusal)


@pytest.mark.parametrize("number", [-1, MAX_NUMBER + 1, 2**64 - 1])
def test_steps_with_numbers_that_cannot_be_counted_on_from_are_refused(number: int) -> None:
    """They would be in the log, and what follows from them could not be written down."""
    begin = BeginRestore("r-1", 0, 0, number, 0, 0)
    for step in (begin, RestorePart("r-1", number, b"", b""), EndRestore("r-1", 0, number)):
        with pytest.raises(InvalidArgument):
            restore_step(encode_step(step))


def test_keys_belong_to_whom_they_belong_after_a_restart_too() -> None:
    """Of several tasks that had a key, one that is not finished has it; else the last of them."""
    day_ms = 24 * 3_600_000
    old = Log()
    old.do(push(1))
    old.do(CancelTask("1"), 2_000)
    old.do(SetRetention(10 * day_ms, 60_000))
    old.do(push(1), 2_000 + day_ms)
    old.do(CancelTask("2"), 3_000 + day_ms)
    assert isinstance(old.do(RetryTask("1"), 4_000 + 2 * day_ms), TasksOutcome)
    log = Log()
    restored(log, old.machine, time_ms=5_000 + 2 * day_ms)
    for machine in (log.machine, Machine.from_records(log.machine.snapshot_records())):
        assert machine._queue.index.by_key == {("default", "k-1"): 1}


def test_what_is_not_gone_on_with_is_given_up() -> None:
    log = Log()
    begin, part, end = steps("r-1", source().snapshot_records(), 5)
    assert isinstance(begin, BeginRestore)
    log.do(begin)
    log.do(part, 2_000)
    assert log.machine.next_expiry_ms() == 2_000 + PATIENCE_MS
    log.do(AdvanceTime(), 2_000 + PATIENCE_MS)
    assert not log.machine.restoring
    assert isinstance(log.do(end, 2_000 + PATIENCE_MS), Refusal)


def test_an_entry_that_no_leader_proposes_has_tasks_counted_beyond_64_bits() -> None:
    log, last = Log(), 2**64 - 1
    log.do(BeginRestore("r-1", 0, last, 0, 0, 0))
    log.do(EndRestore("r-1", 0, 1))
    log.do(PushTasks((NewTask(b"1", delay_ms=5), NewTask(b"2"))))
    log.do(ClaimTasks("w", "", "", 7, 2))
    log.do(AdvanceTime(), 1_005)
    assert log.machine.next_ready_ms() == 1_005
    log.do(AdvanceTime(), 1_007)
    claimed = log.do(ClaimTasks("w", "", "", 9_000, 2), 1_007)
    assert isinstance(claimed, TasksOutcome)
    assert [(task.number, task.attempt) for task in claimed.tasks] == [(last + 1, 1), (last + 2, 2)]


def test_two_living_tasks_with_one_key_which_no_queue_makes_end_no_node() -> None:
    made = Log()
    made.do(push(1))
    task = made.machine.get_task("1")
    both = msgspec.msgpack.encode([task, msgspec.structs.replace(task, number=2)])
    log = Log()
    log.do(BeginRestore("r-1", 0, 2, 0, 1_001, 0))
    log.do(RestorePart("r-1", 0, msgspec.msgpack.encode([]), both))
    log.do(EndRestore("r-1", 1, 1))
    for number in (2, 1):
        assert isinstance(log.do(CancelTask(str(number)), LATER_MS), TasksOutcome)
    log.do(AdvanceTime(), LATER_MS + 48 * 3_600_000)
    assert log.machine.list_tasks()[0] == ()
