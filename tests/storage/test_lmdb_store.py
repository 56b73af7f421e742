"""What only the real store can be asked: files, processes, threads, damage."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest
import trio
import trio.testing

from nefia import errors
from nefia.clock import TrioNodeClock
from nefia.raft.configuration import Configuration
from nefia.raft.effects import Write
from nefia.raft.entries import HardState, SnapshotMeta
from nefia.storage import raft_db
from nefia.storage.io_thread import IoThread
from nefia.storage.lmdb_store import CLOSE_TIMEOUT_SECONDS, LmdbStore, open_lmdb
from nefia.storage.locking import DirectoryLock
from nefia.storage.raft_db import RaftDb
from nefia.storage.store import Identity
from tests.storage.lmdb_files import (
    ALL_BYTES,
    CHILD_TIMEOUT_SECONDS,
    filled,
    marked,
    python,
    raw_log,
)

# Files.


async def test_only_the_owner_can_read_what_is_stored(tmp_path: Path) -> None:
    path = await filled(tmp_path / "a" / "cluster")
    assert path.parent.stat().st_mode & 0o777 == 0o700
    modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
    assert modes == {"lock": 0o600, "raft.db": 0o600, "raft.journal": 0o600, "snapshots": 0o700}


async def test_a_creation_that_was_cut_short_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "raft.new").write_bytes(b"half a database")
    store = await open_lmdb(tmp_path, "node-1")
    assert store.identity.node_id == "node-1"
    await store.close()
    assert not (tmp_path / "raft.new").exists()


async def test_a_directory_that_may_not_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.DiskFailed, match="file"):
        await open_lmdb(tmp_path / "file" / "cluster", "node-1")


async def test_compacted_entries_leave_the_file_in_slices(tmp_path: Path) -> None:
    store = await open_lmdb(tmp_path, "node-1")
    count = 3 * raft_db.COMPACTED_PER_WRITE
    await store.write(Write(1, entries=tuple(marked(i) for i in range(1, count + 1))))
    await store.write(Write(2, compact=SnapshotMeta(count - 5, 1, Configuration(), 0)))
    for sequence in (3, 4):
        await store.write(Write(sequence, hard_state=HardState(sequence)))
    await store.close()
    with raw_log(tmp_path / "raft.db") as transaction:
        assert transaction.stat()["entries"] == 5


async def test_a_compaction_that_was_cut_short_goes_on_after_a_restart(tmp_path: Path) -> None:
    """What is behind the base counts no more, whether or not it is still in the file."""
    count = 3 * raft_db.COMPACTED_PER_WRITE
    base = SnapshotMeta(count - 5, 1, Configuration(), 0)
    store = await open_lmdb(tmp_path, "node-1")
    await store.write(Write(1, HardState(1), tuple(marked(i) for i in range(1, count + 1))))
    await store.write(Write(2, compact=base))
    await store.close()
    with raw_log(tmp_path / "raft.db") as transaction:
        assert transaction.stat()["entries"] > raft_db.COMPACTED_PER_WRITE
    store = await open_lmdb(tmp_path, "node-1")
    stored = await store.load(1 << 30)
    assert (stored.snapshot, stored.first_index, stored.last_index) == (base, count - 4, count)
    assert [entry.index for entry in stored.tail] == list(range(count - 4, count + 1))
    for sequence in (3, 4):
        await store.write(Write(sequence, hard_state=HardState(sequence)))
    await store.close()
    with raw_log(tmp_path / "raft.db") as transaction:
        assert transaction.stat()["entries"] == 5


# One process a directory.

SECOND = """
import sys, trio
from pathlib import Path
from nefia.errors import NefiaError
from nefia.storage.lmdb_store import open_lmdb
try:
    trio.run(open_lmdb, Path(sys.argv[1]), "node-1")
except NefiaError as error:
    print(error.code, error.message)
