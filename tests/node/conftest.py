"""Fixtures for clusters of real nodes in one event loop, on a clock that costs no time."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import trio

from tests.node.cluster import Cluster
from tests.node.simulated import run_simulated


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """pytest-trio takes no clock from `usefixtures`, but a way to run from its marker."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and inspect.iscoroutinefunction(
            getattr(item, "obj", None)
        ):
            item.add_marker(pytest.mark.trio(run=run_simulated), append=False)


@pytest.fixture(autouse=True)
def _few_logs() -> Iterator[None]:
    """A cluster writes thousands of lines; NEFIA_TEST_LOGS=1 shows them with a failure."""
    if not os.environ.get("NEFIA_TEST_LOGS"):
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture
async def nodes(nursery: trio.Nursery) -> Cluster:
    """A `Cluster` of no nodes yet."""
    return Cluster(nursery)


@pytest.fixture
async def cluster(nodes: Cluster) -> Cluster:
    """n1, n2 and n3, voters of one cluster that n1 leads."""
    await nodes.form("n1", "n2", "n3")
    return nodes
