"""The kernel's own end of a process (SPEC 9)."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

DO = (
    "import math, os, signal, time; from nefia.guard.kernel import KillTimer, boottime; "
    "timer = KillTimer(); timer.set(boottime() + 0.2); {}"
)


@pytest.mark.parametrize(
    ("then", "code"),
    [
        ("os.kill(os.getpid(), signal.SIGSTOP)", -signal.SIGKILL),
        ("10 ** 10 ** 8", -signal.SIGKILL),  # with the interpreter's lock, for half a minute
        ("timer.set(-math.inf); time.sleep(60)", -signal.SIGKILL),
        ("timer.set(boottime() + 60); time.sleep(0.4)", 0),
        ("timer.set(math.inf); time.sleep(0.4)", 0),
        ("timer.close(); time.sleep(0.4)", 0),
    ],
)
def test_whatever_the_process_does(then: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", DO.format(then)], check=False, timeout=30)
    assert done.returncode == code
