"""From what is on the disk to a node."""

from __future__ import annotations

from random import Random

from nefia.clock import NodeClock
from nefia.net.network import Network
from nefia.node.founding import join_own_cluster
from nefia.node.node import Answer, Node
from nefia.node.restoring import restore
from nefia.node.settings import Settings
from nefia.raft.core import Raft
from nefia.state.application import Host
from nefia.storage.store import LogStore


async def open_node(
    *,
    settings: Settings,
    store: LogStore,
    clock: NodeClock,
    network: Network,
    random: Random,
    answer: Answer,
    host: Host | None = None,
) -> Node:
    """The node whose log is in `store`, with the machine of a program that has one (`host`).

    Raises DiskFailed, DataDamaged, NewerFormat, OtherMachine, MachineFailed.
    """
    hard_state, log, machine = await restore(store, settings.features, host)
    identity = store.identity
    if log.last_index and not identity.cluster_id:
        await join_own_cluster(store)  # an init that was cut short before its last step
    raft = Raft(
        node_id=identity.node_id,
        instance=identity.instance_id,
        options=settings.options,
        random=random,
        now=clock.now(),
        hard_state=hard_state,
        log=log,
        applied_index=machine.applied_index,
    )
    return Node(
        settings=settings,
        store=store,
        raft=raft,
        machine=machine,
        clock=clock,
        network=network,
        random=random,
        answer=answer,
    )
