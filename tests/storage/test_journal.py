"""The journal of raft.db: what a crash may leave of it, what damage does to it, and what it costs
nobody: an entry that was acknowledged.

A process that is killed loses nothing that was written; a machine that loses power may lose any
sectors of the one write that was out, and no others.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
import trio

from nefia import errors
from nefia.raft.effects import Write
from nefia.raft.entries import Entry, HardState
from nefia.raft.log import MEMORY_BYTES
from nefia.storage import layout, raft_db
from nefia.storage.journal import HALF_BYTES, JOURNAL_BYTES, MAX_ENTRIES, SECTOR_BYTES
from nefia.storage.lmdb_store import open_lmdb
from nefia.storage.raft_db import RaftDb
from nefia.storage.store import Identity
from tests.storage.lmdb_files import ALL_BYTES, loaded, marked, raw_log, rewrite_meta

CASES = 25


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a" / "raft.db"
    path.parent.mkdir()
    raft_db.create(path, Identity("node-1", "00", ""))
    return path


@pytest.fixture
def db(path: Path) -> Iterator[RaftDb]:
    """Past its first transaction: that makes the room for what goes to the journal."""
    db = RaftDb(path)
    db.write(Write(0, hard_state=HardState(1)))
    yield db
    db.close()


def journal_of(path: Path) -> Path:
    return path.with_name(layout.JOURNAL_FILE)


def entry(index: int, size_bytes: int = 300, term: int = 1) -> Entry:
    return Entry(index, term, bytes([index % 251]) * size_bytes)


def extend(db: RaftDb, first: int, last: int, size_bytes: int = 300) -> None:
    db.write(Write(first, entries=tuple(entry(i, size_bytes) for i in range(first, last + 1))))


def crashed(path: Path) -> Path:
    """The files as they are now, as another process finds them."""
    copy = path.parent.with_name("b")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(path.parent, copy)
    return copy / path.name


def found(path: Path) -> list[Entry]:
    return list(loaded(path).tail)


def in_transactions(path: Path) -> int:
    """How many entries raft.db itself holds."""
    with raw_log(path) as transaction:
        return int(transaction.stat()["entries"])


def test_what_is_written_is_there_after_a_crash_at_any_time(db: RaftDb, path: Path) -> None:
    random = Random(1)
    written: list[Entry] = []
    for sequence in range(CASES):
        size_bytes = random.choice([0, 10, 470, 5_000, 120_000, 600_000])
        new = [entry(len(written) + 1 + i, size_bytes) for i in range(random.randint(1, 4))]
        term = HardState(sequence + 1) if random.random() < 0.2 else None
        db.write(Write(sequence, hard_state=term, entries=tuple(new)))
        written += new
        if random.random() < 0.2:
            db.settle()
        if random.random() < 0.3:
            assert found(crashed(path)) == written
    assert found(crashed(path)) == written


def test_most_entries_stay_out_of_transactions_until_there_are_many(db: RaftDb, path: Path) -> None:
    extend(db, 1, 10)
    extend(db, 11, 20)
    assert in_transactions(crashed(path)) == 0
    sizes_bytes = 0
    index = 20
    while sizes_bytes < JOURNAL_BYTES:
        index += 1
        extend(db, index, index, 100_000)
        sizes_bytes += 100_000
    assert in_transactions(crashed(path)) > index - 3, "the one that had no room took all along"
    assert found(crashed(path)) == [
        entry(i, 300 if i < 21 else 100_000) for i in range(1, index + 1)
    ]


def test_many_small_entries_are_taken_over_some_at_a_time(db: RaftDb, path: Path) -> None:
    """That gives up the interpreter at each of them."""
    for index in range(1, 5 * MAX_ENTRIES):
        extend(db, index, index, 10)
        if db.must_take_over:
            db.take_over()
        assert len(db._pending) <= MAX_ENTRIES
    assert in_transactions(crashed(path)) >= 4 * MAX_ENTRIES - 1
    assert len(found(crashed(path))) == 5 * MAX_ENTRIES - 1


def fill_half(db: RaftDb, first: int) -> int:
    """Until an entry is in the other half; returns its index."""
    index = first
    extend(db, index, index, 100_000)
    while not db.must_take_over:
        index += 1
        extend(db, index, index, 100_000)
    return index


def test_one_half_is_filled_while_the_other_is_taken_over(db: RaftDb, path: Path) -> None:
    last = 0
    taken = 0
    for _ in range(5):
        last = fill_half(db, last + 1)
        expected = [entry(i, 100_000) for i in range(1, last + 1)]
        assert found(crashed(path)) == expected
        assert in_transactions(crashed(path)) == taken
        db.take_over()
        taken = last - 1
        assert in_transactions(crashed(path)) == taken
        assert found(crashed(path)) == expected
        assert db.read(1, last, 2**40) == tuple(expected)


def test_where_both_halves_are_full_a_transaction_takes_all(db: RaftDb, path: Path) -> None:
    last = fill_half(db, 1)
    while db.must_take_over:
        last += 1
        extend(db, last, last, 100_000)
    assert in_transactions(crashed(path)) == last
    assert found(crashed(path)) == [entry(i, 100_000) for i in range(1, last + 1)]


@pytest.mark.parametrize("seed", range(CASES))
def test_what_power_failure_cuts_off_in_the_second_half_is_the_end(
    db: RaftDb, path: Path, seed: int
) -> None:
    random = Random(seed)
    last = 0
    for _ in range(random.randint(0, 2)):
        last = fill_half(db, last + 1)
        db.take_over()
    before = b""
    while not db.must_take_over:
        last += 1
        before = journal_of(path).read_bytes()
        extend(db, last, last, 100_000)
    copy = crashed(path)
    cut_off(copy, before, lambda count: {*random.choices(range(count), k=random.randint(1, 9))})
    again = RaftDb(copy)
    durable = [entry(i, 100_000) for i in range(1, last)]
    assert [*again.load(2**40).tail] == durable
    for _ in range(2):
        durable.append(entry(len(durable) + 1, 700))
        extend(again, len(durable), len(durable), 700)
        assert found(crashed_elsewhere(copy)) == durable
    again.close()


def test_a_first_half_that_ends_early_is_damaged(db: RaftDb, path: Path) -> None:
    """What is in the second was acknowledged after all of the first."""
    empty = journal_of(path).read_bytes()
    last = fill_half(db, 1)
    assert last > 3
    copy = crashed(path)
    written = bytearray(journal_of(copy).read_bytes())
    number = db._journal.generations[0].number
    record_bytes = db._journal.generations[0].size_bytes // (last - 1)
    at = number % 2 * HALF_BYTES + (last - 2) * record_bytes
    written[at : at + record_bytes] = empty[at : at + record_bytes]
    journal_of(copy).write_bytes(written)
    with pytest.raises(errors.DataDamaged, match=f"entry {last} stands where entry {last - 1}"):
        RaftDb(copy)


def test_what_replaces_entries_of_the_journal_does(db: RaftDb, path: Path) -> None:
    extend(db, 1, 10)
    db.write(Write(2, entries=(entry(5, term=2), entry(6, term=2))))
    extend_by = entry(7, term=2)
    db.write(Write(3, entries=(extend_by,)))
    expected = [*(entry(i) for i in range(1, 5)), entry(5, term=2), entry(6, term=2), extend_by]
    assert found(crashed(path)) == expected
    assert db.read(1, 99, ALL_BYTES) == tuple(expected)


def test_a_large_write_goes_past_the_journal(db: RaftDb, path: Path) -> None:
    extend(db, 1, 1)
    extend(db, 2, 9, 500_000)
    assert in_transactions(crashed(path)) == 9


def cut_off(path: Path, before: bytes, lose: Callable[[int], set[int]]) -> None:
    """Of the sectors written since `before`, those are as they were that `lose(how many)` names."""
    now = journal_of(path).read_bytes()
    after = bytearray(now)
    starts = range(0, JOURNAL_BYTES, SECTOR_BYTES)
    changed = [at for at in starts if now[at : at + SECTOR_BYTES] != before[at : at + SECTOR_BYTES]]
    for number in lose(len(changed)):
        at = changed[number]
        after[at : at + SECTOR_BYTES] = before[at : at + SECTOR_BYTES]
    journal_of(path).write_bytes(after)


@pytest.mark.parametrize("seed", range(CASES))
def test_a_record_that_power_failure_cut_off_is_the_end(db: RaftDb, path: Path, seed: int) -> None:
    """Beneath it lies what earlier generations have left. The node goes on from there."""
    random = Random(seed)
    last = 0
    for _ in range(random.randint(0, 3)):
        extend(db, last + 1, last + random.randint(1, 20), random.choice([10, 450, 3_000]))
        last = db._last_index
        db.settle()
    if random.random() < 0.7:
        extend(db, last + 1, last + 5)
    durable = [*db.load(ALL_BYTES).tail]
    before = journal_of(path).read_bytes()
    extend(db, len(durable) + 1, len(durable) + random.randint(1, 9), random.choice([10, 2_000]))
    copy = crashed(path)
    cut_off(copy, before, lambda count: {*random.choices(range(count), k=random.randint(1, 9))})
    again = RaftDb(copy)
    assert [*again.load(ALL_BYTES).tail] == durable
    for _ in range(2):  # by a transaction, and by the journal
        durable.append(entry(len(durable) + 1, 700))
        extend(again, len(durable), len(durable), 700)
        assert found(crashed_elsewhere(copy)) == durable
    again.close()


def crashed_elsewhere(path: Path) -> Path:
    copy = path.parent.with_name("c")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(path.parent, copy)
    return copy / path.name


def test_a_flipped_bit_in_what_counts_is_refused(db: RaftDb, path: Path) -> None:
    """Most of all in the newest record, behind which nothing shows that it was acknowledged."""
    newest = 0
    for index in range(1, 8):
        newest = db._journal.generations[-1].size_bytes
        extend(db, index, index, index * 300)
    copy = crashed(path)
    sound, sound_db = journal_of(copy).read_bytes(), copy.read_bytes()
    end = db._journal.generations[-1].size_bytes
    random = Random(2)
    refused = 0
    for at in [*range(newest, newest + 64), *(random.randrange(end) for _ in range(400))]:
        spoilt = bytearray(sound)
        spoilt[at] ^= 1 << random.randrange(8)
        journal_of(copy).write_bytes(spoilt)
        copy.write_bytes(sound_db)
        try:
            assert len(found(copy)) == 7, f"byte {at} took an entry along"
        except errors.DataDamaged:
            refused += 1
    assert refused == 464


def test_a_damaged_entry_is_named(db: RaftDb, path: Path) -> None:
    db.write(Write(1, entries=tuple(marked(index) for index in range(1, 9))))
    copy = journal_of(crashed(path))
    content = copy.read_bytes()
    at = content.index(b"<payload 000003>")
    copy.write_bytes(content[:at] + b"?" + content[at + 1 :])
    with pytest.raises(errors.DataDamaged, match="journal is damaged: entry 3 ") as caught:
        RaftDb(copy.with_name("raft.db"))
    assert caught.value.details["index"] == 3


@pytest.mark.parametrize("lost", range(4))
def test_a_write_that_the_disk_has_lost_is_no_end(db: RaftDb, path: Path, lost: int) -> None:
    """It said that it had written the sector, and others followed. Each record has two."""
    before = journal_of(path).read_bytes()
    for index in (1, 2, 3):
        extend(db, index, index, 900)
    copy = crashed(path)
    cut_off(copy, before, lambda count: {lost})
    with pytest.raises(errors.DataDamaged, match="not whole, and others follow"):
        RaftDb(copy)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: os.truncate(path, JOURNAL_BYTES // 2), "is not 2097152 bytes long"),
        (lambda path: path.write_bytes(b"?" * JOURNAL_BYTES), "nobody has written"),
    ],
)
async def test_a_journal_that_is_not_there_is_refused(
    tmp_path: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    store = await open_lmdb(tmp_path, "node-1")
    await store.write(Write(1, entries=(marked(1),)))
    await store.close()
    spoil(tmp_path / layout.JOURNAL_FILE)
    with pytest.raises(errors.DataDamaged, match=reason) as caught:
        await open_lmdb(tmp_path, "node-1")
    assert "remove-peer" in caught.value.hint


def test_a_journal_that_continues_another_state_is_refused(db: RaftDb, path: Path) -> None:
    """raft.db was put back from a copy of some days ago."""
    extend(db, 1, 3)
    old = crashed(path).read_bytes()
    db.settle()
    extend(db, 4, 6)
    copy = crashed(path)
    copy.write_bytes(old)
    with pytest.raises(errors.DataDamaged, match="mark that nobody has written"):
        RaftDb(copy)


def test_raft_db_of_the_first_format_gets_a_journal(db: RaftDb, path: Path) -> None:
    extend(db, 1, 3)
    db.settle()
    copy = crashed(path)
    journal_of(copy).unlink()
    first = b"%d" % layout.FORMAT_WITHOUT_JOURNAL
    rewrite_meta(copy, layout.FORMAT, layout.seal(layout.FORMAT, first))
    rewrite_meta(copy, layout.GENERATION, None)
    again = RaftDb(copy)
    extend(again, 4, 5)
    assert found(crashed_elsewhere(copy)) == [entry(i) for i in range(1, 6)]
    again.close()


def test_a_record_is_synced_before_it_is_acknowledged(
    db: RaftDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def noted(name: str) -> Callable[..., object]:
        call = getattr(os, name)

        def note(*arguments: object) -> object:
            calls.append(name)
            return call(*arguments)

        return note

    for name in ("pwrite", "fdatasync"):
        monkeypatch.setattr(os, name, noted(name))
    extend(db, 1, 1)
    calls.clear()
    extend(db, 2, 2)
    assert calls == ["pwrite", "fdatasync"]


def test_a_write_that_the_kernel_takes_in_parts_is_whole(
    db: RaftDb, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:700], offset))
    extend(db, 1, 9, 400)
    assert found(crashed(path)) == [entry(i, 400) for i in range(1, 10)]


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_nothing_is_written_after_a_failed_write(
    db: RaftDb, path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Nobody knows what the kernel has kept of it: another try might say that all is well."""
    extend(db, 1, 3)

    def fail(*_: object) -> int:
        raise OSError(5, "planted")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(errors.DiskFailed):
            extend(db, 4, 4)
    for further in (Write(5, entries=(entry(4),)), Write(6, hard_state=HardState(9))):
        with pytest.raises(errors.DiskFailed, match="an earlier write failed"):
            db.write(further)
    with pytest.raises(errors.DiskFailed):
        db.settle()
    assert found(crashed(path))[:3] == [entry(i) for i in range(1, 4)]


async def test_a_store_at_rest_has_everything_in_raft_db(tmp_path: Path) -> None:
    store = await open_lmdb(tmp_path, "node-1")
    ended: list[Exception | None] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        for index in (1, 2):
            store.begin_write(Write(index, entries=(marked(index),)), ended.append)
            with trio.fail_after(30):
                while len(ended) < index:  # noqa: ASYNC110, as a caller of `begin_write` hears it
                    await trio.sleep(0.001)
        with trio.fail_after(30):
            while store._db._pending:  # noqa: ASYNC110, a thread changes it
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert ended == [None, None]
    assert await store.read(1, 9, ALL_BYTES) == (marked(1), marked(2))
    shutil.copy(tmp_path / "raft.db", tmp_path / "copy.db")
    assert in_transactions(tmp_path / "copy.db") == 2
    await store.close()


def test_followers_get_from_memory_what_no_transaction_has() -> None:
    """`Log` drops an entry from memory only when so many bytes of newer ones are there."""
    assert 4 * JOURNAL_BYTES <= MEMORY_BYTES
