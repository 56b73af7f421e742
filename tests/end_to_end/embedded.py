"""The counter of docs/embedding.md with another service, which would notice a second one.

`python -m tests.end_to_end.embedded NEFIA.YAML LOCK`: the service holds the lock on the file LOCK
while it runs, says so, and refuses to end when it is cancelled if there is a file LOCK.stubborn. It
blocks the event loop once the file LOCK.blocks names its node; if there is a file LOCK.untimed, no
timer ends its process then.
"""

from __future__ import annotations

import fcntl
import math
import os
import runpy
import signal
import sys
import time
from pathlib import Path

import trio

import nefia
from nefia.guard.kernel import KillTimer
from nefia.services import program

COUNTER = Path(__file__).parents[2] / "fixtures" / "embedding" / "counter.py"
LOCK_MODE = 0o600
LOOK_SECONDS = 0.02
BLOCKED_SECONDS = 3.0


def is_stubborn(lock: str) -> bool:
    return Path(f"{lock}.stubborn").exists()


def block_if_told(lock: str, node_id: str) -> None:
    told = Path(f"{lock}.blocks")
    if told.exists() and told.read_text() == node_id:
        time.sleep(BLOCKED_SECONDS)


async def main(path: str, lock: str) -> None:
    class Timer(KillTimer):
        def set(self, when: float) -> None:
            super().set(math.inf if Path(f"{lock}.untimed").exists() else when)

    vars(program)["KillTimer"] = Timer

    async def serve(node: nefia.EmbeddedNode[nefia.StateMachine], tenure: nefia.Tenure) -> None:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT, LOCK_MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("OVERLAP", flush=True)
        print(f"serving in term {tenure.term}", flush=True)
        try:
            while True:
                block_if_told(lock, tenure.node_id)
                await trio.sleep(LOOK_SECONDS)
        finally:
            if is_stubborn(lock):
                with trio.CancelScope(shield=True):
                    await trio.sleep_forever()
            os.close(fd)

    machine = runpy.run_path(str(COUNTER))["Counter"]
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with nefia.open_node(nefia.load_config(path), machine=machine, serve=serve):
            await anext(signals)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], clock=nefia.BootClock())
