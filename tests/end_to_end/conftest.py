from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.cluster import Cluster, new_cluster


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name, since a Unix socket's path has 107 bytes at most."""
    directory = Path(tempfile.mkdtemp(prefix="nefia-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def cluster(place: Path) -> Iterator[Cluster]:
    """Three nodes, formed."""
    with new_cluster(place) as three:
        yield three.form()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "end_to_end" in item.path.parts:
            item.add_marker(pytest.mark.end_to_end)
