"""Whole-cluster transcripts: what a cluster is told to do, and what it then did (fixtures/).

The manner is that of etcd-io/raft's datadriven tests. The language stands in the README of
fixtures/transcripts. `python -m tests.raft.transcripts --rewrite` (from the project's root) records
every output anew; the difference is then to be read against the paper.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from attrs import evolve, frozen

from nefia.errors import NefiaError
from nefia.raft.configuration import Configuration
from nefia.raft.entries import SnapshotMeta
from nefia.raft.messages import Message
from tests.raft.transcript_cluster import (
    TranscriptCluster,
    member,
    show_members,
    show_message,
    show_status,
)

DIRECTORY = Path(__file__).parents[2] / "fixtures" / "transcripts"
SEPARATOR = "----"
SILENCE = "ok"
"""The output of commands that nothing came of."""

ANYONE = "*"


class TranscriptError(Exception):
    """A transcript says something that the language does not have; names the line."""


@frozen
class Block:
    """`preface`: comments and blank lines before `commands`, as they stand in the file.

    There may be such lines between `commands` too. `output` is what was recorded for all of the
    commands together. `line` counts from 1.
    """

    line: int
    preface: tuple[str, ...]
    commands: tuple[str, ...]
    output: tuple[str, ...]


# The file.


def parse(text: str) -> tuple[list[Block], tuple[str, ...]]:
    """The blocks of a transcript, and the comments after the last one. Raises TranscriptError."""
    blocks: list[Block] = []
    preface: list[str] = []
    numbered = iter(enumerate(text.splitlines(), 1))
    for number, line in numbered:
        if _is_prose(line):
            preface.append(line)
            continue
        commands = [line, *_until(numbered, SEPARATOR, number)]
        output = _until(numbered, "", None)
        blocks.append(Block(number, tuple(preface), tuple(commands), tuple(output)))
        preface = [""]  # the blank line that ended the output
    return blocks, tuple(preface)


def _is_prose(line: str) -> bool:
    return not line.strip() or line.startswith("#")


def _until(lines: Iterator[tuple[int, str]], end: str, begun: int | None) -> list[str]:
    """The lines before `end`; with `begun`, the file must not end before it."""
    found: list[str] = []
    for _, line in lines:
        if line == end:
            return found
        found.append(line)
    if begun is not None:
        raise TranscriptError(f"line {begun}: no {end} after the command")
    return found


def render(blocks: Iterable[Block], rest: Iterable[str]) -> str:
    lines: list[str] = []
    for block in blocks:
        lines += [*block.preface, *block.commands, SEPARATOR, *block.output]
    return "\n".join([*lines, *rest]).rstrip("\n") + "\n"


def run(text: str) -> str:
    """The same transcript with the outputs of now. Raises TranscriptError."""
    blocks, rest = parse(text)
    cluster = TranscriptCluster()
    replayed = []
    for block in blocks:
        cluster.lines = []
        for number, command in enumerate(block.commands, block.line):
            if _is_prose(command):
                continue
            try:
                _execute(cluster, command.split())
            except NefiaError as error:
                cluster.say(f"refused: {error.code}: {error}")
            except (KeyError, ValueError, TypeError) as error:
                raise TranscriptError(f"line {number}: {command}: {error!r}") from error
        replayed.append(evolve(block, output=tuple(cluster.lines or [SILENCE])))
    return render(replayed, rest)


def _execute(cluster: TranscriptCluster, words: list[str]) -> None:
    name, *arguments = words
    cluster.indent = ""
    cluster.shows_sends = cluster.shows_writes = True
    COMMANDS[name](cluster, *arguments)


# The commands. Each takes its words; what it changes, the cluster shows.


def _cluster(cluster: TranscriptCluster, *words: str) -> None:
    """`a b c +d`: voters, and learners with a plus; all have the first configuration."""
    cluster.configuration = Configuration(
        [member(word.lstrip("+"), voter=not word.startswith("+")) for word in words]
    )
    for node_id in sorted(cluster.configuration.ids):
        cluster.add(node_id, ["1"])


def _log(cluster: TranscriptCluster, node_id: str, *words: str) -> None:
    """`a 1 1 4 term=5 vote=b`: the node as if it had started with this log."""
    facts = dict(word.split("=") for word in words if "=" in word)
    terms = [word for word in words if "=" not in word]
    cluster.add(node_id, terms, int(facts.get("term", 0)), facts.get("vote"))


def _fresh(cluster: TranscriptCluster, node_id: str) -> None:
    cluster.add(node_id, [])


def _crash(cluster: TranscriptCluster, *node_ids: str) -> None:
    for node_id in node_ids:
        cluster.crash(node_id)


def _restart(cluster: TranscriptCluster, *node_ids: str) -> None:
    for node_id in node_ids:
        cluster.start(node_id)


def _tick(cluster: TranscriptCluster, node_id: str, seconds: str = "0") -> None:
    cluster.now += float(seconds)
    cluster.tick(node_id)


def _campaign(cluster: TranscriptCluster, node_id: str) -> None:
    """Time passes, unnoticed by the others, until this node's timer runs out."""
    due = cluster.raft(node_id).deadline
    cluster.say(f"after {max(0.0, due - cluster.now):.3f} s")
    cluster.now = max(cluster.now, due)
    cluster.tick(node_id)


