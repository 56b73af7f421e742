"""Cluster time outside the state (SPEC 8)."""

from __future__ import annotations

from nefia.state.cluster_clock import ClusterClock


def test_a_leader_counts_on_with_its_own_clock() -> None:
    clock = ClusterClock(100.0, 5_000)
    clock.lead(100.0, 5_000)
    assert [clock.read(now) for now in (100.0, 100.0009, 100.25, 160.0)] == [
        5_000,
        5_000,
        5_250,
        65_000,
    ]


def test_a_successor_continues_from_the_last_heartbeat() -> None:
    clock = ClusterClock(10.0, 0)
    clock.heard(20.0, 1, 1_000_000)
    clock.lead(21.5, 900_000)
    assert clock.read(21.5) == 1_001_500
    assert clock.read(22.0) == 1_002_000


def test_no_heartbeat_or_wall_clock_but_entries_count_after_a_power_cut() -> None:
    clock = ClusterClock(0.0, 70_000)
    clock.lead(2.0, 70_000)
    assert clock.read(3.0) == 73_000


def test_an_entry_newer_than_the_last_heartbeat_is_not_undercut() -> None:
    clock = ClusterClock(0.0, 0)
    clock.heard(1.0, 1, 1_000)
    clock.lead(1.5, 5_000)
    assert clock.read(1.5) == 5_000
    assert clock.read(1.75) == 5_250


def test_a_follower_with_a_fast_clock_does_not_gain_on_the_leader() -> None:
    clock = ClusterClock(0.0, 0)
    for second in range(1, 10_000):
        clock.heard(second * 1.01, 1, second * 1000)
    assert clock.read(9_999 * 1.01) == 9_999_000


def test_a_late_heartbeat_does_not_set_the_clock_back() -> None:
    clock = ClusterClock(0.0, 0)
    clock.heard(1.0, 1, 1_000)
    clock.heard(2.0, 1, 400)
    assert clock.read(2.0) == 2_000


def test_a_later_leader_counts_though_it_is_behind() -> None:
    """It was restarted, and this node had heard more of its predecessor than any entry says."""
    clock = ClusterClock(0.0, 0)
    clock.heard(1.0, 1, 60_000)
    clock.heard(2.0, 2, 20_000)
    assert clock.read(2.0) == 20_000
    clock.heard(2.5, 1, 61_500)
    assert clock.read(3.0) == 21_000
    clock.lead(3.0, 20_500)
    assert clock.read(3.0) == 21_000
