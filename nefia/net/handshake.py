"""Who are you, and may we talk? The values of the handshake and the pure rules over them.

The dialling side sends a `Hello` and says nothing more until the `Welcome` is there; a `Refusal`
in its place ends the connection. Each body begins with a preamble whose form never changes, so
that nodes of any two versions can at least tell each other why they cannot talk. The three classes
keep their fields while `OLDEST_VERSION` is spoken, since neither side knows the other's version
when it sends.
"""

from __future__ import annotations

import struct
from collections.abc import Set as AbstractSet
from typing import TypeAlias

from attrs import field, frozen
from attrs.validators import and_, ge, in_, lt

from nefia.config.kinds import parse_node_id
from nefia.errors import (
    NefiaError,
    NewerFormat,
    OtherCluster,
    OtherNode,
    Overloaded,
    PeerUnreachable,
    TLSFailed,
)
from nefia.raft.configuration import Member
from nefia.state.features import FEATURES
from nefia.wire import Codec, Malformed

PROTOCOL_VERSION = 1
OLDEST_VERSION = 1
"""The versions this program speaks: of two nodes that share any, the newest shared is spoken."""

MAX_LANES = 8
MAX_ID_CHARACTERS = 64
MAX_ADDRESS_CHARACTERS = 300

RAFT = "raft"
"""A lane: Raft messages, one way."""
ASK = "ask"
"""One request, one answer."""
PROBE = "probe"
"""Only the welcome, with a `View`."""
SNAPSHOT = "snapshot"
"""One snapshot, from the leader."""

_MAGIC = b"nefia"
_PREAMBLE = struct.Struct(f">{len(_MAGIC)}sHH")


def _node_id(_instance: object, _attribute: object, value: str) -> None:
    parse_node_id(value)


def _short(_instance: object, _attribute: object, value: str) -> None:
    if len(value) > MAX_ID_CHARACTERS:
        raise ValueError(f"an id of {len(value)} characters")


def _address(_instance: object, _attribute: object, value: str) -> None:
    if len(value) > MAX_ADDRESS_CHARACTERS:
        raise ValueError(f"an address of {len(value)} characters")


@frozen
class LocalIdentity:
    """This node, as it introduces itself.

    `instance_id` is that of the data directory, `incarnation` is random for each start of the
    process, `cluster_id` is empty until the node belongs to a cluster, and `lineage` until that has
    been through a `cluster recover`. `address` is where others can dial it. `settings` is a hash of
    what must be equal in the configurations of all nodes and, behind a slash, the name of the state
    machine of the program that embeds the node. `features` is the newest feature level that
    this program understands, `may_lead` false for a witness, `utc_ms` what the wall clock shows.
    """

    node_id: str
    instance_id: str
    cluster_id: str
    incarnation: str
    address: str = ""
    settings: str = ""
    lineage: str = ""
    features: int = FEATURES
    may_lead: bool = True
    utc_ms: int = 0


@frozen(kw_only=True)
class Hello:
    """`expected_id`: whom the dialling side means to reach, empty for whoever answers.

    `expected_instance`: that node's data directory, as recorded in the configuration; empty if it
    is not known yet. `address` is where the sender can be dialled, as it may have to be answered by
    a node that does not know it. `protocol_version` is the newest that the sender speaks.
    """

    purpose: str = field(validator=in_((RAFT, ASK, PROBE, SNAPSHOT)))
    node_id: str = field(validator=_node_id)
    instance_id: str = field(validator=_short)
    cluster_id: str = field(validator=_short)
    incarnation: str = field(validator=_short)
    expected_id: str = ""
    expected_instance: str = ""
    lane: int = field(default=0, validator=and_(ge(0), lt(MAX_LANES)))
    address: str = field(default="", validator=_address)
    protocol_version: int = PROTOCOL_VERSION
    lineage: str = field(default="", validator=_short)


@frozen(kw_only=True)
class View:
    """What a node tells whoever probes it; `state` is one of the states of SPEC 3."""

    state: str
    term: int
    leader_id: str | None
    leader_addr: str | None
    members: tuple[Member, ...]


@frozen(kw_only=True)
class Welcome:
    """`view` is there only in answer to a probe. The rest: see `LocalIdentity`."""

    node_id: str = field(validator=_node_id)
    instance_id: str = field(validator=_short)
    cluster_id: str = field(validator=_short)
    incarnation: str = field(validator=_short)
    view: View | None = None
    settings: str = field(default="", validator=_short)
    protocol_version: int = PROTOCOL_VERSION
    lineage: str = field(default="", validator=_short)
    features: int = field(default=0, validator=ge(0))
    may_lead: bool = True
    utc_ms: int = 0

    @property
    def machine(self) -> str:
        """The name of the program's state machine; empty for a daemon."""
        return self.settings.partition("/")[2]


@frozen
class Refusal:
    """`code` is for programs (`error_of`), `message` one sentence for people on either side."""

    code: str
    message: str


Handshake: TypeAlias = Hello | Welcome | Refusal

_CODEC: Codec[Handshake] = Codec({1: Hello, 2: Welcome, 3: Refusal})


class OtherVersion(Malformed):
    """The two sides share no version of the protocol."""


def encode(value: Handshake) -> bytes:
    return _PREAMBLE.pack(_MAGIC, PROTOCOL_VERSION, OLDEST_VERSION) + _CODEC.encode(value)


