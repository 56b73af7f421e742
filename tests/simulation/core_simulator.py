"""The core simulator: many `Raft` objects, a seeded heap of events, no trio and no real time.

A run has three phases. In the first, faults and clients do their worst and only safety is asked
for. In the second, a majority whose members all reach each other is healed and the rest stays
broken: there must be a leader and a new committed command within `RECOVERY_TIMEOUTS` election
timeouts (SPEC, "or leaves without a leader a majority ..."). In the third all is healed, and all
members must come to the same state. See `run.py` for the command line.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import time
from collections import Counter
from collections.abc import Callable
from random import Random

from attrs import asdict

from nefia.raft.configuration import Configuration, Member
from nefia.raft.core import Raft
from nefia.raft.entries import Entry, HardState
from nefia.raft.messages import AppendEntries, Message
from nefia.raft.quorum import majority
from tests.simulation.checkers import Checkers, Violation
from tests.simulation.core_network import Network
from tests.simulation.core_node import SimulatedNode
from tests.simulation.core_scenario import Scenario, draw, limits_of
from tests.simulation.core_workload import Workload
from tests.simulation.faults import Faults
from tests.simulation.report import Report

RECOVERY_TIMEOUTS = 10
CONVERGENCE_TIMEOUTS = 40
POLL_SECONDS = 0.01

ROUTING = ("sender", "recipient")


class Simulator:
    """`kept_down`: nodes that do not come back by themselves."""

    def __init__(self, scenario: Scenario, *, transcript: bool = False) -> None:
        self.scenario = scenario
        self.random = Random(f"run {scenario.seed}")
        self.now = 0.0
        self.counts: Counter[str] = Counter()
        self.transcript: list[str] | None = [] if transcript else None
        self.kept_down: set[str] = set()
        self._hash = hashlib.blake2b(digest_size=16)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()
        self.checkers = Checkers(self)
        self.network = Network(self)
        self.nodes: dict[str, SimulatedNode] = {}
        for number in range(1, scenario.size + 1):
            self.nodes[f"n{number}"] = SimulatedNode(self, f"n{number}")
        self.workload = Workload(self)
        self.faults = Faults(self)
        self._bootstrap()

    def _bootstrap(self) -> None:
        """The first `voters` nodes begin with the same first entry, the others with nothing."""
        ids = list(self.nodes)[: self.scenario.voters]
        first = Configuration(
            [Member(i, f"{i}:9700", voter=True, instance=self.nodes[i].instance) for i in ids]
        )
        for node_id in ids:
            self.nodes[node_id].disk.hard_state = HardState(term=1)
            self.nodes[node_id].disk.entries.append(Entry(1, 1, first))
        self.checkers.entries[1, 1] = (0, first)
        self.checkers.configurations[1, 1] = first
        self.checkers.voters |= {(member.id, member.instance) for member in first.members}
        self.checkers.ledger[1] = 1
        for node in self.nodes.values():
            node.start()

    # Events.

    def after(self, delay: float, action: Callable[[], None]) -> None:
        when = self.now + max(0.0, delay)
        heapq.heappush(self._heap, (when, next(self._sequence), action))

    def run_until(self, end: float) -> None:
        while self._heap and self._heap[0][0] <= end:
            self.now, _, action = heapq.heappop(self._heap)
            action()
        self.now = end

    def elected(self, node: SimulatedNode) -> None:
        self.workload.elected(node)
        self.faults.elected()

    # What others ask.

    def peers_of(self, node_id: str) -> list[str]:
        return [peer for peer in self.nodes if peer != node_id]

    def alive(self) -> list[SimulatedNode]:
        return [node for node in self.nodes.values() if node.raft]

    def leaders(self) -> list[SimulatedNode]:
        """All that take themselves for the leader, newest term first."""
        leading = [node for node in self.alive() if node.raft and node.raft.leader]
        return sorted(leading, key=lambda node: -node.raft.term if node.raft else 0)

    def count(self, what: str, by: int = 1) -> None:
        self.counts[what] += by

    def record(self, who: str, what: str) -> None:
        self._hash.update(f"{self.now!r} {who} {what}\n".encode())
        if self.transcript is not None:
            self.transcript.append(f"{self.now:10.4f} {who:5} {what}")

    def record_message(self, who: str, message: Message) -> None:
        kind = type(message).__name__
        self._hash.update(f"{self.now!r} {who} {kind} {message.sender}\n".encode())
        if self.transcript is not None:
            self.transcript.append(f"{self.now:10.4f} {who:5} < {describe(message)}")

    @property
    def trace_hash(self) -> str:
        return self._hash.hexdigest()

    # The phases.

    def run(self) -> float:
        """Returns after how many election timeouts the healed majority served again."""
        self.run_until(self.scenario.seconds)
        took = self._recovers()
        self._converges()
        return took

    def _recovers(self) -> float:
        timeout = self.scenario.options.election_timeout
        self.workload.stop()
        quorum = self.faults.leave_a_quorum(self.checkers.undecided_configurations())
        self.record("-", f"healed: {sorted(quorum)}")
        begun = self.now
        while self.now < begun + RECOVERY_TIMEOUTS * timeout:
            self.run_until(self.now + POLL_SECONDS)
            if self.workload.probe():
                return (self.now - begun) / timeout
        if self._is_outgrown(quorum):
            self.count("healed majorities outgrown by a promotion")
            return 0.0
        states = {n.id: n.raft and n.raft.state_name for n in self.nodes.values()}
        raise Violation(
            f"{sorted(quorum)} reach each other, but nothing was committed in "
            f"{RECOVERY_TIMEOUTS} election timeouts: {states}"
        )

    def _is_outgrown(self, quorum: set[str]) -> bool:
        """Whether the healed are no majority any more: a learner whose acknowledgements were still
        under way when it broke for good may have been made a voter since."""
        configurations = self.checkers.undecided_configurations()
        return any(len(quorum & c.voters) < majority(c.voters) for c in configurations)

    def outsiders(self) -> list[str]:
        """Nodes whose removal is decided, if they ever were members: they may be wiped."""
        named: set[str] = set()
        for configuration in self.checkers.undecided_configurations():
            named |= configuration.ids
        for node in self.alive():  # a change may be decided yet that is on no disk so far
            log = node.raft.log if node.raft else None
            if log and log.configuration_index > self.checkers.committed_index:
                named |= log.configuration.ids
        return sorted(self.nodes.keys() - named)

    def choose_quorum(self, configurations: list[Configuration]) -> set[str]:
        """A random smallest set that holds a majority of each configuration."""
        order = list(self.nodes)
        self.random.shuffle(order)
        chosen: set[str] = set()
        for node_id in order:
            lacking = [c for c in configurations if len(chosen & c.voters) < majority(c.voters)]
            if any(node_id in c.voters for c in lacking):
                chosen.add(node_id)
        return chosen

    def _converges(self) -> None:
        self.faults.heal_all()
        self.record("-", "all is healed")
        timeout = self.scenario.options.election_timeout
        end = self.now + CONVERGENCE_TIMEOUTS * timeout
        while self.now < end:
            self.run_until(self.now + 10 * POLL_SECONDS)
            if self._is_settled():
                break
        else:
            states = {
                n.id: (n.raft.state_name, n.raft.term, n.applied_index)
                for n in self.alive()
                if n.raft
            }
            raise Violation(f"all is healed, but the members do not agree: {states}")
        leader = self.leaders()[0].raft
        assert leader
        self.checkers.nothing_is_lost(leader)
        self.workload.nothing_is_lost()

    def _is_settled(self) -> bool:
        leaders = self.leaders()
        if len(leaders) != 1 or not leaders[0].raft:
            return False
        leader: Raft = leaders[0].raft
        members = [self.nodes[node_id] for node_id in sorted(leader.log.configuration.ids)]
        waiting = any(m.promote and m.instance for m in leader.log.configuration.members)
        return (
            not waiting
            and leader.log.configuration_index <= leader.commit_index
            and all(m.raft and m.applied_index == leader.log.last_index for m in members)
            and len({m.digest for m in members}) == 1
        )


def describe(message: Message) -> str:
    """One readable line, without what the line says already."""
    said = asdict(message, recurse=False, filter=lambda a, _: a.name not in ROUTING)
    if isinstance(message, AppendEntries):
        said["entries"] = [
            (e.index, e.term, "config" if isinstance(e.payload, Configuration) else e.payload)
            for e in message.entries
        ]
    words = " ".join(f"{name}={value}" for name, value in said.items())
    return f"{message.sender}: {type(message).__name__} {words}"


def simulate(seed: int, seconds: float, *, transcript: bool = False) -> Report:
    """Run one seed. Never raises for what the core does wrong: see `Report.violation`."""
    cpu_began = time.process_time()
    scenario = draw(seed, seconds)
    report = Report(seed)
    with limits_of(scenario):
        world = Simulator(scenario, transcript=transcript)
        try:
            report.recovery_timeouts = world.run()
        except Violation as violation:
            report.violation = f"at {world.now:.4f} s: {violation}"
        except AssertionError as error:
            report.violation = f"at {world.now:.4f} s: assertion: {_where(error)} {error}"
    report.simulated_seconds = world.now
    report.cpu_seconds = time.process_time() - cpu_began
    report.counts = world.counts
    report.counts["entries committed"] = world.checkers.committed_index
    report.trace_hash = world.trace_hash
    report.transcript = world.transcript or []
    return report


def _where(error: AssertionError) -> str:
    traceback = error.__traceback__
    while traceback and traceback.tb_next:
        traceback = traceback.tb_next
    if traceback is None:
        return ""
    code = traceback.tb_frame.f_code
    return f"{code.co_filename.rpartition('/')[2]}:{traceback.tb_lineno} {code.co_name}:"
