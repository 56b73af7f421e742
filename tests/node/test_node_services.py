"""Which node runs the leader's services, from when and until when (SPEC 9)."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from attrs import evolve

from nefia.config import ServiceConfig
from nefia.config.services import CommandConfig
from nefia.errors import NefiaError, PeerUnreachable, ServiceFailed
from nefia.services import leadership as leadership_module
from nefia.services.interface import Service
from nefia.state.commands import BeginRestore, EndRestore
from tests.node.cluster import Cluster
from tests.node.service_stubs import ServiceCluster, StubService

TENURE_SECONDS = 1.0
"""Lease plus stop budget of the default settings."""


@pytest.fixture
async def services(nodes: Cluster, nursery: trio.Nursery) -> ServiceCluster:
    made = ServiceCluster(nodes, nursery)
    await nodes.form("n1", "n2", "n3")
    await nodes.until(lambda: len(made.lives.running()) == 2)
    return made


async def moved(services: ServiceCluster, since: float) -> float:
    """How long until both services run again on another node than before."""
    await services.cluster.until(
        lambda: [life.begin > since for life in services.lives.running()] == [True, True]
    )
    return max(life.begin for life in services.lives.running()) - since


async def test_the_leader_runs_them_in_order(services: ServiceCluster) -> None:
    assert [(life.node, life.service) for life in services.lives.lives] == [
        ("n1", "a"),
        ("n1", "b"),
    ]
    shown = services.cluster.up["n1"].node.status()["services"]
    assert [(each["name"], each["state"]) for each in shown] == [("a", "running"), ("b", "running")]
    shown = services.cluster.up["n2"].node.status()["services"]
    assert [each["state"] for each in shown] == ["stopped", "stopped"]


async def test_they_get_the_term_and_the_reason(services: ServiceCluster) -> None:
    tenure = services.guards["n1"].services[0].tenures[0]
    raft = services.cluster.up["n1"].raft
    environment = tenure.environment("leader")
    assert environment["NEFIA_TERM"] == str(raft.term)
    assert environment["NEFIA_NODE_ID"] == "n1"
    assert environment["NEFIA_CLUSTER_ID"] == services.cluster.up["n1"].node.cluster_id
    assert environment["NEFIA_REASON"]


async def test_after_a_crash_they_wait_for_lease_and_stop_budget(services: ServiceCluster) -> None:
    crashed = trio.current_time()
    services.cluster.crash("n1")
    took = await moved(services, crashed)
    assert not services.lives.overlaps()
    assert TENURE_SECONDS * 0.8 < took < TENURE_SECONDS * 1.1 + 0.2
    old = services.lives.lives[0]
    assert old.end <= crashed + 0.5 + 0.25 + 0.1, "the guard ends what the daemon cannot"


async def test_a_planned_hand_over_waits_for_nothing(services: ServiceCluster) -> None:
    asked = trio.current_time()
    answer = await services.cluster.ask("n1", "transfer_leader")
    took = await moved(services, asked)
    assert not services.lives.overlaps()
    assert took < 0.3
    assert answer["phases"].keys() == {"record_ms", "stop_ms", "catch_up_ms", "election_ms"}
    first = [life for life in services.lives.lives if life.node == "n1"]
    assert [life.service for life in sorted(first, key=lambda life: life.end)] == ["b", "a"]


async def test_a_stopped_daemon_hands_its_services_over(services: ServiceCluster) -> None:
    asked = trio.current_time()
    await services.cluster.leave("n1")
    assert await moved(services, asked) < 0.4
    assert not services.lives.overlaps()


async def test_a_removed_leader_stops_them_first(services: ServiceCluster) -> None:
    asked = trio.current_time()
    await services.cluster.ask("n1", "remove_peer", id="n1")
    await moved(services, asked)
    assert not services.lives.overlaps()
    assert services.guards["n1"].services[0].life is not None


async def test_a_frozen_leader_has_none_left_when_its_successor_starts(
    services: ServiceCluster,
) -> None:
    frozen = trio.current_time()
    services.cluster.pause("n1")
    await moved(services, frozen)
    services.cluster.resume("n1")
    await trio.sleep(5)
    assert not services.lives.overlaps()
    assert len(services.lives.running()) == 2


async def test_an_isolated_leader_stops_them_itself(services: ServiceCluster) -> None:
    services.guards["n1"].is_deaf = False
    cut = trio.current_time()
    services.cluster.isolate("n1")
    await moved(services, cut)
    assert not services.lives.overlaps()
    old = [life for life in services.lives.lives if life.node == "n1"]
    assert all(life.end < cut + 0.5 + 0.25 + 0.1 for life in old)


async def test_without_the_wait_two_nodes_run_them_at_once(
    nodes: Cluster, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mechanism taken away: the crash fast path alone proves nothing (SPEC 5)."""

    async def no_wait(self: leadership_module.Leadership) -> None:
        pass

    monkeypatch.setattr(leadership_module.Leadership, "_predecessors_are_over", no_wait)
    services = ServiceCluster(nodes, nursery)
    await nodes.form("n1", "n2", "n3")
    await nodes.until(lambda: len(services.lives.running()) == 2)
    crashed = trio.current_time()
    nodes.crash("n1")
    await moved(services, crashed)
    assert services.lives.overlaps()