"""


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    store = await open_lmdb(tmp_path, "node-1")
    second = await trio.run_process(python(SECOND, str(tmp_path)), capture_stdout=True)
    assert second.stdout.decode().startswith("data_in_use ")
    assert f"process {os.getpid()}" in second.stdout.decode()
    await store.close()
    third = await trio.run_process(python(SECOND, str(tmp_path)), capture_stdout=True)
    assert third.stdout == b""


def test_the_lock_names_its_holder(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path)
    with pytest.raises(errors.DataInUse, match=str(os.getpid())):
        DirectoryLock(tmp_path)
    lock.release()
    lock.release()
    DirectoryLock(tmp_path).release()


WRITER = """
import sys, trio
from pathlib import Path
from nefia.raft.effects import Write
from nefia.raft.entries import Entry, HardState
from nefia.storage.lmdb_store import open_lmdb

async def main():
    store = await open_lmdb(Path(sys.argv[1]), "node-1")
    index = (await store.load(0)).last_index
    while True:
        entries = tuple(Entry(index + i, 1, bytes([i]) * 700) for i in range(1, 8))
        await store.write(Write(1, HardState(1, "node-1"), entries))
        index += 7
        print(index, flush=True)

trio.run(main)
"""


def killed_after(lines: int, data_dir: Path) -> int:
    """Run a writer, kill it once it has printed so many lines; the last index it acknowledged."""
    writer = subprocess.Popen(python(WRITER, str(data_dir)), stdout=subprocess.PIPE)
    assert writer.stdout is not None
    with writer.stdout:
        printed = [writer.stdout.readline() for _ in range(lines)]
        writer.kill()
        printed += writer.stdout.readlines()
    assert writer.wait(CHILD_TIMEOUT_SECONDS) == -signal.SIGKILL
    return int(printed[-1])


async def test_what_was_acknowledged_before_kill_9_is_there(tmp_path: Path) -> None:
    for lines in (1, 40, 120):
        acknowledged = killed_after(lines, tmp_path)
        store = await open_lmdb(tmp_path, "node-1")
        stored = await store.load(ALL_BYTES)
        assert stored.last_index >= acknowledged
        assert stored.last_index % 7 == 0, "a write is there whole or not at all"
        assert len(stored.tail) == stored.last_index
        assert stored.hard_state == HardState(1, "node-1")
        await store.close()


# The disk.


def test_a_full_disk_is_told_from_a_failed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "raft.db"
    as_lmdb_says_it = lmdb.Error("mdb_txn_commit: Input/output error")
    monkeypatch.setattr(as_lmdb_says_it, "code", errno.EIO, raising=False)
    assert raft_db.disk_failed(path, OSError(errno.ENOSPC, "")).details["full"]
    assert raft_db.disk_failed(path, OSError(errno.EDQUOT, "")).details["full"]
    assert not raft_db.disk_failed(path, as_lmdb_says_it).details["full"]
    monkeypatch.setattr(raft_db, "_free_bytes", lambda _: raft_db.FULL_BELOW_BYTES - 1)
    assert raft_db.disk_failed(path, as_lmdb_says_it).details["full"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts, or resizes, a file system of a given size. Needs root."""
    path = tmp_path / "disk"
    path.mkdir()

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("cannot mount a file system")
        return path

    yield mount
    subprocess.run(["umount", str(path)], capture_output=True)


async def test_a_full_disk_loses_nothing_and_works_again_with_more_room(
    small_disk: Callable[[str], Path],
) -> None:
    data_dir = small_disk("size=20m") / "cluster"
    store = await open_lmdb(data_dir, "node-1")
    written = 0

    async def fill() -> None:
        nonlocal written
        while True:
            entries = tuple(marked(written + i) for i in range(1, 501))
            await store.write(Write(1, entries=entries))
            written += 500

    with pytest.raises(errors.DiskFailed) as caught:
        await fill()
    assert caught.value.details["full"] is True
    assert written > 0
    await store.close()
    small_disk("remount,size=60m")
    store = await open_lmdb(data_dir, "node-1")
    assert (await store.load(0)).last_index == written
    await store.write(Write(2, entries=(marked(written + 1),)))
    await store.close()


# Threads.


