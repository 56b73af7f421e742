"""A node with `may_lead: false` (SPEC 1)."""

from __future__ import annotations

import trio

from tests.node.cluster import Cluster


async def form(nodes: Cluster) -> None:
    nodes.witnesses = {"n3"}
    await nodes.form("n1", "n2", "n3")


async def test_it_leaves_the_lead_to_others(nodes: Cluster) -> None:
    await form(nodes)
    for leader, other in 3 * [("n1", "n2"), ("n2", "n1")]:
        nodes.crash(leader)
        assert await nodes.new_leader(leader) == other
        await nodes.restart(leader)
        await nodes.until(nodes.is_calm)


async def test_it_does_so_too_when_the_leader_falls_silent(nodes: Cluster) -> None:
    await form(nodes)
    nodes.isolate("n1")
    assert await nodes.new_leader("n1") == "n2"
    nodes.heal()
    await nodes.until(nodes.is_calm)


async def test_it_leads_when_nobody_else_can_and_then_hands_over(nodes: Cluster) -> None:
    await form(nodes)
    nodes.crash("n2")
    await nodes.push("n1", 1)
    await nodes.ask("n1", "transfer_leader", to="n3")  # nobody but n1 could take it back
    await nodes.until(lambda: nodes.leader == "n1")
    nodes.cut("n1", "n2")
    await nodes.restart("n2")
    nodes.crash("n1")  # n2 lacks what n3 has, so that only n3 can win
    assert await nodes.new_leader("n1") in ("n2", "n3")
    await nodes.until(lambda: nodes.leader == "n2")
    await trio.sleep(3)
    assert nodes.leader == "n2"
