"""What nodes say to each other: frozen values, one class a kind.

`term` is always the sender's current term; a PreVote asks about the term after it. Rounds replace
clock readings: the leader remembers when it began each round, so that nobody else's clock can
stretch its lease.
"""

from __future__ import annotations

from typing import TypeAlias

from attrs import frozen

from nefia.raft.entries import Entry, SnapshotMeta


@frozen(kw_only=True)
class _Message:
    sender: str
    recipient: str
    term: int


@frozen(kw_only=True)
class PreVote(_Message):
    """Would you vote for me in `term + 1`? Changes nothing in whoever is asked (9.6).

    `round` tells answers to this question from answers to an earlier one. `last_log_index` and
    `last_log_term` are those of the candidate's log (paper 5.4.1).
    """

    round: int
    last_log_index: int
    last_log_term: int


@frozen(kw_only=True)
class PreVoteReply(_Message):
    """`removed_by` is, in a refusal, the index of a committed configuration without the asker.

    `removed_by_term` is the term of its entry. Both are zero where there is none. It is how a node
    that was away learns of its removal (SPEC 2).
    """

    round: int
    granted: bool
    removed_by: int = 0
    removed_by_term: int = 0


@frozen(kw_only=True)
class RequestVote(_Message):
    """`transfer`: the leader itself asked for this election (3.10), so stickiness is waived."""

    last_log_index: int
    last_log_term: int
    transfer: bool = False


@frozen(kw_only=True)
class VoteReply(_Message):
    """`tenure_left_ms`: for so long services of an earlier leader may still run (`raft.tenure`)."""

    granted: bool
    tenure_left_ms: int = 0


@frozen(kw_only=True)
class AppendEntries(_Message):
    """Replication, and with no entries the heartbeat (paper 5.3).

    `round` was begun by the leader before this was sent; the reply echoes it, which proves that
    the follower still took the sender for its leader after that moment (6.4, SPEC 5).
    `cluster_ms` is the leader's cluster time, which the core carries and does not look at.
    `tenure_ms` is the leader's tenure (`raft.tenure`).
    """

    prev_log_index: int
    prev_log_term: int
    entries: tuple[Entry, ...]
    commit_index: int
    round: int
    cluster_ms: int = 0
    tenure_ms: int = 0


@frozen(kw_only=True)
class AppendReply(_Message):
    """`match_index`, on success: the log up to here equals the leader's and is durable.

    On refusal: `prev_log_index` echoes the refused position, and `hint_index` and `hint_term` say
    where to look next: the follower's newest entry whose term is at most the refused one's.
    """

    round: int
    success: bool
    match_index: int = 0
    prev_log_index: int = 0
    hint_index: int = 0
    hint_term: int = 0


@frozen(kw_only=True)
class InstallSnapshot(_Message):
    """The data of `snapshot` has arrived whole and verified; the log may begin there (5.3).

    Carrying the chunks is the driver's work; the core decides whether they are wanted.
    """

    snapshot: SnapshotMeta
    round: int
    tenure_ms: int = 0


@frozen(kw_only=True)
class InstallSnapshotReply(_Message):
    """`match_index`: the recipient's log now equals the leader's up to here."""

    match_index: int
    round: int


@frozen(kw_only=True)
class TimeoutNow(_Message):
    """Start an election at once, without a pre-vote: leadership is handed to you (3.10)."""


Message: TypeAlias = (
    PreVote
    | PreVoteReply
    | RequestVote
    | VoteReply
    | AppendEntries
    | AppendReply
    | InstallSnapshot
    | InstallSnapshotReply
    | TimeoutNow
)
