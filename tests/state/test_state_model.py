"""The machine against a model that is too simple to be wrong, and against itself restored.

The model keeps plain lists, looks at everything every time and removes what is over at once. It
knows nothing of tokens that were lost, orders, indexes, pages or bounds.
"""

from __future__ import annotations

from typing import TypeAlias

import pytest
from attrs import define, field
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from nefia.state import commands, queue, requests, sessions
from nefia.state.commands import (
    AdvanceTime,
    ClaimTasks,
    Command,
    NewTask,
    PushTasks,
    SetRetention,
)
from nefia.state.queue import backoff_ms
from nefia.state.records import Outcome, Refusal, SessionOutcome, Task, TasksOutcome, TaskState
from tests.state.state_driver import DAY_MS, HOUR_MS, NEW_SESSION, Driver

LEASE_MS = 1_000
OVER = ("done", "dead", "cancelled")


Answer: TypeAlias = commands.ExtendTask | commands.AckTask | commands.FailTask
OnTask: TypeAlias = Answer | commands.CancelTask | commands.RetryTask


@define
class Life:
    """A task of the model. `lost` holds the token of a lease that ran out, else 0."""

    id: int
    new: NewTask
    run_at: int
    state: str = "pending"
    attempt: int = 0
    token: int = 0
    lost: int = 0
    lease_end: int = 0
    ended_at: int = 0


@define
class Model:
    now: int = 0
    tasks: list[Life] = field(factory=list)
    sessions: dict[str, tuple[int, int, int]] = field(factory=dict)
    """By id: when opened, when last used, idle timeout."""
    answered: dict[str, tuple[int, object, object]] = field(factory=dict)
    pushed: int = 0
    tokens: int = 0
    retention: int = DAY_MS

    def apply(self, now: int, request: str, command: Command) -> object:
        self.now = max(self.now, now)
        self._pass_time()
        content: Command = command
        if isinstance(command, commands.OpenSession):  # The leader makes up id and lifetimes.
            content = replace(command, id="", idle_timeout_ms=0)
        if request in self.answered:
            _, first, answer = self.answered[request]
            return answer if first == content else "conflict"
        answer = self._perform(command)
        if request:
            self.answered[request] = (self.now + HOUR_MS, content, answer)
        return answer

    def _pass_time(self) -> None:
        for task in self.tasks:
            if task.state == "leased" and task.lease_end <= self.now:
                task.lost = task.token
                dead = task.attempt >= task.new.max_attempts
                task.state, task.ended_at = ("dead", self.now) if dead else ("pending", 0)
        self.tasks = [
            task
            for task in self.tasks
            if task.state not in OVER or task.ended_at + self._kept(task) > self.now
        ]
        self.sessions = {
            name: (opened, used, idle)
            for name, (opened, used, idle) in self.sessions.items()
            if self.now < min(opened + DAY_MS, used + idle)
        }
        self.answered = {name: old for name, old in self.answered.items() if old[0] > self.now}

    def _kept(self, task: Life) -> int:
        return max(self.retention, DAY_MS) if task.new.key else self.retention

    def _holder(self, new: NewTask) -> Life | None:
        """The task that has the key of `new`."""
        for task in self.tasks:
            ended = task.state in OVER and task.ended_at + DAY_MS <= self.now
            if new.key and not ended and (task.new.queue, task.new.key) == (new.queue, new.key):
                return task
        return None

    def _perform(self, command: Command) -> object:
        match command:
            case PushTasks(tasks):
                return [self._push(new) for new in tasks]
            case ClaimTasks():
                return self._claim(command)
            case commands.OpenSession():
                if command.id in self.sessions:
                    return "conflict"
                self.sessions[command.id] = (self.now, self.now, command.idle_timeout_ms)
                return command.id
            case commands.TouchSession() | commands.UpdateSession() | commands.CloseSession():
                return self._session(command.id, isinstance(command, commands.CloseSession))
            case AdvanceTime() | commands.RecordEvent():
                return None
            case SetRetention():
                self.retention = command.task_retention_ms
                return None
            case commands.BeginRestore() | commands.RestorePart() | commands.EndRestore():
                raise AssertionError("test_state_restoring is about these")
            case commands.AcquireTenure() | commands.ReleaseTenure() | commands.Remember():
                raise AssertionError("test_state_tenure is about these")
            case commands.ApplicationCommand():
                raise AssertionError("test_state_application is about it")
            case _:
                return self._task(command)

    def _push(self, new: NewTask) -> int:
        if (holder := self._holder(new)) is not None:
            return holder.id
        self.pushed += 1
        self.tasks.append(Life(self.pushed, new, self.now + new.delay_ms))
        return self.pushed

    def ready(self, queue: str, host: str) -> list[Life]:
        return [
            task
            for task in self.tasks
            if task.state == "pending"
            and task.run_at <= self.now
            and queue in ("", task.new.queue)
            and host in ("", task.new.host)
        ]

    def _claim(self, command: ClaimTasks) -> list[int]:
        ready = self.ready(command.queue, command.host)
        ready.sort(key=lambda task: (-task.new.priority, task.id))
        for task in ready[: command.limit]:
            self.tokens += 1
            task.state, task.token, task.lost = "leased", self.tokens, 0
            task.attempt += 1
            task.lease_end = self.now + command.lease_ms
        return [task.id for task in ready[: command.limit]]

    def _session(self, prefix: str, close: bool) -> str:
        found = [name for name in self.sessions if name.startswith(prefix)]
        if prefix in self.sessions:
            found = [prefix]
        if len(found) != 1 or len(prefix) < 8:
            return "conflict" if len(found) > 1 and len(prefix) >= 8 else "not_found"
        opened, _, idle = self.sessions.pop(found[0])
        if not close:
            self.sessions[found[0]] = (opened, self.now, idle)
        return found[0]

    def _task(self, command: OnTask) -> object:
        task = next((task for task in self.tasks if str(task.id) == command.id), None)
        if task is None:
            return "not_found"
        if isinstance(command, commands.CancelTask):
            if task.state in ("done", "dead"):
                return "conflict"
            if task.state != "cancelled":
                task.state, task.ended_at, task.lost = "cancelled", self.now, 0
            return [task.id]
        if isinstance(command, commands.RetryTask):
            if task.state not in ("dead", "cancelled"):
                return "conflict"
            if self._holder(task.new) not in (None, task):
                return "conflict"
            task.state, task.attempt, task.run_at, task.lost = "pending", 0, self.now, 0
            return [task.id]
        if task.state != "leased" or task.token != command.token:
            return "lease_lost" if command.token and command.token == task.lost else "conflict"
        match command:
            case commands.ExtendTask():
                task.lease_end = max(task.lease_end, self.now + command.lease_ms)
            case commands.AckTask():
                task.state, task.ended_at = "done", self.now
            case commands.FailTask():
                dead = task.attempt >= task.new.max_attempts
                task.state, task.ended_at = ("dead", self.now) if dead else ("pending", 0)
                retry_after = command.retry_after_ms
                task.run_at = self.now + (
                    backoff_ms(task.id, task.attempt) if retry_after is None else retry_after
                )
        return [task.id]


