"""What a node needs of its configuration."""

from __future__ import annotations

from hashlib import blake2b

from attrs import frozen

from nefia.config import Config, PeerConfig
from nefia.node.snapshotter import DEFAULT_SNAPSHOTS, SnapshotSettings
from nefia.raft.options import Options
from nefia.state.commands import DEFAULT_RETENTION, SetRetention
from nefia.state.features import FEATURES

FINGERPRINT_BYTES = 8


@frozen
class Settings:
    """Durations in seconds."""

    address: str
    peers: tuple[PeerConfig, ...]
    options: Options
    apply_timeout: float
    max_pool: int
    transport_timeout: float
    snapshots: SnapshotSettings = DEFAULT_SNAPSHOTS
    fingerprint: str = ""
    """Of the `raft:` section and the services, which all nodes should have alike."""
    dead_peer_cleanup: float | None = None
    features: int = FEATURES
    """The newest feature level that this program understands."""
    retention: SetRetention = DEFAULT_RETENTION

    @classmethod
    def of(cls, config: Config) -> Settings:
        cluster, raft = config.cluster, config.cluster.raft
        alike = repr((raft, config.services)).encode()
        return cls(
            address=cluster.advertise_addr,
            peers=cluster.peers,
            options=Options(
                heartbeat_timeout=raft.heartbeat_timeout,
                election_timeout=raft.election_timeout,
                leader_lease=raft.leader_lease,
                may_lead=cluster.may_lead,
            ),
            apply_timeout=raft.apply_timeout,
            max_pool=raft.max_pool,
            transport_timeout=raft.transport_timeout,
            snapshots=SnapshotSettings.of(raft),
            fingerprint=blake2b(alike, digest_size=FINGERPRINT_BYTES).hexdigest(),
            dead_peer_cleanup=cluster.dead_peer_cleanup,
            retention=SetRetention(
                task_retention_ms=round(config.task_retention * 1000),
                session_gc_ms=config.session_gc_interval_minutes * 60_000,
            ),
        )