def _elect(cluster: TranscriptCluster, node_id: str) -> None:
    """An election that is not the subject: only its outcome is shown."""
    cluster.shows_sends = cluster.shows_writes = False
    _campaign(cluster, node_id)
    cluster.stabilize(shows=False)


def _due(cluster: TranscriptCluster, *node_ids: str) -> None:
    for node_id in node_ids:
        left = cluster.raft(node_id).deadline - cluster.now
        cluster.say(f"{node_id} in {left:.3f} s" if left < math.inf else f"{node_id} never")


def _wait(cluster: TranscriptCluster, seconds: str) -> None:
    cluster.now += float(seconds)


def _run(cluster: TranscriptCluster, seconds: str) -> None:
    cluster.shows_sends = cluster.shows_writes = False
    cluster.run(float(seconds))


def _stabilize(cluster: TranscriptCluster) -> None:
    cluster.shows_sends = False
    cluster.stabilize(shows=True)


def _selected(cluster: TranscriptCluster, route: str, *which: str) -> list[Message]:
    """Messages under way on `a->b`, either of which may be `*`; of these `first`, `last`, the
    third by `3`, or those of a kind; or all."""
    sender, recipient = route.split("->")
    found = [
        message
        for message in cluster.flight
        if sender in (ANYONE, message.sender) and recipient in (ANYONE, message.recipient)
    ]
    for word in which:
        match word:
            case "all":
                pass
            case "first":
                found = found[:1]
            case "last":
                found = found[-1:]
            case number if number.isdigit():
                found = found[int(number) - 1 : int(number)]
            case kind:
                found = [message for message in found if type(message).__name__ == kind]
    if not found:
        raise ValueError(f"no such message under way on {route}")
    return found


def _deliver(cluster: TranscriptCluster, route: str, *which: str) -> None:
    for message in _selected(cluster, route, *which):
        cluster.indent = ""
        cluster.say(f"> {show_message(message)}")
        cluster.indent = "  "
        cluster.deliver(message)


def _drop(cluster: TranscriptCluster, route: str = "*->*", *which: str) -> None:
    for message in _selected(cluster, route, *which):
        cluster.say(f"x {show_message(message)}")
        cluster.flight.remove(message)


def _repeat(cluster: TranscriptCluster, route: str, *which: str) -> None:
    """The network doubles messages: a copy of each is now under way behind all others."""
    for message in _selected(cluster, route, *which):
        cluster.say(f"+ {show_message(message)}")
        cluster.flight.append(message)


def _cut(cluster: TranscriptCluster, *routes: str) -> None:
    """`a->b` one way, `a` from everyone, both ways."""
    for route in routes:
        if "->" in route:
            sender, recipient = route.split("->")
            cluster.cuts.add((sender, recipient))
        else:
            others = cluster.nodes.keys() - {route}
            cluster.cuts |= {(route, other) for other in others}
            cluster.cuts |= {(other, route) for other in others}


def _heal(cluster: TranscriptCluster) -> None:
    cluster.cuts.clear()


def _disk(cluster: TranscriptCluster, node_id: str, speed: str) -> None:
    cluster.nodes[node_id].slow = {"slow": True, "fast": False}[speed]


