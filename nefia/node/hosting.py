"""Which members have the state machine of the program that embeds this node (docs/embedding.md).

A node without it stops at the first change for it, so that it cannot diverge (`state.application`).
Here the leader sees to it that no majority is stopped so.
"""

from __future__ import annotations

from collections.abc import Callable

from nefia.errors import NewerFormat, OtherMachine
from nefia.net.handshake import Welcome
from nefia.raft.configuration import Configuration
from nefia.raft.quorum import majority
from nefia.state.application import other_machine
from nefia.state.features import APPLICATION

Met = Callable[[str], Welcome | None]


def check_machine(wanted: str, own: str, configuration: Configuration, met: Met) -> None:
    """Raises OtherMachine unless this node and enough voters have the machine `wanted`.

    Voters that have not been met count as having it. Raises NewerFormat if one is too old.
    """
    if wanted != own:
        raise other_machine(wanted, own)
    if configuration.features < APPLICATION:
        raise NewerFormat("not every voter knows of programs' machines: upgrade them first")
    welcomes = {voter: met(voter) for voter in configuration.voters}
    without = sorted(v for v, welcome in welcomes.items() if welcome and welcome.machine != wanted)
    if len(configuration.voters) - len(without) < majority(configuration.voters):
        raise OtherMachine(
            f"too few voters run the state machine {wanted}: {', '.join(without)} would stop",
            hint=f"run the program that brings {wanted} there",
        )
