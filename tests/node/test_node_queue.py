"""Claims that wait, watching, and how long things are kept, on real nodes (issue 7)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
import trio
from attrs import evolve

from nefia.admin.protocol import Request, parse_request
from nefia.admin.values import json_bytes
from nefia.errors import NefiaError, ShuttingDown
from nefia.node import watching
from nefia.node.node import Node
from nefia.node.waiters import AGAIN_SECONDS
from nefia.state.commands import SetRetention
from nefia.state.limits import DAY_MS
from tests.node.cluster import SETTINGS, Cluster

SOON_SECONDS = 0.1


class Claim:
    """A claim under way, and what it comes to."""

    def __init__(self) -> None:
        self.task: dict[str, Any] | None = None
        self.error: NefiaError | None = None
        self.ended_at = 0.0

    async def make(self, cluster: Cluster, name: str, **params: Any) -> None:
        try:
            asked = {"worker": name, "wait": "60s"} | params
            self.task = (await cluster.ask(name, "queue_claim", **asked))["task"]
        except NefiaError as error:
            self.error = error
        self.ended_at = trio.current_time()


def claims_in_log(cluster: Cluster) -> int:
    assert cluster.leader is not None
    return cluster.up[cluster.leader].machine._queue.last_token


# Waiting claims.


async def test_a_push_wakes_one_claim_for_each_task_in_the_order_of_their_coming(
    cluster: Cluster, nursery: trio.Nursery
) -> None:
    claims = [Claim() for _ in range(4)]
    for claim in claims:
        nursery.start_soon(claim.make, cluster, "n1")
        await trio.sleep(0.01)
    proposed = cluster.up["n1"].raft.log.last_index
    began = trio.current_time()
    await cluster.push("n1", 1)
    await trio.sleep(SOON_SECONDS)
    assert [claim.task is not None for claim in claims] == [True, False, False, False]
    assert claims[0].ended_at - began < SOON_SECONDS
    assert cluster.up["n1"].raft.log.last_index == proposed + 2  # nobody claimed in vain
    await cluster.ask("n1", "queue_push", tasks=[{"payload": 2}, {"payload": 3}])
    await trio.sleep(SOON_SECONDS)
    assert [claim.task is not None for claim in claims] == [True, True, True, False]


async def test_claims_wait_for_their_queue_and_host_only(
    cluster: Cluster, nursery: trio.Nursery
) -> None:
    mail, web, any_of_both = Claim(), Claim(), Claim()
    nursery.start_soon(lambda: mail.make(cluster, "n1", queue="mail"))
    nursery.start_soon(lambda: web.make(cluster, "n1", host="web-1"))
    await cluster.push("n1", 1, queue="other", host="web-2")
    await trio.sleep(SOON_SECONDS)
    assert (mail.task, web.task) == (None, None)
    await cluster.push("n1", 2, queue="mail", host="web-2")
    await cluster.push("n1", 3, queue="other", host="web-1")
    await trio.sleep(SOON_SECONDS)
    assert mail.task is not None
    assert web.task is not None
    assert (mail.task["payload"], web.task["payload"]) == (2, 3)
    nursery.start_soon(any_of_both.make, cluster, "n1")
    await trio.sleep(SOON_SECONDS)
    assert any_of_both.task is not None
    assert any_of_both.task["payload"] == 1


async def test_the_end_of_a_delay_wakes_a_claim(cluster: Cluster, nursery: trio.Nursery) -> None:
    claim = Claim()
    nursery.start_soon(claim.make, cluster, "n1")
    began = trio.current_time()
    await cluster.push("n1", 1, delay="7s")
    await cluster.push("n1", 2, delay="30s")
    await cluster.until(lambda: claim.ended_at)
    assert claim.task is not None
    assert claim.task["payload"] == 1
    assert 7 <= claim.ended_at - began < 7 + SOON_SECONDS


async def test_the_end_of_a_lease_wakes_a_claim(cluster: Cluster, nursery: trio.Nursery) -> None:
    await cluster.push("n1", 1)
    first = (await cluster.ask("n1", "queue_claim", worker="w", lease="5s"))["task"]
    began = trio.current_time()
    claim = Claim()
    nursery.start_soon(claim.make, cluster, "n1")
    await cluster.until(lambda: claim.ended_at)
    assert claim.task is not None
    assert claim.task["token"] > first["token"]
    assert claim.ended_at - began < 5 + 1 + SOON_SECONDS


async def test_the_next_is_woken_where_the_first_does_not_come(
    cluster: Cluster, nursery: trio.Nursery
) -> None:
    """Its client may have gone at that very moment."""
    waiters = cluster.up["n1"].node._waiters
    woken: list[float] = []

    async def wait_and_leave() -> None:
        await waiters.wait("", "", trio.current_time() + 3600)
        woken.append(trio.current_time())

    for _ in range(3):
        nursery.start_soon(wait_and_leave)
    await trio.sleep(5)
    began = trio.current_time()
    await cluster.push("n1", 1)
    await cluster.until(lambda: len(woken) == 3)
    assert [round((at - began) / AGAIN_SECONDS) for at in woken] == [0, 1, 2]


async def test_a_claim_that_gives_up_leaves_nothing_behind(cluster: Cluster) -> None:
    claim = Claim()
    await claim.make(cluster, "n1", wait="2s")
    assert (claim.task, claim.error) == (None, None)
    assert not cluster.up["n1"].node._waiters._lines


@pytest.mark.parametrize("how", ["crash", "isolate", "pause", "leave"])
async def test_a_claim_ends_with_its_leader(
    cluster: Cluster, nursery: trio.Nursery, how: str
) -> None:
    claim = Claim()
    nursery.start_soon(claim.make, cluster, "n1")
    await trio.sleep(1)
    if how == "leave":
        await cluster.up["n1"].node.leave()
    else:
        getattr(cluster, how)("n1")
    await trio.sleep(3)
    if how == "pause":
        cluster.resume("n1")
    await cluster.until(lambda: claim.ended_at)
    assert claim.error is not None
    assert claim.error.code in (("timeout",) if how == "crash" else ("not_leader", "no_leader"))
    assert trio.current_time() < 20


@pytest.mark.parametrize("how", ["crash", "isolate", "pause", "leave"])
async def test_a_claim_that_is_forwarded_goes_on_with_the_next_leader(
    cluster: Cluster, nursery: trio.Nursery, how: str
) -> None:
    claim = Claim()
    nursery.start_soon(lambda: claim.make(cluster, "n2", forward=True))
    await trio.sleep(1)
    if how == "leave":
        await cluster.up["n1"].node.leave()
    else:
        getattr(cluster, how)("n1")
    leader = await cluster.new_leader("n1")
    await cluster.push(leader, 1)
    await cluster.until(lambda: claim.ended_at, 30)
    assert claim.task is not None
    shown = await cluster.ask(leader, "queue_get", id=claim.task["id"])
    assert shown["task"]["token"] == claim.task["token"]


# Watching.


@asynccontextmanager
async def watched(node: Node, actions: Any, **params: Any) -> AsyncIterator[list[dict[str, Any]]]:
    """All events so far; the list grows by itself."""
    request = parse_request(json_bytes({"action": "watch", **params}))
    assert isinstance(request, Request), request
    seen: list[dict[str, Any]] = []

    async def follow() -> None:
        stream = actions.handle(request, None)
        async with aclosing(stream):
            async for events in stream:
                seen.extend(events)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await trio.sleep(SOON_SECONDS)
        yield seen
        nursery.cancel_scope.cancel()


def changes(seen: list[dict[str, Any]], event: str) -> list[str]:
    return [each["change"] for each in seen if each["event"] == event and "change" in each]


@pytest.mark.parametrize("name", ["n1", "n2"])
async def test_a_leader_and_a_follower_show_what_they_apply(cluster: Cluster, name: str) -> None:
    process = cluster.up[name]
    async with watched(process.node, process.actions) as seen:
        assert seen[0]["event"] == "watching"
        assert (seen[0]["node_id"], seen[0]["leader_id"]) == (name, "n1")
        session = (await cluster.ask("n1", "session_open", host="web"))["session"]
        await cluster.ask("n1", "session_update", id=session["id"], cwd="/tmp")
        await cluster.ask("n1", "session_touch", id=session["id"])
        await cluster.push("n1", "secret", max_attempts=3)
        for end in ("fail", "none", "ack"):
            await trio.sleep(2)
            task = (await cluster.ask("n1", "queue_claim", worker="w", lease="1s"))["task"]
            params = {"id": task["id"], "token": task["token"]}
            if end == "fail":
                await cluster.ask("n1", "queue_extend", lease="2s", **params)
            if end != "none":
                await cluster.ask("n1", f"queue_{end}", **params)
        await cluster.ask("n1", "session_close", id=session["id"])
        await trio.sleep(SOON_SECONDS)
        assert changes(seen, "session") == ["opened", "updated", "used", "closed"]
        assert changes(seen, "queue") == [
            "pushed", "claimed", "extended", "failed", "claimed", "lease_lost", "claimed", "done",
        ]  # fmt: skip
        assert "secret" not in str(seen)
        done = seen[-2]["task"]
        assert (done["id"], done["state"], done["attempt"]) == ("1", "done", 3)
    assert not process.node.watching._watchers
    assert process.machine._queue.table.observe is None


async def test_what_expires_shows_too(nursery: trio.Nursery) -> None:
    kept = SetRetention(task_retention_ms=DAY_MS, session_gc_ms=30_000)
    cluster = Cluster(nursery, settings=evolve(SETTINGS, retention=kept))
    await cluster.form("n1", "n2")
    process = cluster.up["n2"]
    async with watched(process.node, process.actions, events=["session"]) as seen:
        await cluster.ask("n1", "session_open", host="web")
        await cluster.push("n1", 1)
        await trio.sleep(60 + 30)
        assert changes(seen, "session") == ["opened", "expired"]
        assert changes(seen, "queue") == []


async def test_roles_leaders_and_members_show(cluster: Cluster) -> None:
    process = cluster.up["n2"]
    async with watched(
        process.node, process.actions, events=["role", "leader", "membership"]
    ) as seen:
        await cluster.start("n4")
        await cluster.ask("n1", "add_peer", id="n4", addr="n4:9700")
        await trio.sleep(SOON_SECONDS)
        members = [each["members"] for each in seen if each["event"] == "membership"]
        assert {"id": "n4", "address": "n4:9700", "voter": True} in members[-1]
        cluster.crash("n1")
        leader = await cluster.new_leader("n1")
        await trio.sleep(SOON_SECONDS)
        leaders = [each["leader_id"] for each in seen if each["event"] == "leader"]
        assert leaders[-1] == leader
        if leader == "n2":
            assert [each["state"] for each in seen if each["event"] == "role"][-1] == "Leader"


async def test_a_slow_watcher_is_told_how_much_it_missed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "MAX_UNREAD_EVENTS", 3)
    with cluster.up["n1"].node.watching.watch(["queue"]) as watcher:
        for number in range(5):
            await cluster.push("n1", number)
        *events, missed = await watcher.take()
        assert len(events) == 3
        assert missed == {"event": "missed", "count": 2}
        await cluster.push("n1", 6)
        assert len(await watcher.take()) == 1


async def test_a_watcher_is_told_when_its_node_ends(cluster: Cluster) -> None:
    with cluster.up["n1"].node.watching.watch(["queue"]) as watcher:
        cluster.crash("n1")
        with pytest.raises(ShuttingDown):
            await watcher.take()


async def test_watchers_are_bounded(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MAX_WATCHERS", 1)
    process = cluster.up["n1"]
    watch = process.node.watching.watch
    with watch(["queue"]), pytest.raises(NefiaError, match="1 clients"), watch(["queue"]):
        pass


# How long things are kept.


async def test_the_leaders_configuration_comes_into_force(nursery: trio.Nursery) -> None:
    kept = SetRetention(task_retention_ms=60_000, session_gc_ms=120_000)
    cluster = Cluster(nursery, settings=evolve(SETTINGS, retention=kept))
    await cluster.form("n1", "n2", "n3")
    await cluster.until(lambda: {p.machine.retention for p in cluster.up.values()} == {kept})
    indexes = cluster.up["n1"].raft.log.last_index
    await trio.sleep(100)
    assert cluster.up["n1"].raft.log.last_index == indexes  # it is said once
    await cluster.push("n1", 1)
    await cluster.ask("n1", "queue_cancel", id="1")
    await trio.sleep(62)
    assert (await cluster.ask("n1", "queue_list"))["tasks"] == []
    cluster.settings = SETTINGS
    for name in ("n2", "n3"):
        await cluster.restart(name)
        await cluster.until(cluster.is_calm)
    cluster.crash("n1")
    leader = await cluster.new_leader("n1")
    await cluster.until(lambda: cluster.up[leader].machine.retention.task_retention_ms == DAY_MS)
