"""The one protocol behind which `lmdb_store` and its twin in memory stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import trio
from attrs import frozen

from nefia.raft.configuration import Configuration
from nefia.raft.effects import Write
from nefia.raft.entries import Entry, HardState, SnapshotMeta
from nefia.storage.snapshots import SnapshotStore


@frozen
class Identity:
    """Whose data this is. `instance_id` is random and made with the directory (SPEC 2).

    `cluster_id` is empty until the node has created a cluster or been added to one. `lineage` is
    random and new with each `cluster recover`; empty in a cluster that has seen none.
    """

    node_id: str
    instance_id: str
    cluster_id: str
    lineage: str = ""


@frozen
class Stored:
    """What a store holds when it is opened.

    The log covers `first_index`..`last_index` (empty: `last_index == first_index - 1`, which is
    the snapshot's index, or 0). `term_starts` lists (index, term) at each index where the term
    differs from that of the entry before, from `first_index` on. `configurations` lists
    (index, configuration) for every configuration entry in the log. `tail` holds the newest
    entries, as many as were asked for.
    """

    hard_state: HardState
    snapshot: SnapshotMeta | None
    first_index: int
    last_index: int
    term_starts: tuple[tuple[int, int], ...]
    configurations: tuple[tuple[int, Configuration], ...]
    tail: tuple[Entry, ...]


Ended: TypeAlias = Callable[[Exception | None], None]


class LogStore(Protocol):
    """Term, vote, log and identity of one node.

    Methods that wait for the disk are async: they never block the event loop. Every method raises
    `DiskFailed` if the disk refuses and `DataDamaged` if what it reads fails its checksum; after a
    failed `write` the store refuses all further writes, since nobody knows what the kernel has kept
    (fsync must not be tried again).
    """

    @property
    def identity(self) -> Identity: ...

    @property
    def snapshots(self) -> SnapshotStore:
        """Those of the same data directory."""
        ...

    async def load(self, tail_bytes: int) -> Stored:
        """Everything the core needs to begin, with at most `tail_bytes` of entries."""
        ...

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """What `begin_write` needs of the event loop, until cancelled. Then no write tells its end.

        It is started when writes can be begun.
        """
        ...

    def begin_write(self, write: Write, ended: Ended) -> None:
        """As `write`, and call `ended` with None or the error. One at a time.

        No task waits for it: to wake one costs a turn of the event loop.
        """
        ...

    async def write(self, write: Write) -> None:
        """Durable and whole when it returns; if it fails, all of it is there or nothing.

        A caller that is cancelled stops waiting; the write is still carried out, in its turn.
        """
        ...

    async def read(self, first: int, last: int, limit_bytes: int) -> tuple[Entry, ...]:
        """Entries from `first` to at most `last`; at least one, then no more than `limit_bytes`.

        Raises KeyError if `first` is not in the log.
        """
        ...

    async def join(self, cluster_id: str, lineage: str = "") -> None:
        """Record the cluster that this node belongs to. Durable. It can be set only once."""
        ...

    async def close(self) -> None: ...
