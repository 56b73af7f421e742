"""`nefia snapshot`: the replicated state in a file, to keep elsewhere and to look into."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nefia.cli.framework import Command, Group, Setup, output_option, pass_setup, timeout_option
from nefia.cli.output import STRUCTURED, label_of, line, note, show_fields, show_table
from nefia.errors import (
    NoDaemon,
    NoLeader,
    NoQuorum,
    OtherCluster,
    OtherMachine,
    OutcomeUnknown,
)

if TYPE_CHECKING:
    from nefia.storage.snapshot_format import SnapshotInfo

SNAPSHOT_TIMEOUT_SECONDS = 600.0
"""A million tasks take a daemon some seconds, on a busy machine."""

RESTORE_ID_BYTES = 8
LEADER_PATIENCE_SECONDS = 30.0
"""How long a restore waits for a leader, or for a majority, to go on."""
RETRY_SECONDS = 0.5
LOOK_SECONDS = 0.02

_FILE = click.argument("file", type=click.Path(path_type=Path))


@click.group(cls=Group)
def snapshot() -> None:
    """The replicated state in a file."""


@snapshot.command()
@_FILE
@output_option
@timeout_option
@pass_setup
def save(setup: Setup, file: Path, form: str, timeout: float | None) -> None:
    """Write the state to FILE, and verify what was written.

    It is the state that this node has applied. While no daemon runs, it is the newest snapshot on
    the disk.
    """
    from nefia.storage.snapshot_saved import newest_in
    from nefia.storage.snapshot_saved import save as write

    data_dir = setup.load().data_dir
    try:
        taken = setup.ask("snapshot", timeout=timeout or SNAPSHOT_TIMEOUT_SECONDS)
        source = data_dir / "snapshots" / f"{taken['term']}-{taken['index']}"
    except NoDaemon:
        source = newest_in(data_dir)
        note("No daemon runs here: this is its newest snapshot, and changes since then are not in.")
    info = write(source, file)
    if form in STRUCTURED:
        STRUCTURED[form](described(info))
        return
    records = sum(each.count for each in info.kinds)
    line(f"Snapshot {info.id} is in {file}: {records} records, {file.stat().st_size} bytes.")


@snapshot.command()
@_FILE
@output_option
def inspect(file: Path, form: str) -> None:
    """Show what FILE, a saved snapshot, holds; every checksum in it is checked."""
    from nefia.storage.snapshot_saved import verify

    shown = described(verify(file))
    if form in STRUCTURED:
        STRUCTURED[form](shown)
        return
    kinds = shown.pop("kinds")
    show_fields({label_of(key): _text(value) for key, value in shown.items()})
    rows = [[kind, sizes["count"], sizes["bytes"]] for kind, sizes in kinds.items()]
    show_table(["KIND", "COUNT", "BYTES"], rows)


@snapshot.command()
@_FILE
@click.option("--dry-run", is_flag=True, help="Only check FILE and show what would be done.")
@click.option("--force", is_flag=True, help="Even if the snapshot is of another cluster.")
@click.option("--forward", is_flag=True, help="On a follower: pass it on to the leader.")
@timeout_option
@pass_setup
def restore(
    setup: Setup, file: Path, dry_run: bool, force: bool, forward: bool, timeout: float | None
) -> None:
    """Put the sessions and tasks of FILE in place of all that the cluster has now.

    It goes through the leader and the log, piece by piece, and takes effect on all nodes at once,
    with the last piece. Members and history stay; request ids are forgotten. A new epoch begins:
    every later term and task token is larger than any before.
    """
    from nefia.admin.restoring import encode_step, steps
    from nefia.storage.snapshot_saved import opened, verify

    info = verify(file)
    status = setup.ask("status", timeout=timeout)
    _check_cluster(info, status, force)
    _check_application(info)
    counts = {each.kind: each.count for each in info.kinds}
    what = f"{counts.get('session', 0)} sessions and {counts.get('task', 0)} tasks of {info.id}"
    if dry_run:
        line(f"{file} is sound. {what} would replace all sessions and tasks; nothing was changed.")
        return
    restore_id = os.urandom(RESTORE_ID_BYTES).hex()
    with opened(file) as (_, records):
        for number, step in enumerate(steps(restore_id, records, info.place.term)):
            request_id = f"restore-{restore_id}-{number}"
            _send(setup, encode_step(step), request_id, forward=forward, timeout=timeout)
    _await_epoch(setup, status["term"], timeout)
    line(f"{what} are in place.")


def _await_epoch(setup: Setup, before: int, timeout: float | None) -> None:
    """Its leader is elected anew: whatever is asked next is to find one."""
    deadline = time.monotonic() + LEADER_PATIENCE_SECONDS
    while time.monotonic() < deadline:
        status = setup.ask("status", timeout=timeout)
        if status["term"] > before and status["leader_id"]:
            return
        time.sleep(LOOK_SECONDS)


def _send(
    setup: Setup, step: str, request_id: str, *, forward: bool, timeout: float | None
) -> None:
    """Another leader goes on where the one before was; under its id a step may be repeated."""
    deadline = time.monotonic() + LEADER_PATIENCE_SECONDS
    while True:
        try:
            setup.change(
                "snapshot_restore",
                step=step,
                timeout=timeout,
                forward=forward,
                request_id=request_id,
            )
        except (NoLeader, NoQuorum, OutcomeUnknown):
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)
        else:
            return


def _check_cluster(info: SnapshotInfo, status: dict[str, Any], force: bool) -> None:
    its, ours = info.described.cluster_id, status["cluster_id"]
    if its != ours and not force:
        raise OtherCluster(
            f"the snapshot is of the cluster {its}, and this one is {ours}",
            hint="if you mean it, add --force",
        )


def _check_application(info: SnapshotInfo) -> None:
    """Half of a state is none."""
    if any(each.kind == "application" for each in info.kinds):
        raise OtherMachine(
            "the snapshot holds the state of a program's own state machine, which cannot be "
            "restored into a cluster",
            hint="see the limits in docs/embedding.md",
        )


def _text(value: object) -> object:
    return ", ".join(value) if isinstance(value, list) else value


def described(info: SnapshotInfo) -> dict[str, Any]:
    """A snapshot as JSON."""
    from nefia.storage.snapshot_format import SNAPSHOT_FORMAT

    return {
        "id": info.id,
        "cluster_id": info.described.cluster_id,
        "index": info.place.index,
        "term": info.place.term,
        "version": info.described.version,
        "format": SNAPSHOT_FORMAT,
        "members": sorted(info.place.configuration.ids),
        "bytes": info.data_bytes,
        "kinds": {
            each.kind: {"count": each.count, "bytes": each.size_bytes} for each in info.kinds
        },
    }


@click.command(cls=Command, name="snapshot")
@output_option
@timeout_option
@pass_setup
def take(setup: Setup, form: str, timeout: float | None) -> None:
    """Take a snapshot on this node, so that the log before it can go."""
    taken = setup.ask("snapshot", timeout=timeout or SNAPSHOT_TIMEOUT_SECONDS)
    if form in STRUCTURED:
        STRUCTURED[form](taken)
    else:
        line(f"Snapshot {taken['term']}-{taken['index']} is taken: {taken['bytes']} bytes.")
