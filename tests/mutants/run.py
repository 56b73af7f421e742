"""Plant each mistake in a copy of the tree, and see what notices it.

`python -m tests.mutants.run [--only NAME] [--seeds 200] [--seconds 30]` prints a markdown table;
the mutants that nothing noticed are its failure. The simulator is asked before the tests. Each
mutant takes at most `SIMULATION_TIMEOUT_SECONDS` and `TESTS_TIMEOUT_SECONDS` together.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from attrs import evolve, frozen

from tests.mutants.mistakes import MISTAKES, Mutant
from tests.mutants.mutants import MUTANTS

ROOT = Path(__file__).parents[2]
COPIED = ("nefia", "tests", "fixtures")

SIMULATION_TIMEOUT_SECONDS = 300.0
TESTS_TIMEOUT_SECONDS = 300.0
CONTROL_TIMEOUT_SECONDS = 1200.0
"""For the tests of all mutants, without any."""
SHOWN_CHARACTERS = 110
SURVIVED = "SURVIVED"
SIMULATOR, TEST = "simulator, ", "test: "

SIMULATION = """
import sys, nefia
from tests.simulation.core_simulator import simulate
assert nefia.__file__.startswith(sys.argv[3]), nefia.__file__
for seed in range(int(sys.argv[1])):
    try:
        violation = simulate(seed, float(sys.argv[2])).violation
    except Exception as error:
        violation = f"{type(error).__name__}: {error}"
    print(" ".join(violation.split()), flush=True)
    if violation:
        break
"""
"""Prints a line a seed: empty if all promises held, and else which was broken."""


@frozen
class Verdict:
    """`by` is empty if nothing noticed the mutant. `seeds_without`: seeds that showed nothing,
    None if the simulator was not asked."""

    by: str = ""
    seeds_without: int | None = None


class NotApplicable(Exception):
    """The text that the mutant replaces is no longer there exactly once."""


def planted(mutant: Mutant, root: Path = ROOT) -> str:
    """The mutant's file with the mistake in it. Raises NotApplicable."""
    text = (root / mutant.file).read_text()
    found = text.count(mutant.old)
    if found != 1:
        raise NotApplicable(f"{mutant.name}: its text is {found} times in {mutant.file}, not once")
    return text.replace(mutant.old, mutant.new)


def copy_tree(target: Path) -> None:
    for name in COPIED:
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", target)


def judged(mutant: Mutant, seeds: int, seconds: float) -> Verdict:
    """What notices the mutant."""
    with tempfile.TemporaryDirectory(prefix="nefia-mutant-") as directory:
        tree = Path(directory).resolve()
        copy_tree(tree)
        (tree / mutant.file).write_text(planted(mutant, tree))
        verdict = simulated(tree, seeds, seconds) if mutant.simulated else Verdict()
        if not verdict.by:
            with suppress(subprocess.TimeoutExpired):
                verdict = evolve(verdict, by=tested(tree, mutant.tests, TESTS_TIMEOUT_SECONDS))
        return verdict


def control(mutants: Sequence[Mutant]) -> None:
    """The tests that are to judge pass without any mutant. Raises RuntimeError."""
    with tempfile.TemporaryDirectory(prefix="nefia-mutant-") as directory:
        tree = Path(directory).resolve()
        copy_tree(tree)
        tests = tuple(sorted({test for mutant in mutants for test in mutant.tests}))
        if failed := tested(tree, tests, CONTROL_TIMEOUT_SECONDS):
            raise RuntimeError(f"nothing is planted, and yet there fails {failed}")


def simulated(tree: Path, seeds: int, seconds: float) -> Verdict:
    """The first seed that breaks a promise, and which, if any does in time."""
    command = [sys.executable, "-c", SIMULATION, str(seeds), str(seconds), str(tree)]
    try:
        end = subprocess.run(
            command, cwd=tree, capture_output=True, text=True, timeout=SIMULATION_TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired as cut:
        # A hang may be the mistake's doing, but nothing has said what is wrong.
        return Verdict(seeds_without=(cut.stdout or b"").count(b"\n"))
    if end.returncode != 0:
        raise RuntimeError(f"the simulation could not be run:\n{end.stderr}")
    lines = end.stdout.splitlines()
    passed = lines.count("")
    said = f"{SIMULATOR}seed {len(lines)}: {lines[-1]}" if passed < len(lines) else ""
    return Verdict(said, passed)


def tested(tree: Path, tests: tuple[str, ...], limit: float) -> str:
    """The first of `tests` that fails; empty if none does. Raises TimeoutExpired."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    end = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=limit)
    if end.returncode == 0:
        return ""
    failed = [line for line in end.stdout.splitlines() if line.startswith("FAILED ")]
    if end.returncode != 1 or not failed:
        raise RuntimeError(f"the tests could not be run:\n{end.stdout}{end.stderr}")
    return TEST + failed[0].removeprefix("FAILED ").partition(" - ")[0]


def row(mutant: Mutant, verdict: Verdict) -> str:
    shown = (verdict.by or SURVIVED).replace("|", "/")
    if len(shown) > SHOWN_CHARACTERS and not shown.startswith(TEST):
        shown = shown[: SHOWN_CHARACTERS - 3] + "..."
    if shown.startswith(TEST):
        shown = f"`{shown.removeprefix(TEST)}`"
    without = "not asked" if verdict.seeds_without is None else str(verdict.seeds_without)
    return f"| {mutant.mistake} | {mutant.name} | {shown} | {without} |"


def summary(verdicts: Sequence[tuple[Mutant, Verdict]]) -> str:
    survived = sorted({mutant.mistake for mutant, verdict in verdicts if not verdict.by})
    by_simulator = sorted(
        {mutant.mistake for mutant, verdict in verdicts if verdict.by.startswith(SIMULATOR)}
    )
    kinds = Counter(verdict.by.partition(" ")[0].strip(",:") or SURVIVED for _, verdict in verdicts)
    said = ", ".join(f"{kind}: {kinds[kind]}" for kind in sorted(kinds))
    lines = [
        f"{len(verdicts)} mutants of {len({m.mistake for m, _ in verdicts})} mistakes; {said}",
        f"mistakes that the simulator notices: {', '.join(map(str, by_simulator)) or 'none'}",
        *(f"mistake {number} is survived: {MISTAKES[number]}" for number in survived),
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.run", description=__doc__)
    parser.add_argument("--only", default="", help="mutants whose name has this in it")
    parser.add_argument("--seeds", type=int, default=200, help="at most, for each (default 200)")
    parser.add_argument("--seconds", type=float, default=30.0, help="simulated for each seed")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=int, default=cores, help="at a time (default: all cores)")
    options = parser.parse_args(arguments)
    chosen = [mutant for mutant in MUTANTS if options.only in mutant.name]
    if not chosen:
        parser.error(f"no mutant's name has {options.only!r} in it")
    for mutant in chosen:
        planted(mutant)
    control(chosen)
    print("| mistake | planted | noticed by | seeds without |\n|---|---|---|---|", flush=True)
    verdicts: list[tuple[Mutant, Verdict]] = []
    judge = partial(judged, seeds=options.seeds, seconds=options.seconds)
    with ThreadPoolExecutor(options.jobs) as pool:
        for mutant, verdict in zip(chosen, pool.map(judge, chosen), strict=True):
            print(row(mutant, verdict), flush=True)
            verdicts.append((mutant, verdict))
    print(f"\n{summary(verdicts)}")
    return 0 if all(verdict.by for _, verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
