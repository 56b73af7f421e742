"""`nefia cluster why` and `status --check` on real daemons, as peers fall silent and die."""

from __future__ import annotations

import pytest

from tests.end_to_end.cluster import Cluster, paused, until


def why(cluster: Cluster, number: int) -> str:
    done = cluster.daemons[number].cli("cluster", "why")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(60)
def test_from_health_to_no_majority(cluster: Cluster) -> None:
    leader = cluster.wait_healthy()
    at = cluster.daemons.index(leader)
    one, other = (d for d in cluster.daemons if d is not leader)
    assert leader.cli("cluster", "status", "--check").returncode == 0
    assert f"{leader.node_id} leads in term" in why(cluster, at)
    assert "1 more voter may fail." in why(cluster, at)
    assert f"{one.node_id} could take over" in why(cluster, cluster.daemons.index(one))

    with paused(one):  # connected, and silent
        until(lambda: one.node_id in why(cluster, at), "the silent voter is named")
        checked = leader.cli("cluster", "status", "--check")
        assert checked.returncode == 3
        assert f"degraded: {one.node_id}" in checked.stderr
    cluster.wait_healthy()

    leader.kill()
    other.kill()
    until(
        lambda: (
            f"is in contact with 1 of 3 voters ({one.node_id})"
            in why(cluster, cluster.daemons.index(one))
        ),
        "the survivor says what is missing",
    )
    told = why(cluster, cluster.daemons.index(one))
    assert told.startswith(f"{one.node_id} knows no leader in term ")
    for dead in (leader, other):
        assert f"{dead.node_id} ({dead.address}) has been out of reach for " in told
    assert "nefia cluster recover" in told
    checked = one.cli("cluster", "status", "--check")
    assert checked.returncode == 3
    assert "degraded: no leader is known" in checked.stderr
    print(told)
