from __future__ import annotations

import struct
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from nefia.errors import (
    NefiaError,
    NewerFormat,
    OtherCluster,
    OtherNode,
    Overloaded,
    PeerUnreachable,
)
from nefia.net.frames import MAX_HELLO_BYTES
from nefia.net.handshake import (
    ASK,
    MAX_ADDRESS_CHARACTERS,
    MAX_LANES,
    PROBE,
    RAFT,
    Handshake,
    Hello,
    LocalIdentity,
    OtherVersion,
    Refusal,
    View,
    Welcome,
    check,
    decode,
    encode,
    error_of,
    judge,
)
from nefia.raft.configuration import Member
from nefia.wire import Malformed

ME = LocalIdentity("node-2", "instance-2", "c1", "run-2")
HELLO = Hello(
    purpose=RAFT,
    node_id="node-1",
    instance_id="instance-1",
    cluster_id="c1",
    incarnation="run-1",
    expected_id="node-2",
    expected_instance="instance-2",
    lane=1,
)
WELCOME = Welcome(node_id="node-2", instance_id="instance-2", cluster_id="c1", incarnation="run-2")


def test_a_member_of_the_same_cluster_is_welcome() -> None:
    assert judge(HELLO, ME, "instance-1") is None
    assert judge(HELLO, ME, "") is None
    assert check(WELCOME, HELLO) is None


@pytest.mark.parametrize(
    ("hello", "code", "sentence"),
    [
        ({"expected_id": "node-3"}, "other_node", "node-3 was expected here, but this is node-2"),
        (
            {"node_id": "node-2"},
            "other_node",
            "both sides are called node-2: node ids must be unique in a cluster",
        ),
        (
            {"cluster_id": "c2"},
            "other_cluster",
            "node-1 belongs to the cluster c2 and node-2 to c1",
        ),
        (
            {"instance_id": "new", "cluster_id": ""},
            "other_instance",
            "remove node-1 and add it again",
        ),
        ({"cluster_id": ""}, "no_cluster", "node-1 does not belong to a cluster yet"),
        ({"lineage": "l2"}, "other_lineage", "node-1 is of the lineage l2 of this cluster"),
        (
            {"lineage": "l2", "purpose": PROBE},
            "other_lineage",
            "the cluster was recovered without one of them",
        ),
    ],
)
def test_who_is_refused_and_why(hello: dict[str, Any], code: str, sentence: str) -> None:
    refusal = judge(evolve(HELLO, **hello), ME, "instance-1")
    assert refusal is not None
    assert refusal.code == code
    assert sentence in refusal.message


def test_a_node_without_a_cluster_hears_any_cluster() -> None:
    waiting = evolve(ME, cluster_id="")
    assert judge(HELLO, waiting, "") is None
    assert judge(evolve(HELLO, cluster_id="c2"), waiting, "") is None


def test_two_lineages_do_not_hear_each_other_and_the_same_one_does() -> None:
    """Each may have a majority of its own, by its own configuration (issue 5)."""
    recovered = evolve(ME, lineage="l2")
    refusal = judge(HELLO, recovered, "instance-1")
    assert refusal is not None
    assert refusal.code == "other_lineage"
    assert "original" in refusal.message
    assert judge(evolve(HELLO, lineage="l2"), recovered, "instance-1") is None
    assert judge(evolve(HELLO, lineage="l2"), evolve(ME, cluster_id=""), "") is None


def test_a_member_that_was_added_again_is_heard_by_one_that_does_not_know_it_yet() -> None:
    """It may be the leader, who alone can tell this node of it. Its answers do not count."""
    assert judge(evolve(HELLO, instance_id="new"), ME, "old") is None
    assert judge(evolve(HELLO, expected_instance="old"), ME, "instance-1") is None
    assert check(evolve(WELCOME, instance_id="new"), HELLO) is None


def test_a_wiped_node_without_a_cluster_is_not_adopted_by_the_cluster_that_knew_it() -> None:
    """Else it would vote again, and have forgotten its votes (SPEC 2)."""
    refusal = judge(evolve(HELLO, expected_instance="old"), evolve(ME, cluster_id=""), "")
    assert refusal is not None
    assert refusal.code == "other_instance"


def test_two_nodes_without_a_cluster_have_nothing_to_say_but_may_probe() -> None:
    waiting = evolve(ME, cluster_id="")
    for purpose, answered in ((RAFT, False), (ASK, False), (PROBE, True)):
        hello = evolve(HELLO, purpose=purpose, cluster_id="")
        assert (judge(hello, waiting, "") is None) is answered


