"""A service that writes down its own life, so that it is known from outside when two of them lived.

    python -I -S lasting.py DIRECTORY polite|stubborn

At its beginning it takes the lock of DIRECTORY, which all nodes share; to find it taken is the
violation, and is written down. From then on it writes the time, every millisecond or so, into a
file of its own, so that its end is known however it comes. A stubborn one ignores SIGTERM, and so
does a child that it detaches, which holds the lock too. Times are seconds on CLOCK_BOOTTIME.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import struct
import sys
import time
from typing import NoReturn

LOCK = ".lock"
LIFE = struct.Struct("dd?")
"""Its begin, its last sign of life, and whether it had the lock. Aligned: no time is torn."""
BEAT_SECONDS = 0.001


def take_lock(directory: str) -> bool:
    """Held until all have ended that this process forks from now on."""
    fd = os.open(f"{directory}/{LOCK}", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def live(directory: str, service: int, began: float, has_lock: bool) -> NoReturn:
    """Until killed. The file's name: node, term, pid of the service and of this process of it."""
    environment = os.environ
    name = f"{environment['NEFIA_NODE_ID']}.{environment['NEFIA_TERM']}.{service}.{os.getpid()}"
    fresh = f"{directory}/.{name}"
    fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.truncate(fd, LIFE.size)
    memory = mmap.mmap(fd, LIFE.size)
    LIFE.pack_into(memory, 0, began, began, has_lock)
    os.rename(fresh, f"{directory}/{name}")
    while True:
        LIFE.pack_into(memory, 0, began, time.clock_gettime(time.CLOCK_BOOTTIME), has_lock)
        time.sleep(BEAT_SECONDS)


def main(directory: str, manners: str) -> NoReturn:
    has_lock = take_lock(directory)
    began = time.clock_gettime(time.CLOCK_BOOTTIME)
    service = os.getpid()
    if manners == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            live(directory, service, began, has_lock)
        os.wait()
    live(directory, service, began, has_lock)


if __name__ == "__main__":
    main(*sys.argv[1:])
