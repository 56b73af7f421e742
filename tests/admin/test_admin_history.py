"""The action `history`: what the machine remembers, as JSON."""

from __future__ import annotations

from nefia.admin.views import instant
from nefia.state.commands import Change, RecordEvent
from tests.admin.perfect_node import START_MS, WALL_MS, Node, ask


async def test_it_is_shown_with_the_times_of_the_wall_clock() -> None:
    node = Node()
    for term in (3, 4):
        event = RecordEvent("elected", "n1", term, "no leader is known", "", WALL_MS + term)
        node.state.apply(node.state.applied_index + 1, [Change(START_MS, "", event)])
    assert await ask(node, "history", limit=1) == {
        "events": [
            {
                "number": 2,
                "at": instant(WALL_MS + 4),
                "kind": "elected",
                "node_id": "n1",
                "term": 4,
                "index": 2,
                "detail": "no leader is known",
                "reason": "",
            }
        ]
    }
    local = await ask(node, "history", consistency="local")
    assert [event["number"] for event in local["events"]] == [1, 2]
    assert local["consistency"] == "local"
