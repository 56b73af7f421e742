"""What agents are told in words: the server's instructions, the runbook, next steps (SPEC 11)."""

from __future__ import annotations

from collections.abc import Callable

from nefia.errors import NefiaError

INSTRUCTIONS = """\
nefia gives a daemon active-passive high availability. One node of the cluster, the leader, runs the
services and makes all changes; the others follow and take over by themselves when it fails. These
tools ask the daemon on this machine. A failover needs no help: look first, and change the members
only when the operator wants it. Errors begin with a stable code and end with the next step."""

NEXT_STEPS = {
    "not_leader": "repeat the call with forward=true, or make it on the leader's machine",
    "no_daemon": "start it there with `nefia daemon`; is it the right state directory?",
    "no_leader": "wait a few seconds; then look at the members for who cannot be reached",
    "no_quorum": "look at the members for who cannot be reached, and bring them back",
    "not_initialized": "initialise a cluster on the first node, or add this node on the leader",
    "already_initialized": "nothing has to be done; look at the status",
    "change_in_progress": "wait until the other change has ended, then repeat it",
    "peer_unreachable": "see that the node's daemon runs and that its address is right",
    "not_member": "look at the members for the right id",
    "overloaded": "wait a moment, then repeat it",
    "shutting_down": "ask another node, or wait until the daemon runs again",
    "timeout": "look at the members before repeating it: it may have happened",
}
"""By the code of an error that brings no hint of its own."""


def next_step(error: NefiaError) -> str:
    return error.hint or NEXT_STEPS.get(error.code, "")


def runbook(symptom: str, named: Callable[[str], str], *, read_only: bool) -> str:
    """`named` gives a tool's whole name; `symptom` is what the operator has seen, if anything."""
    status, members = named("status"), named("members")
    seen = f"The operator reports: {symptom}\n\n" if symptom else ""
    changing = (
        "You can only look. Say what the operator should run."
        if read_only
        else f"""\
Change the members only after the operator has agreed, one change at a time, the leader first asked
with dry_run=true:
- A machine is gone for good: {named("remove_peer")}, then {named("add_peer")} for its successor.
- A node came back with an empty data directory (other_cluster): remove it, then add it again.
- It moved: {named("add_peer")} with the same id and the new address.
Never use force to get past would_lose_quorum without the operator's word for it."""
    )
    return f"""\
{seen}Find out how this nefia cluster is, and what to do.

1. {status}; `why` has it in plain words. `healthy` true: a leader is known and all voters answer;
   stop here and say so.
2. `leader_id` null: nothing can change until a majority of the voters reach each other. Wait five
   seconds and ask again, since an election takes about one. Still none: {members} shows who is
   `Unreachable`. Start those daemons or mend the network. Do not remove anybody: without a majority
   no change is possible. `nefia cluster why` on the other machines says what they see.
3. `leader_id` set and `healthy` false: {members} shows which voter does not answer. While
   `failure_tolerance` is 0 or more the cluster works; at 0 the next failure stops it.
4. `state` Learner: it catches up; see `lag`. Uninitialized: it waits to be added; `hint` has the
   command. Removed: it was taken out of the cluster; stop its daemon or add it again.
5. A majority is lost for good: that is `nefia cluster recover`, an operator's decision. Say so.

{changing}

Report the facts (who leads, in which term, who is unreachable), then your conclusion."""
