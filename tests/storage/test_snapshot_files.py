"""Snapshot files through crashes at every step, and with every kind of damage (SPEC 6)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nefia.clock import TrioNodeClock
from nefia.errors import DataDamaged, DiskFailed, NewerFormat
from nefia.storage import files, snapshot_files
from nefia.storage.memory import Disk, open_memory
from nefia.storage.snapshot_files import FileSnapshots
from nefia.storage.snapshot_format import (
    MAX_CHUNK_BYTES,
    SNAPSHOT_FORMAT,
    SnapshotInfo,
    _metadata_checksum,
    encode_metadata,
    read_metadata,
    read_records,
    seal_chunk,
)
from nefia.storage.snapshots import SnapshotStore
from tests.storage.snapshots_made import contents, described, make, state

STEPS = (
    "make_directory",
    "open_new",
    "open_end",
    "append",
    "sync",
    "sync_directory",
    "rename",
    "remove",
)
REMOVE = files.remove
MAX_STEPS = 60
FEW = 2_500
"""Tasks, which fill a chunk and a part of the next."""


class Killed(BaseException):
    """The process has ended here."""


class Crasher:
    """Ends the process before step `at`, counted from 0; `steps` counts those that were taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = MAX_STEPS
        self.steps = 0
        for name in STEPS:
            monkeypatch.setattr(files, name, self._counted(getattr(files, name)))

    def _counted(self, step: Callable[..., object]) -> Callable[..., object]:
        def counted(*args: object) -> object:
            if step is REMOVE and isinstance(args[0], Path) and args[0].is_dir():
                for file in args[0].iterdir():  # a directory does not go all at once
                    self._take_step(file.unlink)
            return self._take_step(step, *args)

        return counted

    def _take_step(self, step: Callable[..., object], *args: object) -> object:
        if self.steps >= self.at:
            raise Killed
        self.steps += 1
        return step(*args)

    def begin(self, at: int) -> None:
        self.at, self.steps = at, 0


@pytest.fixture
def crasher(monkeypatch: pytest.MonkeyPatch) -> Crasher:
    monkeypatch.setattr(snapshot_files, "SYNC_BYTES", 4096)
    return Crasher(monkeypatch)


async def opened(path: Path) -> FileSnapshots:
    store = FileSnapshots(path / "snapshots")
    await store.open()
    return store


async def to_the_end(path: Path, crasher: Crasher, work: Callable[[], Awaitable[object]]) -> int:
    """Perform `work` in a directory of its own once for each of its steps, killed there.

    After each the directory is opened again and must hold what it held or what `work` makes;
    returns how many steps there were.
    """
    for at in range(MAX_STEPS):
        crasher.begin(at)
        try:
            await work()
        except Killed:
            crasher.begin(MAX_STEPS)
            continue
        return at
    raise AssertionError("there are more steps than were expected")


async def test_a_crash_at_any_step_of_saving(tmp_path: Path, crasher: Crasher) -> None:
    """Or of what follows, the end of the one before: at least one is always there, and sound."""
    await make(await opened(tmp_path), 5, state(5, FEW))
    seen: list[int] = []

    async def save() -> None:
        store = await opened(tmp_path)
        seen.append(len(store.found))
        assert store.found
        for info in store.found:
            assert await contents(store, info) == state(info.place.index, FEW)
        index = store.found[0].place.index + 1
        await make(store, index, state(index, FEW))
        await store.prune(1)

    steps = await to_the_end(tmp_path, crasher, save)
    assert steps > 15
    assert set(seen) == {1, 2}
    (left,) = (await opened(tmp_path)).found
    assert [path.name for path in (tmp_path / "snapshots").iterdir()] == [left.id]


async def test_a_crash_at_any_step_of_an_install(tmp_path: Path, crasher: Crasher) -> None:
    """Killed at each step in turn, it goes on with what is staged and comes to its end."""
    source = (await open_memory(Disk(), "node-2", TrioNodeClock(), "bb")).snapshots
    info = await make(source, 50, state(50, FEW))
    reader = await source.reader(info)
    data = await reader.read(0, info.data_bytes)
    older = await make(await opened(tmp_path), 5)
    staged: list[int] = []

    async def install() -> None:
        store = await opened(tmp_path)
        assert set(store.found) <= {older, info}
        assert older in store.found
        at = await store.stage(info)
        staged.append(at)
        while at < info.data_bytes:
            at = await store.add_staged(data[at : at + 2000])
        await store.adopt(info)

    steps = await to_the_end(tmp_path, crasher, install)
    assert steps > 0
    assert max(staged[:-1]) > 0
    store = await opened(tmp_path)
    assert store.found == (info, older)
    assert await contents(store, info) == state(50, FEW)


async def test_a_full_disk_ends_the_snapshot_and_not_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(tmp_path)
    info = await make(store, 5)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    writer = await store.create(described(6))
    with monkeypatch.context() as patched:
        patched.setattr(files, "append", full)
        with pytest.raises(DiskFailed) as caught:
            await writer.add(b"12")
    assert caught.value.details["full"]
    await writer.abandon()
    assert [path.name for path in (tmp_path / "snapshots").iterdir()] == [info.id]
    await make(store, 7)
    assert [each.place.index for each in store.found] == [7, 5]


