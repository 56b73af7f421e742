"""The steps of a write are one: what fails between them leaves the disk as it was (SPEC 6)."""

from __future__ import annotations

from pathlib import Path

import pytest

from nefia import errors
from nefia.raft.configuration import Configuration
from nefia.raft.effects import Write
from nefia.raft.entries import Entry, SnapshotMeta
from nefia.storage.lmdb_store import open_lmdb
from tests.storage.lmdb_files import filled, loaded, marked


@pytest.mark.parametrize("entries", [(), (marked(501),)], ids=["alone", "with entries"])
async def test_a_snapshot_that_is_cut_short_leaves_the_old_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: tuple[Entry, ...]
) -> None:
    """The old log is dropped, and then the process never comes to write down the new base."""
    path = await filled(tmp_path)
    before = loaded(path)
    store = await open_lmdb(tmp_path, "node-1")

    def cut_short(*_: object) -> None:
        raise OSError(5, "planted")

    monkeypatch.setattr("nefia.storage.raft_db.RaftDb._put_meta", cut_short)
    snapshot = SnapshotMeta(500, 3, Configuration(), 0)
    with pytest.raises(errors.DiskFailed):
        await store.write(Write(4, snapshot=snapshot, entries=entries))
    await store.close()
    assert before.last_index == 200
    assert loaded(path) == before
