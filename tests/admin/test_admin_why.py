"""A node's evidence in plain words: each case of `nefia.admin.why`."""

from __future__ import annotations

from typing import Any

import pytest

from nefia.admin.why import degradations, explain
from tests.admin.statuses import BOTH, FAILED, LEADING, NONE, gone, peer, status


def election(kind: str, granted: str, refused: str, silent: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "granted": granted.split(),
        "refused": refused.split(),
        "silent": silent.split(),
    }


CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a follower that could take over": (
        status(BOTH),
        [
            "node-2 at 10.99.0.2:9700 leads in term 7, and was heard 30ms ago.",
            "node-1 could take over: it votes, its disk works, and it is in contact with 3 of 3 "
            "voters, itself included.",
        ],
    ),
    "a follower that sees a voter missing": (
        status([peer("node-2"), gone("node-3")]),
        [
            "node-2 at 10.99.0.2:9700 leads in term 7, and was heard 30ms ago.",
            "node-1 could take over: it votes, its disk works, and it is in contact with 2 of 3 "
            "voters, itself included.",
            "node-3 (10.99.0.3:9700) has been out of reach for 2m5s (nothing listens there).",
        ],
    ),
    "a learner": (
        status(BOTH, voters=["node-2", "node-3"], learners=["node-1"], state="Learner"),
        [
            "node-2 at 10.99.0.2:9700 leads in term 7, and was heard 30ms ago.",
            "node-1 could not take over now:",
            "node-1 is a learner: it stores the log, but does not vote and cannot lead yet.",
        ],
    ),
    "a witness": (
        status(BOTH, may_lead=False),
        [
            "node-2 at 10.99.0.2:9700 leads in term 7, and was heard 30ms ago.",
            "node-1 could not take over now:",
            "node-1 is a witness (may_lead: false): it leads only while nobody else can, to hand "
            "over at once.",
        ],
    ),
    "a witness that leads": (
        status([gone("node-2"), gone("node-3")], **LEADING, may_lead=False, failure_tolerance=0),
        [
            "node-1 leads in term 7 and may act, since its lease holds for another 430ms.",
            "It is a witness (may_lead: false): it runs no services, and hands over once it can.",
            "node-2 (10.99.0.2:9700) has been out of reach for 2m5s (nothing listens there).",
            "node-3 (10.99.0.3:9700) has been out of reach for 2m5s (nothing listens there).",
            "The next failure of a voter stops the cluster.",
        ],
    ),
    "a follower that lags in applying": (
        status(BOTH, commit_index=5000),
        [
            "node-2 at 10.99.0.2:9700 leads in term 7, and was heard 30ms ago.",
            "node-1 could not take over now:",
            "node-1 has still to apply 4960 committed entries.",
        ],
    ),
    "a follower whose disk hangs": (
        status(BOTH, write_out_ms=3200),
        [
            "node-2 at 10.99.0.2:9700 leads in term 7, and was heard 30ms ago.",
            "node-1 could not take over now:",
            "The disk of node-1 hangs: a write has been out for 3.2s, so that it can neither vote "
            "nor lead.",
        ],
    ),
    "no majority in reach": (
        status([gone("node-2"), gone("node-3", error="", said_goodbye=True)], **NONE),
        [
            "node-1 knows no leader in term 7; the last was heard 12s ago.",
            "node-1 is in contact with 1 of 3 voters (node-1), and 2 are needed.",
            "node-2 (10.99.0.2:9700) has been out of reach for 2m5s (nothing listens there).",
            "node-3 (10.99.0.3:9700) has been out of reach for 2m5s (it said that it stops).",
            "Start the daemons that are down or mend the network between the nodes: the cluster "
            "goes on by itself then. If a majority is lost for good, see nefia cluster recover.",
        ],
    ),
    "votes missing": (
        status(
            [peer("node-2"), gone("node-3")],
            **NONE,
            election=election("pre-vote", "node-1", "", "node-2 node-3"),
        ),
        [
            "node-1 knows no leader in term 7; the last was heard 12s ago.",
            "It asks for pre-votes: 1 granted (node-1) of 2 needed, 0 refused (nobody), 2 missing "
            "(node-2, node-3).",
            "node-3 (10.99.0.3:9700) has been out of reach for 2m5s (nothing listens there).",
        ],
    ),
    "votes refused, as to a node whose log lags": (
        status(
            BOTH,
            **NONE | {"last_contact_ms": None},
            state="Candidate",
            election=election("vote", "node-1", "node-2 node-3", ""),
        ),
        [
            "node-1 knows no leader in term 7; none was heard since it started.",
            "It asks for votes: 1 granted (node-1) of 2 needed, 2 refused (node-2, node-3), "
            "0 missing (nobody).",
            "node-2, node-3 refused: whoever does still hears a leader, has voted for another in "
            "this term, or has entries that node-1 lacks. See nefia cluster why there.",
        ],
    ),
    "an election that is about to begin": (
        status(BOTH, **NONE | {"last_contact_ms": 800}),
        [
            "node-1 knows no leader in term 7; the last was heard 800ms ago.",
            "A majority is in contact, so an election is due within about 1s.",
        ],
    ),
    "no leader, and a hung disk": (
        status(BOTH, **NONE, write_out_ms=61_000),
        [
            "node-1 knows no leader in term 7; the last was heard 12s ago.",
            "The disk of node-1 hangs: a write has been out for 1m1s, so that it can neither vote "
            "nor lead.",
        ],
    ),
    "the leader": (
        status([peer("node-2", heard_ms=40), peer("node-3", heard_ms=35)], **LEADING),
        [
            "node-1 leads in term 7 and may act, since its lease holds for another 430ms.",
            "1 more voter may fail.",
        ],
    ),
    "the leader, with one that is connected and silent": (
        status(
            [peer("node-2", heard_ms=40), peer("node-3", heard_ms=9_800)],
            **LEADING,
            failure_tolerance=0,
        ),
        [
            "node-1 leads in term 7 and may act, since its lease holds for another 430ms.",
            "node-3 (10.99.0.3:9700) is connected, but has not answered for 9.8s.",
            "The next failure of a voter stops the cluster.",
        ],
    ),
    "a leader that a majority has left": (
        status(
            [gone("node-2"), peer("node-3")],
            **LEADING | {"lease_left_ms": -20},
            failure_tolerance=-1,
        ),
        [
            "node-1 leads in term 7 and may not act now, since its lease has run out.",
            "node-2 (10.99.0.2:9700) has been out of reach for 2m5s (nothing listens there).",
            "node-3 (10.99.0.3:9700) is connected, but has not answered yet.",
            "No majority answers: nothing can change, and it steps down.",
        ],
    ),
    "the only voter": (
        status([], **LEADING, voters=["node-1"], quorum=1, failure_tolerance=0),
        [
            "node-1 leads in term 7 and may act, since its lease holds for another 430ms.",
            "It is the only voter, so nobody takes over when it fails.",
        ],
    ),
    "a leader with a hung disk": (
        status(
            [peer("node-2", heard_ms=1), peer("node-3", heard_ms=1)], **LEADING, write_out_ms=1000
        ),
        [
            "node-1 leads in term 7 and may act, since its lease holds for another 430ms.",
            "The disk of node-1 hangs: a write has been out for 1s, so that it will hand "
            "leadership over.",
            "1 more voter may fail.",
        ],
    ),
    "a leader whose service fails": (
        status(
            [peer("node-2", heard_ms=1), peer("node-3", heard_ms=1)],
            **LEADING,
            services=[FAILED, FAILED | {"name": "hub", "state": "running", "error": None}],
        ),
        [
            "node-1 leads in term 7 and may act, since its lease holds for another 430ms.",
            "The service vpn is waiting (wg-quick ended with 1).",
            "1 more voter may fail.",
        ],
    ),
    "removed": (
        status(BOTH, state="Removed", **NONE),
        [
            "node-1 was removed from the cluster, so it does not vote and never leads.",
            "Stop its daemon, or add it again on the leader: nefia cluster add-peer --id node-1 "
            "...",
        ],
    ),
    "waiting, with a hint": (
        status([], state="Uninitialized", **NONE, hint="on node-2, run nefia cluster add-peer x"),
        [
            "node-1 belongs to no cluster yet, so it neither votes nor leads.",
            "On node-2, run nefia cluster add-peer x.",
        ],
    ),
}


