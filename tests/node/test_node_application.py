"""A program's own machine on whole nodes: replicated, snapshotted, and kept apart from others."""

from __future__ import annotations

from random import Random

import pytest
import trio
from attrs import evolve

from nefia.errors import (
    InvalidArgument,
    MachineFailed,
    NefiaError,
    NotLeader,
    OtherMachine,
    Refused,
)
from nefia.node import hosting
from tests.node.cluster import SETTINGS, Cluster
from tests.node.embedded import Programs, apply, words
from tests.node.simulated import run_simulated
from tests.node.snapshots import BY_HAND, base_index, held
from tests.state.words import Words

TENURE_SECONDS = 1.0
"""Lease plus stop budget of the default settings."""


class Others(Words):
    name = "others"


def embedded(cluster: Cluster, *names: str) -> Cluster:
    cluster.hosts |= dict.fromkeys(names, Words)
    return cluster


@pytest.fixture
async def three(nodes: Cluster) -> Cluster:
    await embedded(nodes, "n1", "n2", "n3").form("n1", "n2", "n3")
    return nodes


async def test_commands_reach_every_node(three: Cluster) -> None:
    assert await apply(three, "n1", b"a") == b"1"
    assert await apply(three, "n2", b"b", forward=True) == b"2"
    with pytest.raises(NotLeader):
        await apply(three, "n2", b"c")
    with pytest.raises(Refused, match="no word"):
        await apply(three, "n3", b"", forward=True)
    with pytest.raises(InvalidArgument, match="base64"):
        await three.ask("n1", "apply", machine="words", command="*")
    await three.until(three.is_calm)
    assert [words(three, name) for name in three.up] == [[b"a", b"b"]] * 3
    assert len(three.digests()) == 1


async def test_a_request_id_is_performed_once_whoever_leads(three: Cluster) -> None:
    assert await apply(three, "n1", b"a", request_id="r-1") == b"1"
    three.crash("n1")
    leader = await three.new_leader("n1")
    assert await apply(three, leader, b"a", request_id="r-1") == b"1"
    assert await apply(three, leader, b"b") == b"2"
    await three.restart("n1")
    await three.until(three.is_calm)
    assert words(three, "n1") == [b"a", b"b"]
    assert len(three.digests()) == 1


async def test_who_was_away_gets_a_snapshot(nursery: trio.Nursery) -> None:
    cluster = Cluster(nursery, settings=evolve(SETTINGS, snapshots=BY_HAND))
    await embedded(cluster, "n1", "n2", "n3").form("n1", "n2", "n3")
    cluster.crash("n3")
    for number in range(30):
        await apply(cluster, "n1", b"w%d" % number, request_id=f"r-{number}")
    for name in ("n1", "n2"):
        await cluster.ask(name, "snapshot")
    await cluster.until(lambda: base_index(cluster, "n1") > 10)
    await cluster.start("n3")
    await apply(cluster, "n1", b"later")
    await cluster.until(cluster.is_calm)
    assert base_index(cluster, "n3") > 10
    assert words(cluster, "n3") == words(cluster, "n1")
    await cluster.restart("n1")  # from its own snapshot
    await cluster.until(cluster.is_calm)
    assert words(cluster, "n1") == [*(b"w%d" % number for number in range(30)), b"later"]
    assert len(cluster.digests()) == 1
    leader = await cluster.new_leader()
    assert await apply(cluster, leader, b"w7", request_id="r-7") == b"8"


# Who has no such machine.


@pytest.mark.parametrize("host", [None, Others])
async def test_a_node_without_it_is_not_added(nodes: Cluster, host: type[Words] | None) -> None:
    await embedded(nodes, "n1").form("n1")
    if host:
        nodes.hosts["n2"] = host
    await nodes.start("n2")
    with pytest.raises(OtherMachine, match="n2 at n2:9700 runs"):
        await nodes.ask("n1", "add_peer", id="n2", addr="n2:9700")
    assert nodes.members() == {"n1": True}


