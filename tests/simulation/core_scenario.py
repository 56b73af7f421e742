"""What one seed simulates: sizes, rates and which faults, all drawn from the seed.

Swarm testing: each seed has its own mix, since a run with every fault at once mostly shows
clusters that do nothing. A share of the seeds has a profile besides: what chance seldom brings
together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from random import Random
from typing import Any

from attrs import evolve, field, frozen

from nefia.raft import leader, log, progress
from nefia.raft.options import Options

MAX_SIZE = 7

FAULT_INTERVALS_SECONDS: dict[str, tuple[float, float]] = {
    "crash": (2.0, 20.0),
    "crash_leader": (3.0, 20.0),
    "power_cut": (10.0, 60.0),
    "pause": (2.0, 20.0),
    "pause_leader": (3.0, 20.0),
    "partition": (4.0, 20.0),
    "one_way": (2.0, 15.0),
    "isolate_leader": (4.0, 20.0),
    "partial": (3.0, 20.0),
    "disk_hang": (4.0, 30.0),
    "disk_fail": (5.0, 40.0),
    "slow_disk": (5.0, 30.0),
    "wipe": (2.0, 10.0),
    "false_unreachable": (0.5, 5.0),
    "replay": (0.05, 1.0),
    "slow_network": (4.0, 30.0),
    "false_lost": (4.0, 20.0),
}
"""Each kind of fault, and between which mean intervals it may come."""

Bounds = tuple[float, float]

EPOCH_SHARE = 0.2
"""Of the seeds; in the others no snapshot is restored, and terms count up by one."""
EPOCH_RATES: Bounds = (0.02, 0.2)


@frozen(kw_only=True)
class Profile:
    """`rates` (fields of `Scenario`) and `faults` replace what was drawn, `clusters` sizes.

    `clusters`: how many nodes, and how many of them vote at first.
    """

    share: float
    rates: Mapping[str, Bounds] = field(factory=dict)
    faults: Mapping[str, Bounds] = field(factory=dict)
    clusters: tuple[tuple[int, int], ...] = ()


PROFILES: dict[str, Profile] = {
    "mixed": Profile(share=0.6),
    "contested changes": Profile(
        share=0.1,
        rates={
            "change_rate": (0.3, 1.0),
            "change_on_election": (0.5, 1.0),
            "cut_on_election": (0.3, 0.8),
        },
        faults={"crash_leader": (2.0, 6.0), "isolate_leader": (2.0, 8.0)},
        clusters=((4, 4), (5, 4), (6, 4), (6, 6), (3, 2)),
    ),
    "hand-overs": Profile(
        share=0.1,
        rates={
            "transfer_rate": (0.5, 3.0),
            "read_rate": (20.0, 60.0),
            "cut_on_hand_over": (0.3, 0.8),
        },
        clusters=((3, 3), (5, 5), (4, 2)),
    ),
    "renewed members": Profile(
        share=0.1,
        rates={"replace_rate": (0.3, 1.0), "transfer_rate": (0.1, 0.5), "snapshot_rate": (0, 0)},
        faults={"wipe": (2.0, 5.0), "pause": (2.0, 6.0)},
        clusters=((3, 1), (4, 1), (3, 3), (5, 3)),
    ),
    "catching up": Profile(
        share=0.1,
        rates={
            "command_rate": (15.0, 40.0),
            "snapshot_rate": (2.0, 6.0),
            "late_take_chance": (0.3, 0.8),
        },
        faults={"pause": (1.0, 4.0), "crash": (2.0, 6.0), "one_way": (2.0, 6.0)},
        clusters=((3, 3), (4, 3), (5, 3)),
    ),
}
"""What a seed is made for, by name: reconfigurations that compete, leases and reads around a
transfer, members that come back empty, snapshots that arrive among other messages."""


@frozen(kw_only=True)
class Scenario:
    """Times in seconds, rates per second, chances from 0 to 1.

    `change_on_election`, `cut_on_election` and `cut_on_hand_over`: that what they say follows at
    once. `lost_write_chance`: that a crash loses the write which is under way.
    """

    seed: int
    seconds: float
    profile: str
    size: int
    voters: int
    options: Options
    loss: float
    duplication: float
    delay: float
    command_rate: float
    read_rate: float
    change_rate: float
    replace_rate: float
    transfer_rate: float
    snapshot_rate: float
    write_delay: float
    faults: tuple[tuple[str, float], ...]
    memory_bytes: int
    append_entries: int
    in_flight_messages: int
    late_take_chance: float
    lost_write_chance: float
    epoch_rate: float = 0.0
    change_on_election: float = 0.0
    cut_on_election: float = 0.0
    cut_on_hand_over: float = 0.0


def draw(seed: int, seconds: float) -> Scenario:
    random = Random(f"scenario {seed}")
    name = random.choices(list(PROFILES), [profile.share for profile in PROFILES.values()])[0]
    scenario = _with_profile(_draw_mixed(random, seed, seconds, name), PROFILES[name], random)
    if random.random() < EPOCH_SHARE:
        scenario = evolve(scenario, epoch_rate=random.uniform(*EPOCH_RATES))
    return scenario


def _with_profile(scenario: Scenario, profile: Profile, random: Random) -> Scenario:
    rates: dict[str, Any] = {n: random.uniform(*bounds) for n, bounds in profile.rates.items()}
    faults = {kind: random.uniform(*bounds) for kind, bounds in profile.faults.items()}
    size, voters = random.choice(profile.clusters or ((scenario.size, scenario.voters),))
    return evolve(
        scenario,
        **rates,
        size=size,
        voters=voters,
        faults=tuple((dict(scenario.faults) | faults).items()),
    )


def _draw_mixed(random: Random, seed: int, seconds: float, profile: str) -> Scenario:
    size = random.choice([1, 2, 3, 3, 3, 4, 5, 5, 6, MAX_SIZE])
    timeout = random.choice([1.0, 1.0, 0.3])

    def sometimes(chance: float, low: float, high: float) -> float:
        return random.uniform(low, high) if random.random() < chance else 0.0

    faults = [
        (kind, random.uniform(*intervals))
        for kind, intervals in FAULT_INTERVALS_SECONDS.items()
        if random.random() < 0.45
    ]
    return Scenario(
        seed=seed,
        seconds=seconds,
        profile=profile,
        size=size,
        voters=random.choice([1, size, random.randint(1, size)]),
        options=Options(
            heartbeat_timeout=timeout,
            election_timeout=timeout * random.choice([1.0, 1.0, 1.5]),
            leader_lease=timeout / 2,
        ),
        loss=random.choice([0.0, 0.0, 0.01, 0.05, 0.1, 0.3]),
        duplication=random.choice([0.0, 0.01, 0.1, 0.5]),
        delay=timeout * random.choice([0.0005, 0.002, 0.01, 0.03]),
        command_rate=random.uniform(2, 25),
        read_rate=random.uniform(1, 8),
        change_rate=sometimes(0.6, 0.05, 1.0),
        transfer_rate=sometimes(0.4, 0.02, 0.5),
        snapshot_rate=sometimes(0.7, 0.1, 2.0),
        write_delay=timeout * random.choice([0.001, 0.005, 0.02, 0.06]),
        faults=tuple(faults),
        memory_bytes=random.choice([512, 4096, 16 * 1024 * 1024]),
        append_entries=random.choice([16, 64, 1024]),
        in_flight_messages=random.choice([2, 4, 64]),
        late_take_chance=random.choice([0.0, 0.2]),
        replace_rate=sometimes(0.3, 0.05, 0.5),
        lost_write_chance=random.uniform(0.8, 1.0),
    )


@contextmanager
def limits_of(scenario: Scenario) -> Iterator[None]:
    """Run with the scenario's limits, so that full windows and evicted entries are common."""
    changed = [
        (log, "MEMORY_BYTES", scenario.memory_bytes),
        (leader, "MAX_APPEND_ENTRIES", scenario.append_entries),
        (progress, "MAX_IN_FLIGHT_MESSAGES", scenario.in_flight_messages),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in changed]
    try:
        for module, name, value in changed:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