async def test_a_service_that_fails_is_started_again(services: ServiceCluster) -> None:
    stub = services.guards["n1"].services[0]
    stub.fail()
    await services.cluster.until(lambda: len(services.lives.running()) == 2)
    assert [life.service for life in services.lives.lives] == ["a", "b", "a"]
    shown = services.cluster.up["n1"].node.status()["services"][0]
    assert shown["error"] == "a has ended by itself"
    assert shown["failures"] == 1
    events = (await services.cluster.ask("n1", "history"))["events"]
    details = [event["detail"] for event in events if event["kind"] == "service"]
    assert "a failed: a has ended by itself" in details


async def test_a_service_that_is_not_ready_holds_up_those_behind_it(
    nodes: Cluster, nursery: trio.Nursery
) -> None:
    services = ServiceCluster(nodes, nursery)
    await nodes.start("n1")
    services.guards["n1"].services[0].broken = "it cannot"
    await nodes.ask("n1", "init")
    await trio.sleep(5)
    assert services.lives.running() == []
    services.guards["n1"].services[0].broken = ""
    await nodes.until(lambda: len(services.lives.running()) == 2)


async def test_without_its_guard_a_leader_waits_for_the_next(services: ServiceCluster) -> None:
    guard = services.guards["n1"]
    guard.vanish()
    await trio.sleep(2)
    assert services.lives.running() == []
    node = services.cluster.up["n1"].node
    assert {each["error"] for each in node.service_status()} == {leadership_module.NO_GUARD}
    guard.return_()
    await services.cluster.until(lambda: len(services.lives.running()) == 2)
    assert {life.node for life in services.lives.running()} == {"n1"}
    assert {each["error"] for each in node.service_status()} == {None}


async def test_without_any_guard_it_hands_over(services: ServiceCluster) -> None:
    lost = trio.current_time()
    services.guards["n1"].vanish()
    await moved(services, lost)
    assert {life.node for life in services.lives.running()}.isdisjoint({"n1"})
    assert not services.lives.overlaps()


async def test_a_guard_that_is_not_told_ends_the_tenure(services: ServiceCluster) -> None:
    """The daemon acts only up to the lease end that the guard has acknowledged."""
    deaf = trio.current_time()
    services.guards["n1"].is_deaf = True
    await moved(services, deaf)
    assert not services.lives.overlaps()
    assert {life.node for life in services.lives.running()}.isdisjoint({"n1"})


async def test_a_hand_over_that_fails_begins_a_new_term(services: ServiceCluster) -> None:
    cluster = services.cluster
    term = cluster.up["n1"].raft.term
    cluster.pause("n2")
    with pytest.raises(NefiaError):
        await cluster.ask("n1", "transfer_leader", to="n2")
    await cluster.until(lambda: len(services.lives.running()) == 2)
    assert all(life.term > term for life in services.lives.running())
    assert not services.lives.overlaps()


async def test_what_was_released_is_acquired_again(services: ServiceCluster) -> None:
    machine = services.cluster.up["n1"].machine
    assert machine.tenure_held
    await services.cluster.ask("n1", "transfer_leader", to="n2")
    await services.cluster.until(lambda: len(services.lives.running()) == 2)
    machine = services.cluster.up["n2"].machine
    assert (machine.tenure_term, machine.tenure_held) == (
        services.cluster.up["n2"].raft.term,
        True,
    )


