"""Where to find tasks: what is derived from them, so that no operation looks at all of them.

A task stands on the shelf of its queue and on that of all queues, and if it is for a host also on
that host's shelf of either: each filter is one shelf. `_lines` says where on a shelf it waits for
its turn; adding and removing both follow it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import merge
from typing import TypeAlias

from attrs import define, field

from nefia.state.ordered import SortedList
from nefia.state.records import Task, TaskState

ANY = ""
"""In place of a queue or host: all of them."""

Turn: TypeAlias = tuple[int, int]
"""What decides whose turn it is, smallest first, and the task's number."""


@define
class Shelf:
    """`numbers` of the tasks in each state. `ready`: pending tasks, by -priority.

    `later`: tasks that become ready by themselves, by when: delayed ones and leased ones.
    """

    numbers: dict[TaskState, SortedList[int]] = field(factory=dict)
    ready: SortedList[Turn] = field(factory=SortedList)
    later: SortedList[Turn] = field(factory=SortedList)

    def of_state(self, state: TaskState) -> SortedList[int]:
        numbers = self.numbers.get(state)
        if numbers is None:
            numbers = self.numbers[state] = SortedList()
        return numbers

    @property
    def is_empty(self) -> bool:
        return not any(self.numbers.values())


class TaskIndex:
    """`ready_before` is state, not derived (see `Counters`): which delayed tasks had their turn.

    `finished` is ordered by when a task was finished. `by_key` has the number of the task that
    holds a key, by (queue, key). `size_bytes` is the sum over all tasks.
    """

    def __init__(self, tasks: Iterable[Task] = (), ready_before: Turn = (0, 0)) -> None:
        self.ready_before = ready_before
        self.everything = Shelf()
        self.finished: SortedList[Turn] = SortedList()
        self.by_key: dict[tuple[str, str], int] = {}
        self.size_bytes = 0
        self._shelves: dict[str, dict[str, Shelf]] = {ANY: {ANY: self.everything}}
        """By host and then by queue. Only `everything` stays when it is empty."""
        for task in tasks:
            self.add(task)

    # Keeping up with the tasks.

    def add(self, task: Task) -> None:
        self.size_bytes += task.size_bytes
        if task.key:
            self.by_key[task.queue, task.key] = task.number
        self._put(task, self._shelves_of(task))

    def replace(self, old: Task, new: Task) -> None:
        """`old` has become `new`. Its number, queue, host and key are the same."""
        self.size_bytes += new.size_bytes - old.size_bytes
        shelves = self._shelves_of(old)
        self._take(old, shelves)
        self._put(new, shelves)

    def remove(self, task: Task) -> None:
        self.size_bytes -= task.size_bytes
        if task.key:
            del self.by_key[task.queue, task.key]
        self._take(task, self._shelves_of(task))
        for host in {ANY, task.host}:
            of_host = self._shelves[host]
            for queue in (ANY, task.queue):
                shelf = of_host[queue]
                if shelf.is_empty and shelf is not self.everything:
                    del of_host[queue]
            if not of_host:
                del self._shelves[host]

    def promote(self, task: Task) -> None:
        """`task`, the first of all that are delayed, becomes ready."""
        for shelf in self._shelves_of(task):
            shelf.later.remove((task.run_at_ms, task.number))
            shelf.ready.add((-task.priority, task.number))
        self.ready_before = (task.run_at_ms, task.number + 1)

    def _put(self, task: Task, shelves: list[Shelf]) -> None:
        for shelf in shelves:
            shelf.of_state(task.state).add(task.number)
        lines, turn = self._lines(task, shelves)
        for line in lines:
            line.add(turn)

    def _take(self, task: Task, shelves: list[Shelf]) -> None:
        for shelf in shelves:
            shelf.of_state(task.state).remove(task.number)
        lines, turn = self._lines(task, shelves)
        for line in lines:
            line.remove(turn)

    def _lines(self, task: Task, shelves: list[Shelf]) -> tuple[list[SortedList[Turn]], Turn]:
        """Where `task` waits, and as what."""
        state = task.state
        if state is TaskState.PENDING:
            due = (task.run_at_ms, task.number)
            if due < self.ready_before:
                return [shelf.ready for shelf in shelves], (-task.priority, task.number)
            return [shelf.later for shelf in shelves], due
        if state is TaskState.LEASED:
            return [shelf.later for shelf in shelves], (task.lease_expires_ms, task.number)
        return [self.finished], (task.finished_ms, task.number)

    def _shelves_of(self, task: Task) -> list[Shelf]:
        found = []
        for host in (ANY, task.host) if task.host else (ANY,):
            of_host = self._shelves.get(host)
            if of_host is None:
                of_host = self._shelves[host] = {}
            for queue in (ANY, task.queue):
                shelf = of_host.get(queue)
                if shelf is None:
                    shelf = of_host[queue] = Shelf()
                found.append(shelf)
        return found

    # Reading.

    def shelf(self, queue: str, host: str) -> Shelf:
        """That of `queue` and `host`, each of which may be ANY. It is for reading only."""
        return self._shelves.get(host, {}).get(queue) or Shelf()

    def numbers_after(
        self, number: int, queue: str, state: TaskState | None, host: str
    ) -> Iterator[int]:
        """The numbers above `number` of the tasks that pass the filters, in order."""
        numbers = self.shelf(queue, host).numbers
        wanted = numbers.values() if state is None else [numbers.get(state, SortedList())]
        return merge(*[some.irange(number, inclusive=(False, True)) for some in wanted])

    def numbers(self) -> list[int]:
        """All numbers, in an order that depends on the tasks alone."""
        numbers = self.everything.numbers
        return [number for state in TaskState for number in numbers.get(state, ())]

    def queues(self) -> list[str]:
        return sorted(queue for queue in self._shelves[ANY] if queue != ANY)
