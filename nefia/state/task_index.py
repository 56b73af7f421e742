"""Where to find tasks: what is derived from them, so that no operation looks at all of them.

A task stands on the shelf of its queue and on that of all queues, and if it is for a host also on
that host's shelf of either: each filter is one shelf. nefia's own queues are not among "all".
`TaskIndex.place_of` says where on a shelf it stands; adding and removing both follow it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import merge
from typing import TypeAlias

from nefia.state.commands import OWN_QUEUE_PREFIX
from nefia.state.flow import CLAIMED, COMPLETED, FAILED, PUSHED, Flow
from nefia.state.number_set import NumberSet
from nefia.state.ordered import SortedList
from nefia.state.records import Task, TaskState

ANY = ""
"""In place of a queue or host: all of them."""

KEY_MEMORY_MS = 24 * 3_600_000
"""How long a key is held after its task is finished (SPEC 8)."""

COMMON_PRIORITY = 0
"""Its line stays when it is empty, since most shelves have no other."""

Turn: TypeAlias = tuple[int, int]
"""What decides whose turn it is, smallest first, and the task's number."""

READY, DELAYED, LEASED, DONE, DEAD, CANCELLED = range(6)
"""The places on a shelf: the states of a task, but for pending ones that wait for their time."""

PLACES_OF: dict[TaskState, tuple[int, ...]] = {
    TaskState.PENDING: (READY, DELAYED),
    TaskState.LEASED: (LEASED,),
    TaskState.DONE: (DONE,),
    TaskState.DEAD: (DEAD,),
    TaskState.CANCELLED: (CANCELLED,),
}
_PLACE = {state: places[0] for state, places in PLACES_OF.items()}
_FLOWS = {
    (READY, LEASED): CLAIMED,
    (LEASED, DONE): COMPLETED,
    (LEASED, READY): FAILED,
    (LEASED, DELAYED): FAILED,
    (LEASED, DEAD): FAILED,
}
"""What a move from one place to another counts as."""


class Lines:
    """The numbers of the ready tasks of a shelf, in a line for each priority."""

    __slots__ = ("_count", "_lines", "_priorities")

    def __init__(self) -> None:
        self._count = 0
        self._lines = {-COMMON_PRIORITY: NumberSet()}
        """By the negative of the priority."""
        self._priorities: SortedList[int] = SortedList([-COMMON_PRIORITY])

    def __len__(self) -> int:
        return self._count

    def add(self, task: Task) -> None:
        line = self._lines.get(-task.priority)
        if line is None:
            line = self._lines[-task.priority] = NumberSet()
            self._priorities.add(-task.priority)
        line.add(task.number)
        self._count += 1

    def remove(self, task: Task) -> None:
        line = self._lines[-task.priority]
        line.remove(task.number)
        self._count -= 1
        if not line and task.priority != COMMON_PRIORITY:
            del self._lines[-task.priority]
            self._priorities.remove(-task.priority)

    def next(self) -> int | None:
        """The number of the task of the highest priority, and of those the oldest."""
        for negative in self._priorities:
            if line := self._lines[negative]:
                return line.first()
        return None

    def first(self) -> int:
        """The smallest number of lines that are not all empty."""
        return min([line.first() for line in self._lines.values() if line])

    def above(self, number: int) -> Iterator[int]:
        """As `NumberSet.above`, whatever the priority."""
        return merge(*[line.above(number) for line in self._lines.values()])


class Shelf:
    """The numbers of its tasks by their places; `ready` is that of READY, `places` has the others.

    `delayed` says of those at DELAYED when they become ready. `flow` is for a queue's own shelf.
    """

    __slots__ = ("delayed", "flow", "places", "ready")

    def __init__(self) -> None:
        self.ready = Lines()
        self.places = {place: NumberSet() for place in range(DELAYED, CANCELLED + 1)}
        self.delayed: SortedList[Turn] = SortedList()
        self.flow = Flow()

    @property
    def is_empty(self) -> bool:
        return not self.ready and not any(self.places.values())

    def at(self, place: int) -> Lines | NumberSet:
        return self.ready if place == READY else self.places[place]

    def count(self, state: TaskState) -> int:
        return sum(len(self.at(place)) for place in PLACES_OF[state])


_NOTHING = Shelf()


