"""Every action against a node of one: the real state machine, without a log (SPEC 4, 8)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing

from nefia.admin import actions, views
from nefia.admin.table import ACTIONS
from nefia.errors import (
    Conflict,
    InvalidArgument,
    LeaseLost,
    NefiaError,
    NoLeader,
    NotFound,
    NotLeader,
    OutcomeUnknown,
    TooLarge,
)
from nefia.state.commands import Command
from nefia.state.records import Outcome
from tests.admin.perfect_node import Node, ask


def test_every_action_of_the_table_is_performed() -> None:
    assert actions._PERFORM.keys() | actions._CHANGES.keys() == ACTIONS.keys()


@pytest.mark.trio
class TestSessions:
    async def test_live_from_open_to_close(self, node: Node) -> None:
        opened = (await ask(node, "session_open", host="web-1", labels={"a": "b"}))["session"]
        assert opened == {
            "id": opened["id"],
            "host": "web-1",
            "root": "",
            "cwd": "",
            "user": "",
            "shell": "",
            "labels": {"a": "b"},
            "created_at": "2026-01-02T03:04:05.006Z",
            "last_used_at": "2026-01-02T03:04:05.006Z",
            "expires_at": "2026-01-02T03:05:05.006Z",
        }
        assert len(opened["id"]) == 16
        prefix = opened["id"][:8]
        assert await ask(node, "session_get", id=prefix) == {"session": opened}
        updated = (await ask(node, "session_update", id=prefix, cwd="/tmp"))["session"]
        assert (updated["cwd"], updated["labels"]) == ("/tmp", {"a": "b"})
        assert (await ask(node, "session_touch", id=prefix))["session"] == updated
        assert (await ask(node, "session_close", id=prefix))["session"] == updated
        with pytest.raises(NotFound):
            await ask(node, "session_get", id=prefix)
        with pytest.raises(NotFound):
            await ask(node, "session_touch", id=prefix)

    async def test_have_ids_of_their_own(self, node: Node) -> None:
        ids = [(await ask(node, "session_open", host="h"))["session"]["id"] for _ in range(3)]
        assert len(set(ids)) == 3

    async def test_are_opened_once_for_one_request_id(self, node: Node) -> None:
        first = await ask(node, "session_open", host="h", request_id="r")
        assert await ask(node, "session_open", host="h", request_id="r") == first
        with pytest.raises(Conflict):
            await ask(node, "session_open", host="other", request_id="r")

    async def test_are_listed_in_pages(self, node: Node) -> None:
        for host in ("a", "a", "b"):
            await ask(node, "session_open", host=host)
        page = await ask(node, "session_list", limit=2)
        rest = await ask(node, "session_list", limit=2, cursor=page["cursor"])
        assert (len(page["sessions"]), len(rest["sessions"]), rest["cursor"]) == (2, 1, None)
        assert len((await ask(node, "session_list", host="a"))["sessions"]) == 2


@pytest.mark.trio
class TestQueue:
    async def test_a_task_lives_from_push_to_ack(self, node: Node) -> None:
        pushed = await ask(node, "queue_push", payload={"n": 2**70}, key="k")
        task = pushed["task"]
        assert pushed["changed"] is True
        assert task == {
            "id": "1",
            "queue": "default",
            "host": "",
            "payload": {"n": 2**70},
            "priority": 0,
            "run_at": "2026-01-02T03:04:05.006Z",
            "attempt": 0,
            "max_attempts": 3,
            "key": "k",
            "state": "pending",
            "worker": "",
            "token": 0,
            "lease_expires_at": None,
            "result": None,
            "error": "",
            "created_at": "2026-01-02T03:04:05.006Z",
            "updated_at": "2026-01-02T03:04:05.006Z",
            "finished_at": None,
        }
        assert (await ask(node, "queue_push", payload=0, key="k"))["changed"] is False
        claimed = (await ask(node, "queue_claim", worker="w"))["task"]
        assert (claimed["state"], claimed["worker"], claimed["attempt"]) == ("leased", "w", 1)
        assert claimed["lease_expires_at"] == "2026-01-02T03:04:35.006Z"
        token = claimed["token"]
        extended = (await ask(node, "queue_extend", id="1", token=token, lease="1m"))["task"]
        assert extended["lease_expires_at"] == "2026-01-02T03:05:05.006Z"
        with pytest.raises(Conflict):
            await ask(node, "queue_ack", id="1", token=token + 1)
        done = (await ask(node, "queue_ack", id="1", token=token, result=[1]))["task"]
        assert (done["state"], done["result"]) == ("done", [1])
        assert done["finished_at"] == "2026-01-02T03:04:05.006Z"
        assert await ask(node, "queue_get", id="1") == {"task": done}

    async def test_a_task_fails_is_cancelled_and_retried(self, node: Node) -> None:
        await ask(node, "queue_push", payload=None, max_attempts=1)
        token = (await ask(node, "queue_claim", worker="w"))["task"]["token"]
        failed = (await ask(node, "queue_fail", id="1", token=token, error="e"))["task"]
        assert (failed["state"], failed["error"], failed["payload"]) == ("dead", "e", None)
        assert (await ask(node, "queue_retry", id="1"))["task"]["state"] == "pending"
        assert (await ask(node, "queue_cancel", id="1"))["task"]["state"] == "cancelled"
        stats = (await ask(node, "queue_stats"))["queues"]["default"]
        assert (stats["cancelled"], stats["pending"], stats["oldest_pending_at"]) == (1, 0, None)

    async def test_a_lost_lease_is_told(self, node: Node) -> None:
        await ask(node, "queue_push", payload=1)
        token = (await ask(node, "queue_claim", worker="w", lease="1s"))["task"]["token"]
        node.time_ms += 2_000
        with pytest.raises(LeaseLost):
            await ask(node, "queue_ack", id="1", token=token)

    async def test_several_are_pushed_and_claimed_at_once(self, node: Node) -> None:
        tasks = [{"payload": n, "queue": "q"} for n in range(3)]
        pushed = await ask(node, "queue_push", tasks=tasks)
        assert [task["payload"] for task in pushed["tasks"]] == [0, 1, 2]
        assert pushed["changed"] is True
        claimed = await ask(node, "queue_claim", worker="w", limit=2)
        assert [task["payload"] for task in claimed["tasks"]] == [0, 1]
        assert (await ask(node, "queue_claim", worker="w", limit=2, queue="z"))["tasks"] == []
        assert (await ask(node, "queue_claim", worker="w", queue="z"))["task"] is None

    async def test_a_push_too_large_to_answer_whole_is_answered_in_short(
        self, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(views, "MAX_ANSWER_BYTES", 2_000)
        few = (await ask(node, "queue_push", tasks=[{"payload": 1}, {"payload": 2}]))["tasks"]
        assert few[0]["payload"] == 1  # By the sizes of the records it might have been too large.
        many = (await ask(node, "queue_push", tasks=[{"payload": "x" * 1000}] * 2))["tasks"]
        assert many == [{"id": "3", "state": "pending"}, {"id": "4", "state": "pending"}]

    async def test_the_largest_push_fits_an_answer(self, node: Node) -> None:
        tasks = [{"payload": 1, "key": f"{n}" + '"' * 250, "host": "h" * 255} for n in range(1000)]
        assert len((await ask(node, "queue_push", tasks=tasks))["tasks"]) == 1000

    async def test_lists_pass_the_filters_on(self, node: Node) -> None:
        await ask(node, "queue_push", payload=1, queue="a", host="h")
        await ask(node, "queue_push", payload=2, queue="b")
        await ask(node, "queue_cancel", id="2")

        async def listed(**filters: Any) -> list[int]:
            return [t["payload"] for t in (await ask(node, "queue_list", **filters))["tasks"]]

        assert await listed() == [1, 2]
        assert await listed(queue="a") == [1]
        assert await listed(host="h") == [1]
        assert await listed(state="cancelled") == [2]
        page = await ask(node, "queue_list", limit=1)
        assert (await ask(node, "queue_list", cursor=page["cursor"]))["tasks"][0]["payload"] == 2
        assert list((await ask(node, "queue_stats", queue="b"))["queues"]) == ["b"]

    async def test_limits_hold_before_anything_is_proposed(self, node: Node) -> None:
        with pytest.raises(TooLarge):
            await ask(node, "queue_push", payload="x" * 300_000)
        with pytest.raises(InvalidArgument):
            await ask(node, "queue_push", payload=1, max_attempts=0)
        assert node.changes == []


@pytest.mark.trio
class TestWaitingClaims:
    async def test_get_the_task_that_comes(self, node: Node) -> None:
        async def push_later() -> None:
            await trio.testing.wait_all_tasks_blocked()
            await ask(node, "queue_push", payload=1)
            node.pushed.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(push_later)
            result = await ask(node, "queue_claim", worker="w", wait="1m", request_id="r")
        assert result["task"]["payload"] == 1
        again = await ask(node, "queue_claim", worker="w", wait="1m", request_id="r")
        assert again == result

    async def test_end_empty_handed(
        self, node: Node, autojump_clock: trio.testing.MockClock
    ) -> None:
        started = trio.current_time()
        assert await ask(node, "queue_claim", worker="w", wait="1m") == {"task": None}
        assert trio.current_time() - started == pytest.approx(60)
        assert node.waits == [pytest.approx(60)]
        assert len(node.changes) == 2

    async def test_that_are_forwarded_outlive_leaders(
        self,
        node: Node,
        autojump_clock: trio.testing.MockClock,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Whatever becomes of a leader, the next is asked for the same claim."""
        node.leads = False
        errors = [NoLeader("none"), OutcomeUnknown("?"), NotLeader("another"), NoLeader("none")]
        forwarded: list[dict[str, Any]] = []

        async def forward(
            request: dict[str, Any], timeout_seconds: float | None = None
        ) -> dict[str, Any]:
            forwarded.append(request)
            await trio.sleep(1)
            if errors:
                raise errors.pop(0)
            return {"task": {"id": "1"}}

        monkeypatch.setattr(node, "forward", forward)
        claimed = await ask(node, "queue_claim", worker="w", wait="1m", forward=True)
        assert claimed == {"task": {"id": "1"}}
        assert len({request["request_id"] for request in forwarded}) == 1
        waits = [int(request["wait"].removesuffix("ms")) for request in forwarded]
        assert waits[0] == 60_000
        assert all(earlier - later >= 1000 for earlier, later in pairwise(waits))

    async def test_that_are_forwarded_end_too(
        self,
        node: Node,
        autojump_clock: trio.testing.MockClock,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        node.leads = False

        async def forward(*_: object) -> dict[str, Any]:
            raise NoLeader("none")

        monkeypatch.setattr(node, "forward", forward)
        started = trio.current_time()
        with pytest.raises(NoLeader):
            await ask(node, "queue_claim", worker="w", wait="1m", forward=True)
        assert 60 <= trio.current_time() - started < 61

    async def test_end_with_their_leader_unless_forwarded(self, node: Node) -> None:
        node.leads = False
        with pytest.raises(NotLeader):
            await ask(node, "queue_claim", worker="w", wait="1m")
        assert node.forwarded == []

    async def test_do_not_wait_unless_asked(self, node: Node) -> None:
        assert await ask(node, "queue_claim", worker="w") == {"task": None}
        assert node.waits == []


@pytest.mark.trio
class TestReads:
    async def test_are_linearizable_unless_asked_otherwise(self, node: Node) -> None:
        await ask(node, "queue_push", payload=1)
        for action in ("queue_list", "queue_stats", "session_list"):
            assert "consistency" not in await ask(node, action)
            local = await ask(node, action, consistency="local")
            assert local["consistency"] == "local"
        assert (await ask(node, "queue_get", id="1", consistency="local"))["task"]["id"] == "1"
        assert node.reads == [True, False] * 3 + [False]

    async def test_may_be_local_on_a_follower(self, node: Node) -> None:
        node.leads = False
        with pytest.raises(NotLeader):
            await ask(node, "queue_list")
        assert (await ask(node, "queue_list", consistency="local"))["tasks"] == []


@pytest.mark.trio
class TestForwarding:
    async def test_only_when_asked(self, node: Node) -> None:
        node.leads = False
        with pytest.raises(NotLeader):
            await ask(node, "queue_push", payload=1)
        assert node.forwarded == []

    async def test_passes_the_request_on_once_under_a_new_id(self, node: Node) -> None:
        node.leads = False
        result = await ask(node, "queue_push", payload=["\ud800"], seq=4, forward=True)
        assert result == {"forwarded": True}
        [(request, timeout)] = node.forwarded
        assert len(request.pop("request_id")) == 32
        assert request == {"action": "queue_push", "payload": ["\ud800"]}
        assert timeout is None

    async def test_keeps_the_callers_request_id(self, node: Node) -> None:
        node.leads = False
        await ask(node, "queue_cancel", id="1", forward=True, request_id="r")
        assert node.forwarded[0][0] == {"action": "queue_cancel", "id": "1", "request_id": "r"}

    async def test_is_patient_with_what_takes_long(self, node: Node) -> None:
        node.leads = False
        await ask(node, "queue_claim", worker="w", wait="1m", forward=True)
        await ask(node, "add_peer", id="n", addr="h:1", forward=True)
        assert [timeout for _, timeout in node.forwarded] == [
            pytest.approx(60 + actions.CLAIM_SECONDS, abs=1),
            actions.MEMBERSHIP_SECONDS,
        ]

    async def test_does_nothing_on_the_leader(self, node: Node) -> None:
        assert (await ask(node, "queue_push", payload=1, forward=True))["changed"] is True
        assert node.forwarded == []

    async def test_other_errors_are_not_forwarded(
        self, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def no_leader(command: Command, request_id: str) -> Outcome:
            raise NoLeader("nobody leads")

        monkeypatch.setattr(node, "change", no_leader)
        with pytest.raises(NoLeader):
            await ask(node, "queue_push", payload=1, forward=True)
        assert node.forwarded == []


@pytest.mark.trio
class TestMembership:
    async def test_parameters_reach_the_node(self, node: Node) -> None:
        assert await ask(node, "status") == {"node_id": "n1"}
        assert await ask(node, "members") == {"members": []}
        assert await ask(node, "init") == {"cluster_id": "c0ffee"}
        await ask(node, "add_peer", id="n2", addr="h:1", preflight=False, reason="why")
        await ask(node, "add_peer", id="n3", addr="h:2", wait=False)
        await ask(node, "remove_peer", id="n2", force=True)
        await ask(node, "remove_peer", id="n2", dry_run=True, reason="why")
        await ask(node, "transfer_leader")
        await ask(node, "transfer_leader", to="n3", reason="why")
        add = {"wait": True, "preflight": True, "reason": "", "dry_run": False}
        remove = {"force": False, "reason": "", "dry_run": False}
        assert node.membership == [
            ("add", "n2", "h:1", add | {"preflight": False, "reason": "why"}),
            ("add", "n3", "h:2", add | {"wait": False}),
            ("remove", "n2", remove | {"force": True}),
            ("remove", "n2", remove | {"reason": "why", "dry_run": True}),
            ("transfer", None, ""),
            ("transfer", "n3", "why"),
        ]

    async def test_errors_keep_their_details(self, node: Node) -> None:
        node.leads = False
        with pytest.raises(NefiaError) as caught:
            await ask(node, "add_peer", id="n2", addr="h:1")
        assert caught.value.details == {"leader_id": "n2", "leader_addr": "h:1"}