def essence(outcome: Outcome) -> object:
    match outcome:
        case Refusal(code):
            return code
        case SessionOutcome(session):
            return session.id
        case TasksOutcome(tasks):
            return [task.number for task in tasks]
    return None


def likeness(task: Task) -> tuple[object, ...]:
    lease_end = task.lease_expires_ms if task.state is TaskState.LEASED else 0
    return (task.number, task.state.value, task.attempt, task.token, lease_end, task.payload)


QUEUES = st.sampled_from(["a", "b"])
HOSTS = st.sampled_from(["", "h"])
REQUESTS = st.sampled_from(["", "", "", "r1", "r2"])
SESSION_IDS = st.sampled_from(["aaaaaaaa0", "aaaaaaaa1", "aaaaaaaa", "bbbbbbbb"])
TASK_IDS = st.integers(1, 6).map(str)
TOKENS = st.integers(0, 8)
NEW_TASKS = st.builds(
    NewTask,
    st.sampled_from([b"1", b"2"]),
    QUEUES,
    HOSTS,
    st.sampled_from([0, 1]),
    st.sampled_from([0, 0, 10, LEASE_MS]),
    st.sampled_from(["", "k"]),
    st.sampled_from([1, 2]),
)
ANSWERS = st.one_of(
    st.builds(commands.ExtendTask, TASK_IDS, TOKENS, st.sampled_from([10, LEASE_MS])),
    st.builds(commands.AckTask, TASK_IDS, TOKENS, st.just(b"3")),
    st.builds(
        commands.FailTask, TASK_IDS, TOKENS, st.just("e"), st.sampled_from([None, 0, LEASE_MS])
    ),
)


