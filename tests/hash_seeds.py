"""Whether what a program prints depends on the seed of `str` hashes, and so on the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def printed_under_hash_seeds(program: str, hash_seeds: tuple[int, ...] = (1, 2)) -> set[str]:
    """All that `program`, run once under each seed, prints: one text if it is deterministic."""
    return {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in hash_seeds
    }
