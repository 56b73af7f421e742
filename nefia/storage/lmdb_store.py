"""The log store of a real node: `<data-dir>/raft.db`, opened with care and used from threads."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import lmdb
import outcome
import trio
from outcome import Outcome, Value

from nefia import errors
from nefia.clock import NodeClock, TrioNodeClock, sleep
from nefia.raft.effects import Write
from nefia.raft.entries import Entry
from nefia.storage import journal, layout, raft_db
from nefia.storage.claim import Check, Claim
from nefia.storage.direct_writer import DirectWriter
from nefia.storage.io_thread import IoThread, Then
from nefia.storage.raft_db import RaftDb
from nefia.storage.snapshot_files import SNAPSHOTS_DIRECTORY, FileSnapshots
from nefia.storage.store import Ended, Identity, Stored

INSTANCE_ID_BYTES = 8
VERIFY_TIMEOUT_SECONDS = 600.0
CLOSE_TIMEOUT_SECONDS = 5.0
REST_SECONDS = 0.1
"""After so long without a write raft.db gets what the journal holds."""

T = TypeVar("T")


async def open_lmdb(
    data_dir: Path,
    node_id: str | None,
    clock: NodeClock | None = None,
    claim: Claim | None = None,
) -> LmdbStore:
    """Open, or create with a new instance id, the store of `node_id` in `data_dir`.

    Without a `node_id`, whosever it is; it has to be there then. A `claim` that was made for
    `data_dir` becomes the store's.

    A file that exists is first checked whole by a child process, since a damaged one can kill
    whoever maps it. Raises `DataInUse`, `DataDamaged`, `NewerFormat`, `OtherNode`, `Permission`,
    `DiskFailed`; none of them changes anything in the directory.
    """
    store = LmdbStore(data_dir, node_id, clock or TrioNodeClock())
    try:
        await store.open(claim)
    except BaseException:
        await store.close()
        raise
    return store


class LmdbStore:
    """A `LogStore`. Made by `open_lmdb`.

    One thread writes and another reads, so that a write that hangs in the disk stops no read. A
    caller that is cancelled stops waiting, but its write is still carried out, in order.

    What only extends the log needs no thread where the kernel can do without one
    (`direct_writer`).
    """

    wrote: Callable[[float], None] = staticmethod(lambda seconds: None)
    """Told how long each write took until it was durable, and its end known."""

    def __init__(self, data_dir: Path, node_id: str | None, clock: NodeClock) -> None:
        self._data_dir = data_dir
        self._path = data_dir / layout.DATABASE_FILE
        self._node_id = node_id
        self._clock = clock
        self._writer = IoThread("raft.db writer")
        self._reader = IoThread("raft.db reader")
        self._opened = ExitStack()  # touched by the writing thread only
        self._snapshots = FileSnapshots(data_dir / SNAPSHOTS_DIRECTORY)
        self._closed = False
        self._written = trio.Event()
        self._direct: DirectWriter | None = None
        self._takeovers = 0
        self._db: RaftDb

    @property
    def identity(self) -> Identity:
        return self._db.identity

    @property
    def snapshots(self) -> FileSnapshots:
        return self._snapshots

    async def load(self, tail_bytes: int) -> Stored:
        return await self._do(self._reader, partial(self._db.load, tail_bytes))

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._settle_at_rest)
            with suppress(OSError):  # then the thread does it
                path = self._data_dir / layout.JOURNAL_FILE
                self._direct = DirectWriter(path, journal.HALF_BYTES)
            task_status.started()
            if self._direct is not None:
                try:
                    await self._direct.run()
                finally:
                    self._writer.begin(self._direct.close)
                    self._direct = None

    async def _settle_at_rest(self) -> None:
        while True:
            await self._written.wait()
            while self._written.is_set():
                self._written = trio.Event()
                await sleep(self._clock, REST_SECONDS)
            with suppress(errors.NefiaError):  # the next write meets it, and tells
                await self._writer.run(self._db.settle)

    def begin_write(self, write: Write, ended: Ended) -> None:
        self._written.set()
        tell = partial(self._tell, ended, time.perf_counter())
        # Beside what takes over one half of the journal the loop may write to the other.
        direct = self._direct if self._writer.unfinished == self._takeovers else None
        piece = self._db.begin_write(write) if direct is not None else None
        if direct is None or piece is None:
            self._writer.begin(partial(self._db.write, write), tell)
        elif not direct.begin(*piece, partial(self._piece_written, tell)):
            self._writer.begin(partial(self._db.write_piece, piece), tell)

    def _piece_written(self, tell: Then[None], result: Outcome[None]) -> None:
        tell(outcome.capture(self._db.piece_written, result))

    def _tell(self, ended: Ended, began: float, result: Outcome[None]) -> None:
        if isinstance(result, Value):
            self.wrote(time.perf_counter() - began)
            if self._db.must_take_over and not self._takeovers:
                self._takeovers = 1
                self._writer.begin(self._db.take_over, self._taken_over)
            ended(None)
            return
        try:
            with self._errors():
                result.unwrap()
        except Exception as error:
            ended(error)

    def _taken_over(self, _: Outcome[None]) -> None:
        """If it has failed, the next write is refused, and tells."""
        self._takeovers = 0

    async def write(self, write: Write) -> None:
        await self._do(self._writer, partial(self._db.write, write))

    async def read(self, first: int, last: int, limit_bytes: int) -> tuple[Entry, ...]:
        return await self._do(self._reader, partial(self._db.read, first, last, limit_bytes))

    async def join(self, cluster_id: str, lineage: str = "") -> None:
        if self.identity.cluster_id == cluster_id:
            return
        if self.identity.cluster_id:
            raise errors.OtherCluster(
                f"{self._data_dir} belongs to cluster {self.identity.cluster_id}, not {cluster_id}"
            )
        await self._do(self._writer, partial(self._db.join, cluster_id, lineage))

    async def recover(self, lineage: str, write: Write) -> None:
        """Begin, or follow, another lineage of the same cluster, and make `write` durable with it.

        For `nefia.recovery` alone, while no daemon runs.
        """
        await self._do(self._writer, partial(self._db.recover, lineage, write))

    async def close(self) -> None:
        """Finish what was asked for and release the directory, also if cancelled.

        A disk that hangs for longer than `CLOSE_TIMEOUT_SECONDS` is left to the threads; until
        they are through, or the process ends, the directory stays locked.
        """
        if self._closed:
            return
        self._closed = True
        deadline = self._clock.now() + CLOSE_TIMEOUT_SECONDS
        with self._clock.deadline_scope(deadline) as scope:
            scope.shield = True
            async with trio.open_nursery() as nursery:  # neither waits for the other
                nursery.start_soon(self._snapshots.close)
                nursery.start_soon(self._writer.run, self._opened.close)
        self._writer.stop()
        self._reader.stop()

    # Opening.

    async def open(self, claim: Claim | None) -> None:
        """For `open_lmdb` only, which see."""
        check = await self._do(self._writer, partial(self._prepare, claim))
        if check is not None:
            await self._heard(check)
        await self._do(self._writer, self._map)
        await self._snapshots.open()

    def _prepare(self, claim: Claim | None) -> Check | None:
        """Have the directory; the check of raft.db, None if it was missing and has been made."""
        claim = claim or Claim(self._data_dir)
        self._opened.callback(claim.release)
        if claim.check is None:
            assert self._node_id is not None, "only a directory that is there may be anyone's"
            instance_id = secrets.token_hex(INSTANCE_ID_BYTES)
            raft_db.create(self._path, Identity(self._node_id, instance_id, cluster_id=""))
        return claim.check

    async def _heard(self, check: Check) -> None:
        """Raises what it has against the file."""
        deadline = self._clock.now() + VERIFY_TIMEOUT_SECONDS
        with self._clock.deadline_scope(deadline) as scope:
            await trio.lowlevel.wait_readable(check)
            await self._do(self._writer, check.hear)
        if scope.cancelled_caught:
            raise errors.DiskFailed(
                f"Checking {self._path} took more than {VERIFY_TIMEOUT_SECONDS:.0f} s", full=False
            )

    def _map(self) -> None:
        self._db = RaftDb(self._path)
        self._opened.callback(self._db.close)
        found = self._db.identity.node_id
        if self._node_id is None:
            self._node_id = found
        if found != self._node_id:
            raise errors.OtherNode(
                f"{self._data_dir} belongs to node {found}, and this node is {self._node_id}",
                hint="Check node_id and data_dir in nefia.yaml.",
            )

    # Errors.

    async def _do(self, thread: IoThread, work: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        with self._errors():
            return await thread.begin(work).wait()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except errors.DataDamaged as error:
            error.hint = self._how_to_rejoin()
            raise
        except PermissionError as error:
            raise errors.Permission(f"{error.filename}: {error.strerror}") from error
        except (OSError, lmdb.Error) as error:
            raise raft_db.disk_failed(self._path, error) from error

    def _how_to_rejoin(self) -> str:
        node_id = self._node_id or "ID"
        return (
            "Nothing was repaired, since what is missing may have been acknowledged. To rejoin:"
            f" on the leader `nefia cluster remove-peer --id {node_id}`, then empty"
            f" {self._data_dir} on this node, then on the leader"
            f" `nefia cluster add-peer --id {node_id} --addr ADDRESS`."
        )
