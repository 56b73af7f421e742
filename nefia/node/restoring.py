"""What a node begins with: the newest sound snapshot, and the log behind it (SPEC 6)."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

import structlog
from attrs import evolve

from nefia.errors import DataDamaged
from nefia.raft.effects import Write
from nefia.raft.entries import HardState, SnapshotMeta
from nefia.raft.log import MEMORY_BYTES, Log
from nefia.state.application import Host, hosted
from nefia.state.features import FEATURES, require_known
from nefia.state.machine import Machine
from nefia.storage.snapshots import Build
from nefia.storage.store import LogStore, Stored

T = TypeVar("T")

_log = structlog.get_logger("nefia.node")


async def restore(
    store: LogStore, features: int = FEATURES, host: Host | None = None
) -> tuple[HardState, Log, Machine]:
    """Term and vote, log, and the state at `Machine.applied_index`, from which the log goes on.

    `host` makes a program's own machine in it. Raises DiskFailed, DataDamaged if the log begins
    behind every sound snapshot, NewerFormat if the cluster has gone beyond the feature level
    `features`, OtherMachine and MachineFailed.
    """
    build = partial(Machine.from_records, host=host)
    hard_state, log, machine = await begin_behind_snapshot(store, build, features)
    return hard_state, log, machine or Machine(application=hosted(host))


async def begin_behind_snapshot(
    store: LogStore, build: Build[T], features: int = FEATURES
) -> tuple[HardState, Log, T | None]:
    """Have the log begin where the newest sound snapshot ends, if that is not in it.

    The last is what `build` makes of that snapshot, None if there is none.
    """
    stored = await store.load(MEMORY_BYTES)
    log = log_of(stored)
    places = (info.place for info in store.snapshots.found)  # one may be ahead of the log
    for configuration in (log.configuration, *(place.configuration for place in places)):
        require_known(configuration.features, features)
    place, built = await _newest_state(store, stored, build)
    if place is not None and log.term_at(place.index) != place.term:
        # The snapshot holds what was committed and is not in this log: because it came from a
        # leader, or because it was written sooner than the entries. The log begins anew behind it.
        # The term of the snapshot may be new here too, and then no vote was given in it.
        newer = place.term > stored.hard_state.term
        hard_state = evolve(stored.hard_state, term=place.term, vote=None) if newer else None
        await store.write(Write(0, hard_state=hard_state, snapshot=place))
        stored = await store.load(MEMORY_BYTES)
        log = log_of(stored)
    return stored.hard_state, log, built


async def _newest_state(
    store: LogStore, stored: Stored, build: Build[T]
) -> tuple[SnapshotMeta | None, T | None]:
    base_index = stored.first_index - 1
    for info in store.snapshots.found:
        if info.place.index < base_index:
            break
        try:
            built = await store.snapshots.restore(info, build)
        except DataDamaged as error:
            _log.error("snapshot_damaged", snapshot=info.id, error=error.message)
            await store.snapshots.set_aside(info)
        else:
            return info.place, built
    if base_index > 0:
        raise snapshot_missing(base_index)
    return None, None


def snapshot_missing(base_index: int) -> DataDamaged:
    """The error for a log of whose beginning, up to `base_index`, there is no snapshot."""
    return DataDamaged(
        f"the log begins behind entry {base_index}, and there is no sound snapshot of what "
        "was before",
        hint="Nothing was repaired, since what is missing may have been acknowledged. Remove "
        "this node on the leader, empty its data directory, and add it again.",
    )


def log_of(stored: Stored) -> Log:
    return Log(
        base=stored.snapshot,
        last_index=stored.last_index,
        term_starts=stored.term_starts,
        configurations=stored.configurations,
        tail=stored.tail,
    )
