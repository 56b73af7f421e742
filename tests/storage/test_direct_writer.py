"""Writes that the kernel carries out by itself, and the store that rests on them.

Elsewhere than on Linux with ext4 or XFS these tests skip, and the store writes in its thread.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import outcome
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nefia import errors
from nefia.raft.effects import Write
from nefia.raft.entries import HardState
from nefia.storage import direct_writer, lmdb_store
from nefia.storage.direct_writer import DirectWriter
from nefia.storage.io_thread import Then
from nefia.storage.journal import BLOCK_BYTES, MAX_ENTRIES
from nefia.storage.lmdb_store import LmdbStore, open_lmdb
from nefia.storage.raft_db import RaftDb
from tests.storage.lmdb_files import ALL_BYTES, marked

FILE_BYTES = 16 * BLOCK_BYTES
needs_mount = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a file system")
TIMEOUT_SECONDS = 30

Result = outcome.Outcome[None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(FILE_BYTES))
    try:
        DirectWriter(path, FILE_BYTES).close()
    except OSError as error:
        pytest.skip(f"no direct writes here: {error}")
    return path


@pytest.fixture
async def writer(path: Path, nursery: trio.Nursery) -> AsyncIterator[DirectWriter]:
    writer = DirectWriter(path, FILE_BYTES)
    nursery.start_soon(writer.run)
    yield writer
    nursery.cancel_scope.cancel()
    await wait_all_tasks_blocked()
    writer.close()


async def result_of(writer: DirectWriter, offset: int, data: bytes) -> Result:
    results: list[Result] = []
    told = trio.Event()

    def then(result: Result) -> None:
        results.append(result)
        told.set()

    assert writer.begin(offset, data, then)
    with trio.fail_after(TIMEOUT_SECONDS):
        await told.wait()
    [result] = results
    return result


def content(path: Path) -> bytes:
    return path.read_bytes()


async def test_what_is_written_is_in_its_place(writer: DirectWriter, path: Path) -> None:
    for offset, count in ((0, 1), (3, 2), (1, 12)):
        data = os.urandom(count * BLOCK_BYTES)
        (await result_of(writer, offset * BLOCK_BYTES, data)).unwrap()
        assert content(path)[offset * BLOCK_BYTES :][: len(data)] == data
        assert len(content(path)) == FILE_BYTES


async def test_what_the_disk_refuses_is_an_error(writer: DirectWriter) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        (await result_of(writer, 7, b"\1" * BLOCK_BYTES)).unwrap()
    (await result_of(writer, 0, b"\1" * BLOCK_BYTES)).unwrap()


async def test_a_write_in_part_is_an_error(
    writer: DirectWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_event", direct_writer._EVENT.pack(BLOCK_BYTES // 2))
    writer._size_bytes = BLOCK_BYTES
    with pytest.raises(OSError, match="2048 of 4096 bytes"):
        writer._result()


async def test_what_the_kernel_cannot_take_now_is_not_begun(
    writer: DirectWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Result] = []
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_submit", -1)
        assert not writer.begin(0, bytes(BLOCK_BYTES), told.append)
    (await result_of(writer, 0, b"\1" * BLOCK_BYTES)).unwrap()
    assert not told


def test_file_systems_that_might_block_are_not_asked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_writer, "_file_system", lambda _: "nfs4")
    with pytest.raises(OSError, match="not supported") as caught:
        DirectWriter(path, FILE_BYTES)
    assert caught.value.errno == errno.ENOTSUP


def test_the_file_system_is_known(tmp_path: Path) -> None:
    mounted = Path("/proc/self/mountinfo").read_text()
    assert f" - {direct_writer._file_system(tmp_path)} " in mounted
    assert direct_writer._file_system(Path("/proc")) == "proc"


@pytest.mark.parametrize(
    ("device", "kind"), [("254:0", "ext4"), ("254:1", ""), ("0:5", "tmpfs"), ("9:9", "")]
)
def test_what_is_mounted_says_which_file_system_it_is(device: str, kind: str) -> None:
    mounts = (
        "21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard\n"
        "22 21 254:1 / /srv rw shared:2 master:3 - ext4 /dev/vdb rw,data=journal\n"
        "23 21 0:5 / /dev/shm rw - tmpfs shm rw,size=65536k\n"
        "24 21 0:6 / /mnt/b\ufffd\x0bro\x1c rw - fuse  rw\n"
    )
    assert direct_writer._type_of(device, mounts) == kind


def test_what_cannot_be_opened_leaves_nothing_open(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.listdir("/proc/self/fd")

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "planted")

    for call in ("os.eventfd", "mmap.mmap", "nefia.storage.direct_writer._last_error"):
        with monkeypatch.context() as patch:
            patch.setattr(call, fail)
            if "_last_error" in call:
                patch.setattr(direct_writer, "_waiting", lambda *_: -1)
            with pytest.raises(OSError, match="planted"):
                DirectWriter(path, FILE_BYTES)
        assert os.listdir("/proc/self/fd") == before


@needs_mount
def test_any_mount_point_may_be_there(path: Path, tmp_path: Path) -> None:
    """The kernel writes most bytes of its name as they are."""
    strange = os.fsencode(tmp_path) + b"/b\374ro\x0b\x1c"
    os.mkdir(strange)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", strange], check=True)
    try:
        DirectWriter(path, FILE_BYTES).close()
    finally:
        subprocess.run(["umount", strange], check=True)


def test_a_write_is_durable_when_it_has_ended(path: Path) -> None:
    writer = DirectWriter(path, FILE_BYTES)
    flags = fcntl.fcntl(writer._fd, fcntl.F_GETFL)
    writer.close()
    assert flags & os.O_DSYNC
    assert flags & os.O_DIRECT


# The store.


@pytest.fixture
async def store(tmp_path: Path, path: Path, nursery: trio.Nursery) -> AsyncIterator[LmdbStore]:
    """Past its first transaction, which makes the room for what goes to the journal."""
    store = await open_lmdb(tmp_path / "cluster", "node-1")
    await nursery.start(store.run)
    await store.write(Write(1, hard_state=HardState(1)))
    yield store
    nursery.cancel_scope.cancel()
    await wait_all_tasks_blocked()
    await store.close()


class Ends:
    """What `begin_write` has told."""

    def __init__(self) -> None:
        self.told: list[Exception | None] = []

    async def wait(self, count: int) -> list[Exception | None]:
        with trio.fail_after(TIMEOUT_SECONDS):
            while len(self.told) < count:  # noqa: ASYNC110, the disk's time
                await trio.sleep(0.001)
        return self.told


def extend(store: LmdbStore, index: int) -> Ends:
    ends = Ends()
    store.begin_write(Write(index, entries=(marked(index),)), ends.told.append)
    return ends


async def as_a_crash_leaves_it(data_dir: Path) -> list[int]:
    """The indexes of the log in a copy of the files as they are now."""
    copy = data_dir.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(data_dir, copy, ignore=shutil.ignore_patterns("*.sock"))
    store = await open_lmdb(copy, "node-1")
    stored = await store.load(ALL_BYTES)
    await store.close()
    return [entry.index for entry in stored.tail]


def threads_write(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what the writing thread is asked to write from now on."""
    asked: list[str] = []
    for name in ("write", "write_piece"):
        call = getattr(RaftDb, name)

        def note(*arguments: object, name: str = name, call: Callable[..., None] = call) -> None:
            asked.append(name)
            call(*arguments)

        monkeypatch.setattr(RaftDb, name, note)
    return asked


