"""What a mutant is, and the mistakes that mutants make.

The numbers up to 18 are those of the list at the end of DESIGN.md, "Mistakes that Raft
implementations really make"; 19 is what services add.
"""

from __future__ import annotations

from attrs import frozen

MISTAKES = {
    1: "vote not durable, or forgotten on stepping down in the same term",
    2: "entries of old terms committed by counting",
    3: "truncating on a stale append that does not conflict",
    4: "a heartbeat that commits an unverified suffix",
    5: "commit or match index going back",
    6: "counting messages instead of voters, pre-votes as votes, votes of another round",
    7: "a lease that survives handing over",
    8: "a lease checked by a coarse timer, or checked and then acted on later",
    9: "a pre-vote that changes state, or strands terms",
    10: "a configuration not rolled back when its entry is truncated",
    11: "a membership change before an entry of the own term is committed",
    12: "an identity reused with an empty log",
    13: "a crash between the steps of a snapshot",
    14: "a leader with a stalled disk that goes on heartbeating",
    15: "fsync tried again after it failed",
    16: "any certificate of the CA may speak Raft, connections without limit",
    17: "an unknown outcome tried again and applied twice",
    18: "applied index not atomic with the state, acknowledged before durable",
    19: "the services of two leaders at once",
}


@frozen
class Mutant:
    """`old` stands exactly once in `file`; `test_mutants_apply` sees to it that this stays so.

    `tests`: pytest's node ids or files; they are run if the simulator notices nothing. `simulated`:
    whether the core simulator is asked first. It is not where the mistake lies outside the core, or
    where the simulator's clients and faults cannot meet it.
    """

    mistake: int
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    simulated: bool = True
