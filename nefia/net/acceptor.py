"""The accepting side: who may come in, how many at a time, and what is heard from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NoReturn

import trio
from attrs import define, field
from trio.abc import Listener, Stream

from nefia.clock import sleep
from nefia.errors import NefiaError
from nefia.net.channel import Channel, Cut, run_until_cut
from nefia.net.frames import MAX_FRAME_BYTES, MAX_HELLO_BYTES, Frame, Kind
from nefia.net.handshake import (
    ASK,
    MAX_LANES,
    PROBE,
    RAFT,
    SNAPSHOT,
    Hello,
    OtherVersion,
    Refusal,
    Welcome,
    decode,
    differ,
    encode,
    judge,
    vouch,
)
from nefia.net.interface import Level, Setting
from nefia.net.link import TICKS_PER_PING, Link
from nefia.net.network import certified_ids, remote_name, tls_failure
from nefia.net.transfer import receive_snapshot
from nefia.raft.messages import (
    AppendReply,
    InstallSnapshotReply,
    Message,
    PreVoteReply,
    VoteReply,
)
from nefia.wire import MESSAGES, Malformed

MAX_PENDING_HANDSHAKES = 64
"""Connections that have not introduced themselves. One more ends the oldest of them.

Refusing the newest instead would let 64 silent strangers keep everybody out.
"""
MAX_ASKS_PER_PEER = 16
ANSWERS = (PreVoteReply, VoteReply, AppendReply, InstallSnapshotReply)
MAX_CONNECTIONS_PER_PEER = MAX_LANES + MAX_ASKS_PER_PEER
MAX_STRANGERS = 64
"""Connections of nodes that are not among the peers. Those of peers are bounded per peer."""

REPEAT_SECONDS = 60.0
MAX_REPORTS = 64
"""In `REPEAT_SECONDS`: whoever keeps dialling us shall not fill the log."""


@define(eq=False)
class Inbound:
    """One connection that has introduced itself. `busy`: we are not reading, by our own choice."""

    hello: Hello
    channel: Channel
    busy: bool = False
    scope: trio.CancelScope = field(factory=trio.CancelScope)

    @property
    def peer(self) -> str:
        return self.hello.node_id


class _Refused(Exception):
    """The other side has been told why."""


class Acceptor:
    """`links` are those of the present peers; `Mesh` owns and changes it."""

    def __init__(self, setting: Setting, links: Mapping[str, Link]) -> None:
        self.leaving = False
        self._setting = setting
        self._links = links
        self._pending: list[trio.CancelScope] = []
        self._inbound: list[Inbound] = []
        self._purposes = {RAFT: self._hear, ASK: self._answer, SNAPSHOT: self._take_in}
        self._reported: dict[str, float] = {}
        """Reasons and when they were last reported, oldest first."""

    async def run(self, listeners: Sequence[Listener[Stream]]) -> None:
        if listeners:
            await trio.serve_listeners(self._handle, list(listeners))
        await trio.sleep_forever()  # a node without a cluster listens nowhere

    def lanes_of(self, peer: str) -> list[Inbound]:
        """The lanes on which `peer` speaks to us now."""
        return [i for i in self._inbound if i.peer == peer and i.hello.purpose == RAFT]

    @property
    def channels(self) -> list[Channel]:
        """Those of all lanes that others have dialled."""
        return [i.channel for i in self._inbound if i.hello.purpose == RAFT]

    async def _handle(self, stream: Stream) -> None:
        """One connection from its beginning to its end. No fault of the other side escapes."""
        clock = self._setting.clock
        remote = remote_name(stream)
        channel = Channel(stream, clock, MAX_HELLO_BYTES)
        deadline = clock.now() + self._setting.transport_timeout_seconds
        try:
            with clock.deadline_scope(deadline) as scope:
                inbound = await self._admit(stream, channel, scope)
            if scope.cancelled_caught:
                raise Cut("the handshake was not finished in time, or too many others were waiting")
            if inbound is not None:
                await self._serve(inbound)
        except _Refused as refused:
            self._report("warning", "peer_refused", remote, str(refused))
        except Malformed as garbage:
            self._report("warning", "garbage", remote, str(garbage))
        except Cut as end:
            if tls_failure(end):
                self._report("warning", "tls_refused", remote, str(end))
            else:
                self._report("info", "connection_ended", remote, str(end))
        finally:
            await channel.close()

    def _report(self, level: Level, event: str, remote: str, reason: str) -> None:
        """The same reason is news only once in a while."""
        now = self._setting.clock.now()
        self._reported = {r: t for r, t in self._reported.items() if now - t < REPEAT_SECONDS}
        if reason in self._reported or len(self._reported) >= MAX_REPORTS:
            return
        self._reported[reason] = now
        self._setting.events.report(level, event, remote=remote, reason=reason)

    # Admission.

    async def _admit(
        self, stream: Stream, channel: Channel, scope: trio.CancelScope
    ) -> Inbound | None:
        """The handshake, while `scope` stands among the pending. None for an answered probe."""
        if len(self._pending) >= MAX_PENDING_HANDSHAKES:
            self._pending.pop(0).cancel()
        self._pending.append(scope)
        try:
            hello = await self._introduce(stream, channel)
        finally:
            if scope in self._pending:
                self._pending.remove(scope)
        channel.set_limit(MAX_FRAME_BYTES)
        return None if hello.purpose == PROBE else Inbound(hello, channel)

    async def _introduce(self, stream: Stream, channel: Channel) -> Hello:
        """Hear the hello and answer it. Raises `_Refused` when the other side has been told so."""
        try:
            hello = decode((await channel.receive_one()).body)
        except OtherVersion as error:
            await self._refuse(channel, Refusal("newer_format", str(error)))
        if not isinstance(hello, Hello):
            raise Malformed("a handshake that begins with an answer")
        if refusal := vouch(hello.node_id, certified_ids(stream)) or self._refusal(hello):
            await self._refuse(channel, refusal)
        try:
            welcome = await self._welcome(hello)
        except NefiaError as error:
            await self._refuse(channel, Refusal(error.code, error.message))
        await channel.send(Kind.HANDSHAKE, encode(welcome))
        return hello

    async def _refuse(self, channel: Channel, refusal: Refusal) -> NoReturn:
        await channel.send(Kind.HANDSHAKE, encode(refusal))
        raise _Refused(refusal.message)

    def _refusal(self, hello: Hello) -> Refusal | None:
        """Whether the handshake's rules or our own bounds forbid it."""
        link = self._links.get(hello.node_id)
        refusal = judge(hello, self._setting.local(), link.target.instance if link else "")
        if refusal is not None or hello.purpose == PROBE:
            return refusal
        me = self._setting.local().node_id
        if self.leaving:
            return Refusal("leaving", f"{me} is shutting down")
        asks = sum(i.hello.purpose == ASK and i.peer == hello.node_id for i in self._inbound)
        if hello.purpose == ASK and asks >= MAX_ASKS_PER_PEER:
            return Refusal("busy", f"{me} is answering {asks} requests of {hello.node_id} already")
        strangers = sum(i.peer not in self._links for i in self._inbound)
        if link is None and strangers >= MAX_STRANGERS:
            return Refusal("busy", f"{me} hears {strangers} nodes that are not its peers already")
        return None

    async def _welcome(self, hello: Hello) -> Welcome:
        """Raises NefiaError if this node has no cluster and does not want that of the peer."""
        if hello.purpose == RAFT and not self._setting.local().cluster_id:
            await self._setting.events.adopt(hello.cluster_id, hello.lineage)
        me = self._setting.local()
        return Welcome(
            node_id=me.node_id,
            instance_id=me.instance_id,
            cluster_id=me.cluster_id,
            incarnation=me.incarnation,
            view=self._setting.events.view() if hello.purpose == PROBE else None,
            settings=me.settings,
            lineage=me.lineage,
            features=me.features,
            may_lead=me.may_lead,
            utc_ms=me.utc_ms,
        )

    # What comes after.

    async def _serve(self, inbound: Inbound) -> None:
        self._inbound.append(inbound)
        try:
            with inbound.scope:
                await self._purposes[inbound.hello.purpose](inbound)
        finally:
            self._inbound.remove(inbound)

    async def _take_in(self, inbound: Inbound) -> None:
        """A snapshot. There is one leader, so a new one ends an old one, whoever sends it."""
        for other in self._inbound:
            if other is not inbound and other.hello.purpose == SNAPSHOT:
                other.scope.cancel()
        accept = partial(self._setting.events.incoming, inbound.peer)
        await receive_snapshot(self._setting, inbound.channel, accept)

    async def _answer(self, inbound: Inbound) -> None:
        clock = self._setting.clock
        deadline = clock.now() + self._setting.transport_timeout_seconds
        with clock.deadline_scope(deadline) as scope:
            frame = await inbound.channel.receive_one()
        if scope.cancelled_caught:
            raise Cut("no request came")
        if frame.kind is not Kind.REQUEST:
            raise Malformed(f"a {frame.kind.name} frame in place of a request")
        answer = await self._setting.events.answer(inbound.peer, frame.body)
        await inbound.channel.send(Kind.ANSWER, answer)

    async def _hear(self, inbound: Inbound) -> None:
        """A lane, until it ends. The peer has one connection a lane: a new one ends the old."""
        for other in self.lanes_of(inbound.peer):
            if other is not inbound and other.hello.lane == inbound.hello.lane:
                other.scope.cancel()
        if link := self._links.get(inbound.peer):
            link.opened(inbound, inbound.hello.incarnation)
            link.announced = inbound.hello.address
            link.kick()
        else:
            self._setting.events.stranger_met(inbound.peer, inbound.hello.address)
        try:
            end = await run_until_cut(
                inbound.channel.write_loop,
                partial(self._read, inbound),
                partial(self._watch, inbound),
            )
        finally:
            if link := self._links.get(inbound.peer):
                link.ended(inbound)
        if isinstance(end, Malformed):
            raise end

    async def _read(self, inbound: Inbound) -> None:
        me = self._setting.local().node_id
        while True:
            frames = await inbound.channel.receive()
            messages = [_message(f, inbound.peer, me) for f in frames if f.kind is Kind.MESSAGE]
            if not self._answers_count(inbound):
                messages = [m for m in messages if not isinstance(m, ANSWERS)]
            if messages:
                if inbound.peer not in self._links:  # given up, perhaps, while this lane lasted
                    self._setting.events.stranger_met(inbound.peer, inbound.hello.address)
                inbound.busy = True
                await self._setting.events.receive(messages)
                inbound.busy = False
            for frame in frames:
                match frame.kind:
                    case Kind.MESSAGE | Kind.PING:
                        pass
                    case Kind.GOODBYE:
                        if link := self._links.get(inbound.peer):
                            link.presence.goodbye(inbound)
                    case _:
                        raise Malformed(f"a {frame.kind.name} frame on a lane of {inbound.peer}")

    def _answers_count(self, inbound: Inbound) -> bool:
        """Whether this is the data directory that the configuration knows under the peer's name.

        Another one has forgotten, or never had, what its former self has promised: a vote or an
        acknowledgement of it must not be taken for one of the recorded member.
        """
        link = self._links.get(inbound.peer)
        return link is None or not differ(link.target.instance, inbound.hello.instance_id)

    async def _watch(self, inbound: Inbound) -> None:
        """Say that we hear the peer whenever we have; end the lane when it falls silent.

        While a batch is being handled nothing is read, which is no fault of the peer's: it is
        told that all is well, so that it does not dial anew because of a slow disk here.
        """
        clock, channel = self._setting.clock, inbound.channel
        alive_at = clock.now()
        while True:
            await sleep(clock, self._setting.ping_seconds / TICKS_PER_PING)
            if inbound.busy or channel.heard_at >= alive_at:
                alive_at = clock.now()
                channel.post(Kind.PONG)
            elif clock.now() - alive_at > self._setting.transport_timeout_seconds:
                raise Cut("nothing heard within the transport timeout")


def _message(frame: Frame, peer: str, me: str) -> Message:
    message = MESSAGES.decode(frame.body)
    if message.sender != peer:
        raise Malformed(f"a message in the name of {message.sender} from {peer}")
    if message.recipient != me:
        raise Malformed(f"a message of {peer} for {message.recipient}")
    return message
