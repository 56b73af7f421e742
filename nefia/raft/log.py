"""The log: terms and configurations of all of it, the newest entries in memory (paper 5.3, 5.1).

Older entries live in storage only, so that memory stays bounded; terms are kept for the whole log,
as runs, because the protocol asks for them at any index and must never wait for a disk.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from nefia.raft.configuration import Configuration
from nefia.raft.entries import Entry, SnapshotMeta

MEMORY_BYTES = 16 * 1024 * 1024
"""How much of the durable, applied log stays in memory for followers that are a little behind."""

EVICTED_BYTES = 1024 * 1024
"""So much beyond that is waited for, and then goes at once: to shorten a long list takes time."""


class Log:
    """Entries `first_index`..`last_index`. `base` stands for all that was compacted away before.

    `configuration` is the newest one in the log, which is in force, committed or not (4.1), and
    `configuration_index` the index of its entry. `last_term` is the term of the last entry, or the
    base's. Owned and changed by `core.Raft` alone.
    """

    def __init__(
        self,
        *,
        base: SnapshotMeta | None = None,
        last_index: int | None = None,
        term_starts: Iterable[tuple[int, int]] = (),
        configurations: Iterable[tuple[int, Configuration]] = (),
        tail: Sequence[Entry] = (),
    ) -> None:
        self.base = base
        self.base_index = base.index if base else 0
        self._term_starts = list(term_starts)
        self._configurations = list(configurations)
        self._tail = list(tail)
        self._tail_bytes = sum(entry.size_bytes for entry in self._tail)
        self._dropped_bytes = 0
        self.last_index = self.base_index if last_index is None else last_index
        self._tail_first = self._tail[0].index if self._tail else self.last_index + 1
        assert self._tail_first + len(self._tail) == self.last_index + 1
        self._look_at_end()

    def _look_at_end(self) -> None:
        """Remember what is asked for all the time."""
        self.configuration_index, self.configuration = self.configuration_at(self.last_index)
        term = self.term_at(self.last_index)
        assert term is not None
        self.last_term = term

    @property
    def base_term(self) -> int:
        return self.base.term if self.base else 0

    @property
    def first_index(self) -> int:
        return self.base_index + 1

    @property
    def first_in_memory(self) -> int:
        return self._tail_first

    @property
    def appended_bytes(self) -> int:
        """Of all entries that were ever here; what was truncated again does not count."""
        return self._dropped_bytes + self._tail_bytes

    def term_at(self, index: int) -> int | None:
        """The term of the entry at `index`; None if it is compacted away or beyond the end."""
        if self._tail_first <= index <= self.last_index:
            return self._tail[index - self._tail_first].term
        if index == self.base_index:
            return self.base_term
        if not self.first_index <= index <= self.last_index:
            return None
        run = bisect_right(self._term_starts, index, key=lambda start: start[0])
        assert run > 0, f"no term recorded for entry {index}"
        return self._term_starts[run - 1][1]

    def term_at_or_before(self, index: int) -> int:
        """As `term_at`; of what is compacted away, the base's term, which is no older.

        Good for comparing it with entries that are committed too: none of those lies between.
        """
        term = self.term_at(index)
        return self.base_term if term is None else term

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a log that ends so is at least as up-to-date as this one (paper 5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def newest_at_most(self, index: int, term: int) -> tuple[int, int]:
        """(index, term) of the newest entry not after `index` whose term is not above `term`.

        With it leader and follower skip whole terms when they look for where their logs part
        (paper 5.3, "the protocol can be optimized"). Never before the base.
        """
        index = min(index, self.last_index)
        while index > self.base_index:
            run = bisect_right(self._term_starts, index, key=lambda start: start[0]) - 1
            start, term_here = self._term_starts[run]
            if term_here <= term:
                return index, term_here
            index = start - 1
        return self.base_index, self.base_term

    # Configurations.

    def configuration_at(self, index: int) -> tuple[int, Configuration]:
        """(index of its entry, configuration) in force once the log reached `index`."""
        for config_index, configuration in reversed(self._configurations):
            if config_index <= index:
                return config_index, configuration
        if self.base:
            return self.base.configuration_index, self.base.configuration
        return 0, Configuration()

    def newest_configuration_with(self, node_id: str, instance: str = "") -> int:
        """Index of the newest configuration that contains that node; 0 if there is none."""
        for config_index, configuration in reversed(self._configurations):
            if configuration.get_instance(node_id, instance):
                return config_index
        if self.base and self.base.configuration.get_instance(node_id, instance):
            return self.base.configuration_index
        return 0

    # Entries.

    def in_memory(self, first: int, last: int, limit_bytes: int, limit: int) -> tuple[Entry, ...]:
        """Entries from `first` to at most `last`, one at least; `first` must be in memory."""
        assert self._tail_first <= first <= last <= self.last_index
        start = first - self._tail_first
        window = self._tail[start : start + min(last - first + 1, limit)]
        total_bytes = 0
        for count, entry in enumerate(window):
            total_bytes += entry.size_bytes
            if total_bytes > limit_bytes and count:
                return tuple(window[:count])
        return tuple(window)

    def from_index(self, first: int) -> tuple[Entry, ...]:
        """All entries from `first` on; they must be in memory."""
        assert first >= self._tail_first, f"entry {first} is no longer in memory"
        return tuple(self._tail[first - self._tail_first :])

    def append(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            assert entry.index == self.last_index + 1, "a log has no gaps"
            assert entry.term >= self.last_term, "terms in a log never decrease"
            if entry.term != self.last_term or not self._term_starts:
                self._term_starts.append((entry.index, entry.term))
            if isinstance(entry.payload, Configuration):
                self._configurations.append((entry.index, entry.payload))
                self.configuration_index, self.configuration = entry.index, entry.payload
            self._tail.append(entry)
            self._tail_bytes += entry.size_bytes
            self.last_index, self.last_term = entry.index, entry.term

    def truncate_from(self, index: int) -> None:
        """Drop the entries from `index` on; a configuration among them is undone (4.1)."""
        assert self.first_index <= index <= self.last_index
        keep = max(0, index - self._tail_first)
        self._tail_bytes -= sum(entry.size_bytes for entry in self._tail[keep:])
        del self._tail[keep:]
        self._tail_first = min(self._tail_first, index)
        self.last_index = index - 1
        while self._term_starts and self._term_starts[-1][0] >= index:
            self._term_starts.pop()
        while self._configurations and self._configurations[-1][0] >= index:
            self._configurations.pop()
        self._look_at_end()

    def compact(self, through: int) -> SnapshotMeta:
        """Forget what a snapshot covers, up to `through` (5.1). Returns the new base."""
        term = self.term_at(through)
        assert term is not None
        assert through > self.base_index
        next_term = self.term_at(through + 1)
        configuration_index, configuration = self.configuration_at(through)
        self.base = SnapshotMeta(through, term, configuration, configuration_index)
        self.base_index = through
        later = [start for start in self._term_starts if start[0] > self.first_index]
        self._term_starts = ([] if next_term is None else [(self.first_index, next_term)]) + later
        self._configurations = [c for c in self._configurations if c[0] > through]
        self._drop_from_memory(through)
        return self.base

    def reset(self, base: SnapshotMeta) -> None:
        """Begin anew behind a snapshot from the leader; nothing here is of use (5.3)."""
        self.base = base
        self.base_index = self.last_index = base.index
        self._term_starts.clear()
        self._configurations.clear()
        self._tail.clear()
        self._tail_bytes = 0
        self._tail_first = base.index + 1
        self._look_at_end()

    def evict(self, through: int) -> None:
        """Keep about `MEMORY_BYTES` of the entries up to `through`, which storage has too."""
        if self._tail_bytes <= MEMORY_BYTES + EVICTED_BYTES:
            return
        excess, last = self._tail_bytes - MEMORY_BYTES, self._tail_first - 1
        for entry in self._tail:
            if excess <= 0 or entry.index > through:
                break
            excess -= entry.size_bytes
            last = entry.index
        self._drop_from_memory(last)

    def _drop_from_memory(self, through: int) -> None:
        count = min(max(0, through + 1 - self._tail_first), len(self._tail))
        dropped_bytes = sum(entry.size_bytes for entry in self._tail[:count])
        self._tail_bytes -= dropped_bytes
        self._dropped_bytes += dropped_bytes
        del self._tail[:count]
        self._tail_first = self.last_index + 1 if not self._tail else self._tail[0].index
