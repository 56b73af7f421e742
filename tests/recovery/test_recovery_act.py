"""Recovering on real data directories: exports, dials, and a crash at every step."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import trio
from attrs import evolve

from nefia.config import ClusterConfig, Config
from nefia.errors import (
    DataDamaged,
    DataInUse,
    InvalidArgument,
    NotInitialized,
    OtherNode,
    RecoveryRefused,
)
from nefia.node.restoring import restore
from nefia.raft.configuration import RECOVERED, Configuration, Member
from nefia.raft.effects import Write
from nefia.raft.entries import Entry, HardState, SnapshotMeta
from nefia.raft.epoch import epoch_of
from nefia.recovery import act
from nefia.recovery.plan import Ticket, to_json
from nefia.state.records import Counters
from nefia.storage.lmdb_store import open_lmdb
from nefia.storage.raft_db import RaftDb
from nefia.storage.snapshot_files import DATA_FILE
from nefia.storage.snapshot_format import Described, Encoder

KILLED = 9
MAX_STEPS = 200
TERM = 7


def config_of(directory: Path, name: str) -> Config:
    return Config(
        path=None,
        state_dir=directory,
        cluster=ClusterConfig(
            enabled=True,
            node_id=name,
            bind_addr="127.0.0.1:1",
            advertise_addr=f"{name}.invalid:9700",
            data_dir=directory / name,
        ),
    )


async def survivor(directory: Path, name: str, length: int, **addresses: str) -> Config:
    """A stopped node of the cluster of a, b and c, with so many entries in its log."""
    data_dir = directory / name
    store = await open_lmdb(data_dir, name)
    await store.join("cafe")
    members = [
        Member(each, addresses.get(each, f"{each}.invalid:9700"), voter=True) for each in "abc"
    ]
    entries = (
        Entry(1, 1, Configuration(members)),
        *(Entry(index, TERM, b"%d" % index) for index in range(2, length + 1)),
    )
    await store.write(Write(1, hard_state=HardState(TERM, "c"), entries=entries))
    await store.close()
    return config_of(directory, name)


def state_of(config: Config) -> tuple[str, HardState, int, Configuration]:
    """(lineage, hard state, last index, configuration)"""
    db = RaftDb(config.cluster.data_dir / "raft.db")
    try:
        stored = db.load(0)
        newest = stored.configurations[-1][1]
        return db.identity.lineage, stored.hard_state, stored.last_index, newest
    finally:
        db.close()


async def test_recovering_writes_lineage_term_and_configuration(tmp_path: Path) -> None:
    config = await survivor(tmp_path, "a", 20)
    other = await survivor(tmp_path, "b", 19)
    request = act.Request(lost=("b", "c"), reason="flood")
    before = state_of(config)
    shown: list[str] = []
    planned = await act.recover(
        config,
        request,
        plan_only=True,
        show=lambda survivors: shown.extend(each.node_id for each in survivors),
    )
    assert (planned.ticket, shown) == (None, ["a"])
    assert state_of(config) == before
    done = await act.recover(config, request, plan_only=False)
    lineage, hard_state, last_index, configuration = state_of(config)
    assert done.ticket == Ticket(lineage, TERM, 20)
    assert (epoch_of(hard_state.term), hard_state.vote, last_index) == (1, None, 21)
    assert [member.id for member in configuration.members] == ["a"]
    assert configuration.note.kind == RECOVERED
    assert configuration.note.utc_ms > 0
    assert state_of(other)[0] == "", "a survivor that is named as lost is left alone"


async def test_survivors_are_read_from_directories_and_summaries(tmp_path: Path) -> None:
    config = await survivor(tmp_path, "a", 20)
    other = await survivor(tmp_path, "b", 22)
    summary_file = tmp_path / "b.json"
    summary_file.write_text(to_json(await act.export(other)))
    for request in (
        act.Request(lost=("c",), data_dirs=(tmp_path / "b",)),
        act.Request(lost=("c",), summaries=(summary_file,)),
    ):
        with pytest.raises(RecoveryRefused, match="a, b are a majority"):
            await act.recover(config, request, plan_only=True)


async def test_another_survivor_follows_unless_its_log_is_newer(tmp_path: Path) -> None:
    config = await survivor(tmp_path, "b", 19)
    before = state_of(config)
    with pytest.raises(RecoveryRefused, match="newer than the one that has won"):
        await act.follow(config, Ticket("l1", TERM, 18))
    assert state_of(config) == before
    for _ in range(2):  # a second time changes nothing
        await act.follow(config, Ticket("l1", TERM, 20))
        assert state_of(config) == ("l1", *before[1:])


async def with_snapshot(config: Config, index: int, term: int) -> None:
    """A snapshot ahead of the log, as after a crash between the two steps of an installation."""
    store = await open_lmdb(config.cluster.data_dir, config.cluster.node_id)
    configuration = (await store.load(0)).configurations[0][1]
    place = SnapshotMeta(index, term, configuration, 1)
    encoder = Encoder([("counters", Counters(index, 1_000, 0, 0, 0, 0))])
    writer = await store.snapshots.create(Described(place, "cafe", 1_000, "1.0"))
    while chunk := encoder.next_chunk():
        await writer.add(chunk)
    await writer.finish(encoder.kinds)
    await store.close()


async def test_a_snapshot_that_the_log_does_not_reach_counts(tmp_path: Path) -> None:
    """Else the next start would begin the log anew behind it, without the new configuration."""
    config = await survivor(tmp_path, "a", 20)
    await with_snapshot(config, 500, TERM + 1)
    before = state_of(config)
    request = act.Request(lost=("b", "c"))
    planned = (await act.recover(config, request, plan_only=True)).plan
    assert planned.winner.position == (TERM + 1, 500)
    assert state_of(config) == before
    await act.recover(config, request, plan_only=False)
    store = await open_lmdb(config.cluster.data_dir, "a")
    hard_state, log, machine = await restore(store)
    await store.close()
    assert (log.base_index, log.last_index, machine.applied_index) == (500, 501, 500)
    assert log.configuration.voters == {"a"}
    assert epoch_of(hard_state.term) == 1


async def test_a_log_without_its_snapshot_cannot_win(tmp_path: Path) -> None:
    config = await survivor(tmp_path, "a", 20)
    await with_snapshot(config, 500, TERM + 1)
    store = await open_lmdb(config.cluster.data_dir, "a")
    await restore(store)
    await store.close()
    (snapshot,) = (config.cluster.data_dir / "snapshots").iterdir()
    data = snapshot / DATA_FILE
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    with pytest.raises(DataDamaged, match="no sound snapshot"):
        await act.recover(config, act.Request(lost=("b", "c")), plan_only=True)


@contextmanager
def listening() -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


async def test_a_member_that_answers_forbids_it(tmp_path: Path) -> None:
    """Even one that never says a word, as a stopped process does not."""
    with listening() as address:
        config = await survivor(tmp_path, "a", 20, c=address)
        before = state_of(config)
        request = act.Request(lost=("b", "c"))
        planned = await act.recover(config, request, plan_only=True)
        assert [member.id for member in planned.answering] == ["c"]
        with pytest.raises(RecoveryRefused, match=f"c is not off: something answers at {address}"):
            await act.recover(config, request, plan_only=False)
        assert state_of(config) == before
    await act.recover(config, request, plan_only=False)


async def test_what_has_no_cluster_or_is_in_use_or_anothers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotInitialized):
        await act.export(config_of(tmp_path, "a"))
    assert not (tmp_path / "a").exists()
    config = await survivor(tmp_path, "a", 3)
    store = await open_lmdb(tmp_path / "a", "a")
    with pytest.raises(DataInUse):
        await act.recover(config, act.Request(lost=("b", "c")), plan_only=True)
    await store.close()
    stranger = evolve(config, cluster=evolve(config.cluster, node_id="b"))
    with pytest.raises(OtherNode):
        await act.export(stranger)
    fresh = await open_lmdb(tmp_path / "d", "d")
    await fresh.close()
    with pytest.raises(NotInitialized):
        await act.export(config_of(tmp_path, "d"))
    request = act.Request(lost=("b", "c"), summaries=(tmp_path / "missing.json",))
    with pytest.raises(InvalidArgument):
        await act.recover(config, request, plan_only=True)


def die_at(step: int) -> None:
    """`kill -9` when that line of `raft_db` is reached, the first being 1."""
    left = step

    def count(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith("raft_db.py"):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os._exit(KILLED)
        return count

    sys.settrace(count)


def test_a_crash_at_any_step_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    """What comes before `RaftDb.recover` only reads, and nothing comes after it."""
    config = trio.run(survivor, tmp_path, "a", 3)
    before = state_of(config)
    request = act.Request(lost=("b", "c"))
    plan = trio.run(partial(act.recover, config, request, plan_only=True)).plan
    sound = tmp_path / "sound"
    shutil.copytree(config.cluster.data_dir, sound)
    outcomes = set()
    for step in range(1, MAX_STEPS):
        shutil.rmtree(config.cluster.data_dir)
        shutil.copytree(sound, config.cluster.data_dir)
        child = os.fork()
        if child == 0:
            db = RaftDb(config.cluster.data_dir / "raft.db")
            die_at(step)
            db.recover("l1", plan.write)
            sys.settrace(None)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        after = state_of(config)
        assert after in (before, ("l1", plan.write.hard_state, 4, plan.configuration))
        outcomes.add(after == before)
        if status == 0:
            assert after != before
            break
        assert status == KILLED
    else:
        pytest.fail("it never came to its end")
    assert outcomes == {True, False}
