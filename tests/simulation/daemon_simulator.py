"""The daemon simulator: real nodes, mesh, store and admin actions in one trio loop without time.

Phases as in `core_simulator`: faults, clients and an operator do their worst; then a majority whose
members all reach each other is healed and the rest stays broken; then all is healed. At the end
the clients' history is judged. See `run.py` for the command line.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Hashable
from functools import partial
from typing import TypeVar
from unittest.mock import patch

import trio
from attrs import evolve

from nefia.raft.quorum import majority
from tests.node.simulated import run_simulated
from tests.simulation import linearizability
from tests.simulation.checkers import Violation, require
from tests.simulation.core_simulator import CONVERGENCE_TIMEOUTS, RECOVERY_TIMEOUTS
from tests.simulation.daemon_clients import PATIENCE_SECONDS, Client, Operator
from tests.simulation.daemon_faults import Faults
from tests.simulation.daemon_journal import Journal
from tests.simulation.daemon_scenario import MAX_CLOCK_DRIFT, Scenario, draw
from tests.simulation.daemon_world import World
from tests.simulation.linearizability import Model
from tests.simulation.models import QueueModel, SessionModel
from tests.simulation.report import Report

FORMING_SECONDS = 30.0
PROBE_SECONDS = 0.1
PROBE_PATIENCE_SECONDS = 0.5
MAX_SEARCH_STEPS = 50_000
LIMIT_SECONDS = 600.0
"""Of simulated time beyond the scenario's; only ends what would never end."""


S = TypeVar("S", bound=Hashable)


class Simulation:
    """One seed. `report` is complete when `run` returns."""

    def __init__(self, scenario: Scenario, report: Report, journal: Journal) -> None:
        self.scenario = scenario
        self.report = report
        self.journal = journal

    async def run(self) -> None:
        world: World | None = None
        try:
            with trio.fail_after(self.scenario.seconds + LIMIT_SECONDS):
                async with trio.open_nursery() as nursery:
                    world = World(nursery, self.scenario, self.journal)
                    await self._phases(world)
                    nursery.cancel_scope.cancel()
        except BaseException as error:
            self.report.violation = f"at {trio.current_time():.4f} s: {_explain(error)}"
        self.report.simulated_seconds = trio.current_time()
        self.report.history = world.recorder.history if world else ()

    async def _phases(self, world: World) -> None:
        await self._form(world)
        shared: dict[str, list[str]] = {"tasks": [], "sessions": []}
        clients = [Client(world, number) for number in range(self.scenario.clients)]
        async with trio.open_nursery() as calling:
            for client in clients:
                calling.start_soon(client.run, shared)
            with trio.move_on_after(self.scenario.seconds):
                async with trio.open_nursery() as troubling:
                    faults = Faults(world, troubling)
                    faults.start()
                    troubling.start_soon(Operator(world).run)
                    troubling.start_soon(trio.sleep_forever)
            self.report.recovery_timeouts = await self._recovers(world, faults)
            await self._converges(world, faults)
            for client in clients:
                client.done = True
        await self._read_all(world, shared)
        self._judge(world)

    async def _form(self, world: World) -> None:
        for name in world.names:
            await world.bring_up(name)
        await world.order("n1", "init")
        require(await world.wait_for(lambda: world.leader, FORMING_SECONDS), "no cluster of one")
        for name in world.names[1 : self.scenario.voters]:
            await world.order("n1", "add_peer", id=name, addr=world.addresses[name])
        self.journal.record("-", f"a cluster of {self.scenario.voters}")

    async def _recovers(self, world: World, faults: Faults) -> float:
        """After how many election timeouts the healed majority served again."""
        quorum = faults.leave_a_quorum()
        self.journal.record("-", f"healed: {sorted(quorum)}; blocked: {len(world.blocks)}")
        timeout = self.scenario.options.election_timeout
        begun, number = trio.current_time(), 0
        limit = RECOVERY_TIMEOUTS * timeout * (1 + MAX_CLOCK_DRIFT)
        while trio.current_time() < begun + limit:
            for name in world.leaders():
                number += 1
                # A node outside may lead as well: it may reach a majority of its own.
                if await self._probe(world, name, number):
                    return (trio.current_time() - begun) / timeout
            await trio.sleep(PROBE_SECONDS)
        if self._is_outgrown(world, quorum):
            self.journal.count("healed majorities outgrown by a promotion")
            return 0.0
        states = {name: process.raft.state_name for name, process in sorted(world.up.items())}
        raise Violation(
            f"{sorted(quorum)} reach each other, but nothing was committed in "
            f"{RECOVERY_TIMEOUTS} election timeouts: {states}"
        )

    def _is_outgrown(self, world: World, quorum: set[str]) -> bool:
        """As in `core_simulator`: a learner may still have been made a voter that is broken now."""
        configurations = world.checkers.undecided_configurations()
        return any(len(quorum & c.voters) < majority(c.voters) for c in configurations)

    async def _probe(self, world: World, name: str, number: int) -> bool:
        args = {"payload": f"probe {number}", "request_id": f"probe {number}"}
        said = await world.call(name, "probe", "queue_push", args, PROBE_PATIENCE_SECONDS)
        return said is not None and bool(said["ok"])

    async def _converges(self, world: World, faults: Faults) -> None:
        faults.heal_all()
        self.journal.record("-", "all is healed")
        limit = CONVERGENCE_TIMEOUTS * self.scenario.options.election_timeout
        if not await world.wait_for(lambda: _is_settled(world), limit):
            states = {
                name: (p.raft.state_name, p.raft.term, p.machine.applied_index)
                for name, p in sorted(world.up.items())
            }
            raise Violation(f"all is healed, but the members do not agree: {states}")

    async def _read_all(self, world: World, shared: dict[str, list[str]]) -> None:
        """What was acknowledged is there."""
        for kind, action in (("tasks", "queue_get"), ("sessions", "session_get")):
            for id_ in sorted(set(shared[kind])):
                leader = await world.new_leader()
                await world.call(leader, "reader", action, {"id": id_}, PATIENCE_SECONDS)

    def _judge(self, world: World) -> None:
        world.checkers.leases_never_overlap(world.leaderships)
        world.checkers.lives_never_overlap(world.services.lives)
        self.journal.count("entries committed", world.checkers.committed_index)
        changes = {index for index, _ in world.checkers.configurations}
        self.journal.count("membership changes", len(changes & {*world.checkers.entries}))
        self._check(QueueModel(), world)
        self._check(SessionModel(), world)

    def _check(self, model: Model[S], world: World) -> None:
        history = world.recorder.history
        self.journal.count("linearizability checks")
        for part in model.partitions(history).values():
            self.journal.count("operations judged", len(part))
            self.journal.count("operations of unknown outcome", sum(o.pending for o in part))
        match linearizability.check(model, history, MAX_SEARCH_STEPS):
            case linearizability.Violation(explanation=explanation):
                raise Violation(explanation)
            case linearizability.Undecided():
                self.journal.count("histories left undecided")
            case linearizability.Linearizable():
                self.journal.count("histories linearizable")


