"""Who may have something done by another node: its fellow members, and nobody else."""

from __future__ import annotations

import json

from tests.node.cluster import Cluster

REQUEST = json.dumps({"action": "queue_push", "payload": 1}).encode()


async def test_a_member_may_pass_a_request_on(cluster: Cluster) -> None:
    answer = json.loads(await cluster.up["n1"].node.answer("n2", REQUEST))
    assert answer["ok"]


async def test_a_stranger_with_a_certificate_may_not(cluster: Cluster) -> None:
    before = cluster.up["n1"].machine.applied_index
    answer = json.loads(await cluster.up["n1"].node.answer("n9", REQUEST))
    assert answer["error"]["code"] == "not_member"
    assert answer["error"]["changed"] is False
    assert cluster.up["n1"].machine.applied_index == before


async def test_who_was_removed_may_no_longer(cluster: Cluster) -> None:
    await cluster.ask("n1", "remove_peer", id="n3")
    answer = json.loads(await cluster.up["n1"].node.answer("n3", REQUEST))
    assert answer["error"]["code"] == "not_member"
