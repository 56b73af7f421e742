"""The cluster that transcripts drive: nodes, disks, messages under way, and one line an event.

Nothing happens by itself. Time stands still until a command moves it, a message waits until it is
delivered or dropped, and a write to a slow disk waits until it is finished. What happens is added
to `lines`, in the words that the README of fixtures/transcripts explains.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from random import Random
from typing import assert_never

from attrs import define, field

from nefia.raft.configuration import Configuration, Member
from nefia.raft.core import Raft
from nefia.raft.effects import (
    ConfigurationChanged,
    Effects,
    HandedOver,
    LeaderChanged,
    Notice,
    Removed,
    RoleChanged,
    TransferEnded,
    Write,
)
from nefia.raft.entries import Entry, HardState, SnapshotMeta
from nefia.raft.leader import MAX_APPEND_BYTES
from nefia.raft.log import Log
from nefia.raft.messages import (
    AppendEntries,
    AppendReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Message,
    PreVote,
    PreVoteReply,
    RequestVote,
    TimeoutNow,
    VoteReply,
)
from nefia.raft.options import Options
from nefia.raft.roles import Role

MAX_STEPS = 10_000
"""Deliveries, or timers, of one command."""

SHOWN_BYTES = 16
"""Longer commands are shown by their size."""


def member(node_id: str, *, voter: bool, promote: bool = False) -> Member:
    return Member(node_id, f"{node_id}:9700", voter, promote, instance=f"{node_id}.0")


# Values as text.


def show_members(configuration: Configuration) -> str:
    learners = (
        m.id + (" (to be promoted)" if m.promote else "")
        for m in configuration.members
        if not m.voter
    )
    parts = [*sorted(configuration.voters), *(f"learner {learner}" for learner in learners)]
    return "{" + ", ".join(parts) + "}"


def show_entry(entry: Entry) -> str:
    match entry.payload:
        case None:
            what = "no-op"
        case Configuration() as configuration:
            what = show_members(configuration)
        case bytes() as command if len(command) <= SHOWN_BYTES:
            what = command.decode()
        case command:
            what = f"<{len(command)} bytes>"
    return f"{entry.index}/{entry.term} {what}"


def show_entries(entries: Iterable[Entry]) -> str:
    return "[" + ", ".join(map(show_entry, entries)) + "]"


def show_message(message: Message) -> str:
    kind = type(message).__name__
    head = f"{message.sender}->{message.recipient} {kind} t={message.term}"
    body = _show_body(message)
    return f"{head} {body}" if body else head


def _show_body(message: Message) -> str:
    match message:
        case PreVote(last_log_index=index, last_log_term=term):
            return f"last={index}/{term}"
        case RequestVote(last_log_index=index, last_log_term=term, transfer=transfer):
            return f"last={index}/{term}" + (" transfer" if transfer else "")
        case PreVoteReply(granted=granted, removed_by=index):
            verdict = "granted" if granted else "refused"
            return f"{verdict} removed-by={index}" if index else verdict
        case VoteReply(granted=granted):
            return "granted" if granted else "refused"
        case AppendEntries() as m:
            entries = f" entries={show_entries(m.entries)}" if m.entries else ""
            return (
                f"prev={m.prev_log_index}/{m.prev_log_term}{entries}"
                f" commit={m.commit_index} round={m.round}"
            )
        case AppendReply(success=True, match_index=index, round=round_):
            return f"match={index} round={round_}"
        case AppendReply() as m:
            hint = f"{m.hint_index}/{m.hint_term}"
            return f"refused prev={m.prev_log_index} hint={hint} round={m.round}"
        case InstallSnapshot(snapshot=snapshot, round=round_):
            return f"{show_snapshot(snapshot)} round={round_}"
        case InstallSnapshotReply(match_index=index, round=round_):
            return f"match={index} round={round_}"
        case TimeoutNow():
            return ""
        case _:
            assert_never(message)


def show_snapshot(snapshot: SnapshotMeta) -> str:
    members = show_members(snapshot.configuration)
    return f"through={snapshot.index}/{snapshot.term} members={members}"


def show_write(write: Write) -> str:
    parts = []
    if write.hard_state:
        parts.append(f"term={write.hard_state.term} vote={write.hard_state.vote or '-'}")
    if write.snapshot:
        parts.append(f"snapshot {show_snapshot(write.snapshot)}")
    if write.entries:
        parts.append(f"entries={show_entries(write.entries)}")
    if write.compact:
        parts.append(f"compacted through={write.compact.index}/{write.compact.term}")
    return ", ".join(parts)


def show_notice(notice: Notice) -> str | None:
    """None for what goes without saying."""
    match notice:
        case RoleChanged(old=old, new=new, term=term, reason=reason):
            return f"{old.value} -> {new.value}, term {term}: {reason}"
        case LeaderChanged(term=term, leader=leader):
            return f"takes {leader} for the leader of term {term}" if leader else None
        case ConfigurationChanged(index=index, configuration=configuration, committed=committed):
            state = "committed" if committed else "in force"
            return f"configuration {index} {show_members(configuration)} is {state}"
        case HandedOver(target=target):
            return f"hands over to {target}"
        case TransferEnded(target=target, reason=reason):
            return f"gives up handing over to {target}: {reason}"
        case Removed(index=index):
            return f"learns that it was removed by {index}"
        case _:
            assert_never(notice)


def show_status(raft: Raft, now: float) -> str:
    terms = [str(raft.log.term_at(i)) for i in range(raft.log.first_index, raft.log.last_index + 1)]
    if raft.log.base:
        terms.insert(0, f"(..{raft.log.base.index}/{raft.log.base.term})")
    facts = [
        f"{raft.role.value:<12} t={raft.term} vote={raft.hard_state.vote or '-'}",
        f"leader={raft.leader_id or '-'} log={' '.join(terms) or '-'} commit={raft.commit_index}",
    ]
    if raft.leader:
        left = raft.lease_end - now
        facts.append("no lease" if left <= 0 else f"lease for {left:.3f}")
    return " ".join(facts)


# Nodes and what is between them.


@define
class Disk:
    """What survives a crash. `entries` follow `base`."""

    hard_state: HardState = field(factory=HardState)
    base: SnapshotMeta | None = None
    entries: list[Entry] = field(factory=list)

    def apply(self, write: Write) -> None:
        self.hard_state = write.hard_state or self.hard_state
        if write.snapshot:
            self.base, self.entries = write.snapshot, []
        if write.entries:
            first = write.entries[0].index
            self.entries = [e for e in self.entries if e.index < first] + list(write.entries)
        if write.compact:
            self.base = write.compact
            self.entries = [e for e in self.entries if e.index > write.compact.index]

    def log(self) -> Log:
        log = Log(base=self.base)
        log.append(self.entries)
        return log


@define
class Node:
    """`raft` is None while the process is down. `writing`: a write that a slow disk has begun."""

    id: str
    disk: Disk = field(factory=Disk)
    raft: Raft | None = None
    incarnation: int = 0
    slow: bool = False
    writing: Write | None = None

    @property
    def running(self) -> Raft:
        if self.raft is None:
            raise ValueError(f"{self.id} is down")
        return self.raft


class TranscriptCluster:
    """`flight`: messages under way, oldest first. `cuts`: (sender, recipient) that lose all.

    `shows_sends`, `shows_writes`: whether those get a line too, or only what comes of them.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.configuration = Configuration()
        self.nodes: dict[str, Node] = {}
        self.flight: list[Message] = []
        self.cuts: set[tuple[str, str]] = set()
        self.lines: list[str] = []
        self.indent = ""
        self.shows_sends = True
        self.shows_writes = True
        self._leaders: dict[int, str] = {}
        self._committed: dict[int, Entry] = {}

    def say(self, line: str) -> None:
        self.lines.append(self.indent + line)

    def raft(self, node_id: str) -> Raft:
        if node_id not in self.nodes:
            raise ValueError(f"there is no node {node_id}")
        return self.nodes[node_id].running

    # Processes.

    def add(
        self, node_id: str, terms: Sequence[str], term: int = 0, vote: str | None = None
    ) -> None:
        """A node whose log is the first configuration and a command of each other term.

        A term with an asterisk: the command is so large that it travels alone.
        """
        entries = [Entry(1, 1, self.configuration)] if terms else []
        for index, word in enumerate(terms[1:], 2):
            command = b"%d" % index
            if word.endswith("*"):
                command = command.ljust(MAX_APPEND_BYTES + 1, b".")
            entries.append(Entry(index, int(word.rstrip("*")), command))
        last_term = entries[-1].term if entries else 0
        heard_of = Options().tenure_ms  # else each would write it down at its first heartbeat
        disk = Disk(HardState(max(term, last_term), vote, heard_of), None, entries)
        self.nodes[node_id] = Node(node_id, disk)
        self.start(node_id)

    def start(self, node_id: str) -> None:
        node = self.nodes[node_id]
        assert node.raft is None
        node.incarnation += 1
        node.raft = Raft(
            node_id=node_id,
            options=Options(),
            random=Random(f"{node_id} {node.incarnation}"),
            now=self.now,
            hard_state=node.disk.hard_state,
            log=node.disk.log(),
        )
        self.perform(node_id)

    def crash(self, node_id: str) -> None:
        """What was not durable is lost; what it has sent is still under way."""
        self.raft(node_id)
        node = self.nodes[node_id]
        node.raft = node.writing = None

    # Effects.

    def perform(self, node_id: str) -> None:
        """Do what the node asks for, until it asks for nothing more."""
        node = self.nodes[node_id]
        for _ in range(MAX_STEPS):
            raft = node.running
            effects = raft.take()
            self._record(node_id, effects)
            for message in effects.send:
                self._post(message)
            if effects.write:
                node.writing = effects.write
                if not node.slow:
                    self._complete(node)
                    continue
            if raft.applied_index < raft.commit_index and raft.deadline <= self.now:
                raft.tick(self.now)
            elif effects == Effects():
                return
        raise AssertionError(f"{node_id} never falls silent")

    def finish_write(self, node_id: str) -> None:
        """The slow disk is done with what it was writing."""
        self.raft(node_id)
        self._complete(self.nodes[node_id])
        self.perform(node_id)

    def _complete(self, node: Node) -> None:
        if node.writing is None:
            raise ValueError(f"{node.id} writes nothing")
        write, node.writing = node.writing, None
        node.disk.apply(write)
        node.running.persisted(self.now, write.sequence)

    def _record(self, node_id: str, effects: Effects) -> None:
        assert not effects.fetch, "transcripts are short enough for memory"
        for notice in effects.notices:
            text = show_notice(notice)
            if text and notice != LeaderChanged(self.nodes[node_id].running.term, node_id):
                self.say(f"{node_id} {text}")
            if isinstance(notice, RoleChanged) and notice.new is Role.LEADER:
                first = self._leaders.setdefault(notice.term, node_id)
                assert first == node_id, f"two leaders in term {notice.term}"
        if effects.restore:
            self.say(f"{node_id} restores {show_snapshot(effects.restore)}")
        if effects.committed:
            self.say(f"{node_id} applies {show_entries(effects.committed)}")
        for entry in effects.committed:
            first_seen = self._committed.setdefault(entry.index, entry)
            assert first_seen == entry, f"two entries are committed at {entry.index}"
        for read in effects.reads:
            self.say(f"{node_id} may answer read {read.token} once {read.index} is applied")
        for wanted in effects.snapshots:
            least = wanted.minimum_index
            self.say(f"{node_id} wants a snapshot of {least} or newer brought to {wanted.node_id}")
        if effects.write and self.shows_writes:
            slow = ", not durable yet" if self.nodes[node_id].slow else ""
            self.say(f"{node_id} writes {show_write(effects.write)}{slow}")

    # Messages.

    def _post(self, message: Message) -> None:
        lost = (message.sender, message.recipient) in self.cuts
        if not lost:
            self.flight.append(message)
        if self.shows_sends:
            self.say(show_message(message) + (", lost" if lost else ""))

    def deliver(self, message: Message) -> None:
        self.flight.remove(message)
        node = self.nodes.get(message.recipient)
        if node is None or node.raft is None:
            return
        node.raft.step(self.now, message)
        self.perform(node.id)

    def stabilize(self, *, shows: bool) -> None:
        """Deliver until nobody has anything left to say; each message is shown as it arrives."""
        for _ in range(MAX_STEPS):
            if not self.flight:
                return
            message = self.flight[0]
            if shows:
                self.say(show_message(message))
            self.deliver(message)
        raise AssertionError("the cluster never falls silent")

    # Time.

    def tick(self, node_id: str) -> None:
        self.raft(node_id).tick(self.now)
        self.perform(node_id)

    def run(self, seconds: float) -> None:
        """Let time pass for everyone; messages arrive at once."""
        end = self.now + seconds
        for _ in range(MAX_STEPS):
            rafts = {i: node.raft for i, node in self.nodes.items() if node.raft}
            due = min((raft.deadline for raft in rafts.values()), default=math.inf)
            if due > end:
                self.now = end
                return
            self.now = max(self.now, due)
            for node_id, raft in rafts.items():
                if raft.deadline <= self.now:
                    self.indent = f"{self.now:.3f} "
                    self.tick(node_id)
                    self.stabilize(shows=False)
        raise AssertionError("time does not pass")
