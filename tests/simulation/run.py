"""Simulate many seeds: `python -m tests.simulation.run --seeds 300 --seconds 60`.

Runs both simulators on all cores, the daemon for a tenth of the seeds and half of the time each;
`--kind` narrows it to one of them, which then has all the seeds and seconds. Ends with a table.

Prints, for a seed that breaks a promise, the command that replays it; with `--seed S
--transcript` everything that happened in that seed, a line an event.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from tests.simulation.farm import Cut, outcomes
from tests.simulation.jobs import (
    SIMULATORS,
    Job,
    Plan,
    perform,
    plans,
    unequal_under_hash_seeds,
)
from tests.simulation.report import Report, Totals, table

PROGRESS_SECONDS = 30.0
MAX_REPEATED = 20
"""Violations that are shown once more behind the table."""

LIMIT_BASE_SECONDS = 120.0
LIMIT_FACTOR = 5.0
"""A seed is cut that takes longer than so much, and than its simulated time so often; even the
daemon needs a thirtieth of that time."""


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kind", choices=SIMULATORS, help="only this simulator (default both)")
    parser.add_argument("--seeds", type=int, default=100, help="how many (default 100)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default 0)")
    parser.add_argument("--seed", type=int, help="this one only, here and now")
    parser.add_argument("--seconds", type=float, default=60.0, help="simulated, before healing")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=int, default=cores, help="processes (default: all cores)")
    parser.add_argument("--transcript", action="store_true", help="with --seed: all that happens")
    parser.add_argument(
        "--histories", type=Path, help="directory for what the daemon's clients saw, a file a seed"
    )
    parser.add_argument(
        "--hash-seeds", type=int, default=0, help="first compare so many short seeds under two"
    )
    options = parser.parse_args(arguments)
    if options.histories and options.kind == "core":
        parser.error("the core simulator has no clients' histories")
    if min(options.seeds, options.jobs) < 1 or options.seconds <= 0:
        parser.error("--seeds, --jobs and --seconds have to be above 0")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    if options.histories:
        options.histories.mkdir(parents=True, exist_ok=True)
    if options.seed is not None:
        chosen = plans(options.kind, options.seed, 1, options.seconds)
        jobs = chain.from_iterable(plan.jobs(options.histories) for plan in chosen)
        return max(replayed(job, options.transcript) for job in jobs)
    chosen = plans(options.kind, options.first, options.seeds, options.seconds)
    totals = {plan.kind: Totals() for plan in chosen}
    unequal = compared(totals, range(options.first, options.first + options.hash_seeds))
    violated = many(chosen, totals, options.jobs, options.histories)
    for kind, total in totals.items():
        print(f"\n{kind}, also counted: {total.others()}")
    print(f"\n{table(totals)}")
    print(*violated[:MAX_REPEATED], sep="\n")
    return 1 if violated or unequal else 0


def replayed(job: Job, transcript: bool) -> int:
    """Run one seed and print what happens."""
    report = perform(job, transcript=transcript)
    for line in report.transcript:
        print(line)
    said = report.violation or "all promises held"
    print(f"{job.kind} seed {job.seed}: {said}; trace {report.trace_hash}")
    return 1 if report.violation else 0


def compared(totals: dict[str, Totals], seeds: range) -> bool:
    """Whether any of these short seeds is another history under another hash seed."""
    found = False
    for kind, total in totals.items() if seeds else ():
        print(f"{kind}: {len(seeds)} short seeds under two hash seeds", flush=True)
        unequal = unequal_under_hash_seeds(kind, seeds)
        total.compared, total.equal = len(seeds), len(seeds) - len(unequal)
        for seed in unequal:
            found = True
            print(f"VIOLATION: {kind} seed {seed} depends on PYTHONHASHSEED", flush=True)
    return found


def many(
    chosen: Sequence[Plan], totals: dict[str, Totals], processes: int, histories: Path | None
) -> list[str]:
    """Run all seeds; returns what was broken and how to replay it, the first of it."""
    limit = LIMIT_BASE_SECONDS + LIMIT_FACTOR * max(plan.seconds for plan in chosen)
    jobs = chain.from_iterable(plan.jobs(histories) for plan in chosen)
    violated: list[str] = []
    shown = time.monotonic()
    for job, outcome in outcomes(perform, jobs, processes, limit):
        report = Report(job.seed, outcome.reason) if isinstance(outcome, Cut) else outcome
        totals[job.kind].add(report)
        if report.violation:
            said = f"VIOLATION in {job.kind} seed {job.seed} {report.violation}"
            print(f"{said}\n  replay: {job.replay}", flush=True)
            if len(violated) < MAX_REPEATED:
                violated.append(f"{said}\n  replay: {job.replay}")
        if time.monotonic() - shown > PROGRESS_SECONDS:
            shown = time.monotonic()
            print(progress(chosen, totals), flush=True)
    return violated


def progress(chosen: Iterable[Plan], totals: dict[str, Totals]) -> str:
    return "; ".join(
        f"{plan.kind}: {totals[plan.kind].seeds} of {plan.seeds} seeds, "
        f"{totals[plan.kind].violations} violations"
        for plan in chosen
    )


if __name__ == "__main__":
    sys.exit(main())
