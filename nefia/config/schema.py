"""Every key of nefia.yaml: its kind, default and meaning, and the frozen values that it becomes.

The classes are the one table: the reader, the checks and docs/configuration.md are made from it.
"""

from __future__ import annotations

from pathlib import Path

from attrs import field, frozen

from nefia.config.kinds import (
    BIND_ADDRESS,
    BOOLEAN,
    DIAL_ADDRESS,
    NODE_ID,
    PATH,
    TEXT,
    Items,
    Section,
    Variants,
    duration,
    optional,
    whole_number,
)
from nefia.config.services import KINDS, MAX_SERVICES, ServiceConfig
from nefia.config.settings import described, setting

MAX_PEERS = 100
SHORTEST = "10ms"
"""Below it, the scheduling of an ordinary machine decides who leads."""
LONGEST_ELECTION = "1m"
LONGEST_TIMEOUT = "10m"
LONGEST_INTERVAL = "24h"
SHORTEST_CLEANUP = "1m"
LONGEST_CLEANUP = "8760h"
MAX_SNAPSHOTS = 100
MAX_ENTRIES = 1_000_000_000_000
MAX_CONNECTIONS_PER_PEER = 16
MAX_SESSION_MINUTES = 366 * 24 * 60
SHORTEST_RETENTION = "1m"
LONGEST_RETENTION = "8760h"

_ELECTION = duration(SHORTEST, LONGEST_ELECTION)
_TIMEOUT = duration(SHORTEST, LONGEST_TIMEOUT)
_INTERVAL = duration(SHORTEST, LONGEST_INTERVAL)
_ENTRIES = whole_number(1, MAX_ENTRIES)
_MINUTES = whole_number(1, MAX_SESSION_MINUTES)
_OPTIONAL_PATH = optional(PATH, absent=None)


@frozen(kw_only=True)
class RaftConfig:
    """Durations in seconds."""

    apply_timeout: float = setting(_TIMEOUT, "10s", "How long a change may take to be applied.")
    leader_lease: float = setting(
        _ELECTION,
        "500ms",
        "A leader that a quorum has not answered for so long steps down. "
        "Shorter than `heartbeat_timeout`.",
    )
    heartbeat_timeout: float = setting(
        _ELECTION,
        "1s",
        "A follower that hears nothing for so long starts an election. At most `election_timeout`.",
    )
    election_timeout: float = setting(
        _ELECTION, "1s", "A candidate that has not won for so long starts again."
    )
    snapshot_retain: int = setting(whole_number(1, MAX_SNAPSHOTS), 2, "Snapshots that are kept.")
    snapshot_threshold: int = setting(
        _ENTRIES, 8192, "Entries since the last snapshot that call for the next."
    )
    snapshot_interval: float = setting(
        _INTERVAL, "120s", "How often `snapshot_threshold` is looked at."
    )
    trailing_logs: int = setting(
        _ENTRIES, 10240, "Entries that are kept behind a snapshot for slow followers."
    )
    max_pool: int = setting(
        whole_number(1, MAX_CONNECTIONS_PER_PEER), 3, "Connections to each peer."
    )
    transport_timeout: float = setting(
        _TIMEOUT, "10s", "A connection that makes no progress for so long is cut."
    )


@frozen(kw_only=True)
class PeerConfig:
    id: str = field(metadata=described(NODE_ID, None, "The node's id."))
    address: str = field(
        metadata=described(DIAL_ADDRESS, None, "Its `advertise_addr`, as `host:port`.")
    )


