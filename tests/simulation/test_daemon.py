"""A modest share of `python -m tests.simulation.run --kind daemon`; a seed is a history."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from nefia.state.commands import RecordEvent
from tests.simulation.daemon_scenario import draw
from tests.simulation.daemon_simulator import simulate
from tests.simulation.jobs import unequal_under_hash_seeds

BATCHES, SEEDS_PER_BATCH, SECONDS = 4, 5, 20.0


@pytest.mark.parametrize("batch", range(BATCHES))
def test_all_promises_hold(batch: int) -> None:
    first = batch * SEEDS_PER_BATCH
    counts: Counter[str] = Counter()
    for seed in range(first, first + SEEDS_PER_BATCH):
        report = simulate(seed, SECONDS)
        counts += report.counts
        replay = f"--kind daemon --seed {seed} --seconds {SECONDS:g} --transcript"
        assert not report.violation, (
            f"{report.violation}\nreplay: python -m tests.simulation.run {replay}"
        )
    # Promises are easily kept by a cluster in which nothing happens.
    assert counts["elections won"] > SEEDS_PER_BATCH
    assert counts["entries committed"] > 100
    assert counts["operations judged"] > 200
    assert counts["histories linearizable"] > SEEDS_PER_BATCH


def test_a_seed_is_one_history_whatever_the_hash_seed() -> None:
    assert unequal_under_hash_seeds("daemon", [1, 3, 8, 10, 13]) == []


def test_the_state_does_not_depend_on_wall_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trace has the digest of the state after each entry.

    All that is left out is what is told of wall clocks: the times that the history shows, and the
    warning that two of them differ.
    """
    monkeypatch.setattr("nefia.node.comparison.MAX_CLOCK_DIFFERENCE_MS", math.inf)
    monkeypatch.setattr(
        "nefia.node.chronicle.RecordEvent", lambda **fields: RecordEvent(**fields | {"utc_ms": 0})
    )
    seconds = 15.0
    seed = next(s for s in range(100) if dict(draw(s, seconds).faults).get("wall_jump", 99.0) < 5)
    jumping = simulate(seed, seconds)
    assert jumping.counts["fault wall_jump"]
    assert simulate(seed, seconds, wall_jumps=False).trace_hash == jumping.trace_hash


def test_another_seed_is_another_history() -> None:
    assert simulate(1, 3.0).trace_hash != simulate(2, 3.0).trace_hash
