"""Simulate many seeds: `python -m tests.simulation.run --seeds 300 --seconds 60 --jobs 2`.

`--kind daemon` runs whole nodes instead of the core alone.

Prints, for a seed that breaks a promise, the command that replays it; with `--seed S
--transcript` everything that happened in that seed, a line an event.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing import Pool

from tests.simulation import core_simulator, daemon_simulator
from tests.simulation.core_simulator import Report

PROGRESS_SECONDS = 10.0

SIMULATORS: dict[str, Callable[..., Report]] = {
    "core": core_simulator.simulate,
    "daemon": daemon_simulator.simulate,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.run", description=__doc__)
    parser.add_argument("--kind", choices=SIMULATORS, default="core", help="(default core)")
    parser.add_argument("--seeds", type=int, default=100, help="how many (default 100)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default 0)")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--seconds", type=float, default=60.0, help="simulated, before healing")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--transcript", action="store_true", help="print all that happens")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return one(options.kind, options.seed, options.seconds, options.transcript)
    seeds = range(options.first, options.first + options.seeds)
    return many(options.kind, seeds, options.seconds, options.jobs)


def one(kind: str, seed: int, seconds: float, transcript: bool) -> int:
    report = SIMULATORS[kind](seed, seconds, transcript=transcript)
    for line in report.transcript:
        print(line)
    print(f"seed {seed}: {report.violation or 'all promises held'}; trace {report.trace_hash}")
    return 1 if report.violation else 0


def many(kind: str, seeds: Iterable[int], seconds: float, jobs: int) -> int:
    total: Counter[str] = Counter()
    violations: list[Report] = []
    simulated, cpu_seconds, slowest, shown = 0.0, 0.0, 0.0, time.monotonic()
    with Pool(jobs) as pool:
        for report in pool.imap_unordered(partial(SIMULATORS[kind], seconds=seconds), seeds):
            total += report.counts
            total["seeds"] += 1
            simulated += report.simulated_seconds
            cpu_seconds += report.cpu_seconds
            slowest = max(slowest, report.recovery_timeouts)
            if report.violation:
                violations.append(report)
                print(f"VIOLATION in seed {report.seed} {report.violation}")
                print(f"  {replay(kind, report, seconds)}", flush=True)
            if time.monotonic() - shown > PROGRESS_SECONDS:
                shown = time.monotonic()
                print(f"{total['seeds']} seeds, {len(violations)} violations", flush=True)
    table(total, len(violations), simulated, slowest, cpu_seconds)
    return 1 if violations else 0


def replay(kind: str, report: Report, seconds: float) -> str:
    module = f"python -m tests.simulation.run --kind {kind}"
    return f"replay: {module} --seed {report.seed} --seconds {seconds:g} --transcript"


def table(
    total: Counter[str], violations: int, simulated: float, slowest: float, cpu_seconds: float
) -> None:
    rows = [
        ("seeds", f"{total.pop('seeds')}"),
        ("simulated hours", f"{simulated / 3600:.2f}"),
        *((name, f"{total[name]}") for name in sorted(total)),
        ("slowest recovery, election timeouts", f"{slowest:.2f}"),
        ("simulated hours per CPU hour", f"{simulated / cpu_seconds:.1f}"),
        ("violations", f"{violations}"),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {value:>12}")


if __name__ == "__main__":
    sys.exit(main())