@frozen(kw_only=True)
class ClusterConfig:
    """Ids and addresses are "" where they are not given; they are given if `enabled`."""

    enabled: bool = setting(
        BOOLEAN,
        False,
        "Whether this node is one of a cluster. If not, the daemon runs as a single active node.",
    )
    node_id: str = setting(
        optional(NODE_ID, absent=""),
        "",
        "The node's name, unique in the cluster: 1 to 63 letters, digits, dots, hyphens and "
        "underscores, the first a letter or digit. Needed if enabled.",
    )
    bind_addr: str = setting(
        optional(BIND_ADDRESS, absent=""),
        "",
        "Where Raft TCP listens, as `host:port`; `0.0.0.0:9700` or `[::]:9700` for every "
        "address. Needed if enabled.",
    )
    advertise_addr: str = setting(
        optional(DIAL_ADDRESS, absent=""),
        "",
        "What other nodes dial, as `host:port`, `1.2.3.4:port` or `[IPv6]:port`. Names are "
        "resolved at each dial. Needed if enabled.",
    )
    data_dir: Path = field(
        metadata=described(
            _OPTIONAL_PATH, "", "Where log and snapshots are kept. Empty: `<state-dir>/cluster`."
        )
    )
    peers: tuple[PeerConfig, ...] = field(
        default=(),
        metadata=described(
            Items(PeerConfig, MAX_PEERS),
            "",
            "Nodes that this one may find a cluster through. None is added by being listed.",
        ),
    )
    tls_enabled: bool = setting(
        BOOLEAN,
        False,
        "Whether nodes speak TLS to each other: the same in all of them. Needs the three files.",
    )
    tls_cert_file: Path | None = field(
        default=None,
        metadata=described(
            _OPTIONAL_PATH,
            "",
            "The node's certificate, PEM, with what is between it and the authority.",
        ),
    )
    tls_key_file: Path | None = field(
        default=None,
        metadata=described(
            _OPTIONAL_PATH, "", "The certificate's key, PEM, which nobody else may read."
        ),
    )
    tls_ca_file: Path | None = field(
        default=None,
        metadata=described(
            _OPTIONAL_PATH, "", "The authority that signed the certificates of all nodes, PEM."
        ),
    )
    may_lead: bool = setting(
        BOOLEAN,
        True,
        "`false` makes this node a witness: it votes and stores, runs no services, leads only when "
        "nobody else can, and then hands over at once.",
    )
    dead_peer_cleanup: float | None = setting(
        optional(duration(SHORTEST_CLEANUP, LONGEST_CLEANUP), absent=None),
        "",
        "The leader removes a member that it has not heard for so long, as long as three voters "
        "are left, and never at the cost of the quorum. Empty: it removes nobody.",
    )
    raft: RaftConfig = field(
        factory=RaftConfig,
        metadata=described(Section(RaftConfig), "", "Timing and sizes; every key has a default."),
    )


@frozen(kw_only=True)
class HttpConfig:
    listen: str | None = setting(
        optional(BIND_ADDRESS, absent=None),
        "",
        "Where health, metrics and a page that shows the cluster are served, as `host:port`. It is "
        "neither encrypted nor protected, so keep it on loopback or a trusted network. Empty: "
        "nowhere.",
    )


SINGLE_NODE_ID, SINGLE_DIRECTORY = "local", "single"
"""Of a node that runs without a cluster."""


@frozen(kw_only=True)
class Config:
    """What a daemon runs on. `path` is the file it came from, None for the defaults alone."""

    path: Path | None
    state_dir: Path = field(
        metadata=described(
            _OPTIONAL_PATH,
            "",
            "Where the daemon keeps its state and `admin.sock`; `--state-dir` and "
            "`$NEFIA_STATE_DIR` come first. Empty: `/var/lib/nefia` for root, "
            "`$XDG_STATE_HOME/nefia` (`~/.local/state/nefia`) for others.",
        )
    )
    admin_group: str | None = setting(
        optional(TEXT, absent=None),
        "",
        "A group of this machine that may use `admin.sock` (mode 0660). Empty: the owner only.",
    )
    cluster: ClusterConfig = field(
        metadata=described(Section(ClusterConfig), "", "The cluster and this node's place in it.")
    )
    http: HttpConfig = field(
        factory=HttpConfig,
        metadata=described(Section(HttpConfig), "", "The HTTP listener, which only shows things."),
    )
    session_ttl_minutes: int = setting(_MINUTES, 1440, "A session is closed so long after opening.")
    session_idle_timeout_minutes: int = setting(
        _MINUTES, 30, "A session that nobody uses for so long is closed."
    )
    session_gc_interval_minutes: int = setting(
        _MINUTES,
        5,
        "How often sessions whose time is over are closed for good. Nobody finds them any more "
        "from the moment they expire. The leader's counts, so it should be equal on all nodes.",
    )
    task_retention: float = setting(
        duration(SHORTEST_RETENTION, LONGEST_RETENTION),
        "24h",
        "How long the queue keeps finished tasks; those with a key at least 24 h. The leader's "
        "counts, so it should be equal on all nodes.",
    )
    services: tuple[ServiceConfig, ...] = field(
        default=(),
        metadata=described(
            Variants("kind", KINDS, MAX_SERVICES),
            "",
            "What the leader runs, in this order; it stops in reverse. The same on every node.",
        ),
    )

    @property
    def node_id(self) -> str:
        return self.cluster.node_id if self.cluster.enabled else SINGLE_NODE_ID

    @property
    def data_dir(self) -> Path:
        """Where this node keeps its log and snapshots."""
        return self.cluster.data_dir if self.cluster.enabled else self.state_dir / SINGLE_DIRECTORY
