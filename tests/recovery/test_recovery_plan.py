"""Which survivor must win, what it writes, and what is refused; summaries and tickets."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from attrs import evolve

from nefia.errors import InvalidArgument, NefiaError, NotMember, OtherCluster, RecoveryRefused
from nefia.raft.configuration import RECOVERED, Configuration, Member
from nefia.raft.entries import Entry, HardState
from nefia.raft.epoch import EPOCH_SHIFT, first_of_next_epoch
from nefia.recovery.plan import Plan, Summary, Ticket, from_json, make_plan, to_json

UTC_MS = 1_700_000_000_000

FIVE = Configuration(
    [Member(name, f"{name}:9700", voter=True, instance=f"disk-{name}") for name in "abcde"]
    + [Member("f", "f:9700", voter=False, promote=True)]
)


def summary(name: str, last_index: int = 40, last_term: int = 7, term: int = 7) -> Summary:
    return Summary(
        node_id=name,
        instance_id=f"disk-{name}",
        cluster_id="cafe",
        lineage="",
        term=term,
        first_index=1,
        last_index=last_index,
        last_term=last_term,
        configuration_index=3,
        configuration=FIVE,
    )


def plan_of(me: Summary, *others: Summary, lost: str | Sequence[str] = "cde") -> Plan:
    return make_plan(me, others, list(lost), address="a:9700", reason="flood", utc_ms=UTC_MS)


def test_the_newest_log_wins_and_begins_a_new_epoch() -> None:
    plan = plan_of(summary("a", 40), summary("b", 39, term=9))
    assert [each.node_id for each in plan.survivors] == ["a", "b"]
    assert (plan.lost, plan.dropped) == (("c", "d", "e"), ("f",))
    term = first_of_next_epoch(9)
    assert plan.write.hard_state == HardState(term, None)
    assert plan.write.entries == (Entry(41, term, plan.configuration),)
    assert plan.configuration.voters == {"a", "b"}
    assert {member.id for member in plan.absent} == set("bcdef"), "none of them may answer"
    note = plan.configuration.note
    assert (note.kind, note.node_id, note.utc_ms) == (RECOVERED, "a", UTC_MS)
    assert note.reason == "flood (without c, d, e)"


@pytest.mark.parametrize(
    ("mine", "other", "winner"),
    [((40, 7), (41, 7), "b"), ((90, 6), (40, 7), "b"), ((40, 7), (40, 7), "a")],
)
def test_the_term_counts_before_the_length(
    mine: tuple[int, int], other: tuple[int, int], winner: str
) -> None:
    """As when they vote (paper 5.4.1): a long log of an old term may never have been committed."""
    me, them = summary("a", *mine), summary("b", *other)
    if winner == "a":
        assert plan_of(me, them).winner is me
        return
    with pytest.raises(RecoveryRefused) as refused:
        plan_of(me, them)
    assert refused.value.message.startswith("b must win")
    assert "run the same on b" in refused.value.hint
    assert plan_of(them, me).winner is them


def test_a_second_recovery_begins_another_epoch() -> None:
    term = first_of_next_epoch(9) + 3
    plan = plan_of(summary("a", 60, term, term), summary("b", 40))
    assert plan.write.hard_state == HardState(2 << EPOCH_SHIFT, None)


def test_a_surviving_learner_may_win_and_votes_then() -> None:
    me = summary("f")
    plan = plan_of(me, lost="abcde")
    assert plan.configuration.voters == {"f"}
    assert plan.configuration.members[0].instance == "disk-f"


def test_the_address_of_this_node_is_the_present_one() -> None:
    plan = make_plan(summary("a"), [], list("bcde"), address="new:1", reason="", utc_ms=1)
    assert [member.address for member in plan.configuration.members] == ["new:1"]


@pytest.mark.parametrize(
    ("others", "lost", "kind", "sentence"),
    [
        ([], "cde", RecoveryRefused, "nothing is said of the voter b"),
        ([], "bcdx", InvalidArgument, "there is no such voter"),
        ([], "bcdf", InvalidArgument, "--lost f: there is no such voter"),
        ([], "abcde", InvalidArgument, "a is given as a survivor and as lost"),
        ([summary("b")], "bcde", InvalidArgument, "b is given as a survivor and as lost"),
        ([summary("b"), summary("c")], "de", RecoveryRefused, "a, b, c are a majority"),
        ([summary("b"), summary("b")], "cde", InvalidArgument, "the same node is given twice"),
        ([summary("a")], "bcde", InvalidArgument, "the same node is given twice"),
        ([summary("x")], "bcde", NotMember, "x is no member"),
        ([evolve(summary("b"), cluster_id="beef")], "cde", OtherCluster, "the cluster beef"),
        ([evolve(summary("b"), lineage="l1")], "cde", OtherCluster, "lineage l1"),
    ],
)
def test_what_is_refused(
    others: list[Summary], lost: str, kind: type[NefiaError], sentence: str
) -> None:
    with pytest.raises(kind) as refused:
        plan_of(summary("a"), *others, lost=lost)
    assert sentence in refused.value.message
    assert refused.value.changed is False


def test_the_configuration_of_the_newest_log_decides_who_must_be_named() -> None:
    """The survivor that runs the command may not know yet that g was added."""
    with_g = FIVE.with_member(Member("g", "g:9700", voter=True))
    newer = evolve(summary("b", 50), configuration=with_g)
    with pytest.raises(RecoveryRefused, match="nothing is said of the voter g"):
        plan_of(summary("a"), newer, lost="cde")


def test_a_summary_survives_being_exported() -> None:
    one = summary("a")
    assert from_json(to_json(one), "a.json") == one


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 2}',
        to_json(summary("a")).replace('"term": 7', '"term": {}', 1),
        json.dumps(json.loads(to_json(summary("a"))) | {"extra": 1}),
        to_json(summary("a"))[:-10],
    ],
)
def test_what_is_no_summary_is_said_to_be_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"a\.json is no summary of a node"):
        from_json(text, "a.json")


def test_a_ticket_is_only_for_logs_that_have_lost() -> None:
    ticket = Ticket.parse(str(Ticket("0123abcd", 7, 40)))
    assert ticket == Ticket("0123abcd", 7, 40)
    for each in (summary("b", 40, 7), summary("b", 12, 7), summary("b", 90, 6)):
        ticket.check(each)
    for each in (summary("b", 41, 7), summary("b", 2, 8)):
        with pytest.raises(RecoveryRefused, match="newer than the one that has won"):
            ticket.check(each)


@pytest.mark.parametrize(
    "text", ["", "0123", "0123:7", "0123:7:x", "0123:7:1:1", ":7:1", "a b:1:1"]
)
def test_what_is_no_ticket_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        Ticket.parse(text)
