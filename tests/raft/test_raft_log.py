"""The log against a naive list of all entries that keeps everything."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nefia.raft import log as log_module
from nefia.raft.configuration import Configuration, Member
from nefia.raft.entries import ENTRY_OVERHEAD_BYTES, Entry, Payload, SnapshotMeta
from nefia.raft.log import Log

EMPTY = Configuration()


def configuration(number: int) -> Configuration:
    return Configuration([Member(f"n{number}", f"n{number}:9700", voter=True)])


class LogMachine(RuleBasedStateMachine):
    """`entries` is the whole history of the present log; `base` and `evicted` are indexes."""

    def __init__(self) -> None:
        super().__init__()
        self.log = Log()
        self.entries: list[Entry] = []
        self.base = 0
        self.evicted = 0

    def naive_configuration(self, index: int) -> tuple[int, Configuration]:
        for entry in reversed(self.entries[:index]):
            if isinstance(entry.payload, Configuration):
                return entry.index, entry.payload
        return 0, EMPTY

    @rule(
        grow=st.integers(0, 2),
        kinds=st.lists(
            st.sampled_from(["command", "configuration", "noop"]), min_size=1, max_size=4
        ),
    )
    def append(self, grow: int, kinds: list[str]) -> None:
        term = max(1, (self.entries[-1].term if self.entries else 0) + grow)
        new = []
        for offset, kind in enumerate(kinds):
            index = len(self.entries) + 1 + offset
            payloads: dict[str, Payload] = {
                "command": b"x" * (index % 7),
                "configuration": configuration(index),
                "noop": None,
            }
            new.append(Entry(index, term, payloads[kind]))
        self.log.append(new)
        self.entries += new

    @precondition(lambda self: len(self.entries) > self.base)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(self.base + 1, len(self.entries)))
        self.log.truncate_from(index)
        del self.entries[index - 1 :]
        self.evicted = min(self.evicted, len(self.entries))

    @precondition(lambda self: len(self.entries) > self.base)
    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        through = data.draw(st.integers(self.base + 1, len(self.entries)))
        at, there = self.naive_configuration(through)
        expected = SnapshotMeta(through, self.entries[through - 1].term, there, at)
        assert self.log.compact(through) == expected == self.log.base
        self.base = through

    @rule(gap=st.integers(1, 5), term=st.integers(0, 2))
    def reset(self, gap: int, term: int) -> None:
        """A snapshot from the leader: a history that this log never saw."""
        top = (self.entries[-1].term if self.entries else 1) + term
        index = len(self.entries) + gap
        self.entries = [
            Entry(i, top, configuration(0) if i == 1 else b"") for i in range(1, index + 1)
        ]
        self.log.reset(SnapshotMeta(index, top, configuration(0), 1))
        self.base = self.evicted = index

    @rule(data=st.data())
    def evict(self, data: st.DataObject) -> None:
        through = data.draw(st.integers(0, len(self.entries)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(log_module, "MEMORY_BYTES", 3 * ENTRY_OVERHEAD_BYTES)
            patch.setattr(log_module, "EVICTED_BYTES", 0)
            self.log.evict(through)
        assert self.log.first_in_memory - 1 <= max(through, self.base, self.evicted)
        self.evicted = max(self.evicted, self.log.first_in_memory - 1)

    @invariant()
    def agrees(self) -> None:
        log, entries = self.log, self.entries
        assert log.last_index == len(entries)
        assert log.base_index == self.base
        assert log.last_term == (entries[-1].term if entries else 0)
        for index in range(-1, len(entries) + 3):
            inside = self.base <= index <= len(entries)
            expected = (entries[index - 1].term if index else 0) if inside else None
            assert log.term_at(index) == expected
        for index in range(self.base, len(entries) + 1):
            assert log.configuration_at(index) == self.naive_configuration(index)
        in_force = self.naive_configuration(len(entries))
        assert (log.configuration_index, log.configuration) == in_force
        assert log.from_index(log.first_in_memory) == tuple(entries[log.first_in_memory - 1 :])
        assert self.base < log.first_in_memory <= len(entries) + 1

    @invariant()
    def finds_where_to_look_next(self) -> None:
        for index in range(len(self.entries) + 3):
            for term in range(5):
                fitting = [
                    (entry.index, entry.term)
                    for entry in self.entries[self.base : index]
                    if entry.term <= term
                ]
                base = (self.base, self.entries[self.base - 1].term if self.base else 0)
                assert self.log.newest_at_most(index, term) == (fitting[-1] if fitting else base)


LogMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestLogAgainstAList = LogMachine.TestCase


def filled() -> Log:
    log = Log()
    log.append([Entry(i, 1, b"x" * 36) for i in range(1, 11)])
    return log


def test_in_memory_keeps_to_its_limits() -> None:
    log, size = filled(), ENTRY_OVERHEAD_BYTES + 36
    assert [e.index for e in log.in_memory(3, 9, 10**6, 4)] == [3, 4, 5, 6]
    assert [e.index for e in log.in_memory(3, 9, 2 * size, 100)] == [3, 4]
    assert [e.index for e in log.in_memory(3, 3, 10**6, 100)] == [3]


def test_one_entry_goes_however_large_it_is() -> None:
    assert [e.index for e in filled().in_memory(3, 9, 1, 100)] == [3]


def test_a_log_has_no_gaps_and_terms_never_decrease() -> None:
    log = filled()
    with pytest.raises(AssertionError, match="no gaps"):
        log.append([Entry(12, 1)])
    log.append([Entry(11, 3)])
    with pytest.raises(AssertionError, match="never decrease"):
        log.append([Entry(12, 2)])


@pytest.mark.parametrize(
    ("last_index", "last_term", "expected"),
    [(10, 1, True), (9, 1, False), (11, 1, True), (1, 2, True), (100, 0, False)],
)
def test_up_to_date(last_index: int, last_term: int, expected: bool) -> None:
    """Paper 5.4.1: "the log with the later term is more up-to-date"; then "whichever is longer"."""
    assert filled().is_up_to_date(last_index, last_term) is expected


def test_newest_configuration_with_a_node() -> None:
    one, two = configuration(1), configuration(2)
    log = Log()
    log.append([Entry(1, 1, one), Entry(2, 1, two), Entry(3, 1, b"")])
    assert log.newest_configuration_with("n1") == 1
    assert log.newest_configuration_with("n2") == 2
    assert log.newest_configuration_with("n3") == 0
    log.compact(2)
    assert log.newest_configuration_with("n1") == 0
    assert log.newest_configuration_with("n2") == 2
