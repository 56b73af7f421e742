"""Why there is a leader or none, and whether all is well, in plain words: status in, text out.

All of it rests on what one node knows by itself (`status`, with its `evidence`), so that it can be
asked when nothing else works. Pure, and imports nothing heavy: the command line explains with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nefia.units import format_duration

Status = Mapping[str, Any]

LAG_ENTRIES = 1000
"""Committed and not yet applied here: more is worth a word."""


def explain(status: Status) -> list[str]:
    """Sentences, the conclusion first, what to do last; none for a daemon of an earlier version."""
    if "evidence" not in status:
        return []
    match status["state"]:
        case "Uninitialized":
            return [*_uninitialized(status)]
        case "Removed":
            return [*_removed(status)]
        case "Leader":
            return [*_leading(status)]
    if status["leader_id"] is not None:
        return [*_following(status)]
    return [*_leaderless(status)]


def degradations(status: Status) -> list[str]:
    """What a monitor should know of, a clause each; empty if all is well.

    These count: no known leader; this node being no voter; a voter that does not answer (as the
    leader hears it, and elsewhere by connections); a hung disk; a warning; on the leader, a service
    that does not run.
    """
    if "evidence" not in status:  # a daemon of an earlier version
        return [] if status["healthy"] else ["no leader is known, or not all voters answer"]
    found = []
    node, state = status["node_id"], status["state"]
    if state in ("Uninitialized", "Removed", "Learner"):
        found.append(f"{node} is no voter: its state is {state}")
    elif status["leader_id"] is None:
        found.append("no leader is known")
    found += [f"{_who(peer)} {_silence(peer)}" for peer in _silent_voters(status)]
    if not status["healthy"] and not found:
        found.append("not all voters answer")
    if _disk_hangs(status):
        found.append(_disk(status))
    if status.get("warning"):
        found.append(str(status["warning"]))
    return found + _services_down(status)


# Each state's story.


def _uninitialized(status: Status) -> Iterator[str]:
    yield f"{status['node_id']} belongs to no cluster yet, so it neither votes nor leads."
    yield _sentence(
        status.get("hint")
        or "for a new cluster, run nefia cluster init here; to join one, have this node added on "
        "its leader with nefia cluster add-peer"
    )


def _removed(status: Status) -> Iterator[str]:
    node = status["node_id"]
    yield f"{node} was removed from the cluster, so it does not vote and never leads."
    yield f"Stop its daemon, or add it again on the leader: nefia cluster add-peer --id {node} ..."


def _leading(status: Status) -> Iterator[str]:
    evidence = status["evidence"]
    left_ms = evidence["lease_left_ms"]
    lease = "may not act now, since its lease has run out"
    if left_ms is not None and left_ms > 0:
        lease = f"may act, since its lease holds for another {_duration(left_ms)}"
    yield f"{status['node_id']} leads in term {status['term']} and {lease}."
    if not evidence["may_lead"]:
        yield "It is a witness (may_lead: false): it runs no services, and hands over once it can."
    yield from _disk_sentence(status, "it will hand leadership over")
    yield from _voters_that_are_silent(status)
    yield from (_sentence(each) for each in _services_down(status))
    yield from _tolerance(status)


def _following(status: Status) -> Iterator[str]:
    heard = status.get("last_contact_ms")
    ago = f", and was heard {_duration(heard)} ago" if heard is not None else ""
    leader, addr = status["leader_id"], status["leader_addr"]
    yield f"{leader} at {addr} leads in term {status['term']}{ago}."
    obstacles = [*_obstacles(status)]
    if obstacles:
        yield f"{status['node_id']} could not take over now:"
        yield from obstacles
    else:
        reached, voters = _reached(status), status["evidence"]["voters"]
        yield (
            f"{status['node_id']} could take over: it votes, its disk works, and it is in contact "
            f"with {len(reached)} of {len(voters)} voters, itself included."
        )
        yield from _voters_that_are_silent(status)


def _leaderless(status: Status) -> Iterator[str]:
    heard = status.get("last_contact_ms")
    since = (
        f"; the last was heard {_duration(heard)} ago"
        if heard is not None
        else "; none was heard since it started"
    )
    yield f"{status['node_id']} knows no leader in term {status['term']}{since}."
    obstacles = [*_obstacles(status)]
    yield from obstacles
    yield from _votes(status)
    evidence = status["evidence"]
    if len(_reached(status)) < evidence["quorum"]:
        yield (
            "Start the daemons that are down or mend the network between the nodes: the cluster "
            "goes on by itself then. If a majority is lost for good, see nefia cluster recover."
        )
        return
    yield from _voters_that_are_silent(status)
    if not obstacles and evidence["election"] is None:
        timeout = _duration(evidence["heartbeat_timeout_ms"])
        yield f"A majority is in contact, so an election is due within about {timeout}."


# What stands in the way, and who.


def _obstacles(status: Status) -> Iterator[str]:
    """Why this node could not win an election."""
    evidence = status["evidence"]
    node, voters = status["node_id"], evidence["voters"]
    if node not in voters:
        yield f"{node} is a learner: it stores the log, but does not vote and cannot lead yet."
    if not evidence["may_lead"]:
        yield (
            f"{node} is a witness (may_lead: false): it leads only while nobody else can, to hand "
            "over at once."
        )
    yield from _disk_sentence(status, "it can neither vote nor lead")
    behind = status["commit_index"] - status["applied_index"]
    if behind > LAG_ENTRIES:
        yield f"{node} has still to apply {behind} committed entries."
    reached = _reached(status)
    if len(reached) < evidence["quorum"]:
        yield (
            f"{node} is in contact with {len(reached)} of {len(voters)} voters "
            f"({_listed(reached)}), and {evidence['quorum']} are needed."
        )
        yield from _voters_that_are_silent(status)


def _votes(status: Status) -> Iterator[str]:
    election = status["evidence"]["election"]
    if election is None:
        return
    granted, refused, silent = election["granted"], election["refused"], election["silent"]
    needed = status["evidence"]["quorum"]
    yield (
        f"It asks for {election['kind']}s: {len(granted)} granted ({_listed(granted)}) of {needed} "
        f"needed, {len(refused)} refused ({_listed(refused)}), {len(silent)} missing "
        f"({_listed(silent)})."
    )
    if refused:
        yield (
            f"{_listed(refused)} refused: whoever does still hears a leader, has voted for another "
            f"in this term, or has entries that {status['node_id']} lacks. See nefia cluster why "
            "there."
        )


def _voters_that_are_silent(status: Status) -> Iterator[str]:
    yield from (f"{_who(peer)} {_silence(peer)}." for peer in _silent_voters(status))


def _silent_voters(status: Status) -> list[Mapping[str, Any]]:
    """The leader goes by answers, another node by connections."""
    evidence = status["evidence"]
    limit_ms = evidence["heartbeat_timeout_ms"]
    silent = []
    for peer in evidence["peers"]:
        heard_ms = peer["heard_ms"]
        if status["state"] == "Leader":
            answers = heard_ms is not None and heard_ms < limit_ms
        else:
            answers = peer["connected"]
        if peer["id"] in evidence["voters"] and not answers:
            silent.append(peer)
    return silent


def _silence(peer: Mapping[str, Any]) -> str:
    if peer["connected"]:
        heard_ms = peer["heard_ms"]
        since = "yet" if heard_ms is None else f"for {_duration(heard_ms)}"
        return f"is connected, but has not answered {since}"
    error = peer["error"].removeprefix(f"{peer['address']}: ")
    why = "it said that it stops" if peer["said_goodbye"] else error
    because = f" ({why})" if why else ""
    return f"has been out of reach for {_duration(peer['since_ms'])}{because}"


def _reached(status: Status) -> list[str]:
    evidence = status["evidence"]
    silent = {peer["id"] for peer in _silent_voters(status)}
    known = {peer["id"] for peer in evidence["peers"]} | {status["node_id"]}
    return [voter for voter in evidence["voters"] if voter in known - silent]


def _disk_hangs(status: Status) -> bool:
    evidence = status["evidence"]
    out_ms = evidence["write_out_ms"]
    return out_ms is not None and out_ms >= evidence["heartbeat_timeout_ms"]


def _disk(status: Status) -> str:
    out = _duration(status["evidence"]["write_out_ms"])
    return f"the disk of {status['node_id']} hangs: a write has been out for {out}"


def _disk_sentence(status: Status, consequence: str) -> Iterator[str]:
    if _disk_hangs(status):
        yield _sentence(f"{_disk(status)}, so that {consequence}")


def _services_down(status: Status) -> list[str]:
    """Nobody but the leader runs any."""
    if status["state"] != "Leader":
        return []
    return [
        f"the service {service['name']} is {service['state']}"
        + (f" ({service['error']})" if service.get("error") else "")
        for service in status["services"]
        if service["state"] != "running"
    ]


def _tolerance(status: Status) -> Iterator[str]:
    left = status["failure_tolerance"]
    if len(status["evidence"]["voters"]) == 1:
        yield "It is the only voter, so nobody takes over when it fails."
    elif left > 0:
        yield f"{left} more {'voter' if left == 1 else 'voters'} may fail."
    elif left == 0:
        yield "The next failure of a voter stops the cluster."
    else:
        yield "No majority answers: nothing can change, and it steps down."


# Words.


def _who(peer: Mapping[str, Any]) -> str:
    return f"{peer['id']} ({peer['address']})"


def _listed(ids: Sequence[str]) -> str:
    return ", ".join(ids) or "nobody"


def _duration(ms: float) -> str:
    """To the second where it is long, so that it can be read at a glance."""
    seconds = max(0.0, ms / 1000)
    return format_duration(round(seconds) if seconds >= 10 else round(seconds, 2))


def _sentence(clause: str) -> str:
    """A name such as node-1 stays as it is."""
    begins_with_a_word = clause.split(maxsplit=1)[0].isalpha()
    text = clause[:1].upper() + clause[1:] if begins_with_a_word else clause
    return text if text.endswith(".") else f"{text}."
