"""The verdict of a drill: what is measured, and that each broken promise is noticed."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from nefia.drill.judging import Acknowledged, Evidence, Leader, Node, judge, longest_gap

ACKNOWLEDGED = tuple(
    Acknowledged(number, at) for number, at in enumerate((1.00, 1.02, 1.04, 1.30, 1.32))
)
HOLDS = Node(applied_index=9, digest="aa", changes=(0, 1, 2, 3, 4))
SEEN = Evidence(
    kind="kill",
    before=Leader("node-1", 4),
    after=Leader("node-2", 5),
    acted_at=1.05,
    acknowledged=ACKNOWLEDGED,
    claims=frozenset({(4, "node-1"), (5, "node-2")}),
    digests={8: {"ab": "node-1"}, 9: {"aa": "node-2"}},
    nodes={"node-2": HOLDS, "node-3": HOLDS},
    services=("app",),
    services_ran_at=2.05,
    leader_index=9,
    missing=("node-1",),
)


def broken(**changes: Any) -> dict[str, str]:
    """The promises that are judged to be broken, and why."""
    report = judge(evolve(SEEN, **changes))
    found = {each.promise: each.detail for each in report.findings if not each.holds}
    assert report.passed == (not found)
    return found


def test_a_drill_in_which_all_held() -> None:
    report = judge(SEEN)
    assert report.passed
    assert (report.acknowledged, report.usual_ms, report.gap_ms) == (5, 20.0, 260.0)
    assert report.services_gap_ms == 1000.0
    assert report.compared == ("node-2", "node-3")
    assert report.to_json()["passed"] is True
    assert report.to_json()["before"] == {"node_id": "node-1", "term": 4}


def test_the_gap_is_the_longest_that_ended_after_the_act() -> None:
    gap = longest_gap(ACKNOWLEDGED, 1.31)
    assert gap is not None
    assert gap.ended == 1.32
    assert longest_gap(ACKNOWLEDGED, 2.0) is None
    assert longest_gap(ACKNOWLEDGED[:1], None) is None


def test_by_hand_the_gap_of_services_begins_with_that_of_changes() -> None:
    report = judge(evolve(SEEN, acted_at=None))
    assert report.by_hand
    assert report.gap_ms == 260.0
    assert report.services_gap_ms == pytest.approx(1010.0)


def test_without_services_nothing_is_said_of_them() -> None:
    report = judge(evolve(SEEN, services=(), services_ran_at=None))
    assert report.passed
    assert report.services_gap_ms is None
    assert not [each for each in report.findings if "services" in each.promise]


def test_a_change_that_nobody_acknowledged_may_be_there() -> None:
    more = evolve(HOLDS, changes=(*HOLDS.changes, 5))
    assert broken(nodes={"node-2": more, "node-3": more}) == {}


@pytest.mark.parametrize(
    ("changes", "promise", "detail"),
    [
        ({"after": None}, "another leader takes changes", "none was seen in time"),
        (
            {"nodes": {"node-2": HOLDS, "node-3": evolve(HOLDS, changes=(0, 1, 4))}},
            "every acknowledged change is there once",
            "node-3 lacks 2, 3",
        ),
        (
            {"nodes": {"node-2": evolve(HOLDS, changes=(0, 1, 1, 2, 3, 4))}},
            "every acknowledged change is there once",
            "node-2 has more than once: 1",
        ),
        (
            {"claims": SEEN.claims | {(5, "node-1")}},
            "one leader a term",
            "term 5: node-1, node-2",
        ),
        (
            {"digests": {9: {"aa": "node-2", "cc": "node-3"}}},
            "all nodes hold the same",
            "at index 9 node-2 has aa, node-3 has cc",
        ),
        (
            {"nodes": {"node-2": HOLDS, "node-3": evolve(HOLDS, applied_index=7)}},
            "all nodes hold the same",
            "node-3 has applied 7 of 9",
        ),
        ({"services_ran_at": None}, "all services run again", "app"),
    ],
)
def test_a_broken_promise(changes: dict[str, Any], promise: str, detail: str) -> None:
    assert broken(**changes) == {promise: detail}


def test_nobody_to_ask_is_no_proof() -> None:
    assert broken(nodes={}).keys() == {
        "every acknowledged change is there once",
        "all nodes hold the same",
    }
