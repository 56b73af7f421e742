"""The admin API's actions about the leader's services (SPEC 9)."""

from __future__ import annotations

from tests.admin.perfect_node import Node, ask


async def test_services_are_listed_restarted_and_reloaded(node: Node) -> None:
    assert await ask(node, "service_list") == {"services": [{"name": "wg0", "state": "running"}]}
    assert await ask(node, "service_restart", name="wg0") == {}
    assert await ask(node, "service_reload", name="wg0") == {}
    assert node.membership == [("restart", "wg0"), ("reload", "wg0")]
