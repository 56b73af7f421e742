"""The beginning of a cluster: its first entry and its id, in the store of its first node."""

from __future__ import annotations

import secrets

from nefia.errors import AlreadyInitialized
from nefia.raft.configuration import FOUNDED, Configuration, Member, Note
from nefia.raft.core import BOOTSTRAP_ENTRY_TERM
from nefia.raft.effects import Write
from nefia.raft.entries import Entry, HardState
from nefia.state.features import FEATURES
from nefia.storage.store import LogStore

CLUSTER_ID_BYTES = 8


def first_configuration(
    store: LogStore, address: str, *, utc_ms: int, features: int = FEATURES
) -> Configuration:
    """That of the node whose store it is, which others dial at `address`."""
    identity = store.identity
    first = Member(
        identity.node_id, address, voter=True, instance=identity.instance_id, features=features
    )
    return Configuration((first,), Note(FOUNDED, identity.node_id, utc_ms=utc_ms))


async def found_cluster(store: LogStore, first: Configuration) -> str:
    """Make this node a cluster of its own, as `first` says; returns the cluster's id.

    Raises AlreadyInitialized and DiskFailed. A crash between the two steps leaves an entry without
    a cluster id: `join_own_cluster` completes that.
    """
    if store.identity.cluster_id:
        raise AlreadyInitialized(
            f"this node already belongs to the cluster {store.identity.cluster_id}",
            hint="nothing has to be done; to add other nodes run nefia cluster add-peer "
            "on the leader",
            cluster_id=store.identity.cluster_id,
        )
    if not (await store.load(0)).last_index:
        entry = Entry(1, BOOTSTRAP_ENTRY_TERM, first)
        await store.write(Write(1, HardState(BOOTSTRAP_ENTRY_TERM), (entry,)))
    return await join_own_cluster(store)


async def join_own_cluster(store: LogStore) -> str:
    """Give the cluster of which this node's log has the first entry an id; returns it."""
    cluster_id = secrets.token_hex(CLUSTER_ID_BYTES)
    await store.join(cluster_id)
    return cluster_id
