"""The replicated state machine (SPEC 8): sessions, task queue and request ids under one time.

A program that embeds nefia has a state machine of its own in it (`application`).

Same log, same state, byte for byte: nothing here reads a clock, draws a random number or iterates
in an order that depends on hashes. `apply` first moves the time, then removes or releases what has
expired, a bounded number each time, then performs the command. Whatever is overdue beyond the
bound has its turn with the next change; until then an expired session is hidden, an expired lease
is refused, and a delayed task is not ready.

`digest` and `snapshot_records` stand for exactly the same records, `Counters` among them, so two
nodes with the same applied index have the same digest, or one of them is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from nefia.errors import DataDamaged, InvalidArgument
from nefia.raft.configuration import Configuration
from nefia.raft.epoch import first_of_epoch
from nefia.state import commands
from nefia.state.application import Application, Host, hosted, other_machine
from nefia.state.commands import Change, Command, PushTasks
from nefia.state.digest import DIGEST_BYTES, DIGEST_MODULUS, sum_of
from nefia.state.happenings import Happening, of_session, of_task
from nefia.state.history import History
from nefia.state.limits import task_number
from nefia.state.memory import Memories
from nefia.state.queue import Queue, shared
from nefia.state.records import (
    ApplicationPart,
    ApplicationState,
    Counters,
    Event,
    Memory,
    Outcome,
    QueueRates,
    QueueStats,
    Record,
    Refusal,
    Request,
    Session,
    Task,
    TaskState,
    TimeOutcome,
)
from nefia.state.requests import Requests, with_texts, without_texts
from nefia.state.restoring import Restoring
from nefia.state.sessions import Sessions
from nefia.state.task_index import turn_ms

T = TypeVar("T")

BEFORE_THE_FIRST_ENTRY = Counters(0, 0, 0, 0, 0, 0)


_END_LATER = frozenset(
    {
        commands.TouchSession,
        commands.UpdateSession,
        commands.CloseSession,
        commands.ExtendTask,
        commands.AckTask,
        commands.FailTask,
        commands.CancelTask,
        commands.RetryTask,
    }
)


def _ends_later(command: Command) -> bool:
    """Whether whatever `command` begins ends after its time: it leaves nothing overdue."""
    if type(command) is commands.ClaimTasks:
        return command.lease_ms > 0
    return type(command) in _END_LATER


class Machine:
    """The state after `applied_index`, at `time_ms` of cluster time. Changed only by its owner."""

    def __init__(
        self,
        counters: Counters = BEFORE_THE_FIRST_ENTRY,
        sessions: Iterable[Session] = (),
        tasks: Sequence[Task] = (),
        requests: Iterable[Request] = (),
        events: Iterable[Event] = (),
        memories: Iterable[Memory] = (),
        application: Application | None = None,
    ) -> None:
        self.application = application
        """Of the program that embeds this node; None in a daemon."""
        self.applied_index = counters.applied_index
        self.time_ms = counters.time_ms
        self._session_gc_ms = counters.session_gc_ms
        self._sessions = Sessions(sessions)
        self._queue = Queue(tasks, counters)
        self._requests = Requests(requests)
        self._history = History(events)
        self._memories = Memories(memories)
        self.tenure_term = counters.tenure_term
        self.tenure_held = counters.tenure_held
        self._restoring: Restoring | None = None
        self.replaced = 0
        """How often another state was put in place of this one, unseen by those who watch."""
        self._handlers = self._bound_handlers()
        self._nothing_overdue = False
        """At `time_ms`. No push changes that, nor any command that `_ends_later`."""

    def _bound_handlers(self) -> dict[type[Command], Callable[..., Outcome]]:
        queue = self._queue
        return {
            commands.OpenSession: self._sessions.open,
            commands.TouchSession: self._sessions.touch,
            commands.UpdateSession: self._sessions.update,
            commands.CloseSession: self._sessions.close,
            PushTasks: queue.push,
            commands.ClaimTasks: queue.claim,
            commands.ExtendTask: queue.extend,
            commands.AckTask: queue.ack,
            commands.FailTask: queue.fail,
            commands.CancelTask: queue.cancel,
            commands.RetryTask: queue.retry,
            commands.AdvanceTime: self._advance_time,
            commands.RecordEvent: self._record_event,
            commands.SetRetention: self._set_retention,
            commands.BeginRestore: self._begin_restore,
            commands.RestorePart: self._restore_part,
            commands.EndRestore: self._end_restore,
            commands.AcquireTenure: self._acquire_tenure,
            commands.ReleaseTenure: self._release_tenure,
            commands.Remember: self._memories.remember,
            commands.ApplicationCommand: self._apply_to_application,
        }

    # Changes.

    def apply(self, index: int, changes: Iterable[Change]) -> list[Outcome]:
        """Perform the changes of entry `index`, the one after `applied_index`.

        What a command may not do is answered with a `Refusal`, and then nothing has changed but
        the time. Raises nothing but OtherMachine and MachineFailed (see `application`), after which
        this state is of no use any more.
        """
        self.skip(index)
        outcomes = [self._perform(change) for change in changes]
        self._queue.settle()
        return outcomes

    def _perform(self, change: Change) -> Outcome:
        now = self.time_ms
        if change.time_ms > now:
            self.time_ms = now = change.time_ms
            self._nothing_overdue = False
        if not self._nothing_overdue:
            self._queue.settle()
            self._nothing_overdue = self._expire(now)
        command, request_id = change.command, change.request_id
        if type(command) is not PushTasks:
            self._queue.settle()
            self._nothing_overdue = self._nothing_overdue and _ends_later(command)
        if not request_id:
            return self._handlers[type(command)](command, now)
        outcome = self._requests.first_outcome(request_id, command, now)
        if outcome is None:
            outcome = self._handlers[type(command)](command, now)
            self._requests.remember(request_id, command, outcome, now)
        return outcome

    def _expire(self, now: int) -> bool:
        """Whether nothing is overdue any more."""
        ended = (
            self._sessions.expire(now - now % self._session_gc_ms),
            self._queue.expire(now),
            self._requests.expire(now),
        )
        return all(ended)

    def configure(self, index: int, term: int, configuration: Configuration) -> None:
        """Entry `index` of `term` holds a configuration. In a new epoch tokens begin there too."""
        self.skip(index)
        self._queue.last_token = max(self._queue.last_token, first_of_epoch(term))
        self._history.configured(index, term, self.time_ms, configuration)

    def _set_retention(self, command: commands.SetRetention, _: int) -> Outcome:
        self._queue.retention_ms = max(command.task_retention_ms, 1)
        self._session_gc_ms = max(command.session_gc_ms, 1)
        return TimeOutcome()

    @property
    def retention(self) -> commands.SetRetention:
        """What is in force."""
        return commands.SetRetention(self._queue.retention_ms, self._session_gc_ms)

    def _advance_time(self, _: commands.AdvanceTime, now: int) -> Outcome:
        if self._restoring is not None and self._restoring.end_ms <= now:
            self._restoring = None
        return TimeOutcome()

    # Another state (see `restoring`).

    @property
    def restoring(self) -> bool:
        """Whether a part of another state has come in: only the log has it, so keep the log."""
        return self._restoring is not None

    @property
    def last_token(self) -> int:
        return self._queue.last_token

    def _begin_restore(self, command: commands.BeginRestore, now: int) -> Outcome:
        self._restoring = Restoring(command, now)
        return TimeOutcome()

    def _restore_part(self, command: commands.RestorePart, now: int) -> Outcome:
        if self._restoring is None or not self._restoring.add(command, now):
            return Refusal(
                "conflict", f"This is not the next part of restore {command.restore_id}."
            )
        return TimeOutcome()

    def _end_restore(self, command: commands.EndRestore, _: int) -> Outcome:
        """Request ids are forgotten: what came of them is not in the other state."""
        new = self._restoring
        if new is None or (new.begin.restore_id, new.parts) != (command.restore_id, command.parts):
            return Refusal("conflict", f"Restore {command.restore_id} is not complete.")
        old, self._restoring = self._queue, None
        new.queue.index.inserted()
        new.queue.last_task = max(new.queue.last_task, old.last_task)
        new.queue.last_token = max(new.queue.last_token, old.last_token, command.first)
        new.queue.retention_ms = old.retention_ms
        new.queue.table.observe = old.table.observe
        new.sessions.table.observe = self._sessions.table.observe
        self._sessions, self._queue, self._requests = new.sessions, new.queue, Requests(())
        self._handlers = self._bound_handlers()
        self.replaced += 1
        self.time_ms = max(self.time_ms, new.begin.time_ms)
        return TimeOutcome()

    def _record_event(self, command: commands.RecordEvent, now: int) -> Outcome:
        return self._history.record(self.applied_index, now, command)

    def _acquire_tenure(self, command: commands.AcquireTenure, _: int) -> Outcome:
        """Terms in the log never go back, and neither does this."""
        self.tenure_term, self.tenure_held = max(self.tenure_term, command.term), True
        return TimeOutcome()

    def _release_tenure(self, command: commands.ReleaseTenure, _: int) -> Outcome:
        if command.term < self.tenure_term:
            return Refusal("conflict", f"Term {self.tenure_term} has the services.")
        self.tenure_held = False
        return TimeOutcome()

    @property
    def host(self) -> Host | None:
        """What makes the machine of the program that embeds this node; None in a daemon."""
        return self.application.host if self.application else None

    @property
    def machine_name(self) -> str:
        """The name of that machine; empty in a daemon."""
        return self.application.state.machine if self.application else ""

    def _apply_to_application(self, command: commands.ApplicationCommand, now: int) -> Outcome:
        if self.application is None:
            raise other_machine(command.machine, "")
        return self.application.apply(command, now)

    def skip(self, index: int) -> None:
        """Entry `index` changes nothing: a no-op."""
        assert index == self.applied_index + 1, (index, self.applied_index)
        self.applied_index = index

    # Reading.

    def digest(self) -> str:
        """64 hex digits. Takes time for the records that have changed since it was asked last."""
        total = (
            sum_of([self._counters()])
            + self._sessions.table.digest()
            + self._queue.table.digest()
            + self._requests.table.digest()
            + self._history.table.digest()
            + self._memories.table.digest()
            + (self.application.digest() if self.application else 0)
        )
        return f"{total % DIGEST_MODULUS:0{2 * DIGEST_BYTES}x}"

    def next_expiry_ms(self) -> int | None:
        """From when on `AdvanceTime` would do something; at or before `time_ms` if it is overdue.

        None if nothing can expire. Expiries: of sessions, which are then collected at the next
        multiple of an interval, leases, delays, request ids, and of the time for which finished
        tasks are kept.
        """
        times = (
            self._sessions.next_expiry_ms(self.time_ms, self._session_gc_ms),
            self._queue.next_expiry_ms,
            self._requests.next_expiry_ms,
            self._restoring.end_ms if self._restoring else None,
        )
        return min((time for time in times if time is not None), default=None)

    def get_session(self, session_id: str) -> Session:
        """The session with this id or, from 8 digits on, the only one whose id begins so.

        Raises NotFound, or Conflict if there are several.
        """
        return _found(self._sessions.find(session_id, self.time_ms))

    def list_sessions(
        self, host: str = "", limit: int = 100, cursor: str = ""
    ) -> tuple[tuple[Session, ...], str | None]:
        """A page in the order of ids, and the cursor for the next page or None.

        `host` "" means all. A page may end early (see `pages`). Raises InvalidArgument.
        """
        return self._sessions.page(host, limit, cursor, self.time_ms)

    def get_task(self, task_id: str) -> Task:
        """Raises NotFound."""
        return _found(self._queue.find(task_id))

    def list_tasks(
        self,
        queue: str = "",
        state: TaskState | None = None,
        host: str = "",
        limit: int = 100,
        cursor: str = "",
    ) -> tuple[tuple[Task, ...], str | None]:
        """A page, oldest first, and the cursor for the next page or None.

        `queue` and `host` "" and `state` None mean all. A page may end early (see `pages`).
        Raises InvalidArgument.
        """
        after = task_number(cursor) if cursor else 0
        if after is None:
            raise InvalidArgument(f'"{cursor}" is not a cursor of an earlier page.')
        return self._queue.page(queue, state, host, limit, after)

    def queue_stats(self, queue: str = "") -> dict[str, QueueStats]:
        """By the name of the queue, in order; of all queues that hold any task, or of `queue`."""
        names = [queue] if queue else self._queue.index.queues()
        return {name: self._queue.stats(name) for name in names}

    def queue_rates(self, queue: str) -> QueueRates:
        """How much came and went lately on a queue."""
        return self._queue.index.shelf(queue, "").flow.rates(self.time_ms)

    def next_ready_ms(self, queue: str = "", host: str = "") -> int | None:
        """When a claim of `queue` and `host` ("": any) may next find a task, as far as is known.

        `time_ms` if one is ready. Else it is when a delay ends; it takes a change at that time or
        later for it to happen. None if none is known: what is leased is hoped to be done.
        """
        shelf = self._queue.index.shelf(queue, host)
        if shelf.ready:
            return self.time_ms
        return turn_ms(shelf.delayed[0]) if shelf.delayed else None

    def ready(self, queue: str, host: str) -> int:
        """How many tasks a claim of `queue` and `host` ("": any) could take."""
        return len(self._queue.index.shelf(queue, host).ready)

    def history(self, limit: int) -> list[Event]:
        """The newest events, up to `limit`, the oldest of them first."""
        return self._history.newest(limit)

    def remembered(self, service: str) -> dict[str, str]:
        """What `service` has learned, by key in order."""
        return self._memories.of(service)

    def watch(self, tell: Callable[[Happening], object] | None) -> None:
        """Call `tell` with what happens to a session or task from now on; None: no more."""
        if tell is None:
            self._queue.table.observe = self._sessions.table.observe = None
        else:
            self._queue.table.observe = lambda old, new: tell(of_task(old, new))
            self._sessions.table.observe = lambda old, new: tell(of_session(old, new, self.time_ms))

    # Snapshots.

    def snapshot_records(self) -> Iterator[tuple[str, Record]]:
        """The whole state as it is now, as (kind, record), in an order that all nodes share.

        The call itself takes references to blocks of records only, a millisecond at a million; the
        records come as they are asked for, and changes made meanwhile do not show in them.
        """
        tasks, requests = self._queue.table.snapshot(), self._requests.table.snapshot()
        sessions, session_ids = self._sessions.table.records, list(self._sessions.ids)
        events, event_numbers = self._history.table.records, self._history.numbers()
        memories = self._memories.in_order()
        application = self.application.records() if self.application else ()
        counters = self._counters()

        def records() -> Iterator[tuple[str, Record]]:
            yield "counters", counters
            for session_id in session_ids:
                yield "session", sessions[session_id]
            for task in tasks:
                yield "task", task
            for request in requests:
                yield "request", without_texts(request, tasks.get)
            for number in event_numbers:
                yield "event", events[number]
            for _, memory in memories:
                yield "memory", memory
            yield from application

        return records()

    @classmethod
    def from_records(
        cls, records: Iterable[tuple[str, Record]], host: Host | None = None
    ) -> Machine:
        """The machine whose `snapshot_records` these were. Raises DataDamaged if they are not.

        `host` makes the program's machine in it: raises as `application.hosted` does. Nothing is
        kept twice, not even meanwhile: what is freed late is seldom given back.
        """
        counters: Counters | None = None
        sessions: list[Session] = []
        tasks: dict[int, Task] = {}
        requests: list[Request] = []
        events: list[Event] = []
        memories: list[Memory] = []
        state: ApplicationState | None = None
        parts: list[ApplicationPart] = []
        for _, record in records:
            match record:
                case Task():
                    tasks[record.number] = shared(record)
                case Request():
                    requests.append(with_texts(record, tasks))
                case Counters():
                    counters = record
                case Session():
                    sessions.append(record)
                case Event():
                    events.append(record)
                case Memory():
                    memories.append(record)
                case ApplicationState():
                    state = record
                case ApplicationPart():
                    parts.append(record)
        if counters is None:
            raise DataDamaged("The snapshot is incomplete: it holds no counters.")
        application = hosted(host, state, parts)
        all_tasks = tuple(tasks.values())
        return cls(counters, sessions, all_tasks, requests, events, memories, application)

    def _counters(self) -> Counters:
        queue = self._queue
        before_ms, before_task = queue.index.ready_before
        return Counters(
            applied_index=self.applied_index,
            time_ms=self.time_ms,
            last_task=queue.last_task,
            last_token=queue.last_token,
            ready_before_ms=before_ms,
            ready_before_task=before_task,
            task_retention_ms=queue.retention_ms,
            session_gc_ms=self._session_gc_ms,
            tenure_term=self.tenure_term,
            tenure_held=self.tenure_held,
        )


def _found(result: T | Refusal) -> T:
    if isinstance(result, Refusal):
        raise result.to_error()
    return result
