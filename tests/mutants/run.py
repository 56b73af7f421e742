"""Plant each mistake in a copy of the tree, and see what notices it.

`python -m tests.mutants.run [--only NAME] [--seeds 200] [--seconds 30]` prints a markdown table;
the mutants that nothing noticed are its failure. The simulator is asked before the tests.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.mutants.mutants import MISTAKES, MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
COPIED = ("nefia", "tests", "fixtures")

SIMULATION_TIMEOUT_SECONDS = 600.0
TESTS_TIMEOUT_SECONDS = 300.0
SHOWN_CHARACTERS = 110
SURVIVED = "SURVIVED"

SIMULATION = """
import sys, nefia
from tests.simulation.core_simulator import simulate
assert nefia.__file__.startswith(sys.argv[3]), nefia.__file__
for seed in range(int(sys.argv[1])):
    try:
        violation = simulate(seed, float(sys.argv[2])).violation
    except Exception as error:
        violation = f"{type(error).__name__}: {error}"
    if violation:
        print(f"simulator, seed {seed + 1}: {violation}")
        break
"""


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


def killer(mutant: Mutant, seeds: int, seconds: float) -> str:
    """What notices the mutant, or `SURVIVED`."""
    with tempfile.TemporaryDirectory(prefix="nefia-mutant-") as directory:
        tree = Path(directory).resolve()
        copy_tree(tree)
        (tree / mutant.file).write_text(planted(mutant, tree))
        by_simulator = simulated(tree, seeds, seconds) if mutant.simulated else ""
        return by_simulator or tested(tree, mutant.tests) or SURVIVED


def control(mutants: Sequence[Mutant]) -> None:
    """The tests that are to judge pass without any mutant. Raises RuntimeError."""
    with tempfile.TemporaryDirectory(prefix="nefia-mutant-") as directory:
        tree = Path(directory).resolve()
        copy_tree(tree)
        tests = tuple(sorted({test for mutant in mutants for test in mutant.tests}))
        if failed := tested(tree, tests):
            raise RuntimeError(f"nothing is planted, and yet there fails {failed}")


def simulated(tree: Path, seeds: int, seconds: float) -> str:
    """The first seed that breaks a promise, and which; empty if none does, or not in time."""
    command = [sys.executable, "-c", SIMULATION, str(seeds), str(seconds), str(tree)]
    try:
        end = subprocess.run(
            command, cwd=tree, capture_output=True, text=True, timeout=SIMULATION_TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return ""  # a hang may be the mistake's doing, but nothing has said what is wrong
    if end.returncode != 0:
        raise RuntimeError(f"the simulation could not be run:\n{end.stderr}")
    return end.stdout.strip()


def tested(tree: Path, tests: tuple[str, ...]) -> str:
    """The first of `tests` that fails; empty if none does, or not in time."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    try:
        end = subprocess.run(
            command, cwd=tree, capture_output=True, text=True, timeout=TESTS_TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return ""
    if end.returncode == 0:
        return ""
    failed = [line for line in end.stdout.splitlines() if line.startswith("FAILED ")]
    if end.returncode != 1 or not failed:
        raise RuntimeError(f"the tests could not be run:\n{end.stdout}{end.stderr}")
    return "test: " + failed[0].removeprefix("FAILED ").partition(" - ")[0]


def row(mutant: Mutant, killed_by: str) -> str:
    shown = killed_by.splitlines()[0].replace("|", "/")
    if len(shown) > SHOWN_CHARACTERS and not shown.startswith("test: "):
        shown = shown[: SHOWN_CHARACTERS - 3] + "..."
    return f"| {mutant.mistake} | {mutant.name} | {shown} |"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.run", description=__doc__)
    parser.add_argument("--only", default="", help="mutants whose name has this in it")
    parser.add_argument("--seeds", type=int, default=200, help="at most, for each (default 200)")
    parser.add_argument("--seconds", type=float, default=30.0, help="simulated for each seed")
    options = parser.parse_args(arguments)
    chosen = [mutant for mutant in MUTANTS if options.only in mutant.name]
    if not chosen:
        parser.error(f"no mutant's name has {options.only!r} in it")
    for mutant in chosen:
        planted(mutant)
    control(chosen)
    print("| mistake | planted | noticed by |\n|---|---|---|", flush=True)
    survivors: set[int] = set()
    for mutant in chosen:
        killed_by = killer(mutant, options.seeds, options.seconds)
        print(row(mutant, killed_by), flush=True)
        if killed_by == SURVIVED:
            survivors.add(mutant.mistake)
    unseen = "".join(f"; {number}: {MISTAKES[number]}" for number in sorted(survivors))
    print(f"\n{len(chosen)} mutants; mistakes that something survives: {len(survivors)}{unseen}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
