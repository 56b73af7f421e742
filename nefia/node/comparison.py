"""What other nodes say of themselves that should be as it is here: settings, and wall clocks."""

from __future__ import annotations

import structlog

from nefia.net.handshake import Welcome

MAX_CLOCK_DIFFERENCE_MS = 100
"""Between wall clocks: WireGuard refuses a handshake that is older than the last (SPEC 9)."""
CLOCK_LOOKS = 2
"""A clock has to differ so often running: one welcome may have been slow on its way."""

_log = structlog.get_logger("nefia.node")


def settings_differ(leader_id: str) -> str:
    """For whoever asks for the status."""
    return (
        f"the raft: or services: settings of this node differ from those of {leader_id}; make them "
        "equal in nefia.yaml, and restart this node, or have it reload its services (SIGHUP)"
    )


class Comparison:
    """Tells of each difference once, until it is over."""

    def __init__(self) -> None:
        self._times: dict[tuple[str, str], int] = {}
        """How often running each peer was found to differ, by its id and the event."""

    def heed(self, welcome: Welcome, *, alike: str, utc_ms: int) -> None:
        """`alike`: what its `settings` should be; `utc_ms`: this node's wall clock."""
        peer, by_ms = welcome.node_id, welcome.utc_ms - utc_ms
        if self._differs(peer, "settings", welcome.settings != alike) == 1:
            _log.warning("settings_differ", peer=peer, sections=["raft", "services"])
        is_off = bool(welcome.utc_ms) and abs(by_ms) > MAX_CLOCK_DIFFERENCE_MS
        if self._differs(peer, "clock", is_off) == CLOCK_LOOKS:
            _log.warning("clocks_differ", peer=peer, by_ms=by_ms, hint="let NTP set both")

    def _differs(self, peer: str, what: str, differs: bool) -> int:
        times = self._times.pop((peer, what), 0) + 1
        if not differs:
            return 0
        self._times[peer, what] = times
        return times
