"""Changes of many kinds, random but the same for a seed, each with regard to what is there by then.

They come in runs, as under load: many pushes, or answers of many workers, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import TypeVar

from nefia.state import commands as c
from nefia.state.commands import Change
from nefia.state.machine import Machine
from nefia.state.records import Outcome, Task, TasksOutcome, TaskState
from tests.state.state_driver import DAY_MS, HOUR_MS

T = TypeVar("T")

QUEUES = ("", "a", "a", "b", "_own")
HOSTS = ("", "", "h1", "h2")
WORTH_REMEMBERING = 60
LONGEST_RUN = 40
RETENTIONS = ((0, 0), (9_000, 70), (HOUR_MS, 1), (DAY_MS, 9))
TO_RETRY = (TaskState.DEAD, TaskState.CANCELLED)


class _Dice:
    """Draws from `Random.random` only, which gives the same on every version of Python."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed).random

    def below(self, end: int) -> int:
        return int(self._random() * end)

    def one_of(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def happens(self, percent: int) -> bool:
        return self.below(100) < percent


class _Teller:
    def __init__(self, seed: int) -> None:
        self._dice = _Dice(seed)
        self._tasks: dict[str, Task] = {}
        self._request_ids = ["r-0"]
        self._sessions = ["0" * 16]
        kinds: tuple[tuple[int, Callable[[], c.Command]], ...] = (
            (40, self._push),
            (20, self._claim),
            (24, self._answer),
            (8, self._session),
            (4, lambda: c.CancelTask(self._task()[0])),
            (3, lambda: c.RetryTask(self._task(self._dice.one_of(TO_RETRY))[0])),
            (1, lambda: c.Remember("wg0", self._dice.one_of("ab"), self._dice.one_of(("", "1")))),
            (4, lambda: c.SetRetention(*self._dice.one_of(RETENTIONS))),
            (1, c.AdvanceTime),
        )
        self._deck = tuple([kind for weight, kind in kinds for _ in range(weight)])

    def changes(self, number: int) -> Iterator[Change]:
        """`note` takes the outcome of each before the next is asked for."""
        now_ms = 1_000
        kind, run = self._deck[0], 0
        for _ in range(number):
            if run == 0:
                kind, run = self._dice.one_of(self._deck), 1 + self._dice.below(LONGEST_RUN)
                now_ms += self._dice.one_of((0, 1, 1, 50, 1_000, 30_000))
                now_ms += DAY_MS if self._dice.happens(3) else 0
            run -= 1
            late_ms = self._dice.one_of((-7, 0, 3)) if self._dice.happens(5) else 0
            command = kind() if self._dice.happens(90) else self._dice.one_of(self._deck)()
            yield Change(now_ms + late_ms, self._request_id(), command)

    def note(self, outcome: Outcome) -> None:
        if isinstance(outcome, TasksOutcome):
            for task in outcome.tasks:
                self._tasks.pop(task.id, None)
                self._tasks[task.id] = task
            for task_id in list(self._tasks)[:-WORTH_REMEMBERING]:
                del self._tasks[task_id]

    def _request_id(self) -> str:
        if self._dice.happens(85):
            return ""
        if self._dice.happens(70):
            self._request_ids.append(f"r-{len(self._request_ids)}")
        return self._dice.one_of(self._request_ids[-WORTH_REMEMBERING:])

    def _task(self, state: TaskState | None = None) -> tuple[str, int]:
        """Id and token of a task as it was lately, mostly one in this state."""
        known = [task for task in self._tasks.values() if state in (None, task.state)]
        if not known or self._dice.happens(5):
            return self._dice.one_of((("999999", 1), ("1", 0), ("01", 1)))
        task = self._dice.one_of(known)
        return task.id, task.token

    def _push(self) -> c.Command:
        many = 1 if self._dice.happens(80) else self._dice.below(9)
        return c.PushTasks(tuple([self._new() for _ in range(many)]))

    def _new(self) -> c.NewTask:
        dice = self._dice
        return c.NewTask(
            payload=b"%d" % 10 ** dice.below(60),
            queue=dice.one_of(QUEUES),
            host=dice.one_of(HOSTS),
            priority=dice.one_of((0, 0, 0, 5, -1, 1_000_000)),
            delay_ms=dice.one_of((0, 0, 0, 2, 900, HOUR_MS, -4)),
            key=dice.one_of(("", "", "", "k-1", f"k-{dice.below(30)}")),
            max_attempts=dice.one_of((1, 3)),
        )

    def _claim(self) -> c.Command:
        dice = self._dice
        lease_ms = dice.one_of((2, 1_000, 30_000, HOUR_MS, 0, -3))
        limit = dice.one_of((1, 1, 1, 4))
        queue, host = dice.one_of(QUEUES), dice.one_of(HOSTS)
        return c.ClaimTasks(dice.one_of("vw"), queue, host, lease_ms, limit, dice.happens(30))

    def _answer(self) -> c.Command:
        dice, (task_id, token) = self._dice, self._task(TaskState.LEASED)
        match dice.below(3):
            case 0:
                return c.ExtendTask(task_id, token, dice.one_of((5, 40_000)))
            case 1:
                return c.AckTask(task_id, token, dice.one_of((b"null", b"[1, 2, 3]")))
        retry_after_ms = dice.one_of((None, 0, 700, -2))
        return c.FailTask(task_id, token, dice.one_of(("", "no route")), retry_after_ms)

    def _session(self) -> c.Command:
        dice, session_id = self._dice, self._dice.one_of(self._sessions[-WORTH_REMEMBERING:])
        match dice.below(4):
            case 0:
                self._sessions.append(f"{len(self._sessions):016x}")
                new, idle_ms = self._sessions[-1], dice.one_of((0, 40, HOUR_MS))
                return c.OpenSession(
                    new, "h1", "/", "/", "u", "sh", {"b": "2", "a": "1"}, HOUR_MS, idle_ms
                )
            case 1:
                return c.TouchSession(session_id)
            case 2:
                return c.UpdateSession(session_id, dice.one_of((None, "/srv")), None)
        return c.CloseSession(session_id)


def told(seed: int, number: int) -> tuple[list[Change], list[Outcome], Machine]:
    """`number` changes, what came of each, and the state behind them; each has an entry."""
    teller, machine = _Teller(seed), Machine()
    changes: list[Change] = []
    outcomes: list[Outcome] = []
    for change in teller.changes(number):
        changes.append(change)
        outcomes += machine.apply(machine.applied_index + 1, [change])
        teller.note(outcomes[-1])
    return changes, outcomes, machine
