"""Accepting a leader's log (paper 5.3; snapshots: dissertation 5.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nefia.raft.effects import ConfigurationChanged
from nefia.raft.entries import Entry
from nefia.raft.messages import (
    AppendEntries,
    AppendReply,
    InstallSnapshot,
    InstallSnapshotReply,
)

if TYPE_CHECKING:
    from nefia.raft.core import Raft


class Follower:
    """What a node does with the messages of its term's leader. It has no state of its own."""

    def __init__(self, raft: Raft) -> None:
        self._raft = raft

    def refuse(
        self, leader_id: str, round_: int, prev_log_index: int = 0, hint: tuple[int, int] = (0, 0)
    ) -> None:
        self._raft.send(
            AppendReply(
                sender=self._raft.node_id,
                recipient=leader_id,
                term=self._raft.term,
                round=round_,
                success=False,
                prev_log_index=prev_log_index,
                hint_index=hint[0],
                hint_term=hint[1],
            )
        )

    def on_append_entries(self, message: AppendEntries) -> None:
        prev_index, entries = message.prev_log_index, message.entries
        if prev_index < self._raft.log.base_index:
            # What we compacted was committed, so it equals the leader's (leader completeness).
            entries = tuple(e for e in entries if e.index > self._raft.log.base_index)
            match_index = entries[0].index - 1 if entries else self._raft.log.base_index
            match_index = min(match_index, prev_index + len(message.entries))
        elif self._raft.log.term_at(prev_index) == message.prev_log_term:
            match_index = prev_index
        else:
            hint = self._raft.log.newest_at_most(prev_index, message.prev_log_term)
            return self.refuse(message.sender, message.round, prev_index, hint)
        self._append_missing(entries)
        match_index += len(entries)
        # Only what this message has verified may be committed, not what lies behind it.
        self._raft.advance_commit(min(message.commit_index, match_index))
        if self._raft.write_hangs:
            # Who can store nothing must not keep a leader in power that needs it for a majority:
            # others, who can, may have lost that leader.
            return None
        self._raft.send(
            AppendReply(
                sender=self._raft.node_id,
                recipient=message.sender,
                term=self._raft.term,
                round=message.round,
                success=True,
                match_index=match_index,
            ),
            stored_through=match_index,
        )
        return None

    def _append_missing(self, entries: Sequence[Entry]) -> None:
        """Skip what is there, cut off what conflicts, append the rest (figure 2, steps 3 and 4)."""
        for position, entry in enumerate(entries):
            term_here = self._raft.log.term_at(entry.index)
            if term_here == entry.term:
                continue
            if term_here is not None:
                assert entry.index > self._raft.commit_index, "a committed entry conflicts"
                self._raft.log.truncate_from(entry.index)
            self._raft.log.append(entries[position:])
            self._raft.durability.log_changed(entry.index)
            break
        else:
            return
        index, configuration = self._raft.log.configuration_index, self._raft.log.configuration
        if index >= entry.index:
            self._raft.notice(ConfigurationChanged(index, configuration, False))

    def on_install_snapshot(self, message: InstallSnapshot) -> None:
        snapshot = message.snapshot
        if self._raft.log.term_at(snapshot.index) == snapshot.term:
            self._raft.advance_commit(snapshot.index)  # the log has it all, and perhaps more
        elif snapshot.index > self._raft.commit_index:
            self._raft.restore(snapshot)
        match_index = min(snapshot.index, self._raft.log.last_index)
        self._raft.send(
            InstallSnapshotReply(
                sender=self._raft.node_id,
                recipient=message.sender,
                term=self._raft.term,
                match_index=match_index,
                round=message.round,
            ),
            stored_through=match_index,
        )