@pytest.mark.parametrize(
    ("welcome", "code"),
    [
        ({"node_id": "node-3"}, "other_node"),
        ({"cluster_id": "c2"}, "other_cluster"),
        ({"instance_id": "new", "cluster_id": ""}, "other_instance"),
        ({"cluster_id": ""}, "no_cluster"),
        ({"lineage": "l2"}, "other_lineage"),
    ],
)
def test_the_dialling_side_checks_as_well(welcome: dict[str, Any], code: str) -> None:
    refusal = check(evolve(WELCOME, **welcome), HELLO)
    assert refusal is not None
    assert refusal.code == code


def test_a_probe_may_reach_a_node_without_a_cluster() -> None:
    hello = evolve(HELLO, purpose=PROBE, expected_id="", expected_instance="")
    assert check(evolve(WELCOME, cluster_id=""), hello) is None


VIEW = View(
    state="Follower",
    term=3,
    leader_id=None,
    leader_addr=None,
    members=(Member("node-1", "10.99.0.1:9700", True, False, "i"),),
)


@pytest.mark.parametrize(
    "value", [HELLO, WELCOME, evolve(WELCOME, view=VIEW), Refusal("busy", "Too many.")]
)
def test_encoding_round_trips(value: Handshake) -> None:
    assert decode(encode(value)) == value


def test_the_longest_hello_fits_the_limit_for_strangers() -> None:
    most = "x" * 63
    hello = Hello(
        purpose=PROBE,
        node_id=most,
        instance_id="\N{SNOWMAN}" * 64,
        cluster_id="\N{SNOWMAN}" * 64,
        incarnation="\N{SNOWMAN}" * 64,
        expected_id=most,
        expected_instance="\N{SNOWMAN}" * 64,
        lane=MAX_LANES - 1,
        address="x" * MAX_ADDRESS_CHARACTERS,
        lineage="\N{SNOWMAN}" * 64,
    )
    assert len(encode(hello)) < MAX_HELLO_BYTES


@pytest.mark.parametrize(("newest", "oldest"), [(0, 0), (9, 2)])
def test_versions_that_do_not_overlap_are_told_from_garbage(newest: int, oldest: int) -> None:
    """Even if the rest of the bytes is of a form not known here."""
    with pytest.raises(OtherVersion, match=f"versions {oldest} to {newest} .* upgrade the older"):
        decode(struct.pack(">5sHH", b"nefia", newest, oldest) + b"\xff whatever")


def test_a_newer_version_that_still_speaks_ours_is_understood() -> None:
    body = encode(HELLO)
    assert decode(struct.pack(">5sHH", b"nefia", 9, 1) + body[9:]) == HELLO


@pytest.mark.parametrize(
    "fields", [{"purpose": "vote"}, {"lane": 8}, {"lane": -1}, {"node_id": "a\x1b[2J"}]
)
def test_a_hello_with_impossible_fields_is_malformed(fields: dict[str, object]) -> None:
    hello = evolve(HELLO)
    for name, value in fields.items():
        object.__setattr__(hello, name, value)
    with pytest.raises(Malformed):
        decode(encode(hello))


@given(st.binary(max_size=300), st.booleans())
def test_garbage_is_malformed(data: bytes, with_preamble: bool) -> None:
    preamble = struct.pack(">5sHH", b"nefia", 1, 1) if with_preamble else b""
    try:
        value = decode(preamble + data)
    except Malformed:
        return
    assert isinstance(value, Hello | Welcome | Refusal)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("other_node", OtherNode),
        ("other_instance", OtherNode),
        ("other_cluster", OtherCluster),
        ("other_lineage", OtherCluster),
        ("newer_format", NewerFormat),
        ("busy", Overloaded),
        ("a code of the future", PeerUnreachable),
    ],
)
def test_refusals_become_typed_errors(code: str, kind: type[NefiaError]) -> None:
    error = error_of(Refusal(code, "Because.\x1b[2J"), "host:1")
    assert type(error) is kind
    assert error.message == "host:1: Because.?[2J"


def test_the_bytes_of_version_1_do_not_change() -> None:
    """Other versions of nefia rely on them; a change of these bytes is a new protocol version."""
    assert encode(evolve(HELLO, address="one:1", lineage="l1")) == (
        b"nefia\x00\x01\x00\x01"
        b"\x01\x9b\xa4raft\xa6node-1\xaainstance-1\xa2c1\xa5run-1"
        b"\xa6node-2\xaainstance-2\x01\xa5one:1\x01\xa2l1"
    )
    assert encode(evolve(WELCOME, settings="s1", lineage="l1", features=1)) == (
        b"nefia\x00\x01\x00\x01\x02\x9b\xa6node-2\xaainstance-2\xa2c1\xa5run-2\xc0\xa2s1\x01"
        b"\xa2l1\x01\xc3\x00"
    )
    assert encode(Refusal("busy", "No.")) == b"nefia\x00\x01\x00\x01\x03\x92\xa4busy\xa3No."
