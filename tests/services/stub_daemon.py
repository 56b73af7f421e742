"""A daemon in small: it has a guard, begins a tenure, starts a service and renews the lease.

python -m tests.services.stub_daemon STATE_DIR LEASE_SECONDS SCRIPT
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from nefia.clock import BootClock, TrioNodeClock
from nefia.config.services import CommandConfig
from nefia.services.guard_client import open_guard
from nefia.services.interface import Tenure

STOP_BUDGET = 0.5
RENEWALS_PER_LEASE = 5


async def main(state_dir: Path, lease: float, script: str) -> None:
    config = CommandConfig(name="app", run=("sh", "-c", script))
    async with open_guard([config], state_dir, TrioNodeClock()) as guard:
        await guard.ready()
        await guard.begin(1, trio.current_time() + lease, STOP_BUDGET)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(guard.service(config).start, Tenure("n", "c", 1, "it was elected"))
            while True:
                await trio.sleep(lease / RENEWALS_PER_LEASE)
                guard.renew(trio.current_time() + lease)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3], clock=BootClock())