def _fail(cluster: TranscriptCluster, node_id: str) -> None:
    cluster.raft(node_id).write_failed(cluster.now)
    cluster.perform(node_id)


def _propose(cluster: TranscriptCluster, node_id: str, *commands: str) -> None:
    cluster.raft(node_id).propose(cluster.now, [command.encode() for command in commands])
    cluster.perform(node_id)


def _change(cluster: TranscriptCluster, node_id: str, what: str, whom: str) -> None:
    raft = cluster.raft(node_id)
    old = raft.log.configuration
    new = {
        "add-learner": old.with_member(member(whom, voter=False)),
        "add-promoted": old.with_member(member(whom, voter=False, promote=True)),
        "add-voter": old.with_member(member(whom, voter=True)),
        "remove": old.without(whom),
    }[what]
    raft.change(cluster.now, new)
    cluster.perform(node_id)


def _transfer(cluster: TranscriptCluster, node_id: str, target: str | None = None) -> None:
    cluster.raft(node_id).transfer(cluster.now, target)
    cluster.perform(node_id)


def _read(cluster: TranscriptCluster, node_id: str, token: str) -> None:
    cluster.raft(node_id).read(cluster.now, int(token))
    cluster.perform(node_id)


def _compact(cluster: TranscriptCluster, node_id: str, through: str) -> None:
    """A durable snapshot covers the log up to `through`."""
    cluster.raft(node_id).compact(cluster.now, int(through))
    cluster.perform(node_id)


def _bring(cluster: TranscriptCluster, route: str, outcome: str = "whole") -> None:
    """The data of the sender's newest snapshot has arrived `whole`; or it could not be brought."""
    sender, recipient = route.split("->")
    raft = cluster.raft(sender)
    snapshot: SnapshotMeta | None = {"whole": raft.log.base, "not": None}[outcome]
    raft.snapshot_sent(cluster.now, recipient, snapshot)
    cluster.perform(sender)


def _about_peer(name: str) -> Callable[..., None]:
    def command(cluster: TranscriptCluster, node_id: str, peer: str) -> None:
        getattr(cluster.raft(node_id), name)(cluster.now, peer)
        cluster.perform(node_id)

    return command


def _peers_tried(cluster: TranscriptCluster, node_id: str) -> None:
    cluster.raft(node_id).peers_tried(cluster.now)
    cluster.perform(node_id)


def _status(cluster: TranscriptCluster, *node_ids: str) -> None:
    for node_id in node_ids or sorted(cluster.nodes):
        raft = cluster.nodes[node_id].raft
        cluster.say(f"{node_id} {show_status(raft, cluster.now) if raft else 'is down'}")


def _members(cluster: TranscriptCluster, *node_ids: str) -> None:
    for node_id in node_ids:
        log = cluster.raft(node_id).log
        index, configuration = log.configuration_index, log.configuration
        cluster.say(f"{node_id} follows configuration {index} {show_members(configuration)}")


COMMANDS: dict[str, Callable[..., None]] = {
    "bring": _bring,
    "campaign": _campaign,
    "change": _change,
    "cluster": _cluster,
    "compact": _compact,
    "connected": _about_peer("connected"),
    "crash": _crash,
    "cut": _cut,
    "deliver": _deliver,
    "disk": _disk,
    "drop": _drop,
    "due": _due,
    "elect": _elect,
    "fail": _fail,
    "fresh": _fresh,
    "heal": _heal,
    "log": _log,
    "members": _members,
    "peer-lost": _about_peer("peer_lost"),
    "peers-tried": _peers_tried,
    "persist": TranscriptCluster.finish_write,
    "propose": _propose,
    "read": _read,
    "repeat": _repeat,
    "restart": _restart,
    "run": _run,
    "stabilize": _stabilize,
    "status": _status,
    "tick": _tick,
    "transfer": _transfer,
    "unreachable": _about_peer("unreachable"),
    "wait": _wait,
}


def main(arguments: list[str]) -> int:
    if arguments != ["--rewrite"]:
        print("usage: python -m tests.raft.transcripts --rewrite", file=sys.stderr)
        return 2
    for path in sorted(DIRECTORY.glob("*.txt")):
        old = path.read_text(encoding="utf-8")
        new = run(old)
        if new != old:
            path.write_text(new, encoding="utf-8")
            print(f"rewritten: {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
