"""Long sessions: as many mutated inputs as one likes, with bounded memory and every failure kept.

python -m tests.fuzz.run [--inputs 1000000] [--seed 0] [--only NAME]

Input n of a target is made from the seed, the target's name and n alone. A failure prints the input
in hexadecimal and the command that repeats it; the exit code is 1.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
import traceback
from random import Random

from tests.fuzz.mutation import mutated
from tests.fuzz.targets import TARGETS, Target

SPARE_BYTES = 512 * 1024 * 1024
"""What the process may take beyond what it has after its first inputs."""
WARM_UP = 200
SLOW_SECONDS = 2.0
"""An input that takes more of the processor counts as a failure."""


def input_of(target: Target, seed: int, number: int) -> bytes:
    return mutated(target.seeds(), Random(f"{seed} {target.name} {number}"))


def limit_memory() -> None:
    with open("/proc/self/statm") as file:
        used_bytes = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + SPARE_BYTES, resource.RLIM_INFINITY))


def attack(target: Target, seed: int, first: int, count: int) -> str:
    """Why the target has failed, and on what; empty if it has not."""
    for number in range(first, first + count):
        data = input_of(target, seed, number)
        began = time.process_time()
        try:
            target.run(data)
        except Exception:
            why = traceback.format_exc()
        else:
            if time.process_time() - began < SLOW_SECONDS:
                continue
            why = f"it took more than {SLOW_SECONDS:g} s"
        again = f"--seed {seed} --only '{target.name}' --first {number} --inputs 1"
        return f"{data.hex()}\n{why}\npython -m tests.fuzz.run {again}"
    return ""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="over all targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first input")
    parser.add_argument("--only", default="", help="targets whose name has this in it")
    options = parser.parse_args(arguments)
    chosen = [target for target in TARGETS if options.only in target.name]
    if not chosen:
        parser.error(f"no target's name has {options.only!r} in it")
    weights = sum(target.weight for target in chosen)
    for target in chosen:
        attack(target, seed=-1, first=0, count=WARM_UP)
    limit_memory()
    print("| parser | inputs | per second | failures |\n|---|---|---|---|", flush=True)
    failures = []
    for target in chosen:
        count = max(1, options.inputs * target.weight // weights)
        began = time.perf_counter()
        failure = attack(target, options.seed, options.first, count)
        rate = count / (time.perf_counter() - began)
        print(f"| {target.name} | {count:,} | {rate:,.0f} | {1 if failure else 0} |", flush=True)
        failures += [f"{target.name}: {failure}"] if failure else []
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"\nAt most {peak_mib} MiB of memory in use.")
    print(*failures, sep="\n\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
