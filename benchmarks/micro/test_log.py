"""The log in memory: what it costs must not depend on how long it is."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.micro.samples import Benchmark, entries
from nefia.raft.log import Log

pytestmark = pytest.mark.benchmark(group="log")

LENGTHS = (1_000, 50_000)
ADDED = 64


@pytest.fixture(scope="module", params=LENGTHS)
def log(request: pytest.FixtureRequest) -> Log:
    full = Log()
    full.append(entries(1, request.param))
    return full


def test_append_and_truncate(benchmark: Benchmark, log: Log) -> None:
    added = entries(log.last_index + 1, ADDED)

    def append_and_truncate() -> int:
        log.append(added)
        log.truncate_from(added[0].index)
        return log.last_index

    assert benchmark(append_and_truncate) == added[0].index - 1


def test_terms(benchmark: Benchmark, log: Log) -> None:
    indexes = range(1, log.last_index, log.last_index // 100)
    assert set(benchmark(lambda: [log.term_at(index) for index in indexes])) == {1}


def test_entries_for_a_follower(benchmark: Benchmark, log: Log) -> None:
    first = log.last_index - ADDED + 1
    found = benchmark(log.in_memory, first, log.last_index, 1 << 20, 1024)
    assert len(found) == ADDED


@pytest.mark.parametrize("length", LENGTHS)
def test_compaction(benchmark: Benchmark, length: int) -> None:
    made = entries(1, length)

    def filled() -> tuple[tuple[Any, ...], dict[str, Any]]:
        log = Log()
        log.append(made)
        return (log, length - 100), {}

    assert benchmark.pedantic(Log.compact, setup=filled, rounds=20).index == length - 100
