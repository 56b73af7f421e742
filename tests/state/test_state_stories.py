"""What comes of a log is the same in every version, and however its changes are cut into entries.

`python -m tests.state.test_state_stories` (from the project's root) records anew what is compared,
which only a deliberate change of the state machine calls for: nodes of two versions would differ.
"""

from __future__ import annotations

from hashlib import blake2b
from itertools import islice
from pathlib import Path

import msgspec
import pytest
from attrs import define, evolve, field

from nefia.state import digest, queue, requests, sessions
from nefia.state.commands import Change
from nefia.state.happenings import Happening
from nefia.state.machine import Machine
from nefia.state.records import Counters, Outcome, Record, TaskState
from nefia.wire import RECORDS
from tests.state.story import QUEUES, told

FIXTURE = Path(__file__).parents[2] / "fixtures" / "state" / "stories.txt"
SEEDS = range(6)
CHANGES = 2_000

_encode = msgspec.msgpack.Encoder().encode


def recorded(seed: int) -> str:
    """A line: the seed, the digest, and a hash over all outcomes and the snapshot."""
    _, outcomes, machine = told(seed, CHANGES)
    parts = [_encode(outcome) for outcome in outcomes]
    parts += [RECORDS.encode(record) for _, record in machine.snapshot_records()]
    return f"{seed} {machine.digest()} {blake2b(b''.join(parts), digest_size=16).hexdigest()}"


@pytest.mark.parametrize("seed", SEEDS)
def test_what_came_of_it_when_it_was_recorded_comes_of_it_now(seed: int) -> None:
    assert recorded(seed) == FIXTURE.read_text().splitlines()[seed]


@define
class Seen:
    """All that can be seen of changes that came in entries of a size, but for the entries."""

    outcomes: list[Outcome] = field(factory=list)
    happenings: list[Happening] = field(factory=list)
    records: list[Record] = field(factory=list)
    derived: list[object] = field(factory=list)

    @classmethod
    def of(cls, changes: list[Change], size: int) -> Seen:
        seen, machine = cls(), Machine()
        machine.watch(seen.happenings.append)
        remaining = iter(changes)
        while entry := list(islice(remaining, size)):
            seen.outcomes += machine.apply(machine.applied_index + 1, entry)
        for _, record in machine.snapshot_records():
            if isinstance(record, Counters):
                record = evolve(record, applied_index=0)
            seen.records.append(record)
        seen.derived = [machine.queue_stats(), machine.next_expiry_ms(), machine.list_sessions()]
        for name in QUEUES:
            seen.derived += [machine.queue_rates(name), machine.next_ready_ms(name)]
            seen.derived += [machine.list_tasks(name, state) for state in TaskState]
        restored = Machine.from_records(machine.snapshot_records())
        assert restored.digest() == machine.digest()
        assert restored.queue_stats() == machine.queue_stats()
        return seen


@pytest.mark.parametrize("expiries", [1, 1_000])
def test_entries_may_be_cut_anywhere(expiries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pushes that follow one another in an entry are put where they belong together."""
    for module in (queue, requests, sessions):
        monkeypatch.setattr(module, "MAX_EXPIRIES_PER_APPLY", expiries)
    for seed in SEEDS:
        monkeypatch.setattr(digest, "MAX_UNCOUNTED_RECORDS", 10**seed)
        changes, outcomes, _ = told(seed, CHANGES // 2)
        alone = Seen.of(changes, 1)
        assert alone.outcomes == outcomes
        assert Seen.of(changes, 7) == alone
        assert Seen.of(changes, CHANGES) == alone


if __name__ == "__main__":
    FIXTURE.parent.mkdir(exist_ok=True)
    FIXTURE.write_text("".join(f"{recorded(seed)}\n" for seed in SEEDS))