async def test_a_daemon_among_them_stops_and_does_not_diverge(three: Cluster) -> None:
    del three.hosts["n3"]
    await three.restart("n3")
    await three.until(three.is_calm)
    await apply(three, "n1", b"a")
    await three.until(lambda: "n3" in three.failures)
    assert isinstance(three.failures["n3"], OtherMachine)
    await apply(three, "n1", b"b")
    await three.restart("n3")  # as a service manager would
    three.failures.clear()
    await three.until(lambda: "n3" in three.failures)
    embedded(three, "n3")
    await three.restart("n3")
    await three.until(three.is_calm)
    assert words(three, "n3") == [b"a", b"b"]


async def test_a_daemon_does_not_start_from_its_snapshot(three: Cluster) -> None:
    await apply(three, "n1", b"a")
    await three.until(three.is_calm)
    await three.ask("n3", "snapshot")
    three.crash("n3")
    del three.hosts["n3"]
    with pytest.raises(OtherMachine):
        await three.restart("n3")


async def test_a_daemon_takes_no_snapshot_of_it(nursery: trio.Nursery) -> None:
    cluster = Cluster(nursery, settings=evolve(SETTINGS, snapshots=BY_HAND))
    await embedded(cluster, "n1").form("n1")
    for number in range(30):
        await apply(cluster, "n1", b"w%d" % number)
    await cluster.ask("n1", "snapshot")
    await cluster.until(lambda: base_index(cluster, "n1") > 10)
    await cluster.start("n2")
    await cluster.ask("n1", "add_peer", id="n2", addr="n2:9700", preflight=False, wait=False)
    await cluster.until(lambda: held(cluster, "n2"))  # it is there, and is of no use
    await trio.sleep(5.0)
    assert cluster.up["n2"].machine.applied_index == 0
    assert cluster.members() == {"n1": True, "n2": False}
    with pytest.raises(OtherMachine):
        await cluster.restart("n2")
    await embedded(cluster, "n2").restart("n2")
    await cluster.until(cluster.is_calm)
    assert words(cluster, "n2") == words(cluster, "n1")


