"""What one seed of the daemon simulator does, all drawn from the seed; see `core_scenario`."""

from __future__ import annotations

from random import Random

from attrs import frozen

from nefia.net.transfer import BLOCK_BYTES
from nefia.node.snapshotter import MAX_LOG_BYTES, SnapshotSettings
from nefia.raft.options import Options

MAX_SIZE = 7
MAX_CLOCK_DRIFT = 0.01
FAULT_CHANCE = 0.45
CHANGE_CHANCE = 0.6
"""That a seed has a kind of them."""
PACES = (1.0, 2.0, 2.0, 4.0)
"""By which the intervals between faults are stretched: a cluster has to work, too."""

FAULT_INTERVALS_SECONDS: dict[str, tuple[float, float]] = {
    "crash": (3.0, 20.0),
    "crash_leader": (4.0, 20.0),
    "crash_in_write": (4.0, 20.0),
    "power_cut": (15.0, 60.0),
    "damage": (6.0, 30.0),
    "pause": (3.0, 20.0),
    "pause_leader": (4.0, 20.0),
    "partition": (5.0, 20.0),
    "one_way": (4.0, 20.0),
    "isolate_leader": (5.0, 20.0),
    "partial": (4.0, 20.0),
    "reset": (0.5, 10.0),
    "slow_network": (5.0, 30.0),
    "disk_hang": (5.0, 30.0),
    "disk_fail": (6.0, 40.0),
    "disk_full": (6.0, 40.0),
    "slow_disk": (5.0, 30.0),
    "wall_jump": (1.0, 10.0),
    "leave": (6.0, 30.0),
}
"""Each kind of fault, and between which mean intervals it may come."""

CHANGE_INTERVALS_SECONDS: dict[str, tuple[float, float]] = {
    "add": (1.0, 8.0),
    "remove": (4.0, 20.0),
    "remove_leader": (6.0, 30.0),
    "transfer": (4.0, 20.0),
    "move": (6.0, 30.0),
    "replace": (6.0, 30.0),
}
"""What the operator does, likewise."""


@frozen(kw_only=True)
class Scenario:
    """Times in seconds, rates per second. `rates`: of each node's clock.

    `lost_write_chance`: that a crash loses a write which is under way. `block_bytes`: of a snapshot
    that is brought to another node.
    """

    seed: int
    seconds: float
    size: int
    voters: int
    options: Options
    delay: float
    jitter: float
    write_seconds: float
    rates: tuple[float, ...]
    clients: int
    client_rate: float
    faults: tuple[tuple[str, float], ...]
    changes: tuple[tuple[str, float], ...]
    lost_write_chance: float
    snapshots: SnapshotSettings
    block_bytes: int
    wall_jumps: bool = True


def draw(seed: int, seconds: float) -> Scenario:
    random = Random(f"daemon scenario {seed}")
    size = random.choice([1, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, MAX_SIZE])
    timeout = random.choice([1.0, 1.0, 1.0, 0.5])

    def mix(
        intervals: dict[str, tuple[float, float]], chance: float, pace: float
    ) -> list[tuple[str, float]]:
        return [
            (kind, pace * random.uniform(*bounds))
            for kind, bounds in intervals.items()
            if random.random() < chance
        ]

    changes = mix(CHANGE_INTERVALS_SECONDS, CHANGE_CHANCE, 1.0) if random.random() < 0.7 else []
    if changes and "add" not in dict(changes):  # else the cluster would only shrink
        changes.append(("add", 2.0))
    return Scenario(
        seed=seed,
        seconds=seconds,
        size=size,
        voters=random.choice([size, size, random.randint(1, size)]),
        options=Options(
            heartbeat_timeout=timeout, election_timeout=timeout, leader_lease=timeout / 2
        ),
        delay=timeout * random.choice([0.0001, 0.001, 0.005, 0.02]),
        jitter=timeout * random.choice([0.0, 0.001, 0.01, 0.04]),
        write_seconds=timeout * random.choice([0.0005, 0.002, 0.01, 0.03]),
        rates=tuple(1 + random.uniform(-1, 1) * MAX_CLOCK_DRIFT for _ in range(size)),
        clients=random.randint(4, 8),
        client_rate=random.uniform(0.4, 2.0),
        faults=tuple(mix(FAULT_INTERVALS_SECONDS, FAULT_CHANCE, random.choice(PACES))),
        changes=tuple(changes),
        lost_write_chance=random.uniform(0.8, 1.0),
        snapshots=SnapshotSettings(
            retain=random.choice([1, 2, 3]),
            threshold=random.choice([5, 10, 40]),
            interval=random.uniform(0.1, 3.0),
            trailing_logs=random.choice([1, 1, 5, 30]),
            max_log_bytes=random.choice([2_000, 20_000, MAX_LOG_BYTES]),
        ),
        block_bytes=random.choice([100, 500, BLOCK_BYTES]),
    )
