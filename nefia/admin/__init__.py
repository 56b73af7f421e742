"""The admin API: one JSON object a line over a Unix socket (SPEC 4).

What both ends must agree on is here, since the client imports nothing heavier than json.
"""

SOCKET_NAME = "admin.sock"
"""The socket's name within the state directory."""

MAX_LINE_BYTES = 1 << 20
"""The longest request or answer, without and with its newline respectively."""

READING_ACTIONS = frozenset(
    {
        "status",
        "members",
        "history",
        "session_get",
        "session_list",
        "queue_get",
        "queue_list",
        "queue_stats",
        "watch",
    }
)
"""Actions that change nothing, so that a lost answer to one of them leaves no doubt behind."""
