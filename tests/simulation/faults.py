"""What goes wrong in the core simulator, and how it is healed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nefia.raft.configuration import Configuration

if TYPE_CHECKING:
    from tests.simulation.core_network import Pair
    from tests.simulation.core_node import SimulatedNode
    from tests.simulation.core_simulator import Simulator

FOR_EVER_SECONDS = 1e9


class Faults:
    """Each kind of the scenario comes again and again, after random times."""

    def __init__(self, world: Simulator) -> None:
        self.world = world
        self._stopped = False
        kinds: dict[str, Callable[[], None]] = {
            "crash": self._crash,
            "crash_leader": self._crash_leader,
            "power_cut": self._power_cut,
            "pause": self._pause,
            "pause_leader": self._pause_leader,
            "partition": self._partition,
            "one_way": self._one_way,
            "isolate_leader": self._isolate_leader,
            "partial": self._partial,
            "disk_hang": self._disk_hang,
            "disk_fail": self._disk_fail,
            "slow_disk": self._slow_disk,
            "wipe": self._wipe,
            "false_unreachable": self._false_unreachable,
            "replay": world.network.replay,
            "slow_network": self._slow_network,
            "false_lost": self._false_lost,
        }
        # Whoever takes a living leader for dead breaks the lease's stickiness, and only that.
        world.checkers.lease_exclusivity = "false_lost" not in dict(world.scenario.faults)
        for kind, interval in world.scenario.faults:
            self._repeat(kind, interval, kinds[kind])

    def _repeat(self, kind: str, interval: float, action: Callable[[], None]) -> None:
        world = self.world

        def again() -> None:
            if self._stopped:
                return
            world.count(f"fault {kind}")
            action()
            world.after(world.random.expovariate(1 / interval), again)

        world.after(world.random.expovariate(1 / interval), again)

    # What follows at once.

    def elected(self) -> None:
        self._cut_soon(self.world.scenario.cut_on_election)

    def handed_over(self) -> None:
        self._cut_soon(self.world.scenario.cut_on_hand_over)

    def _cut_soon(self, chance: float) -> None:
        """While the first messages of what has just happened are under way."""
        world = self.world
        if chance and not self._stopped and world.random.random() < chance:
            cut = world.random.choice([self._isolate_leader, self._partition, self._one_way])
            delay = world.random.expovariate(1 / (4 * world.scenario.delay))
            world.after(delay, lambda: self._unless_stopped(cut))

    def _unless_stopped(self, action: Callable[[], None]) -> None:
        if not self._stopped:
            self.world.count("fault cut at a change of leaders")
            action()

    def _anyone(self) -> SimulatedNode | None:
        alive = self.world.alive()
        return self.world.random.choice(alive) if alive else None

    def _a_leader(self) -> SimulatedNode | None:
        leaders = self.world.leaders()
        return self.world.random.choice(leaders) if leaders else None

    # Processes.

    def _end(self, node: SimulatedNode | None) -> None:
        if node:
            node.end()
            self.world.after(self.world.random.uniform(0.05, 4.0), node.revive)

    def _crash(self) -> None:
        self._end(self._anyone())

    def _crash_leader(self) -> None:
        self._end(self._a_leader())

    def _power_cut(self) -> None:
        for node in self.world.alive():
            self._end(node)

    def _freeze(self, node: SimulatedNode | None) -> None:
        if node:
            seconds = self.world.random.uniform(0.05, 3.0)
            node.paused_until = max(node.paused_until, self.world.now + seconds)
            self.world.record(node.id, f"is paused for {seconds:.3f} s")

    def _pause(self) -> None:
        self._freeze(self._anyone())

    def _pause_leader(self) -> None:
        self._freeze(self._a_leader())

    # Networks.

    def _block(self, pairs: list[Pair]) -> None:
        seconds = self.world.random.uniform(0.2, 8.0)
        self.world.record("-", f"cut for {seconds:.2f} s: {pairs}")
        self.world.network.block(pairs, seconds)

    def _all_pairs(self) -> list[Pair]:
        return [(a, b) for a in self.world.nodes for b in self.world.nodes if a != b]

    def _partition(self) -> None:
        random = self.world.random
        side = {node_id for node_id in self.world.nodes if random.random() < 0.5}
        self._block([(a, b) for a, b in self._all_pairs() if (a in side) != (b in side)])

    def _one_way(self) -> None:
        pairs = self._all_pairs()
        if pairs:
            self._block(self.world.random.sample(pairs, self.world.random.randint(1, len(pairs))))

    def _isolate_leader(self) -> None:
        leader = self._a_leader()
        if leader is None:
            return
        pairs = [pair for pair in self._all_pairs() if leader.id in pair]
        kept = self.world.random.choice([0, 1, 2])  # the leader may only speak, or only hear
        if kept:
            pairs = [pair for pair in pairs if pair[kept - 1] == leader.id]
        self._block(pairs)

    def _partial(self) -> None:
        random = self.world.random
        pairs = [(a, b) for a, b in self._all_pairs() if a < b and random.random() < 0.4]
        self._block([*pairs, *((b, a) for a, b in pairs)])

    def _slow_network(self) -> None:
        self.world.network.slow_until = self.world.now + self.world.random.uniform(0.5, 5)

    def _false_unreachable(self) -> None:
        node = self._anyone()
        peers = self.world.peers_of(node.id) if node else []
        if node and peers:
            node.notice("unreachable", self.world.random.choice(peers), 0.0)

    def _false_lost(self) -> None:
        """An ended connection is no proof of death: nothing may rest on the leader being gone."""
        leader = self._a_leader()
        if leader is None:
            return
        if self.world.random.random() < 0.7:
            self._isolate_leader()
        for peer in self.world.peers_of(leader.id):
            if self.world.nodes[peer].raft and self.world.random.random() < 0.8:
                self.world.nodes[peer].notice("peer_lost", leader.id, 0.0)

    # Disks.

    def _disk_hang(self) -> None:
        node = self._anyone()
        if node:
            node.disk.hung_until = self.world.now + self.world.random.uniform(0.2, 5.0)
            self.world.record(node.id, "its disk hangs")

    def _slow_disk(self) -> None:
        node = self._anyone()
        if node:
            node.disk.slow_until = self.world.now + self.world.random.uniform(1.0, 5.0)

    def _disk_fail(self) -> None:
        node = self._anyone()
        if node and not node.disk.writing:
            node.disk.fails_next = True

    def _wipe(self) -> None:
        outside = self.world.outsiders()
        if outside:
            node = self.world.nodes[self.world.random.choice(outside)]
            node.wipe()
            self.world.after(self.world.random.uniform(0.05, 1.0), node.revive)

    # Healing.

    def _calm(self) -> None:
        self._stopped = True
        network = self.world.network
        network.heal()
        network.loss = network.duplication = 0.0
        network.delay = min(network.delay, self.world.scenario.options.heartbeat_timeout / 100)
        network.slow_until = 0.0

    def _mend(self, node: SimulatedNode) -> None:
        disk = node.disk
        disk.hung_until = disk.slow_until = 0.0
        disk.fails_next = False
        if node.raft is None or node.paused_until > self.world.now or disk.writing:
            # An old write may hang for ever: only a new process is sure to be well.
            if node.raft:
                node.end()
            node.start()

    def leave_a_quorum(self, configurations: list[Configuration]) -> set[str]:
        """Heal a majority among its members; the others are and remain broken, each its way."""
        world = self.world
        self._calm()
        chosen = world.choose_quorum(configurations)
        for node in world.nodes.values():
            if node.id in chosen:
                self._mend(node)
                continue
            ways: list[Callable[[SimulatedNode, set[str]], None]] = [
                self._dead,
                self._cut_off,
                self._heard_only,
                self._hears_only,
                self._partly,
                self._hung,
            ]
            world.random.choice(ways)(node, chosen)
        for one in sorted(chosen):
            for other in sorted(chosen - {one}):
                world.nodes[one].notice("connected", other, world.random.uniform(0, 0.05))
        return chosen

    def _dead(self, node: SimulatedNode, chosen: set[str]) -> None:
        self.world.kept_down.add(node.id)
        if node.raft:
            node.end()

    def _cut_off(self, node: SimulatedNode, chosen: set[str]) -> None:
        others = self.world.peers_of(node.id)
        self.world.network.block_for_ever([(node.id, o) for o in others])
        self.world.network.block_for_ever([(o, node.id) for o in others])

    def _heard_only(self, node: SimulatedNode, chosen: set[str]) -> None:
        others = self.world.peers_of(node.id)
        self.world.network.block_for_ever([(o, node.id) for o in others])

    def _hears_only(self, node: SimulatedNode, chosen: set[str]) -> None:
        others = self.world.peers_of(node.id)
        self.world.network.block_for_ever([(node.id, o) for o in others])

    def _partly(self, node: SimulatedNode, chosen: set[str]) -> None:
        """It reaches some of the healed majority only."""
        some = [peer for peer in self.world.peers_of(node.id) if self.world.random.random() < 0.5]
        self.world.network.block_for_ever([(node.id, peer) for peer in some])
        self.world.network.block_for_ever([(peer, node.id) for peer in some])

    def _hung(self, node: SimulatedNode, chosen: set[str]) -> None:
        node.disk.hung_until = self.world.now + FOR_EVER_SECONDS

    def heal_all(self) -> None:
        self._calm()
        self.world.kept_down.clear()
        for node in self.world.nodes.values():
            self._mend(node)