async def test_what_extends_the_log_needs_no_thread(
    store: LmdbStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threads_write(monkeypatch)
    for index in range(1, 6):
        assert await extend(store, index).wait(1) == [None]
        assert await as_a_crash_leaves_it(tmp_path / "cluster") == list(range(1, index + 1))
    assert not asked
    assert await store.read(1, 9, ALL_BYTES) == tuple(marked(i) for i in range(1, 6))


async def test_nothing_is_told_before_the_write_has_ended(
    store: LmdbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[Callable[[], None]] = []
    begin = DirectWriter.begin

    def hold(writer: DirectWriter, offset: int, data: bytes, then: Then[None]) -> bool:
        return begin(writer, offset, data, lambda result: held.append(partial(then, result)))

    monkeypatch.setattr(DirectWriter, "begin", hold)
    ends = extend(store, 1)
    with trio.fail_after(TIMEOUT_SECONDS):
        while not held:  # noqa: ASYNC110, the disk's time
            await trio.sleep(0.001)
    assert not ends.told
    held.pop()()
    assert ends.told == [None]


async def test_after_a_failed_write_all_are_refused(
    store: LmdbStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await extend(store, 1).wait(1) == [None]

    def fail(_: DirectWriter) -> None:
        raise OSError(errno.EIO, "planted")

    with monkeypatch.context() as patch:
        patch.setattr(DirectWriter, "_result", fail)
        [failed] = await extend(store, 2).wait(1)
    [refused] = await extend(store, 3).wait(1)
    assert isinstance(failed, errors.DiskFailed)
    assert "planted" in failed.message
    assert isinstance(refused, errors.DiskFailed)
    assert "an earlier write failed" in refused.message
    assert (await as_a_crash_leaves_it(tmp_path / "cluster"))[0] == 1


async def test_what_the_kernel_cannot_take_the_thread_writes(
    store: LmdbStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threads_write(monkeypatch)
    monkeypatch.setattr(DirectWriter, "begin", lambda *_: False)
    assert await extend(store, 1).wait(1) == [None]
    monkeypatch.undo()
    assert await extend(store, 2).wait(1) == [None]
    assert asked == ["write_piece"]
    assert await as_a_crash_leaves_it(tmp_path / "cluster") == [1, 2]


async def test_a_write_waits_for_what_the_thread_does(
    store: LmdbStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction may be taking the journal over."""
    go_on = threading.Event()
    monkeypatch.setattr(RaftDb, "settle", lambda _: go_on.wait(TIMEOUT_SECONDS))
    assert await extend(store, 1).wait(1) == [None]
    await trio.sleep(2 * lmdb_store.REST_SECONDS)
    ends = extend(store, 2)
    await trio.sleep(0.02)
    assert not ends.told
    go_on.set()
    assert await ends.wait(1) == [None]
    assert await as_a_crash_leaves_it(tmp_path / "cluster") == [1, 2]


async def test_a_write_that_is_out_when_raft_db_takes_the_journal_over_is_kept(
    store: LmdbStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lands then is of a generation that is over, where the next one begins."""
    begin = DirectWriter.begin
    late: list[Callable[[], bool]] = []

    def wait(*write: object) -> bool:
        late.append(partial(begin, *write))  # type: ignore[arg-type]
        return True

    with monkeypatch.context() as patch:
        patch.setattr(DirectWriter, "begin", wait)
        ends = extend(store, 1)
        with trio.fail_after(TIMEOUT_SECONDS):
            while store._db._pending:  # noqa: ASYNC110, a thread changes it
                await trio.sleep(0.01)
    assert not ends.told
    assert late.pop()()
    assert await ends.wait(1) == [None]
    assert await as_a_crash_leaves_it(tmp_path / "cluster") == [1]
    assert await extend(store, 2).wait(1) == [None]
    assert await as_a_crash_leaves_it(tmp_path / "cluster") == [1, 2]


@pytest.fixture
def takeover(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Whoever takes over one half of the journal waits for this."""
    go_on = threading.Event()
    take_over = RaftDb.take_over

    def wait(db: RaftDb) -> None:
        go_on.wait(TIMEOUT_SECONDS)
        take_over(db)

    monkeypatch.setattr(RaftDb, "take_over", wait)
    yield go_on
    go_on.set()


async def test_writes_go_on_while_a_half_is_taken_over(
    store: LmdbStore, tmp_path: Path, takeover: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threads_write(monkeypatch)
    for index in range(1, 2 * MAX_ENTRIES + 1):
        assert await extend(store, index).wait(1) == [None]
    assert not asked
    assert store._db.must_take_over
    ends = extend(store, 2 * MAX_ENTRIES + 1)
    await trio.sleep(0.02)
    assert not ends.told, "there is no third half"
    takeover.set()
    assert await ends.wait(1) == [None]
    found = await as_a_crash_leaves_it(tmp_path / "cluster")
    assert found == list(range(1, 2 * MAX_ENTRIES + 2))


async def test_a_half_that_cannot_be_taken_over_stops_the_store(
    store: LmdbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "planted")

    monkeypatch.setattr(RaftDb, "_reserve", fail)
    told: list[Exception | None] = []
    for index in range(1, 3 * MAX_ENTRIES):
        told = await extend(store, index).wait(1)
        if told != [None]:
            break
    assert index > MAX_ENTRIES
    assert isinstance(told[0], errors.DiskFailed)
    assert "planted" in told[0].message


async def test_a_store_closes_with_a_write_under_way(tmp_path: Path, path: Path) -> None:
    for index in range(1, 6):
        store = await open_lmdb(tmp_path / "cluster", "node-1")
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            await store.write(Write(index, hard_state=HardState(index)))
            extend(store, index)
            nursery.cancel_scope.cancel()
        await store.close()
        assert await as_a_crash_leaves_it(tmp_path / "cluster") == list(range(1, index + 1))


async def test_without_direct_writes_the_thread_does_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threads_write(monkeypatch)
    monkeypatch.setattr(direct_writer, "_CALLS", {})
    store = await open_lmdb(tmp_path / "cluster", "node-1")
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        for index in range(1, 4):
            assert await extend(store, index).wait(1) == [None]
        nursery.cancel_scope.cancel()
    assert asked == ["write", "write", "write_piece", "write", "write_piece"]
    assert await as_a_crash_leaves_it(tmp_path / "cluster") == [1, 2, 3]
    await store.close()