@pytest.mark.parametrize(("shown", "sentences"), CASES.values(), ids=CASES.keys())
def test_explain(shown: dict[str, Any], sentences: list[str]) -> None:
    assert explain(shown) == sentences


class TestDegradations:
    @pytest.mark.parametrize(
        "shown",
        [
            status(BOTH),
            status(BOTH, write_out_ms=999),
            {"healthy": True},
            status([peer("node-2", heard_ms=1), peer("node-3", heard_ms=1)], **LEADING),
            status(
                [peer("node-2", heard_ms=1), peer("node-3", heard_ms=1)],
                **LEADING | {"services": [{"name": "vpn", "state": "running"}]},
            ),
            status(BOTH, services=[{"name": "vpn", "state": "stopped"}]),
        ],
    )
    def test_all_is_well(self, shown: dict[str, Any]) -> None:
        assert degradations(shown) == []

    @pytest.mark.parametrize(
        ("shown", "found"),
        [
            (status(BOTH, **NONE, healthy=False), ["no leader is known"]),
            (
                status([peer("node-2"), gone("node-3")], healthy=False),
                ["node-3 (10.99.0.3:9700) has been out of reach for 2m5s (nothing listens there)"],
            ),
            (status(BOTH, healthy=False), ["not all voters answer"]),
            ({"healthy": False}, ["no leader is known, or not all voters answer"]),
            (
                status(BOTH, state="Learner", voters=["node-2", "node-3"]),
                ["node-1 is no voter: its state is Learner"],
            ),
            (
                status(BOTH, state="Removed", **NONE, healthy=False),
                ["node-1 is no voter: its state is Removed"],
            ),
            (
                status(BOTH, write_out_ms=1500),
                ["the disk of node-1 hangs: a write has been out for 1.5s"],
            ),
            (status(BOTH, warning="the certificate ends soon"), ["the certificate ends soon"]),
            (
                status(
                    [peer("node-2", heard_ms=1), peer("node-3", heard_ms=1)],
                    **LEADING | {"services": [FAILED]},
                ),
                ["the service vpn is waiting (wg-quick ended with 1)"],
            ),
        ],
    )
    def test_what_counts(self, shown: dict[str, Any], found: list[str]) -> None:
        assert degradations(shown) == found