class Behaviour(RuleBasedStateMachine):
    """`twin` is restored from a snapshot before each change."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver(now_ms=0)
        self.twin = Driver(now_ms=0)
        self.model = Model()

    def do(self, command: Command, request: str = "") -> None:
        self.twin.machine = self.twin.restored()
        self.twin.now_ms = self.driver.now_ms
        outcome = self.driver.do(command, request)
        assert self.twin.do(command, request) == outcome
        self.compare(command, request, outcome)

    def compare(self, command: Command, request: str, outcome: Outcome) -> None:
        assert essence(outcome) == self.model.apply(self.driver.now_ms, request, command)

    @rule(tasks=st.lists(NEW_TASKS, min_size=1, max_size=3), request=REQUESTS)
    def push(self, tasks: list[NewTask], request: str) -> None:
        self.do(PushTasks(tuple(tasks)), request)

    @rule(
        queue=st.sampled_from(["", "a", "b"]), host=HOSTS, limit=st.integers(1, 3), request=REQUESTS
    )
    def claim(self, queue: str, host: str, limit: int, request: str) -> None:
        self.do(ClaimTasks("w", queue, host, LEASE_MS, limit), request)

    @rule(command=ANSWERS, request=REQUESTS)
    def answer(self, command: Command, request: str) -> None:
        self.do(command, request)

    @rule(data=st.data())
    def answer_well(self, data: st.DataObject) -> None:
        leased, _ = self.driver.machine.list_tasks(state=TaskState.LEASED)
        if leased:
            task = data.draw(st.sampled_from(leased))
            command = data.draw(ANSWERS)
            self.do(replace(command, id=task.id, token=task.token))

    @rule(name=TASK_IDS, kind=st.sampled_from([commands.CancelTask, commands.RetryTask]))
    def decide(self, name: str, kind: type[commands.CancelTask]) -> None:
        self.do(kind(name))

    @rule(name=SESSION_IDS, idle=st.sampled_from([10, HOUR_MS]), request=REQUESTS)
    def open(self, name: str, idle: int, request: str) -> None:
        self.do(replace(NEW_SESSION, id=name, idle_timeout_ms=idle), request)

    @rule(name=SESSION_IDS, kind=st.sampled_from([commands.TouchSession, commands.CloseSession]))
    def use(self, name: str, kind: type[commands.TouchSession]) -> None:
        self.do(kind(name))

    @rule(
        retention=st.sampled_from([HOUR_MS, DAY_MS, 3 * DAY_MS]),
        session_gc=st.sampled_from([1, 60_000, HOUR_MS]),
    )
    def set_retention(self, retention: int, session_gc: int) -> None:
        self.do(SetRetention(retention, session_gc))

    @rule(milliseconds=st.sampled_from([1, 9, LEASE_MS - 1, LEASE_MS, HOUR_MS, DAY_MS]))
    def wait(self, milliseconds: int) -> None:
        self.driver.wait(milliseconds)
        self.do(AdvanceTime())

    @invariant()
    def restored_is_the_same(self) -> None:
        machine, twin = self.driver.machine, self.twin.machine
        assert machine.digest() == twin.digest() == self.driver.restored().digest()
        assert machine.next_expiry_ms() == twin.next_expiry_ms()
        assert machine.queue_stats() == twin.queue_stats()
        assert machine.next_ready_ms("a", "h") == twin.next_ready_ms("a", "h")

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        machine, model = self.driver.machine, self.model
        assert [session.id for session in machine.list_sessions()[0]] == sorted(model.sessions)
        for queue_name in ("", "a"):
            for host in ("", "h"):
                ready = model.ready(queue_name, host)
                assert machine.ready(queue_name, host) == len(ready)
                if queue_name:
                    assert machine.queue_stats(queue_name)[queue_name].ready == len(
                        model.ready(queue_name, "")
                    )
                for state in (None, TaskState.PENDING, TaskState.DONE):
                    found, _ = machine.list_tasks(queue_name, state, host)
                    assert [likeness(task) for task in found] == [
                        (t.id, t.state, t.attempt, t.token, leased(t), t.new.payload)
                        for t in model.tasks
                        if queue_name in ("", t.new.queue)
                        and host in ("", t.new.host)
                        and state in (None, t.state)
                    ]


def leased(task: Life) -> int:
    return task.lease_end if task.state == "leased" else 0


class Hurried(Behaviour):
    """With room for one expiry at a time the model is no measure, but the twin is."""

    def compare(self, command: Command, request: str, outcome: Outcome) -> None:
        pass

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        pass


SETTINGS = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_behaviour() -> None:
    run_state_machine_as_test(Behaviour, settings=SETTINGS)


def test_behaviour_with_one_expiry_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (queue, requests, sessions):
        monkeypatch.setattr(module, "MAX_EXPIRIES_PER_APPLY", 1)
    run_state_machine_as_test(Hurried, settings=SETTINGS)
