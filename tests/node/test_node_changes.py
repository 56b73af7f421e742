"""Changes and reads: what a client is told, and that it is true (SPEC 3, 4)."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from nefia.errors import Conflict, NefiaError, NoLeader, NoQuorum, NotLeader, OutcomeUnknown
from tests.node.cluster import Cluster


class Call:
    """A client's request under way: its result or its error, some day."""

    def __init__(self, cluster: Cluster, name: str, action: str, **params: Any) -> None:
        self.result: dict[str, Any] | None = None
        self.error: NefiaError | None = None
        self._asked = (cluster, name, action, params)

    async def run(self) -> None:
        cluster, name, action, params = self._asked
        try:
            self.result = await cluster.ask(name, action, **params)
        except NefiaError as error:
            self.error = error

    @property
    def over(self) -> bool:
        return self.result is not None or self.error is not None


def started(nursery: trio.Nursery, cluster: Cluster, name: str, action: str, **params: Any) -> Call:
    call = Call(cluster, name, action, **params)
    nursery.start_soon(call.run)
    return call


async def test_a_change_is_applied_everywhere(cluster: Cluster) -> None:
    task = (await cluster.push("n1", {"a": 1}))["task"]
    await cluster.until(cluster.is_calm)
    for process in cluster.up.values():
        assert process.machine.get_task(task["id"]).payload == b'{"a":1}'
    assert len(cluster.digests()) == 1


async def test_a_follower_names_the_leader(cluster: Cluster) -> None:
    with pytest.raises(NotLeader) as refused:
        await cluster.push("n2", 1)
    assert refused.value.changed is False
    assert refused.value.details == {"leader_id": "n1", "leader_addr": "n1:9700"}
    assert "n1" in refused.value.message


async def test_a_follower_forwards(cluster: Cluster) -> None:
    task = (await cluster.push("n2", 1, forward=True))["task"]
    with pytest.raises(NotLeader):
        await cluster.ask("n2", "queue_get", id=task["id"])
    assert (await cluster.ask("n1", "queue_get", id=task["id"]))["task"]["id"] == task["id"]


async def test_a_forwarded_error_is_the_leaders(cluster: Cluster) -> None:
    await cluster.push("n2", 1, forward=True, request_id="r")
    with pytest.raises(Conflict):
        await cluster.push("n2", 2, forward=True, request_id="r")


async def test_a_repeated_request_answers_as_the_first_after_a_crash(cluster: Cluster) -> None:
    first = await cluster.push("n1", "once", request_id="r1")
    cluster.crash("n1")
    leader = await cluster.new_leader("n1")
    assert (await cluster.push(leader, "once", request_id="r1"))["task"]["id"] == (
        first["task"]["id"]
    )
    tasks = (await cluster.ask(leader, "queue_list"))["tasks"]
    assert [task["payload"] for task in tasks] == ["once"]


async def test_without_a_quorum_the_outcome_is_unknown_and_told_so(
    nursery: trio.Nursery, cluster: Cluster
) -> None:
    """The disks of the others hang, so that n1 goes on leading."""
    cluster.disks["n2"].stall()
    cluster.disks["n3"].stall()
    began = trio.current_time()
    with pytest.raises(OutcomeUnknown) as unknown:
        await cluster.push("n1", "later", request_id="r1")
    assert trio.current_time() - began == pytest.approx(10.0)
    assert unknown.value.changed == "unknown"
    assert unknown.value.details["request_id"] == "r1"
    cluster.disks["n2"].release()
    cluster.disks["n3"].release()
    leader = await cluster.new_leader()
    await cluster.push(leader, "later", request_id="r1")
    assert len((await cluster.ask(leader, "queue_list"))["tasks"]) == 1


async def test_a_change_that_a_new_leader_drops_was_not_made(
    nursery: trio.Nursery, cluster: Cluster
) -> None:
    cluster.isolate("n1")
    call = started(nursery, cluster, "n1", "queue_push", payload="dropped")
    leader = await cluster.new_leader("n1")
    await cluster.push(leader, "kept")
    cluster.heal()
    await cluster.until(lambda: call.over)
    assert isinstance(call.error, NotLeader)
    assert call.error.changed is False
    await cluster.until(cluster.is_calm)
    tasks = (await cluster.ask(leader, "queue_list"))["tasks"]
    assert [task["payload"] for task in tasks] == ["kept"]


