"""A modest share of what `python -m tests.simulation.run` does, and that a seed is a history."""

from __future__ import annotations

import pytest

from tests.simulation.core_simulator import simulate
from tests.simulation.jobs import unequal_under_hash_seeds
from tests.simulation.report import Report

BATCHES, SEEDS_PER_BATCH, SECONDS = 20, 5, 60.0


@pytest.mark.parametrize("batch", range(BATCHES))
def test_all_promises_hold(batch: int) -> None:
    first = batch * SEEDS_PER_BATCH
    reports: list[Report] = []
    for seed in range(first, first + SEEDS_PER_BATCH):
        report = simulate(seed, SECONDS)
        reports.append(report)
        replay = f"python -m tests.simulation.run --seed {seed} --seconds {SECONDS:g} --transcript"
        assert not report.violation, f"{report.violation}\nreplay: {replay}"
    # Promises are easily kept by a cluster in which nothing happens.
    assert sum(report.counts["elections won"] for report in reports) >= SEEDS_PER_BATCH
    assert sum(report.counts["entries committed"] for report in reports) > 100
    assert sum(report.counts["linearizability checks"] for report in reports) > 10


def test_a_seed_is_one_history_whatever_the_hash_seed() -> None:
    assert unequal_under_hash_seeds("core", [3, 8, 13, 21, 34]) == []


def test_another_seed_is_another_history() -> None:
    assert simulate(1, 3.0).trace_hash != simulate(2, 3.0).trace_hash
