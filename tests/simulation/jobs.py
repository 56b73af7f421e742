"""Which seeds of which simulator, and how one of them is run and replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import frozen

from tests.hash_seeds import printed_under_hash_seeds
from tests.simulation import core_simulator, daemon_simulator
from tests.simulation.history import to_lines
from tests.simulation.report import Report

SIMULATORS: dict[str, Callable[..., Report]] = {
    "core": core_simulator.simulate,
    "daemon": daemon_simulator.simulate,
}

DAEMON_SHARE = 10
"""Core seeds for one of the daemon, where both are asked for,"""
DAEMON_SECONDS_SHARE = 2
"""and how much longer they are: the daemon costs ten times as much CPU for the same hour."""

COMPARED_SECONDS = 8.0

TRACE_HASHES = """
from tests.simulation.jobs import SIMULATORS
for seed in {seeds}:
    print(seed, SIMULATORS[{kind!r}](seed, {seconds}).trace_hash)
"""


@frozen
class Job:
    """`histories`: the directory for what clients of the daemon saw, if it is wanted."""

    kind: str
    seed: int
    seconds: float
    histories: Path | None = None

    @property
    def history_file(self) -> Path | None:
        return self.histories and self.histories / f"{self.kind}-{self.seed}.jsonl"

    @property
    def replay(self) -> str:
        """The command that shows this seed again."""
        return (
            f"python -m tests.simulation.run --kind {self.kind} --seed {self.seed} "
            f"--seconds {self.seconds:g} --transcript"
        )


@frozen
class Plan:
    """The seeds from `first` on of one simulator."""

    kind: str
    first: int
    seeds: int
    seconds: float

    def jobs(self, histories: Path | None) -> Iterator[Job]:
        for seed in range(self.first, self.first + self.seeds):
            yield Job(self.kind, seed, self.seconds, histories)


def plans(kind: str | None, first: int, seeds: int, seconds: float) -> tuple[Plan, ...]:
    """`kind` alone, or else both: the daemon then has its share of seeds and seconds."""
    if kind is not None:
        return (Plan(kind, first, seeds, seconds),)
    return (
        Plan("core", first, seeds, seconds),
        Plan("daemon", first, -(-seeds // DAEMON_SHARE), seconds / DAEMON_SECONDS_SHARE),
    )


def perform(job: Job, *, transcript: bool = False) -> Report:
    """Run one seed; its history goes to its file, and only there."""
    report = SIMULATORS[job.kind](job.seed, job.seconds, transcript=transcript)
    if job.history_file is not None and report.history:
        job.history_file.write_text("".join(to_lines(report.history)))
    report.history = ()
    return report


def unequal_under_hash_seeds(kind: str, seeds: range | list[int]) -> list[int]:
    """Those of `seeds` whose histories depend on the hash seed of their process."""
    program = TRACE_HASHES.format(kind=kind, seeds=list(seeds), seconds=COMPARED_SECONDS)
    texts = [frozenset(text.splitlines()) for text in printed_under_hash_seeds(program)]
    assert all(len(lines) == len(seeds) for lines in texts), "a line for each seed"
    return unequal_seeds(texts)


def unequal_seeds(texts: list[frozenset[str]]) -> list[int]:
    """Of lines that begin with a seed: the seeds whose lines are not the same in all texts."""
    different = frozenset().union(*texts) - frozenset.intersection(*texts)
    return sorted({int(line.partition(" ")[0]) for line in different})
