"""Three cores in memory: propose, replicate, acknowledge and commit one entry."""

from __future__ import annotations

import pytest

from benchmarks.micro.samples import BATCHES, Benchmark, batch
from tests.raft.raft_cluster import Cluster, members

pytestmark = pytest.mark.benchmark(group="core")


def committed(cluster: Cluster, commands: list[bytes]) -> int:
    cluster["a"].propose(cluster.now, commands)
    cluster.deliver()
    for node_id in cluster.nodes:
        cluster.committed[node_id].clear()
    cluster.sent.clear()
    return cluster["a"].commit_index


@pytest.mark.parametrize("size", BATCHES)
def test_one_entry_of_a_batch(benchmark: Benchmark, size: int) -> None:
    cluster = Cluster(members("abc"))
    cluster.elect("a")
    before = cluster["a"].commit_index
    assert benchmark(committed, cluster, [batch(size)]) > before


@pytest.mark.parametrize("count", BATCHES)
def test_many_entries_at_once(benchmark: Benchmark, count: int) -> None:
    cluster = Cluster(members("abc"))
    cluster.elect("a")
    before = cluster["a"].commit_index
    assert benchmark(committed, cluster, [batch(1)] * count) >= before + count


@pytest.mark.parametrize("voters", ["abc", "abcde", "abcdefg"])
def test_one_entry_by_number_of_voters(benchmark: Benchmark, voters: str) -> None:
    cluster = Cluster(members(voters))
    cluster.elect("a")
    before = cluster["a"].commit_index
    assert benchmark(committed, cluster, [batch(64)]) > before
