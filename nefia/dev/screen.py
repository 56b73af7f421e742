"""What a newcomer sees first: who leads, and commands to try."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from nefia.dev.cluster import Cluster


def screen(cluster: Cluster, root: Path, *, kept: bool) -> str:
    """Every command can be pasted into a shell as it is."""
    leader = cluster.leading()
    other = next((d for d in cluster.daemons if d is not leader), leader)
    at_leader = f"{_nefia()} --state-dir {shlex.quote(str(leader.directory))}"
    at_other = f"{_nefia()} --state-dir {shlex.quote(str(other.directory))}"
    nodes = [
        f"  {d.id}  {d.address}  pid {d.pid}{'  leads' if d is leader else ''}"
        for d in cluster.daemons
    ]
    commands = [
        f"  {at_leader} cluster status -o wide",
        f"  {at_other} cluster members",
        f'  {at_other} queue push --forward \'{{"say": "hello"}}\'',
        f"  {at_other} queue list --local",
        f"  {at_leader} cluster transfer-leader",
        f"  kill -9 {leader.pid}   # the leader: another takes over, and it is started again",
    ]
    return "\n".join(
        [
            f"A cluster of {len(cluster.daemons)} on loopback:",
            "",
            *nodes,
            "",
            f"State in {root}/node-N, which is {'kept' if kept else 'removed at the end'}; "
            "each daemon's log is daemon.log there.",
            "",
            "To try, in another terminal:",
            "",
            *commands,
            "",
            "Ctrl-C ends it. What happens is told here:",
        ]
    )


def _nefia() -> str:
    """How this nefia is called from any directory of another shell."""
    beside = Path(sys.executable).parent / "nefia"
    if not beside.exists():
        return f"{shlex.quote(sys.executable)} -m nefia"
    return "nefia" if shutil.which("nefia") == str(beside) else shlex.quote(str(beside))
