"""A node that may not lead (`may_lead: false`): it votes and stores, and makes way for others.

Its core waits longer than others before it asks for votes (`raft.options`). If it was elected all
the same, it hands over as soon as a voter that may lead answers.
"""

from __future__ import annotations

import structlog
from attrs import frozen

from nefia.clock import NodeClock, sleep
from nefia.errors import NefiaError
from nefia.node.membership import Membership

AGAIN_SECONDS = 1.0

_log = structlog.get_logger("nefia.node")


@frozen
class Witness:
    membership: Membership
    clock: NodeClock

    async def make_way(self) -> None:
        """Runs in the leadership scope."""
        while True:
            for peer in self._able():
                try:
                    await self.membership.transfer(peer, "this node may not lead")
                except NefiaError as error:
                    _log.info("witness_leads_on", reason=error.message)
            await sleep(self.clock, AGAIN_SECONDS)

    def _able(self) -> list[str]:
        raft = self.membership.replica.raft
        others = self.membership.answering(self.clock.now()) & raft.log.configuration.voters
        return [
            peer
            for peer in sorted(others - {raft.node_id})
            if (welcome := self.membership.met(peer)) is not None and welcome.may_lead
        ]
