"""Where to find tasks: what is derived from them, so that no operation looks at all of them.

A task stands on the shelf of its queue and on that of all queues, and if it is for a host also on
that host's shelf of either: each filter is one shelf. nefia's own queues are not among "all".
`TaskIndex.place_of` says where on a shelf it stands; adding and removing both follow it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import merge
from typing import TypeAlias

from nefia.state.commands import OWN_QUEUE_PREFIX
from nefia.state.flow import CLAIMED, COMPLETED, FAILED, PUSHED, Flow
from nefia.state.number_set import BITS, BLOCK_MASK, BLOCK_SHIFT, NumberSet
from nefia.state.ordered import SortedList
from nefia.state.records import Task, TaskState

ANY = ""
"""In place of a queue or host: all of them."""

KEY_MEMORY_MS = 24 * 3_600_000
"""How long a key is held after its task is finished (SPEC 8)."""

COMMON_PRIORITY = 0
"""Its line stays when it is empty, since most shelves have no other."""

Turn: TypeAlias = int
"""A time, and in the last `NUMBER_BITS` bits the number of the task whose turn it is then.

As one integer it takes half of the memory of a pair, and is compared in half the time.
"""

NUMBER_BITS = 80
"""What is counted on from 64 bits, the most that comes in, stays well below that."""
_NUMBER_MASK = (1 << NUMBER_BITS) - 1

MAX_GROUPED_TASKS = 1024
"""So many of another state are placed at a time, so that little is kept twice meanwhile."""

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

Group: TypeAlias = tuple[str, str, int, int, int]
"""Queue, host, place and priority, and a block of numbers: what is added to a shelf at once."""


def turn_ms(turn: Turn) -> int:
    return turn >> NUMBER_BITS


def turn_number(turn: Turn) -> int:
    return turn & _NUMBER_MASK


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

    def add(self, priority: int, block: int, bits: int) -> None:
        line = self._lines.get(-priority)
        if line is None:
            line = self._lines[-priority] = NumberSet()
            self._priorities.add(-priority)
        line.add(block, bits)
        self._count += bits.bit_count()

    def remove(self, priority: int, block: int, bits: int) -> None:
        line = self._lines[-priority]
        line.remove(block, bits)
        self._count -= bits.bit_count()
        if priority != COMMON_PRIORITY and not line:
            del self._lines[-priority]
            self._priorities.remove(-priority)

    def next(self) -> int | None:
        """The number of the task of the highest priority, and of those the oldest."""
        if not self._count:
            return None
        best = self._lines[self._priorities[0]]
        if not best:  # the common one, the only line that stays when it is empty
            best = self._lines[self._priorities[1]]
        return best.first()

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

    def add(self, place: int, priority: int, block: int, bits: int) -> None:
        if place == READY:
            self.ready.add(priority, block, bits)
        else:
            self.places[place].add(block, bits)

    def remove(self, place: int, priority: int, block: int, bits: int) -> None:
        if place == READY:
            self.ready.remove(priority, block, bits)
        else:
            self.places[place].remove(block, bits)

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

    def __init__(self, tasks: Sequence[Task] = (), ready_before: tuple[int, int] = (0, 0)) -> None:
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
        self.insert(tasks)
        self.inserted()

    def insert(self, tasks: Sequence[Task]) -> None:
        """Tasks of another state, all of which come one after the other; see `inserted`."""
        for task in tasks:
            self.size_bytes += task.size_bytes
            if task.key:
                name, end = (task.queue, task.key), (not task.is_finished, task.finished_ms)
                if end > self._ends.get(name, (False, -1)):
                    self._ends[name] = end
                    self.by_key[name] = task.number
        for start in range(0, len(tasks), MAX_GROUPED_TASKS):
            for group, bits in self._grouped(tasks[start : start + MAX_GROUPED_TASKS]).items():
                self._enter(group, bits)

    def inserted(self) -> None:
        """That were all of them."""
        self._ends = {}

    def place_of(self, task: Task) -> int:
        place = _PLACE[task.state]
        if place == READY and (task.run_at_ms, task.number) >= self.ready_before:
            return DELAYED
        return place

    # Keeping up with the tasks.

    def add(self, tasks: Sequence[Task]) -> None:
        """New tasks, pushed at one time, whose size and keys are known already."""
        for group, bits in self._grouped(tasks).items():
            shelves = self._enter(group, bits)
            shelves[0].flow.note(PUSHED, tasks[0].created_ms, bits.bit_count())

    def replace(self, old: Task, new: Task) -> None:
        """`old` has become `new`. Its number, queue, host, priority and key are the same."""
        if new.result is not old.result or new.error is not old.error:
            self.size_bytes += new.size_bytes - old.size_bytes
        shelves = self._groups[old.queue, old.host]
        old_place, new_place = self.place_of(old), self.place_of(new)
        what = _FLOWS.get((old_place, new_place))
        if what is not None:
            shelves[0].flow.note(what, new.updated_ms, 1)
        if old_place != READY:
            self._wait_no_more(old, old_place, shelves)
        if old_place != new_place:
            self._move(new, old_place, new_place, shelves)
        if new_place != READY:
            self._wait(new, new_place, shelves)

    def hold_key(self, task: Task) -> None:
        """A task is new, or lives again: it takes its key from whichever task had it."""
        self.by_key[task.queue, task.key] = task.number

    def remove(self, task: Task) -> None:
        """A finished task goes for good."""
        self.size_bytes -= task.size_bytes
        name = (task.queue, task.key)
        if task.key and self.by_key.get(name) == task.number:
            del self.by_key[name]
        place, shelves = self.place_of(task), self._groups[task.queue, task.host]
        self._wait_no_more(task, place, shelves)
        block, bit = task.number >> BLOCK_SHIFT, BITS[task.number & BLOCK_MASK]
        for (queue, host), shelf in zip(_filters(task.queue, task.host), shelves, strict=True):
            shelf.remove(place, task.priority, block, bit)
            if not shelf.at(place) and shelf.is_empty and (queue, host) != (ANY, ANY):
                del self._shelves[queue, host]
                self._groups.pop((queue, host), None)

    def promote(self, task: Task) -> None:
        """`task`, the first of all that are delayed, becomes ready."""
        shelves = self._groups[task.queue, task.host]
        self._wait_no_more(task, DELAYED, shelves)
        self._move(task, DELAYED, READY, shelves)
        self.ready_before = (task.run_at_ms, task.number + 1)

    def _grouped(self, tasks: Sequence[Task]) -> dict[Group, int]:
        """Tasks as `_enter` takes them, many at once. Those that wait for a turn do so already."""
        groups: dict[Group, int] = {}
        for task in tasks:
            number, place = task.number, self.place_of(task)
            group = task.queue, task.host, place, task.priority, number >> BLOCK_SHIFT
            groups[group] = groups.get(group, 0) | BITS[number & BLOCK_MASK]
            if place != READY:
                self._wait(task, place, self._shelves_of(task.queue, task.host))
        return groups

    def _enter(self, group: Group, bits: int) -> tuple[Shelf, ...]:
        queue, host, place, priority, block = group
        shelves = self._shelves_of(queue, host)
        for shelf in shelves:
            shelf.add(place, priority, block, bits)
        return shelves

    def _move(self, task: Task, old: int, new: int, shelves: tuple[Shelf, ...]) -> None:
        block, bit = task.number >> BLOCK_SHIFT, BITS[task.number & BLOCK_MASK]
        for shelf in shelves:
            shelf.remove(old, task.priority, block, bit)
            shelf.add(new, task.priority, block, bit)

    def _wait(self, task: Task, place: int, shelves: tuple[Shelf, ...]) -> None:
        line, turn = self._waiting(task, place)
        line.add(turn)
        if place == DELAYED:
            for shelf in shelves:
                shelf.delayed.add(turn)

    def _wait_no_more(self, task: Task, place: int, shelves: tuple[Shelf, ...]) -> None:
        line, turn = self._waiting(task, place)
        line.remove(turn)
        if place == DELAYED:
            for shelf in shelves:
                shelf.delayed.remove(turn)

    def _waiting(self, task: Task, place: int) -> tuple[SortedList[Turn], Turn]:
        """Where a task that is not ready waits for what time brings, and as what."""
        if place == LEASED:
            return self.later, (task.lease_expires_ms << NUMBER_BITS) + task.number
        if place == DELAYED:
            return self.later, (task.run_at_ms << NUMBER_BITS) + task.number
        return self.finished[bool(task.key)], (task.finished_ms << NUMBER_BITS) + task.number

    def _shelves_of(self, queue: str, host: str) -> tuple[Shelf, ...]:
        shelves = self._groups.get((queue, host))
        if shelves is None:
            names = _filters(queue, host)
            shelves = tuple([self._shelves.setdefault(name, Shelf()) for name in names])
            self._groups[queue, host] = shelves
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


def _filters(queue: str, host: str) -> list[tuple[str, str]]:
    """The shelves of tasks of `queue` and `host`, by their own queue and host."""
    names = [(queue, ANY)]
    if host:
        names.append((queue, host))
    if not queue.startswith(OWN_QUEUE_PREFIX):
        names += [(ANY, host) for _, host in names]
    return names
