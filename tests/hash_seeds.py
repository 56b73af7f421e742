"""Whether what a program prints depends on the seed of `str` hashes, and so on the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def printed_under_hash_seeds(program: str, hash_seeds: tuple[int, ...] = (1, 2)) -> set[str]:
    """All that `program`, run once under each seed, prints: one text if it is deterministic.

    The processes run at the same time. Raises CalledProcessError if one of them fails.
    """
    running = [_start(program, hash_seed) for hash_seed in hash_seeds]
    try:
        return {_printed(process) for process in running}
    finally:
        for process in running:
            process.kill()
            process.wait()


def _start(program: str, hash_seed: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _printed(process: subprocess.Popen[str]) -> str:
    stdout, stderr = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, "program", stdout, stderr)
    return stdout
