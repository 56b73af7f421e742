"""raft.db files for tests: made, looked into, and tampered with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from nefia.raft.configuration import Configuration
from nefia.raft.effects import Write
from nefia.raft.entries import Entry, HardState, SnapshotMeta
from nefia.storage import layout
from nefia.storage.lmdb_store import open_lmdb
from nefia.storage.raft_db import RaftDb
from nefia.storage.store import Stored

ALL_BYTES = 1 << 30
PAGE_BYTES = 4096
CHILD_TIMEOUT_SECONDS = 30


def marked(index: int) -> Entry:
    """An entry whose payload can be found in the file."""
    return Entry(index, 1, b"<payload %06d>" % index + b"." * 280)


async def filled(data_dir: Path, count: int = 200) -> Path:
    """A closed store with `count` entries, a vote, a base; the path of its raft.db."""
    store = await open_lmdb(data_dir, "node-1")
    await store.join("cluster-a")
    await store.write(Write(1, snapshot=SnapshotMeta(0, 0, Configuration(), 0)))
    half = count // 2
    entries = tuple(marked(index) for index in range(1, count + 1))
    await store.write(Write(2, hard_state=HardState(3, "node-2"), entries=entries[:half]))
    await store.write(Write(3, entries=entries[half:]))
    await store.close()
    return data_dir / "raft.db"


@contextmanager
def raw_log(path: Path) -> Iterator[lmdb.Transaction[bytes]]:
    """A transaction on the log behind the store's back."""
    with layout.open_environment(path) as environment:
        log = environment.open_db(layout.LOG, create=False)
        with environment.begin(log, write=True) as transaction:
            yield transaction


def used_bytes(path: Path) -> int:
    with layout.open_environment(path, readonly=True) as environment:
        return (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]


def loaded(path: Path) -> Stored:
    db = RaftDb(path)
    try:
        return db.load(ALL_BYTES)
    finally:
        db.close()


def rewrite_meta(path: Path, key: bytes, record: bytes | None) -> None:
    with layout.open_environment(path) as environment:
        meta = environment.open_db(layout.META, create=False)
        with environment.begin(meta, write=True) as transaction:
            if record is None:
                transaction.delete(key)
            else:
                transaction.put(key, record)


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]
