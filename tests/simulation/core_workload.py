"""Clients and an operator for the core simulator: commands, reads, members, transfers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import evolve

from nefia.errors import NefiaError
from nefia.raft.configuration import Configuration, Member
from nefia.raft.epoch import first_of_next_epoch
from tests.simulation.checkers import require

if TYPE_CHECKING:
    from tests.simulation.core_node import SimulatedNode
    from tests.simulation.core_simulator import Simulator

CHANGES = ("add", "add", "add learner", "remove", "remove leader", "two learners", "move")


class Workload:
    """`proposed`: command to (index, term). `acknowledged`: those seen committed so."""

    def __init__(self, world: Simulator) -> None:
        self.world = world
        self.proposed: dict[bytes, tuple[int, int]] = {}
        self.acknowledged: dict[bytes, int] = {}
        self._number = 0
        self._tokens = 0
        self._moves = 0
        self._stopped = False
        self._probes: set[bytes] = set()
        scenario = world.scenario
        self._repeat(scenario.command_rate, self._propose)
        self._repeat(scenario.read_rate, self._read)
        self._repeat(scenario.change_rate, self._change)
        self._repeat(scenario.replace_rate, self._replace)
        self._repeat(scenario.transfer_rate, self._transfer)
        self._repeat(scenario.snapshot_rate, self._snapshot)
        self._repeat(scenario.epoch_rate, self._begin_epoch)

    def _repeat(self, rate: float, action: Callable[[], None]) -> None:
        if not rate:
            return

        def again() -> None:
            if self._stopped:
                return
            action()
            self.world.after(self.world.random.expovariate(rate), again)

        self.world.after(self.world.random.expovariate(rate), again)

    def stop(self) -> None:
        self._stopped = True

    def _at_leader(self, action: Callable[[SimulatedNode], None]) -> None:
        """In the process of someone that takes itself for leader, paused or not."""
        leaders = self.world.leaders()
        if leaders:
            node = self.world.random.choice(leaders)
            node.after(0.0, lambda: action(node))

    # Commands.

    def _propose(self) -> None:
        def propose(node: SimulatedNode) -> None:
            self._propose_at(node)

        self._at_leader(propose)

    def _propose_at(self, node: SimulatedNode) -> list[bytes]:
        world, random = self.world, self.world.random
        commands = []
        for _ in range(random.choice([1, 1, 1, 2, 5])):
            self._number += 1
            commands.append(b"%d" % self._number + b"." * random.choice([0, 0, 0, 300]))
        raft = node.raft
        assert raft
        try:
            first = node.input(lambda raft, now: raft.propose(now, commands))
        except NefiaError:
            return []
        term = raft.term if raft.leader else None
        world.count("proposals")
        if term is None:
            return []
        for offset, command in enumerate(commands):
            self.proposed[command] = (first + offset, term)
        node.after(random.uniform(0.0, 1.0), lambda: self._look(node, commands))
        return commands

    def _look(self, node: SimulatedNode, commands: list[bytes]) -> None:
        """What a waiting client does: is it committed, as what it was proposed?"""
        for command in commands:
            index, term = self.proposed[command]
            if self.world.checkers.ledger.get(index) == term:
                self.acknowledged[command] = index

    def probe(self) -> bool:
        """Propose something new if there is a leader; whether one of these is committed."""
        checkers = self.world.checkers
        for command in self._probes:
            index, term = self.proposed[command]
            if checkers.ledger.get(index) == term:
                return True
        if self.world.random.random() < 0.1:
            for node in self.world.leaders():
                if self.world.now >= node.paused_until:
                    self._probes.update(self._propose_at(node))
        return False

    def nothing_is_lost(self) -> None:
        checkers = self.world.checkers
        for command, index in self.acknowledged.items():
            payload = checkers.entries[index, checkers.ledger[index]][1]
            require(payload == command, f"the acknowledged command {command!r} is lost")

    # Reads.

    def _read(self) -> None:
        def ask(node: SimulatedNode) -> None:
            self._tokens += 1
            token = self._tokens
            self.world.checkers.read_asked(token)
            try:
                node.input(lambda raft, now: raft.read(now, token))
            except NefiaError:
                return
            self.world.count("reads asked")

        self._at_leader(ask)

    # Members, as the operator changes them through the leader.

    def _change(self) -> None:
        self._at_leader(self._change_at)

    def _change_at(self, node: SimulatedNode) -> None:
        assert node.raft
        configuration = self._changed(node, node.raft.log.configuration)
        if configuration and not self._stopped:
            self._try_change(node, configuration)

    def elected(self, node: SimulatedNode) -> None:
        """An operator who has waited for a leader asks at once, and may ask too early."""
        random, scenario = self.world.random, self.world.scenario
        if not self._stopped and random.random() < scenario.change_on_election:
            delay = random.choice([0.0, random.expovariate(1 / (4 * scenario.delay))])
            node.after(delay, lambda: self._change_at(node))

    def _replace(self) -> None:
        """Remove a follower, wipe it as soon as that is committed, and add it again."""

        def replace(node: SimulatedNode) -> None:
            assert node.raft
            old = node.raft.log.configuration
            others = sorted(old.ids - {node.id})
            if not others:
                return
            target = self.world.random.choice(others)
            if old.voters <= {target} or not self._try_change(node, old.without(target)):
                return
            self.world.after(0.05, lambda: self._add_again(target, attempts=40))

        self._at_leader(replace)

    def _add_again(self, target: str, attempts: int) -> None:
        world = self.world
        if attempts == 0 or self._stopped:
            return
        world.after(0.05, lambda: self._add_again(target, attempts - 1))
        node, leaders = world.nodes[target], world.leaders()
        if target not in world.outsiders() or not leaders:
            return
        if node.disk.hard_state.term:
            node.wipe()
            world.after(world.random.uniform(0.01, 0.2), node.revive)
        leader = leaders[0]
        raft = leader.raft
        if raft and world.now >= leader.paused_until:
            world.count("members replaced")
            self._try_change(leader, raft.log.configuration.with_member(self._learner(target)))

    def _try_change(self, node: SimulatedNode, configuration: Configuration) -> bool:
        try:
            index = node.input(lambda raft, now: raft.change(now, configuration))
        except NefiaError:
            return False
        self.world.record(node.id, f"changes members at {index}: {summary(configuration)}")
        self.world.count("membership changes begun")
        return True

    def _changed(self, node: SimulatedNode, old: Configuration) -> Configuration | None:
        random = self.world.random
        outside = sorted(self.world.nodes.keys() - old.ids)
        followers = sorted(old.ids - {node.id})
        match random.choice(CHANGES):
            case "add" if outside:
                return old.with_member(self._learner(random.choice(outside)))
            case "add learner" if outside:
                learner = self._learner(random.choice(outside))
                return old.with_member(evolve(learner, promote=random.random() < 0.5))
            case "move":
                self._moves += 1
                moved = random.choice(old.members)
                return old.with_member(evolve(moved, address=f"{moved.id}:{9700 + self._moves}"))
            case "remove" if followers and len(old.voters) > 1:
                return old.without(random.choice(followers))
            case "remove leader" if len(old.voters) > 1:
                return old.without(node.id)
            case "two learners" if len(outside) > 1:
                for node_id in outside[:2]:
                    old = old.with_member(self._learner(node_id))
                return old
        return None

    def _learner(self, node_id: str) -> Member:
        instance = self.world.nodes[node_id].instance
        return Member(node_id, f"{node_id}:9700", voter=False, promote=True, instance=instance)

    def _transfer(self) -> None:
        def transfer(node: SimulatedNode) -> None:
            assert node.raft
            others = sorted(node.raft.log.configuration.voters - {node.id})
            target = self.world.random.choice([None, *others])
            try:
                chosen = node.input(lambda raft, now: raft.transfer(now, target))
            except NefiaError:
                return
            self.world.record(node.id, f"hands over to {chosen}")
            self.world.count("transfers begun")

        self._at_leader(transfer)

    def _begin_epoch(self) -> None:
        """What follows the restoring of a snapshot, while the leader may be anything else too."""

        def begin(node: SimulatedNode) -> None:
            assert node.raft
            first = first_of_next_epoch(node.raft.term)
            try:
                node.input(lambda raft, now: raft.begin_epoch(now, first))
            except NefiaError:
                return
            self.world.record(node.id, f"begins an epoch with term {first}")
            self.world.count("epochs begun")

        self._at_leader(begin)

    def _snapshot(self) -> None:
        """Half of them at leaders: only what those have compacted is brought to others whole."""
        world = self.world
        nodes = world.random.choice([world.alive(), world.leaders()])
        if nodes:
            node = world.random.choice(nodes)
            node.after(0.0, node.take_snapshot)


def summary(configuration: Configuration) -> str:
    return " ".join(m.id if m.voter else f"({m.id})" for m in configuration.members)