def decode(body: bytes) -> Handshake:
    """Raises `Malformed`, of which `OtherVersion` is a kind that deserves an answer."""
    if len(body) < _PREAMBLE.size or not body.startswith(_MAGIC):
        raise Malformed("this is not a nefia handshake")
    _, newest, oldest = _PREAMBLE.unpack_from(body)
    if newest < OLDEST_VERSION or oldest > PROTOCOL_VERSION:
        raise OtherVersion(
            f"one side speaks the protocol versions {oldest} to {newest} and the other "
            f"{OLDEST_VERSION} to {PROTOCOL_VERSION}: upgrade the older one"
        )
    return _CODEC.decode(body[_PREAMBLE.size :])


def judge(hello: Hello, me: LocalIdentity, recorded_instance: str) -> Refusal | None:
    """Why this node does not talk to who says `hello`, or None.

    `recorded_instance` is the data directory that the configuration knows for that node, or empty.
    Of two lineages of a cluster neither hears the other: both may have a majority of their own.
    A node without a cluster hears anyone's Raft messages: how else would it be added? A node of
    this cluster with another data directory than the recorded one was added again while this node
    was away, and may be the leader that it has to learn that from: it is heard, but its answers
    do not count (`acceptor`).
    """
    it = hello.node_id
    return _first(
        (
            hello.expected_id not in ("", me.node_id),
            "other_node",
            f"{hello.expected_id} was expected here, but this is {me.node_id}",
        ),
        (
            it == me.node_id,
            "other_node",
            f"both sides are called {it}: node ids must be unique in a cluster",
        ),
        (
            differ(hello.cluster_id, me.cluster_id),
            "other_cluster",
            _clusters(it, hello.cluster_id, me.node_id, me.cluster_id),
        ),
        (
            bool(hello.cluster_id and me.cluster_id) and hello.lineage != me.lineage,
            "other_lineage",
            _lineages(it, hello.lineage, me.node_id, me.lineage),
        ),
        (
            differ(hello.instance_id, recorded_instance) and not hello.cluster_id,
            "other_instance",
            _wiped(it),
        ),
        (
            differ(me.instance_id, hello.expected_instance) and not me.cluster_id,
            "other_instance",
            _wiped(me.node_id),
        ),
        (
            hello.purpose != PROBE and not hello.cluster_id,
            "no_cluster",
            f"{it} does not belong to a cluster yet, so it has nothing to say here",
        ),
    )


def check(welcome: Welcome, hello: Hello) -> Refusal | None:
    """Why the dialling side, which said `hello`, does not talk to who says `welcome`, or None."""
    it = welcome.node_id
    return _first(
        (
            hello.expected_id not in ("", it),
            "other_node",
            f"{hello.expected_id} was expected there, but {it} answers",
        ),
        (
            differ(welcome.cluster_id, hello.cluster_id),
            "other_cluster",
            _clusters(it, welcome.cluster_id, hello.node_id, hello.cluster_id),
        ),
        (
            bool(welcome.cluster_id and hello.cluster_id) and welcome.lineage != hello.lineage,
            "other_lineage",
            _lineages(it, welcome.lineage, hello.node_id, hello.lineage),
        ),
        (
            differ(welcome.instance_id, hello.expected_instance) and not welcome.cluster_id,
            "other_instance",
            _wiped(it),
        ),
        (
            hello.purpose == RAFT and not welcome.cluster_id,
            "no_cluster",
            f"{it} has not taken over the cluster id {hello.cluster_id}",
        ),
    )


def vouch(node_id: str, certified_ids: AbstractSet[str]) -> Refusal | None:
    """Why who calls itself `node_id` is not believed: its certificate names other nodes (SPEC 7).

    A certificate that names none may be anyone's.
    """
    names = ", ".join(sorted(certified_ids))
    return _first(
        (
            bool(certified_ids) and node_id not in certified_ids,
            "tls",
            f"the certificate of who calls itself {node_id} is for {names}",
        )
    )


def _first(*rules: tuple[bool, str, str]) -> Refusal | None:
    return next((Refusal(code, message) for broken, code, message in rules if broken), None)


def differ(one: str, other: str) -> bool:
    """Empty means not known, which differs from nothing."""
    return bool(one and other and one != other)


def _clusters(it: str, its_cluster: str, me: str, my_cluster: str) -> str:
    return f"{it} belongs to the cluster {its_cluster} and {me} to {my_cluster}"


def _lineages(it: str, its_lineage: str, me: str, my_lineage: str) -> str:
    return (
        f"{it} is of the lineage {its_lineage or 'original'} of this cluster and {me} of "
        f"{my_lineage or 'original'}: the cluster was recovered without one of them, which must "
        "stay off, be emptied, and be added again"
    )


def _wiped(node_id: str) -> str:
    return (
        f"{node_id} has another data directory than the one this cluster knows (it was wiped "
        f"or replaced), so it may have forgotten votes and changes: "
        f"remove {node_id} and add it again"
    )


_ERRORS: dict[str, type[NefiaError]] = {
    "other_node": OtherNode,
    "other_instance": OtherNode,
    "other_cluster": OtherCluster,
    "other_lineage": OtherCluster,
    "newer_format": NewerFormat,
    "busy": Overloaded,
    "tls": TLSFailed,
}


def error_of(refusal: Refusal, address: str) -> NefiaError:
    """The error for whoever dialled `address`; codes of later versions are `PeerUnreachable`."""
    # The text may come from anyone: nothing of it may steer a terminal.
    message = "".join(c if c.isprintable() else "?" for c in refusal.message)
    return _ERRORS.get(refusal.code, PeerUnreachable)(f"{address}: {message}")