async def test_a_guard_that_refuses_a_term_makes_it_resign(services: ServiceCluster) -> None:
    """A guard has ended that term already; in the next one it agrees."""
    cluster = services.cluster
    services.guards["n2"].refuses_next = True
    await cluster.ask("n1", "transfer_leader", to="n2")
    await cluster.until(lambda: len(services.lives.running()) == 2)
    assert not services.lives.overlaps()
    assert not services.guards["n2"].refuses_next


async def test_a_restored_state_stops_them_in_good_order(services: ServiceCluster) -> None:
    """The epoch that begins then is a hand-over to itself (3.10): its term is above all before."""
    cluster, restored = services.cluster, trio.current_time()
    node = cluster.up["n1"].node
    first = node.first_of_next_epoch(0)
    await node.change(BeginRestore("r", 0, 0, 0, 0, 0), "")
    await node.change(EndRestore("r", 0, first), "")
    await moved(services, restored)
    assert not services.lives.overlaps()
    assert {life.node for life in services.lives.running()} == {"n1"}
    assert all(life.term >= first for life in services.lives.running())
    stopped = [life for life in services.lives.lives if life.begin < restored]
    assert [life.service for life in sorted(stopped, key=lambda life: life.end)] == ["b", "a"]


async def test_changed_services_are_heeded_where_they_run(services: ServiceCluster) -> None:
    leadership = services.cluster.up["n1"].node.services
    assert isinstance(leadership, leadership_module.Leadership)
    guard = services.guards["n1"]
    changed = [evolve(each.config, stop_timeout=7.0) for each in guard.services]
    await leadership.reconfigure(changed, guard.service)
    assert [each.reloads for each in guard.services] == [1, 1]
    assert [each.config.stop_timeout for each in guard.services] == [7.0, 7.0]
    assert len(services.lives.lives) == 2, "nothing was restarted"


async def test_other_services_begin_with_the_next_tenure(services: ServiceCluster) -> None:
    cluster = services.cluster
    made: list[str] = []

    def make(name: str, config: ServiceConfig) -> Service:
        made.append(name)
        return services.guards[name].service(config)

    for name in ("n1", "n2", "n3"):
        leadership, guard = cluster.up[name].node.services, services.guards[name]
        assert isinstance(leadership, leadership_module.Leadership)
        await leadership.reconfigure([guard.services[1].config], partial(make, name))
    assert made == ["n2", "n3"], "the guard's client would take another for the one that runs"
    assert len(cluster.up["n1"].node.status()["services"]) == 2, "these go on"
    assert len(cluster.up["n2"].node.status()["services"]) == 1
    await cluster.ask("n1", "transfer_leader", to="n2")
    await cluster.until(lambda: [life.node for life in services.lives.running()] == ["n2"])
    assert [each.service for each in services.lives.running()] == ["b"]
    assert len(cluster.up["n1"].node.status()["services"]) == 2, "as it was when it led"
    await cluster.ask("n2", "transfer_leader", to="n1")
    await cluster.until(lambda: [life.node for life in services.lives.running()] == ["n1"])
    assert [each.service for each in services.lives.running()] == ["b"]


async def test_the_first_services_of_a_leader_begin_at_once(
    nodes: Cluster, nursery: trio.Nursery
) -> None:
    services = ServiceCluster(nodes, nursery, names=())
    await nodes.form("n1", "n2", "n3")
    leadership, guard = nodes.up["n1"].node.services, services.guards["n1"]
    assert isinstance(leadership, leadership_module.Leadership)
    config = CommandConfig(name="a", run=("true",))
    guard.services.append(StubService(config, guard))
    term = nodes.up["n1"].raft.term
    await leadership.reconfigure([config], guard.service)
    await nodes.until(services.lives.running)
    assert [(life.node, life.term) for life in services.lives.running()] == [("n1", term)]
    await nodes.ask("n1", "transfer_leader", to="n2")
    assert not services.lives.running(), "they are stopped like all others"


async def test_a_change_that_is_taken_back_never_begins(services: ServiceCluster) -> None:
    cluster, guard = services.cluster, services.guards["n1"]
    leadership = cluster.up["n1"].node.services
    assert isinstance(leadership, leadership_module.Leadership)
    both = [each.config for each in guard.services]
    await leadership.reconfigure(both[:1], guard.service)
    await leadership.reconfigure(both, guard.service)
    guard.vanish()
    guard.return_()
    await cluster.until(lambda: len(services.lives.running()) == 2)
    assert {life.node for life in services.lives.running()} == {"n1"}