async def test_no_majority_of_daemons_is_stopped(
    three: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("n2", "n3"):
        del three.hosts[name]
        await three.restart(name)
        await three.until(three.is_calm)
    with pytest.raises(OtherMachine, match="n2, n3 would stop"):
        await apply(three, "n1", b"a")
    await three.push("n1", "all else goes on")
    assert not three.failures
    # And without that rule:
    monkeypatch.setattr(hosting, "majority", lambda voters: 0)
    await apply(three, "n1", b"a")
    await three.until(lambda: three.failures.keys() == {"n2", "n3"})


async def test_a_machine_that_fails_ends_its_nodes_and_loses_nothing(three: Cluster) -> None:
    await apply(three, "n1", b"a")
    with pytest.raises(NefiaError):
        await apply(three, "n1", b"raise")
    await three.until(lambda: three.failures.keys() == {"n1", "n2", "n3"})
    assert {type(error) for error in three.failures.values()} == {MachineFailed}

    class Corrected(Words):
        def apply(self, command: bytes, time_ms: int) -> bytes:
            return super().apply(b"mended" if command == b"raise" else command, time_ms)

    three.hosts |= dict.fromkeys(three.hosts, Corrected)
    for name in ("n1", "n2", "n3"):
        await three.restart(name)
    leader = await three.new_leader()
    assert await apply(three, leader, b"b") == b"3"
    await three.until(three.is_calm)
    assert words(three, "n2") == [b"a", b"mended", b"b"]


# The program's service.


@pytest.fixture
async def programs(nodes: Cluster, nursery: trio.Nursery) -> Programs:
    made = Programs(nodes, nursery)
    await embedded(nodes, "n1", "n2", "n3").form("n1", "n2", "n3")
    await nodes.until(lambda: made.lives.running())
    return made


async def moved(programs: Programs, cluster: Cluster, from_node: str) -> float:
    def has_moved() -> bool:
        return any(life.node != from_node for life in programs.lives.running())

    return await cluster.until(has_moved)


async def test_it_runs_on_the_leader_with_its_term(programs: Programs, nodes: Cluster) -> None:
    [life] = programs.lives.running()
    assert (life.node, life.term) == ("n1", nodes.up["n1"].raft.term)
    [shown] = nodes.up["n1"].node.status()["services"]
    assert (shown["name"], shown["kind"], shown["state"]) == ("program", "program", "running")


async def test_it_moves_when_its_node_dies(programs: Programs, nodes: Cluster) -> None:
    nodes.crash("n1")
    took = await moved(programs, nodes, "n1")
    assert TENURE_SECONDS * 0.8 < took < TENURE_SECONDS * 1.1 + 0.2
    assert not programs.lives.overlaps()


async def test_it_is_stopped_before_a_hand_over(programs: Programs, nodes: Cluster) -> None:
    programs.lingers = 1.5
    await nodes.ask("n1", "transfer_leader")
    assert await moved(programs, nodes, "n1") < 0.3
    assert not programs.lives.overlaps()
    assert not programs.killed


async def test_it_is_cancelled_with_the_lease(programs: Programs, nodes: Cluster) -> None:
    nodes.isolate("n1")
    await moved(programs, nodes, "n1")
    assert not programs.lives.overlaps()
    assert not programs.killed


async def test_what_does_not_end_takes_its_process_with_it(
    programs: Programs, nodes: Cluster
) -> None:
    programs.lingers = 5.0
    nodes.isolate("n1")
    await moved(programs, nodes, "n1")
    assert programs.killed == ["n1"]
    assert not programs.lives.overlaps()


async def test_without_that_two_would_run(
    programs: Programs, nodes: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nefia.services.program.Program.fence", lambda program: None)
    programs.lingers = 5.0
    nodes.isolate("n1")
    await moved(programs, nodes, "n1")
    await trio.sleep(5.0)
    assert programs.lives.overlaps()


async def test_it_is_started_anew_when_it_fails(programs: Programs, nodes: Cluster) -> None:
    programs.fails_once = True
    await nodes.ask("n1", "transfer_leader")
    await nodes.until(lambda: programs.lives.running())
    await trio.sleep(1.0)
    first, second = programs.lives.lives[1:]
    assert (first.node, first.term) == (second.node, second.term)
    assert second.begin - first.end > 0.4, "the back-off"
    [shown] = nodes.up[second.node].node.status()["services"]
    assert (shown["failures"], shown["state"]) == (1, "running")
    assert "not this time" in shown["error"]


# All of it.


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens(seed: int) -> None:
    run_simulated(lambda: _whatever_happens(seed), seed=seed)


async def _whatever_happens(seed: int) -> None:
    """Every acknowledged word is there once, in one order; the service is never there twice."""
    random = Random(seed)
    acknowledged: list[bytes] = []
    async with trio.open_nursery() as nursery:
        snapshots = evolve(BY_HAND, threshold=20, interval=1.0)
        settings = evolve(SETTINGS, apply_timeout=2.0, snapshots=snapshots)
        cluster = Cluster(nursery, seed=seed, settings=settings)
        programs = Programs(cluster, nursery)
        await embedded(cluster, "n1", "n2", "n3").form("n1", "n2", "n3")

        async def speak() -> None:
            for number in range(120):
                word = b"%d" % number
                while not await _spoken(cluster, random, word):  # noqa: ASYNC110
                    await trio.sleep(random.uniform(0.01, 0.1))
                acknowledged.append(word)
                await trio.sleep(random.uniform(0, 0.2))

        async with trio.open_nursery() as talk:
            talk.start_soon(speak)
            for _ in range(6):
                await trio.sleep(random.uniform(1.0, 2.5))
                victim = cluster.leader or "n1"
                if random.random() < 0.5 and victim in cluster.up:
                    cluster.crash(victim)
                    await trio.sleep(random.uniform(0.5, 2.0))
                    await cluster.restart(victim)
                else:
                    cluster.isolate(victim)
                    await trio.sleep(random.uniform(0.5, 2.0))
                    cluster.heal()
        await cluster.until(cluster.is_calm)
        assert words(cluster, "n1") == words(cluster, "n2") == words(cluster, "n3") == acknowledged
        assert len(cluster.digests()) == 1
        assert len({life.term for life in programs.lives.lives}) > 1
        assert not programs.lives.overlaps()
        nursery.cancel_scope.cancel()


async def _spoken(cluster: Cluster, random: Random, word: bytes) -> bool:
    name = random.choice(["n1", "n2", "n3"])
    if name not in cluster.up:
        return False
    with trio.move_on_after(3.0):
        try:
            await apply(cluster, name, word, request_id=word.decode(), forward=True)
        except NefiaError:
            return False
        return True
    return False