class TaskIndex:
    """`ready_before` is state, not derived (see `Counters`): which delayed tasks had their turn.

    `later`: all that become ready by themselves, by when: delayed ones and leased ones. `finished`
    is ordered by when a task was finished; tasks with a key are apart, at True, since their time is
    another. `by_key` has the number of the task that holds a key, or held it last, by (queue, key).
    `size_bytes` is the sum over all tasks.
    """

    def __init__(self, tasks: Iterable[Task] = (), ready_before: Turn = (0, 0)) -> None:
        self.ready_before = ready_before
        self.everything = Shelf()
        self.later: SortedList[Turn] = SortedList()
        self.finished: dict[bool, SortedList[Turn]] = {False: SortedList(), True: SortedList()}
        self.by_key: dict[tuple[str, str], int] = {}
        self.size_bytes = 0
        self._shelves: dict[tuple[str, str], Shelf] = {(ANY, ANY): self.everything}
        """By queue and host. Only `everything` stays when it is empty."""
        self._groups: dict[tuple[str, str], tuple[Shelf, ...]] = {}
        """The shelves of a task, by its queue and host: the first is its queue's."""
        self._ends: dict[tuple[str, str], tuple[bool, int]] = {}
        for task in tasks:
            self.insert(task)
        self.inserted()

    def insert(self, task: Task) -> None:
        """One of another state, all of which come one after the other; see `inserted`."""
        self.size_bytes += task.size_bytes
        self._enter(task, self.place_of(task), self._shelves_of(task))
        if task.key:
            name, end = (task.queue, task.key), (not task.is_finished, task.finished_ms)
            if end > self._ends.get(name, (False, -1)):
                self._ends[name] = end
                self.by_key[name] = task.number

    def inserted(self) -> None:
        """That were all of them."""
        self._ends = {}

    def place_of(self, task: Task) -> int:
        place = _PLACE[task.state]
        if place == READY and (task.run_at_ms, task.number) >= self.ready_before:
            return DELAYED
        return place

    # Keeping up with the tasks.

    def add(self, task: Task) -> None:
        """A new task; it takes its key from whichever task had it."""
        self.size_bytes += task.size_bytes
        if task.key:
            self.by_key[task.queue, task.key] = task.number
        shelves = self._shelves_of(task)
        shelves[0].flow.note(PUSHED, task.created_ms)
        self._enter(task, self.place_of(task), shelves)

    def replace(self, old: Task, new: Task) -> None:
        """`old` has become `new`. Its number, queue, host and key are the same."""
        self.size_bytes += new.size_bytes - old.size_bytes
        shelves = self._groups[old.queue, old.host]
        old_place, new_place = self.place_of(old), self.place_of(new)
        what = _FLOWS.get((old_place, new_place))
        if what is not None:
            shelves[0].flow.note(what, new.updated_ms)
        self._leave(old, old_place, shelves)
        self._enter(new, new_place, shelves)

    def hold_key(self, task: Task) -> None:
        """A task that was finished lives again, and with it its key."""
        self.by_key[task.queue, task.key] = task.number

    def remove(self, task: Task) -> None:
        """A finished task goes for good."""
        self.size_bytes -= task.size_bytes
        name = (task.queue, task.key)
        if task.key and self.by_key[name] == task.number:
            del self.by_key[name]
        self._leave(task, self.place_of(task), self._shelves_of(task))
        for queue, host in _filters(task):
            if self._shelves[queue, host].is_empty and (queue, host) != (ANY, ANY):
                del self._shelves[queue, host]
                self._groups.pop((queue, host), None)

    def promote(self, task: Task) -> None:
        """`task`, the first of all that are delayed, becomes ready."""
        shelves = self._shelves_of(task)
        self._leave(task, DELAYED, shelves)
        self._enter(task, READY, shelves)
        self.ready_before = (task.run_at_ms, task.number + 1)

    def _enter(self, task: Task, place: int, shelves: tuple[Shelf, ...]) -> None:
        if place == READY:
            for shelf in shelves:
                shelf.ready.add(task)
            return
        for shelf in shelves:
            shelf.places[place].add(task.number)
            if place == DELAYED:
                shelf.delayed.add((task.run_at_ms, task.number))
        line, turn = self._line_of(task, place)
        line.add(turn)

    def _leave(self, task: Task, place: int, shelves: tuple[Shelf, ...]) -> None:
        if place == READY:
            for shelf in shelves:
                shelf.ready.remove(task)
            return
        for shelf in shelves:
            shelf.places[place].remove(task.number)
            if place == DELAYED:
                shelf.delayed.remove((task.run_at_ms, task.number))
        line, turn = self._line_of(task, place)
        line.remove(turn)

    def _line_of(self, task: Task, place: int) -> tuple[SortedList[Turn], Turn]:
        """Where a task that is not ready waits for what time brings, and as what."""
        if place == LEASED:
            return self.later, (task.lease_expires_ms, task.number)
        if place == DELAYED:
            return self.later, (task.run_at_ms, task.number)
        return self.finished[bool(task.key)], (task.finished_ms, task.number)

    def _shelves_of(self, task: Task) -> tuple[Shelf, ...]:
        shelves = self._groups.get((task.queue, task.host))
        if shelves is None:
            shelves = tuple([self._shelves.setdefault(name, Shelf()) for name in _filters(task)])
            self._groups[task.queue, task.host] = shelves
        return shelves

    # Reading.

    def shelf(self, queue: str, host: str) -> Shelf:
        """That of `queue` and `host`, each of which may be ANY. It is for reading only."""
        return self._shelves.get((queue, host), _NOTHING)

    def numbers_after(
        self, number: int, queue: str, state: TaskState | None, host: str
    ) -> Iterator[int]:
        """The numbers above `number` of the tasks that pass the filters, in order."""
        places = range(6) if state is None else PLACES_OF[state]
        shelf = self.shelf(queue, host)
        return merge(*[shelf.at(place).above(number) for place in places])

    def queues(self) -> list[str]:
        return sorted(queue for queue, host in self._shelves if queue != ANY and host == ANY)


def _filters(task: Task) -> list[tuple[str, str]]:
    """The shelves that a task stands on, by queue and host."""
    names = [(task.queue, ANY)]
    if task.host:
        names.append((task.queue, task.host))
    if not task.queue.startswith(OWN_QUEUE_PREFIX):
        names += [(ANY, host) for _, host in names]
    return names
