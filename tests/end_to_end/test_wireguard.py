"""Real WireGuard over real daemons: remote hosts find the new leader by themselves (issue 8)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.cluster import until
from tests.end_to_end.tunnel_table import MAX_LOSS_SECONDS, Tunnelled
from tests.end_to_end.tunnels import needs_wireguard

pytestmark = [pytest.mark.end_to_end, pytest.mark.netns]


@needs_wireguard
def test_remote_hosts_follow_the_leader(tmp_path: Path) -> None:
    """One of them behind MASQUERADE, and nothing changed on any.

    "freeze all" stops daemon and guard: there the hub's silence is the kernel's doing alone.
    """
    with Tunnelled(tmp_path) as tunnelled:
        before = tunnelled.remote_configurations()
        for kind in ("kill", "transfer", "freeze all"):
            losses = tunnelled.fail_over(kind)
            assert max(losses) < MAX_LOSS_SECONDS, (kind, losses)
            until(tunnelled.has_one_hub, "only the leader has a tunnel")
        assert tunnelled.remote_configurations() == before
