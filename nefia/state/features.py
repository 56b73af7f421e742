"""The feature level: what every member of the cluster understands (SPEC 6).

Nodes of the versions N and N+1 run together, so a kind of command that N does not know may be
proposed only when no voter is an N any more. Each node says in its handshake up to which level it
understands; the leader records that with the member, in the replicated configuration, and
`Configuration.features` is the lowest level of all voters: the level in force. It never falls, as
what was proposed under it stays in the log. A node that does not know it ends, before it comes to
an entry that it cannot read.
"""

from __future__ import annotations

from nefia.errors import NewerFormat

FEATURES = 1
"""What this program understands: levels 1 to this. Raised with every release that adds commands."""

HISTORY = 1
"""`RecordEvent`, the leader's own entries in the history."""

RESTORE = 1
"""`BeginRestore` and what follows it, another state in place of the present one."""

SERVICES = 1
"""`AcquireTenure`, `ReleaseTenure` and `Remember`, without which a leader runs no services."""

RETENTION = 1
"""`SetRetention`, how long the leader's configuration has finished tasks kept."""

APPLICATION = 1
"""`ApplicationCommand`, a change for the state machine of a program that embeds nefia."""


def require_known(level: int, known: int) -> None:
    """`level` is in force, and this program knows `known`. Raises NewerFormat if that is less."""
    if level > known:
        raise NewerFormat(
            f"this cluster has the feature level {level} and this version of nefia knows {known}, "
            "so it may meet what it cannot read",
            hint="run the version of nefia here that the other nodes run",
        )
