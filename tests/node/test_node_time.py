"""Cluster time on real nodes (SPEC 8), and that an idle cluster is idle."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio

from nefia.errors import NefiaError
from nefia.node.housekeeping import MIN_ADVANCE_SECONDS, TIME_ENTRY_SECONDS
from nefia.state.commands import AdvanceTime
from nefia.wire import decode_batch
from tests.node.cluster import Cluster

IDLE_TIMEOUT_SECONDS = 60.0
FAILOVER_SECONDS = 2.0
TOLERANCE_SECONDS = 0.1


async def lives(cluster: Cluster, session_id: str) -> bool:
    leader = await cluster.new_leader()
    try:
        await cluster.ask(leader, "session_get", id=session_id)
    except NefiaError as error:
        return error.code != "not_found"
    return True


async def lifetime(cluster: Cluster, session_id: str, since: float) -> float:
    """Waits until a reader no longer finds the session."""
    while await lives(cluster, session_id):  # noqa: ASYNC110
        await trio.sleep(0.05)
    return trio.current_time() - since


def time_entries(cluster: Cluster) -> list[int]:
    """The cluster times of all `AdvanceTime` entries, from a disk that has them all."""
    leader = cluster.leader
    assert leader is not None
    changes = [
        change
        for entry in cluster.disks[leader].entries
        if isinstance(entry.payload, bytes)
        for change in decode_batch(entry.payload).changes
    ]
    return [change.time_ms for change in changes if isinstance(change.command, AdvanceTime)]


async def test_a_session_expires_when_it_is_due(cluster: Cluster) -> None:
    began = trio.current_time()
    session = (await cluster.ask("n1", "session_open", host="web"))["session"]
    lived = await lifetime(cluster, session["id"], began)
    assert IDLE_TIMEOUT_SECONDS <= lived <= IDLE_TIMEOUT_SECONDS + TOLERANCE_SECONDS


@pytest.mark.parametrize("how", ["crash", "isolate", "pause", "leave"])
async def test_a_leader_change_neither_shortens_nor_prolongs(cluster: Cluster, how: str) -> None:
    began = trio.current_time()
    session = (await cluster.ask("n1", "session_open", host="web"))["session"]
    await trio.sleep(30)
    if how == "leave":
        await cluster.leave("n1")
    else:
        getattr(cluster, how)("n1")
    lived = await lifetime(cluster, session["id"], began)
    assert lived >= IDLE_TIMEOUT_SECONDS - 0.01
    assert lived <= IDLE_TIMEOUT_SECONDS + FAILOVER_SECONDS + TOLERANCE_SECONDS


async def test_a_power_cut_of_all_costs_at_most_a_minute(cluster: Cluster) -> None:
    """All that is lost is the time since the last time entry, and for which nobody ran."""
    opened = (await cluster.ask("n1", "session_open", host="web"))["session"]
    for _ in range(3):
        await trio.sleep(50)
        await cluster.ask("n1", "session_touch", id=opened["id"])
    before_ms = cluster.up["n1"].node.cluster_ms()
    for name in ("n1", "n2", "n3"):
        cluster.crash(name)
    for name in ("n1", "n2", "n3"):
        await cluster.start(name)
    leader = await cluster.new_leader()
    await cluster.until(cluster.is_calm)
    after_ms = cluster.up[leader].node.cluster_ms()
    assert before_ms - TIME_ENTRY_SECONDS * 1000 <= after_ms <= before_ms + 5000
    assert await lifetime(cluster, opened["id"], trio.current_time()) <= IDLE_TIMEOUT_SECONDS


async def test_time_that_a_later_leader_does_not_know_of_does_not_come_back(
    cluster: Cluster,
) -> None:
    """One node has heard the time all along, when the others come back from a power cut."""
    await cluster.ask("n1", "queue_push", payload="stamped")
    await trio.sleep(40)
    cluster.isolate("n3")
    for name in ("n1", "n2"):
        cluster.crash(name)
    for name in ("n1", "n2"):
        await cluster.start(name)
    leader = await cluster.new_leader()
    began = trio.current_time()
    session = (await cluster.ask(leader, "session_open", host="web"))["session"]
    cluster.heal()
    await cluster.until(cluster.is_calm)
    await cluster.ask(leader, "transfer_leader", to="n3")
    lived = await lifetime(cluster, session["id"], began)
    assert lived >= IDLE_TIMEOUT_SECONDS - TOLERANCE_SECONDS


async def test_time_entries_come_once_a_minute_while_something_can_expire(
    cluster: Cluster,
) -> None:
    """Nothing but a task that is delayed by an hour."""
    await cluster.push("n1", 1, delay="1h")
    before = cluster.up["n1"].raft.log.last_index
    await trio.sleep(190)
    times = time_entries(cluster)
    assert cluster.up["n1"].raft.log.last_index == before + len(times)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len(times) == 3
    assert all(gap <= TIME_ENTRY_SECONDS * 1000 + 10 for gap in gaps)


async def test_time_entries_are_a_second_apart_however_much_expires(cluster: Cluster) -> None:
    for number in range(40):
        await cluster.push("n1", number, delay=f"{1000 + 100 * number}ms")
    await trio.sleep(10)
    times = time_entries(cluster)
    assert len(times) >= 3
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert min(gaps) >= MIN_ADVANCE_SECONDS * 1000
    ready = (await cluster.ask("n1", "queue_stats"))["queues"]["default"]
    assert ready["pending"] == 40


async def test_an_idle_cluster_writes_nothing(cluster: Cluster) -> None:
    before = {name: p.raft.log.last_index for name, p in cluster.up.items()}
    await trio.sleep(130)
    assert {name: p.raft.log.last_index for name, p in cluster.up.items()} == before
    assert cluster.leader == "n1"
