"""Fixtures for clusters of real nodes in one event loop, on a clock that costs no time."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
import structlog
import trio
from trio.testing import MockClock

from tests.node.cluster import Cluster, schedule_by_seed

DEFAULT_SEED = 1


@pytest.fixture(autouse=True)
def scheduling(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule_by_seed(monkeypatch, DEFAULT_SEED)


@pytest.fixture(autouse=True)
def _few_logs() -> Iterator[None]:
    """A cluster writes thousands of lines; NEFIA_TEST_LOGS=1 shows them with a failure."""
    if not os.environ.get("NEFIA_TEST_LOGS"):
        quiet = structlog.make_filtering_bound_logger(logging.CRITICAL)
        structlog.configure(wrapper_class=quiet, cache_logger_on_first_use=False)
    yield
    structlog.reset_defaults()


@pytest.fixture
async def nodes(nursery: trio.Nursery, autojump_clock: MockClock) -> Cluster:
    """A `Cluster` of no nodes yet."""
    return Cluster(nursery, seed=DEFAULT_SEED)


@pytest.fixture
async def cluster(nodes: Cluster) -> Cluster:
    """n1, n2 and n3, voters of one cluster that n1 leads."""
    await nodes.form("n1", "n2", "n3")
    return nodes