async def test_a_change_of_a_deposed_leader_that_its_successor_has_is_acknowledged(
    nursery: trio.Nursery, cluster: Cluster
) -> None:
    """The answer was lost, not the entry: the waiting client still gets the outcome."""
    cluster.disks["n2"].stall()
    cluster.disks["n3"].stall()
    call = started(nursery, cluster, "n1", "queue_push", payload="kept")
    await trio.sleep(0.05)
    cluster.isolate("n1")
    cluster.disks["n2"].release()
    cluster.disks["n3"].release()
    await cluster.new_leader("n1")
    assert not call.over
    cluster.heal()
    await cluster.until(lambda: call.over)
    assert call.result is not None
    assert call.result["task"]["payload"] == "kept"


async def test_changes_are_held_during_a_transfer(nursery: trio.Nursery, cluster: Cluster) -> None:
    """n2 lags behind and the transfer waits for it: what is pushed meanwhile is not lost."""
    cluster.disks["n2"].stall()
    await cluster.push("n1", "before")
    transfer = started(nursery, cluster, "n1", "transfer_leader", to="n2")
    await trio.sleep(0.1)
    held = started(nursery, cluster, "n1", "queue_push", payload="held")
    await trio.sleep(0.5)
    assert not held.over
    assert not transfer.over
    await cluster.until(lambda: transfer.over and held.over)
    assert transfer.error is not None  # n2 did not catch up in time
    assert held.result is not None
    assert cluster.leader == "n1"


async def test_held_changes_go_to_the_new_leader_by_its_name(
    nursery: trio.Nursery, cluster: Cluster
) -> None:
    cluster.disks["n2"].stall()
    await cluster.push("n1", "before")
    transfer = started(nursery, cluster, "n1", "transfer_leader", to="n2")
    await trio.sleep(0.1)
    held = started(nursery, cluster, "n1", "queue_push", payload="held", request_id="r")
    cluster.disks["n2"].release()
    await cluster.until(lambda: transfer.over and held.over)
    assert transfer.error is None
    assert isinstance(held.error, NotLeader | NoLeader)
    assert held.error.changed is False
    await cluster.new_leader("n1")
    await cluster.push("n2", "held", request_id="r")
    tasks = (await cluster.ask("n2", "queue_list"))["tasks"]
    assert [task["payload"] for task in tasks] == ["before", "held"]


async def test_reads_after_a_leader_change_show_all_that_was_acknowledged(cluster: Cluster) -> None:
    for number in range(10):
        await cluster.push("n1", number)
    cluster.crash("n1")
    await cluster.until(lambda: cluster.leader)
    assert cluster.leader is not None  # perhaps before its first entry is committed
    tasks = (await cluster.ask(cluster.leader, "queue_list"))["tasks"]
    assert [task["payload"] for task in tasks] == list(range(10))


async def test_a_leader_that_is_cut_off_does_not_answer_from_its_old_state(
    nursery: trio.Nursery, cluster: Cluster
) -> None:
    """SPEC 4: not even while it still believes to lead and its lease holds."""
    cluster.isolate("n1")
    reads = [started(nursery, cluster, "n1", "queue_list") for _ in range(3)]
    leader = await cluster.new_leader("n1")
    await cluster.push(leader, "new")
    assert all(isinstance(read.error, NoLeader | NotLeader | NoQuorum) for read in reads)
    local = await cluster.ask("n1", "queue_list", consistency="local")
    assert (local["tasks"], local["consistency"]) == ([], "local")


async def test_without_a_leader_no_change_and_no_read(cluster: Cluster) -> None:
    cluster.crash("n2")
    cluster.crash("n3")
    await cluster.until(lambda: cluster.up["n1"].raft.leader is None)
    for action in ({"action": "queue_push", "payload": 1}, {"action": "queue_list"}):
        with pytest.raises(NoLeader) as refused:
            await cluster.ask("n1", **action)
        assert refused.value.changed is False
    shown = await cluster.ask("n1", "members")
    assert "own view" in shown["note"]


async def test_many_changes_at_once_are_each_applied_once(
    nursery: trio.Nursery, cluster: Cluster
) -> None:
    calls = [
        started(nursery, cluster, f"n{1 + i % 3}", "queue_push", payload=i, forward=True)
        for i in range(30)
    ]
    await cluster.until(lambda: all(call.over for call in calls))
    assert all(call.result for call in calls)
    tasks = (await cluster.ask("n1", "queue_list"))["tasks"]
    assert sorted(task["payload"] for task in tasks) == list(range(30))