def _is_settled(world: World) -> bool:
    """Everybody who is a member by the data directory it has now has the leader's state."""
    leader = world.leader
    if leader is None or len(world.up) < len(world.names):
        return False
    raft = world.up[leader].raft
    members = [
        world.up[m.id]
        for m in raft.log.configuration.members
        if m.instance in ("", world.up[m.id].raft.instance)
    ]
    return (
        raft.leader is not None
        and raft.commit_index == raft.log.last_index
        and all(p.machine.applied_index == raft.log.last_index for p in members)
        and len({p.machine.digest() for p in members}) == 1
    )


def _explain(error: BaseException) -> str:
    """Of a group the first that tells what happened."""
    while isinstance(error, BaseExceptionGroup):
        told = [e for e in error.exceptions if not isinstance(e, trio.Cancelled)]
        error = (told or error.exceptions)[0]
    if isinstance(error, Violation):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    where = " < ".join(
        f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}"
        for frame in reversed(frames)
    )
    return f"{type(error).__name__}: {error} ({where})"


def simulate(
    seed: int, seconds: float, *, transcript: bool = False, wall_jumps: bool = True
) -> Report:
    """Run one seed. Never raises for what nefia does wrong: see `Report.violation`."""
    cpu_began = time.process_time()
    scenario = evolve(draw(seed, seconds), wall_jumps=wall_jumps)
    report = Report(seed)
    journal = Journal(seed, transcript=transcript)
    survival = patch("nefia.storage.memory.SURVIVAL_PROBABILITY", 1 - scenario.lost_write_chance)
    blocks = patch("nefia.net.transfer.BLOCK_BYTES", scenario.block_bytes)
    with journal.in_place(), survival, blocks:
        run_simulated(partial(Simulation(scenario, report, journal).run), seed=seed)
    report.cpu_seconds = time.process_time() - cpu_began
    report.counts = journal.counts
    report.trace_hash = journal.trace_hash
    report.transcript = journal.transcript or []
    return report
