"""What the queue keeps its tasks in: sets of numbers, and records by number."""

from __future__ import annotations

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from nefia.state.number_set import BITS, BLOCK_MASK, BLOCK_SHIFT, NumberSet
from nefia.state.numbered import BLOCK_SIZE, Numbered

NUMBERS = st.one_of(st.integers(0, 3 * BLOCK_MASK), st.integers(0, 2**64))


@frozen
class Record:
    text: str


def as_bits(number: int) -> tuple[int, int]:
    return number >> BLOCK_SHIFT, BITS[number & BLOCK_MASK]


@given(st.lists(NUMBERS), st.lists(st.integers(0, 50)), NUMBERS)
def test_a_number_set_is_a_sorted_set(added: list[int], removed: list[int], after: int) -> None:
    numbers, model = NumberSet(), set()
    for number in added:
        if number not in model:
            numbers.add(*as_bits(number))
            model.add(number)
    for position in removed:
        if model:
            number = sorted(model)[position % len(model)]
            numbers.remove(*as_bits(number))
            model.remove(number)
    assert list(numbers) == sorted(model)
    assert list(numbers.above(after)) == sorted(number for number in model if number > after)
    assert len(numbers) == len(model)
    if model:
        assert numbers.first() == min(model)
    for number in sorted(model):
        numbers.remove(*as_bits(number))
    assert (len(numbers), list(numbers)) == (0, [])


@given(st.sets(st.integers(0, BLOCK_MASK)), st.sets(st.integers(0, BLOCK_MASK)))
def test_many_numbers_of_a_block_come_and_go_at_once(first: set[int], second: set[int]) -> None:
    numbers, second = NumberSet(), second - first
    for added in (first, second):
        if added:
            numbers.add(3, sum(BITS[number] for number in added))
    base = 3 << BLOCK_SHIFT
    assert list(numbers) == sorted(base + number for number in first | second)
    assert len(numbers) == len(first | second)
    if first:
        numbers.remove(3, sum(BITS[number] for number in first))
    assert list(numbers) == sorted(base + number for number in second)


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


@given(st.integers(0, 3 * BLOCK_SIZE), st.lists(st.integers(0, 2 * BLOCK_SIZE), max_size=4))
def test_many_records_come_at_once(first: int, counts: list[int]) -> None:
    """As if one by one, and into no snapshot that was taken before."""
    many, one_by_one = Numbered[Record](), Numbered[Record]()
    seen: list[tuple[Record | None, Record | None]] = []
    many.observe = lambda old, new: seen.append((old, new))
    number = first
    for count in counts:
        before = many.snapshot()
        held = list(before)
        records = [Record(str(n)) for n in range(number, number + count)]
        many.extend(number, records)
        for record in records:
            one_by_one.put(number, record, None)
            number += 1
        assert list(before) == held
    assert list(many.snapshot()) == list(one_by_one.snapshot())
    assert seen == [(None, record) for record in many.snapshot()]
    assert (len(many), many.digest()) == (len(one_by_one), one_by_one.digest())


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