async def test_a_leader_whose_service_fails_yields_once(services: ServiceCluster) -> None:
    """`on_failure: yield`: to a node where it may work; it stays if it has yielded lately."""
    cluster = services.cluster
    for guard in services.guards.values():
        stub = guard.services[0]
        stub.config = evolve(stub.config, on_failure="yield")
    services.guards["n1"].services[0].fail()
    failed = trio.current_time()
    await moved(services, failed)
    second = services.lives.running()[0].node
    assert second != "n1"
    assert not services.lives.overlaps()
    await cluster.ask(second, "transfer_leader", to="n1")
    await cluster.until(lambda: {life.node for life in services.lives.running()} == {"n1"})
    services.guards["n1"].services[0].fail()
    await trio.sleep(5)
    assert [life.node for life in services.lives.running()] == ["n1", "n1"]
    events = (await cluster.ask("n1", "history"))["events"]
    said = "this node has yielded lately, so it stays the leader"
    assert said in [event["detail"] for event in events]


async def test_a_hand_over_that_fails_before_services_began(
    nodes: Cluster, nursery: trio.Nursery
) -> None:
    """A leader that still waits for its predecessors is not left without services."""
    services = ServiceCluster(nodes, nursery)
    await nodes.form("n1", "n2", "n3", "n4", "n5")
    await nodes.until(lambda: len(services.lives.running()) == 2)
    nodes.crash("n1")
    await nodes.until(lambda: nodes.leader not in (None, "n1"))
    leader = str(nodes.leader)
    target = next(name for name in ("n5", "n4") if name != leader)
    nodes.pause_at_hand_over(target)
    nodes.pause(target)
    with pytest.raises(NefiaError):
        await nodes.ask(leader, "transfer_leader", to=target)
    await nodes.until(lambda: len(services.lives.running()) == 2)
    assert not services.lives.overlaps()


async def test_nothing_stops_for_a_hand_over_that_cannot_be(services: ServiceCluster) -> None:
    cluster, before = services.cluster, list(services.lives.lives)
    cluster.crash("n3")
    await trio.sleep(2)
    with pytest.raises(PeerUnreachable, match="n3 does not answer"):
        await cluster.ask("n1", "transfer_leader", to="n3")
    await cluster.ask("n1", "remove_peer", id="n3", force=True)
    await cluster.ask("n1", "remove_peer", id="n2", force=True)
    with pytest.raises(PeerUnreachable, match="no other voter answers"):
        await cluster.ask("n1", "transfer_leader")
    assert services.lives.running() == before, "neither for one that is down, nor for none"


async def test_no_witness_is_handed_the_lead_while_another_answers(
    nodes: Cluster, nursery: trio.Nursery
) -> None:
    """It would hand it on at once, perhaps to where it has come from."""
    nodes.witnesses = {"n3"}
    services = ServiceCluster(nodes, nursery)
    await nodes.form("n1", "n2", "n3")
    await nodes.until(lambda: len(services.lives.running()) == 2)
    given = await nodes.ask("n1", "transfer_leader")
    assert given["leader_id"] == "n2"


async def test_a_restart_shortens_the_wait_for_the_next_attempt(
    nodes: Cluster, nursery: trio.Nursery
) -> None:
    services = ServiceCluster(nodes, nursery, names=("a",))
    await nodes.start("n1")
    stub = services.guards["n1"].services[0]
    stub.broken = "it cannot"
    await nodes.ask("n1", "init")
    await nodes.until(lambda: len(stub.tenures) == 6)
    await nodes.until(lambda: nodes.up["n1"].node.service_status()[0]["state"] == "waiting")
    stub.broken, repaired = "", trio.current_time()
    await nodes.up["n1"].node.service_restart("a")
    await nodes.until(lambda: len(services.lives.running()) == 1)
    assert trio.current_time() - repaired < 0.1


async def test_what_does_not_run_here_is_not_restarted(services: ServiceCluster) -> None:
    node = services.cluster.up["n1"].node
    services.guards["n1"].vanish()
    await services.cluster.until(lambda: node.service_status()[0]["state"] == "stopped")
    with pytest.raises(ServiceFailed, match="a does not run here: it is stopped"):
        await node.service_restart("a")
