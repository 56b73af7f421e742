"""A damaged raft.db is refused, never repaired, and never kills whoever opens it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from nefia import errors
from nefia.raft.configuration import Configuration
from nefia.raft.effects import Write
from nefia.raft.entries import SnapshotMeta
from nefia.storage import layout
from nefia.storage.lmdb_store import open_lmdb
from nefia.storage.verify import verify
from tests.storage.lmdb_files import (
    ALL_BYTES,
    PAGE_BYTES,
    filled,
    loaded,
    python,
    raw_log,
    rewrite_meta,
    used_bytes,
)


async def test_a_sound_file_passes(tmp_path: Path) -> None:
    verify(await filled(tmp_path))


async def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    whole = await filled(tmp_path / "whole")
    used = used_bytes(whole)
    offsets = [0, 1, 100, PAGE_BYTES - 1, PAGE_BYTES, 2 * PAGE_BYTES, used // 2, used - PAGE_BYTES]
    for offset in [*offsets, used - 1]:
        data_dir = tmp_path / f"cut-{offset}"
        data_dir.mkdir()
        shutil.copy(whole, data_dir)
        os.truncate(data_dir / "raft.db", offset)
        with pytest.raises(errors.DataDamaged) as caught:
            await open_lmdb(data_dir, "node-1")
        assert "remove-peer --id node-1" in caught.value.hint
        assert str(data_dir) in caught.value.hint


async def test_a_cut_that_takes_only_reserved_room_takes_nothing(tmp_path: Path) -> None:
    path = await filled(tmp_path)
    before = loaded(path)
    os.truncate(path, used_bytes(path))
    verify(path)
    assert loaded(path) == before


async def test_a_file_that_lacks_only_free_pages_is_too_short_all_the_same(tmp_path: Path) -> None:
    path = await filled(tmp_path)
    store = await open_lmdb(tmp_path, "node-1")
    for sequence in range(4):  # in the end the newest pages are free ones
        await store.write(Write(sequence, snapshot=SnapshotMeta(500, 1, Configuration(), 0)))
    await store.close()
    os.truncate(path, used_bytes(path) - PAGE_BYTES)
    with pytest.raises(errors.DataDamaged, match="too short"):
        await open_lmdb(tmp_path, "node-1")


async def test_a_flipped_bit_is_found_or_changes_nothing(tmp_path: Path) -> None:
    path = await filled(tmp_path)
    before = loaded(path)
    sound = path.read_bytes()[: used_bytes(path)]
    random = Random(1)
    # Both meta pages, where LMDB keeps its roots; then anywhere.
    positions = [*range(16, 160, 3), *range(PAGE_BYTES + 16, PAGE_BYTES + 160, 3)]
    positions += [random.randrange(len(sound)) for _ in range(250)]
    found = 0
    for position in positions:
        spoilt = bytearray(sound)
        spoilt[position] ^= 1 << random.randrange(8)
        path.write_bytes(spoilt)
        try:
            verify(path)
        except (errors.DataDamaged, errors.NewerFormat):
            found += 1
        else:
            assert loaded(path) == before, f"byte {position} was changed and not found"
    assert found > len(positions) // 2


async def test_a_damaged_entry_is_named(tmp_path: Path) -> None:
    path = await filled(tmp_path)
    content = path.read_bytes()
    at = content.index(b"<payload 000123>")
    assert content.count(b"<payload 000123>") == 1
    path.write_bytes(content[:at] + b"?" + content[at + 1 :])
    with pytest.raises(errors.DataDamaged, match="entry 123 ") as caught:
        await open_lmdb(tmp_path, "node-1")
    assert caught.value.details["index"] == 123
    assert path.read_bytes()[at : at + 1] == b"?", "nothing is repaired"


async def test_a_misplaced_entry_is_named(tmp_path: Path) -> None:
    path = await filled(tmp_path)
    with raw_log(path) as transaction:
        record = transaction.get(layout.log_key(5))
        assert record is not None
        transaction.put(layout.log_key(6), record)
    with pytest.raises(errors.DataDamaged, match="entry 6 "):
        await open_lmdb(tmp_path, "node-1")


async def test_a_missing_entry_is_named(tmp_path: Path) -> None:
    path = await filled(tmp_path)
    with raw_log(path) as transaction:
        transaction.delete(layout.log_key(77))
    with pytest.raises(errors.DataDamaged, match="entry 77 is missing"):
        await open_lmdb(tmp_path, "node-1")


async def test_damage_that_comes_later_is_found_when_read(tmp_path: Path) -> None:
    await filled(tmp_path)
    store = await open_lmdb(tmp_path, "node-1")
    database = tmp_path / "raft.db"
    at = database.read_bytes().index(b"<payload 000150>")
    with database.open("r+b") as file:
        file.seek(at)
        file.write(b"?")
    assert len(await store.read(1, 149, ALL_BYTES)) == 149
    for job in (store.read(100, 199, ALL_BYTES), store.load(ALL_BYTES)):
        with pytest.raises(errors.DataDamaged) as caught:
            await job
        assert caught.value.details["index"] == 150
        assert "remove-peer" in caught.value.hint
    await store.close()


async def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = await filled(tmp_path)
    newer = b"%d" % (layout.FORMAT_VERSION + 1)
    rewrite_meta(path, layout.FORMAT, layout.seal(layout.FORMAT, newer))
    with pytest.raises(errors.NewerFormat, match="format 4"):
        await open_lmdb(tmp_path, "node-1")


async def test_a_format_that_was_never_released_is_refused(tmp_path: Path) -> None:
    """Its journal would seem to hold less than it does."""
    path = await filled(tmp_path)
    rewrite_meta(path, layout.FORMAT, layout.seal(layout.FORMAT, b"2"))
    with pytest.raises(errors.DataDamaged, match="format 2, which no released"):
        await open_lmdb(tmp_path, "node-1")


@pytest.mark.parametrize(
    "key",
    [layout.FORMAT, layout.IDENTITY, layout.HARD_STATE, layout.SNAPSHOT, layout.GENERATION],
)
async def test_a_record_under_a_wrong_checksum_is_refused(tmp_path: Path, key: bytes) -> None:
    path = await filled(tmp_path)
    rewrite_meta(path, key, layout.seal(b"another key", b"1"))
    with pytest.raises(errors.DataDamaged, match="checksum"):
        await open_lmdb(tmp_path, "node-1")


@pytest.mark.parametrize("key", [layout.FORMAT, layout.IDENTITY, layout.GENERATION])
async def test_a_missing_record_is_refused(tmp_path: Path, key: bytes) -> None:
    path = await filled(tmp_path)
    rewrite_meta(path, key, None)
    with pytest.raises(errors.DataDamaged, match="is missing"):
        await open_lmdb(tmp_path, "node-1")


@pytest.mark.parametrize(
    ("script", "reason"),
    [("kill -BUS $$", "killed by SIGBUS"), ("echo out of luck >&2; exit 3", "failed: out of luck")],
)
async def test_the_death_of_the_checking_process_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    await filled(tmp_path)
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!/bin/sh\n{script}\n")
    interpreter.chmod(0o700)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(interpreter))
        with pytest.raises(errors.DataDamaged, match=reason):
            await open_lmdb(tmp_path, "node-1")
    store = await open_lmdb(tmp_path, "node-1")
    await store.close()


def test_the_checking_process_imports_little() -> None:
    code = "import sys, nefia.storage.verify; print(*sys.modules)"
    done = subprocess.run(python(code), capture_output=True, text=True, check=True)
    assert not {"trio", "attrs", "cattrs", "msgpack"} & set(done.stdout.split())