@pytest.fixture
async def stuck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[LmdbStore, threading.Event]:
    """A store with one entry whose next write hangs within its transaction until told to go on."""
    store = await open_lmdb(tmp_path, "node-1")
    await store.write(Write(1, entries=(marked(1),)))
    go_on = threading.Event()
    put_meta = RaftDb._put_meta

    def hang(*arguments: object) -> None:
        go_on.wait(CHILD_TIMEOUT_SECONDS)
        put_meta(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(RaftDb, "_put_meta", hang)
    return store, go_on


async def test_a_hung_write_stops_neither_the_loop_nor_reads(
    stuck: tuple[LmdbStore, threading.Event],
) -> None:
    store, go_on = stuck
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            store.write, Write(2, hard_state=HardState(5, "node-2"), entries=(marked(2),))
        )
        await trio.testing.wait_all_tasks_blocked()
        assert await store.read(1, 9, ALL_BYTES) == (marked(1),)
        assert (await store.load(0)).hard_state == HardState()
        go_on.set()
    assert (await store.load(0)).hard_state == HardState(5, "node-2")
    await store.close()


async def test_closing_does_not_wait_for_ever_but_keeps_the_lock(
    stuck: tuple[LmdbStore, threading.Event],
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, go_on = stuck
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.write, Write(2, hard_state=HardState(5)))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert not scope.cancelled_caught
    began = trio.current_time()
    await store.close()
    assert trio.current_time() - began == CLOSE_TIMEOUT_SECONDS
    with pytest.raises(errors.DataInUse):
        DirectoryLock(tmp_path)
    go_on.set()


def test_a_writer_waits_for_the_reader_of_the_moment(tmp_path: Path) -> None:
    """Without LMDB's lock file the pages that a reader looks at could be reused beneath it."""
    path = tmp_path / "raft.db"
    raft_db.create(path, Identity("node-1", "00", ""))
    db = RaftDb(path)
    db.write(Write(1, entries=(marked(1),)))
    done = threading.Event()

    def write() -> None:
        db.write(Write(2, hard_state=HardState(1)))
        done.set()

    with db._reader():
        thread = threading.Thread(target=write)
        thread.start()
        assert not done.wait(0.05)
    thread.join(CHILD_TIMEOUT_SECONDS)
    assert done.is_set()
    db.close()


async def test_reads_are_right_while_writes_go_on(tmp_path: Path) -> None:
    store = await open_lmdb(tmp_path, "node-1")
    await store.write(Write(1, entries=tuple(marked(i) for i in range(1, 101))))

    async def rewrite() -> None:
        for round_ in range(60):
            start = 101 + round_ % 7
            await store.write(Write(2, entries=tuple(marked(start + i) for i in range(40))))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(rewrite)
        for _ in range(60):
            found = await store.read(40, 500, ALL_BYTES)
            assert found == tuple(marked(40 + i) for i in range(len(found)))
    await store.close()


async def test_a_failed_opening_can_be_tried_again_at_once(tmp_path: Path) -> None:
    await filled(tmp_path)
    for _ in range(3):
        with pytest.raises(errors.OtherNode):
            await open_lmdb(tmp_path, "node-9")
    store = await open_lmdb(tmp_path, "node-1", TrioNodeClock())
    await store.close()


async def test_a_cancelled_opening_leaves_nothing_locked(tmp_path: Path) -> None:
    await filled(tmp_path)
    for seconds in (0, 0.001, 0.02):
        with trio.move_on_after(seconds):
            store = await open_lmdb(tmp_path, "node-1")
            await store.close()
        DirectoryLock(tmp_path).release()


async def test_jobs_are_done_in_order_and_their_errors_come_back() -> None:
    thread = IoThread("test")
    done: list[int] = []
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(thread.run, lambda number=number: done.append(number))
            await trio.testing.wait_all_tasks_blocked()
    assert done == [0, 1, 2, 3, 4]
    with pytest.raises(ZeroDivisionError):
        await thread.run(lambda: 1 // 0)
    thread.stop()
    with pytest.raises(AssertionError):
        await thread.run(lambda: None)