# Damage.


def spots(data: bytes) -> Iterator[int]:
    """Offsets of every class: header, checksum, body, the second chunk, the end."""
    first = 20 + int.from_bytes(data[:4])
    yield from (0, 3, 4, 19, 20, first // 2, first - 1, first, first + 4, first + 20, len(data) - 1)


async def test_every_kind_of_damage_is_found(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    info = await make(store, 5, state(5, FEW))
    path = tmp_path / "snapshots" / info.id / "data"
    data = path.read_bytes()
    assert len(set(spots(data))) == 11
    for offset in spots(data):
        spoilt = bytearray(data)
        spoilt[offset] ^= 0x01
        path.write_bytes(spoilt)
        with pytest.raises(DataDamaged, match="is damaged"):
            await contents(store, info)
        path.write_bytes(data[:offset])
        with pytest.raises(DataDamaged, match="is damaged"):
            await contents(store, info)
    path.write_bytes(data + data[: 20 + int.from_bytes(data[:4])])
    with pytest.raises(DataDamaged, match="is damaged"):
        await contents(store, info)
    path.write_bytes(data)
    assert await contents(store, info) == state(5, FEW)


async def test_whole_data_of_another_snapshot_are_found_out(tmp_path: Path) -> None:
    """Each chunk is as it was written, and there are as many records of each kind."""
    store = await opened(tmp_path)
    older, newer = await make(store, 5), await make(store, 6)
    data = tmp_path / "snapshots" / older.id / "data"
    data.rename(tmp_path / "snapshots" / newer.id / "data")
    with pytest.raises(DataDamaged, match="not the data"):
        await contents(store, newer)


async def damaged_at_start(path: Path, info: SnapshotInfo) -> SnapshotStore:
    store = await opened(path)
    assert info not in store.found
    assert (path / "snapshots" / f"damaged-{info.id}").exists()
    return store


@pytest.mark.parametrize("name", ["data", "metadata.json"])
@pytest.mark.parametrize("how", ["missing", "short", "empty"])
async def test_what_can_be_seen_at_once_is_set_aside(tmp_path: Path, name: str, how: str) -> None:
    store = await opened(tmp_path)
    older, info = await make(store, 5), await make(store, 6)
    path = tmp_path / "snapshots" / info.id / name
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-3] if how == "short" else b"")
    assert (await damaged_at_start(tmp_path, info)).found == (older,)


async def test_metadata_that_were_changed_are_set_aside(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    info = await make(store, 6)
    path = tmp_path / "snapshots" / info.id / "metadata.json"
    path.write_bytes(path.read_bytes().replace(b'"index": 6', b'"index": 7'))
    await damaged_at_start(tmp_path, info)


async def test_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await opened(tmp_path)
    info = await make(store, 6)
    monkeypatch.setattr("nefia.storage.snapshot_format.SNAPSHOT_FORMAT", SNAPSHOT_FORMAT + 1)
    path = tmp_path / "snapshots" / info.id / "metadata.json"
    path.write_bytes(encode_metadata(info))
    monkeypatch.undo()
    with pytest.raises(NewerFormat, match=f"has format {SNAPSHOT_FORMAT + 1}"):
        await opened(tmp_path)


def sealed(line: bytes) -> BytesIO:
    return BytesIO(line + b"\n" + _metadata_checksum(line) + b"\n")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(0, 1) | st.text() | st.just({"format": 1}),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["format", "info"]), inner),
    )
)
def test_metadata_that_anyone_may_have_sealed_are_damaged_at_worst(value: object) -> None:
    with pytest.raises(DataDamaged):
        read_metadata(sealed(json.dumps(value).encode()), "it")


@given(st.binary())
def test_chunks_that_anyone_may_have_sealed_are_damaged_at_worst(records: bytes) -> None:
    data = seal_chunk(0, records) + seal_chunk(1, b"\0\0\0\1" + records)
    info = SnapshotInfo(described(5), (), len(data), b"")
    with pytest.raises(DataDamaged):
        list(read_records(BytesIO(data), info, "it"))


def test_a_chunk_that_would_unpack_to_more_than_is_allowed() -> None:
    data = seal_chunk(0, bytes(MAX_CHUNK_BYTES + 1))
    with pytest.raises(DataDamaged, match="too large"):
        list(read_records(BytesIO(data), SnapshotInfo(described(5), (), len(data), b""), "it"))


async def test_an_operator_can_read_the_metadata(tmp_path: Path) -> None:
    info = await make(await opened(tmp_path), 6)
    text = (tmp_path / "snapshots" / info.id / "metadata.json").read_text()
    shown = json.loads(text.splitlines()[0])
    assert shown["id"] == "2-6"
    assert shown["cluster_id"] == "cluster-a"
    assert shown["members"] == ["node-1", "node-2"]
    assert shown["kinds"]["task"][0] == 3
