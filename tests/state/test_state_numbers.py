"""What the queue keeps its tasks in: sets of numbers, and records by number."""

from __future__ import annotations

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from nefia.state.number_set import BLOCK_MASK, NumberSet
from nefia.state.numbered import BLOCK_SIZE, Numbered

NUMBERS = st.one_of(st.integers(0, 3 * BLOCK_MASK), st.integers(0, 2**64))


@frozen
class Record:
    text: str


@given(st.lists(NUMBERS), st.lists(st.integers(0, 50)), NUMBERS)
def test_a_number_set_is_a_sorted_set(added: list[int], removed: list[int], after: int) -> None:
    numbers, model = NumberSet(), set()
    for number in added:
        if number not in model:
            numbers.add(number)
            model.add(number)
    for position in removed:
        if model:
            number = sorted(model)[position % len(model)]
            numbers.remove(number)
            model.remove(number)
    assert list(numbers) == sorted(model)
    assert list(numbers.above(after)) == sorted(number for number in model if number > after)
    assert len(numbers) == len(model)
    if model:
        assert numbers.first() == min(model)
    for number in sorted(model):
        numbers.remove(number)
    assert (len(numbers), list(numbers)) == (0, [])


@given(st.lists(st.tuples(st.integers(0, 3 * BLOCK_SIZE), st.integers(0, 5), st.booleans())))
def test_a_snapshot_stays_as_it_was(changes: list[tuple[int, int, bool]]) -> None:
    table: Numbered[Record] = Numbered()
    model: dict[int, Record] = {}
    taken = []
    for number, text, remove in changes:
        if remove and number in model:
            assert table.remove(number) == model.pop(number)
        else:
            table.put(number, Record(str(text)), model.get(number))
            model[number] = Record(str(text))
        if text == 0:
            taken.append((table.snapshot(), dict(sorted(model.items()))))
    taken.append((table.snapshot(), dict(sorted(model.items()))))
    for snapshot, expected in taken:
        assert list(snapshot) == list(expected.values())
        assert {number: snapshot.get(number) for number in expected} == expected
        assert snapshot.get(5 * BLOCK_SIZE) is None
    assert len(table) == len(model)
    assert table.digest() == Numbered(model.items()).digest()
    for number in model:
        table.remove(number)
    assert not table._blocks
    assert table.digest() == 0


def test_who_observes_is_told_of_each_change() -> None:
    table: Numbered[Record] = Numbered()
    seen: list[tuple[Record | None, Record | None]] = []
    table.observe = lambda old, new: seen.append((old, new))
    first, second = Record("1"), Record("2")
    table.put(7, first, None)
    table.put(7, second, first)
    table.remove(7)
    assert seen == [(None, first), (first, second), (second, None)]


def test_what_is_not_there() -> None:
    table: Numbered[Record] = Numbered([(3, Record("3"))])
    assert table.get(4) is None
    assert table.get(10**9) is None
    with pytest.raises(AssertionError):
        table[4]
