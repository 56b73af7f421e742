"""What the core asks its driver for. The driver performs, the core decides.

The order within one `Effects` does not matter: the core itself withholds every message that rests
on a write until the driver has reported that write as durable (`Raft.persisted`).
"""

from __future__ import annotations

from typing import TypeAlias

from attrs import define, field, frozen

from nefia.raft.configuration import Configuration
from nefia.raft.entries import Entry, HardState, SnapshotMeta
from nefia.raft.messages import Message
from nefia.raft.roles import Role


@frozen
class Write:
    """Make this durable, all of it or nothing, then call `Raft.persisted(now, sequence)`.

    `entries` replace everything in the log from `entries[0].index` on. `snapshot`, if there is
    one, replaces all of the log before `entries` are written: the log then begins behind it.
    `compact`, if there is one, is the log's new base: the entries up to it are no longer needed.
    At most one write is out at a time.
    """

    sequence: int
    hard_state: HardState | None = None
    entries: tuple[Entry, ...] = ()
    snapshot: SnapshotMeta | None = None
    compact: SnapshotMeta | None = None


@frozen
class Fetch:
    """Read entries `first`..`last` from storage for `node_id`; call `Raft.fetched`.

    `node_id` is a follower that is far behind, or this node itself, for committed entries that
    are no longer in memory. The driver may return fewer entries, but at least one.
    """

    node_id: str
    first: int
    last: int


@frozen
class SendSnapshot:
    """Bring `node_id` a snapshot at least as new as `minimum_index`, then `InstallSnapshot`."""

    node_id: str
    minimum_index: int


@frozen
class ReadReady:
    """A read that asked under `token` may be answered once `index` is applied (6.4)."""

    token: int
    index: int


# Notices: what happened, for logs, status and waiting callers. Nothing rests on them.


@frozen
class RoleChanged:
    """`reason` is one clause for people, such as "no heartbeat for 1.0 s"."""

    old: Role
    new: Role
    term: int
    leader: str | None
    reason: str


@frozen
class LeaderChanged:
    term: int
    leader: str | None


@frozen
class ConfigurationChanged:
    """`committed`: False when it takes effect in the log, True when it can no longer be undone."""

    index: int
    configuration: Configuration
    committed: bool


@frozen
class HandedOver:
    """`target` has every entry and was told to take over; this node's lease has ended (3.10)."""

    target: str


@frozen
class TransferEnded:
    """A leadership transfer came to nothing and this node still leads."""

    target: str
    reason: str


@frozen
class Removed:
    """This node is in no committed configuration newer than the newest that it was in."""

    index: int


Notice: TypeAlias = (
    RoleChanged | LeaderChanged | ConfigurationChanged | HandedOver | TransferEnded | Removed
)


@define
class Effects:
    """What has gathered since the last `Raft.take`, which gives it away for good.

    `committed` entries come in order, each once, and only to be applied to the state.
    `restore`: before that, replace the state by that of the snapshot just received.
    """

    send: list[Message] = field(factory=list)
    write: Write | None = None
    restore: SnapshotMeta | None = None
    committed: list[Entry] = field(factory=list)
    reads: list[ReadReady] = field(factory=list)
    fetch: list[Fetch] = field(factory=list)
    snapshots: list[SendSnapshot] = field(factory=list)
    notices: list[Notice] = field(factory=list)
