"""Reading survivors' data directories, dialling who is left out, and beginning the new lineage."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

import trio
from attrs import frozen

from nefia.config import Config
from nefia.errors import DataDamaged, InvalidArgument, NotInitialized, RecoveryRefused
from nefia.net.network import TcpNetwork
from nefia.node.restoring import begin_behind_snapshot, log_of, snapshot_missing
from nefia.raft.configuration import Member
from nefia.raft.effects import Write
from nefia.raft.entries import SnapshotMeta
from nefia.recovery.plan import Plan, Summary, Ticket, from_json, make_plan
from nefia.storage.layout import DATABASE_FILE
from nefia.storage.lmdb_store import LmdbStore, open_lmdb
from nefia.storage.snapshot_format import Records

LINEAGE_BYTES = 8
DIAL_SECONDS = 2.0
MAX_SUMMARY_BYTES = 1024 * 1024


@frozen
class Request:
    """What the command line says: other survivors as data directories and as summary files."""

    lost: Collection[str] = ()
    data_dirs: Sequence[Path] = ()
    summaries: Sequence[Path] = ()
    reason: str = ""


@frozen
class Outcome:
    """`answering`: members that still answer, which forbids it. `ticket`: None if nothing was
    written."""

    plan: Plan
    answering: tuple[Member, ...]
    ticket: Ticket | None


async def export(config: Config) -> Summary:
    """The summary of this node, whose daemon must not run.

    Raises NotInitialized, DataInUse, and what opening a damaged or foreign directory raises.
    """
    store = await _open(config)
    try:
        return await _summary(store)
    finally:
        await store.close()


async def recover(
    config: Config,
    request: Request,
    *,
    plan_only: bool,
    show: Callable[[Sequence[Summary]], None] = lambda _: None,
) -> Outcome:
    """Plan, and unless `plan_only` make this node the beginning of a new lineage of its cluster.

    `show` is given the survivors before anything is decided. The change is one transaction: after a
    crash at any moment either all of it is there or nothing. Raises as `export` and `make_plan` do,
    and RecoveryRefused if a member that is to stay off answers.
    """
    others = [await _read_directory(path) for path in request.data_dirs]
    others += [_read_file(path) for path in request.summaries]
    store = await _open(config)
    try:
        me = await _summary(store)
        show((me, *others))
        plan = make_plan(
            me,
            others,
            request.lost,
            address=config.cluster.advertise_addr,
            reason=request.reason,
            utc_ms=time.time_ns() // 1_000_000,
        )
        answering = await _answering(plan.absent)
        if plan_only:
            return Outcome(plan, answering, None)
        if answering:
            first = answering[0]
            raise RecoveryRefused(
                f"{first.id} is not off: something answers at {first.address}",
                hint=f"if the cluster's majority lives, nothing has to be recovered; else stop "
                f"{first.id} and keep it off",
            )
        # A snapshot that the log does not reach yet takes its place there, as at every start.
        await begin_behind_snapshot(store, _read_all)
        lineage = secrets.token_hex(LINEAGE_BYTES)
        await store.recover(lineage, plan.write)
        return Outcome(plan, (), Ticket(lineage, *plan.winner.position))
    finally:
        await store.close()


async def follow(config: Config, ticket: Ticket) -> Summary:
    """Have this node, another survivor, take part in the lineage that the winner has begun.

    Its own log stays; the new leader replaces what differs, as after any election. Raises as
    `export` does, and RecoveryRefused if this node's log is newer than the one that has won.
    """
    store = await _open(config)
    try:
        summary = await _summary(store)
        if summary.lineage != ticket.lineage:
            ticket.check(summary)
            await store.recover(ticket.lineage, Write(sequence=0))
        return summary
    finally:
        await store.close()


async def _open(config: Config) -> LmdbStore:
    cluster = config.cluster
    _require_database(cluster.data_dir)
    return await open_lmdb(cluster.data_dir, cluster.node_id)


async def _summary(store: LmdbStore) -> Summary:
    """Reads only. Raises DataDamaged if the log begins behind every sound snapshot."""
    stored = await store.load(0)
    if not store.identity.cluster_id or not stored.last_index:
        raise NotInitialized(
            f"{store.identity.node_id} belongs to no cluster, so there is nothing to recover"
        )
    summary = Summary.of(store.identity, stored)
    place = await _newest_sound_snapshot(store, stored.first_index - 1)
    log = log_of(stored)
    if place is None or log.term_at(place.index) == place.term:
        return summary
    return summary.beginning_behind(place)


async def _newest_sound_snapshot(store: LmdbStore, base_index: int) -> SnapshotMeta | None:
    for info in store.snapshots.found:
        if info.place.index < base_index:
            break
        with suppress(DataDamaged):
            await store.snapshots.restore(info, _read_all)
            return info.place
    if base_index > 0:
        raise snapshot_missing(base_index)
    return None


def _read_all(records: Records) -> None:
    """Every record is checked as it is read."""
    deque(records, maxlen=0)


async def _read_directory(data_dir: Path) -> Summary:
    _require_database(data_dir)
    store = await open_lmdb(data_dir, node_id=None)
    try:
        return await _summary(store)
    finally:
        await store.close()


def _require_database(data_dir: Path) -> None:
    if not (data_dir / DATABASE_FILE).exists():
        raise NotInitialized(f"there is no {DATABASE_FILE} in {data_dir}")


def _read_file(path: Path) -> Summary:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_SUMMARY_BYTES)
        return from_json(text.decode(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path} cannot be read: {error}") from error


async def _answering(members: Sequence[Member]) -> tuple[Member, ...]:
    """Those at whose address a connection is accepted, by a stopped process too."""
    network = TcpNetwork(DIAL_SECONDS)
    found: set[str] = set()

    async def dial(member: Member) -> None:
        with trio.move_on_after(DIAL_SECONDS):
            try:
                stream = await network.dial(member.address)
            except OSError:
                return
            found.add(member.id)
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        for member in members:
            nursery.start_soon(dial, member)
    return tuple(member for member in members if member.id in found)
