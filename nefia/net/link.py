"""The dialling side: our lanes to one peer, each kept up for as long as the peer is wanted."""

from __future__ import annotations

from contextlib import suppress
from enum import IntEnum
from functools import partial

import trio
from attrs import frozen

from nefia.clock import sleep
from nefia.errors import NefiaError
from nefia.net.channel import Channel, Cut, run_until_cut
from nefia.net.dialling import PeerRefused, hello_to, reach
from nefia.net.frames import Kind
from nefia.net.handshake import PROBE, RAFT, Welcome
from nefia.net.interface import PeerTarget, Setting
from nefia.net.presence import Presence
from nefia.raft.messages import AppendEntries, Message
from nefia.wire import MESSAGES, Malformed

FIRST_BACKOFF_SECONDS = 0.002
"""So short because a killed process's lanes end a little before its port refuses (measured).

The first redial may then still be accepted, by nobody; the second tells that the peer is lost.
"""
MAX_BACKOFF_SECONDS = 1.0
MAX_BACKOFF_DOUBLINGS = 9
STABLE_SECONDS = 0.25
"""A lane that held for so long begins its backoff anew when it ends."""

RENEWAL_SECONDS = 0.2
"""Between the renewal of one lane and that of the next: long enough to be up again."""

LOOK_SECONDS = 30.0
"""How often a peer that is up is asked who it is by now."""
SILENT_PINGS = 2.5
"""Pings without any answer after which a lane is cut."""
TICKS_PER_PING = 2


class Lane(IntEnum):
    """What a lane is for; with a smaller `max_pool` the last lane takes what is left."""

    CONTROL = 0
    """Heartbeats, votes, replies: small, and never behind anything large."""
    LOG = 1
    """Entries."""


def lane_of(message: Message) -> Lane:
    return Lane.LOG if type(message) is AppendEntries and message.entries else Lane.CONTROL


@frozen(kw_only=True)
class PeerStatus:
    """`since`: when the peer was last found to be reachable or not, on the node's clock.

    `error` is why the latest attempt failed or the latest lane ended, empty if all lanes are up.
    """

    peer: str
    address: str
    lanes_up: int
    lane_count: int
    since: float
    error: str
    said_goodbye: bool


class Link:
    """All connections to one peer. `Mesh` starts one for each peer and stops it by its scope."""

    def __init__(self, setting: Setting, peer: str, target: PeerTarget) -> None:
        self.peer = peer
        self.target = target
        self.scope = trio.CancelScope()
        self.leaving = False
        self.presence = Presence()
        self.welcome: Welcome | None = None
        """The latest on any lane."""
        self.announced = ""
        """Where the peer itself says that it can be dialled; empty if it has not said so."""
        self.reached_at = target.address
        """Where it was found last."""
        self._setting = setting
        self._lanes = [_DialledLane(self, setting, n) for n in range(setting.lane_count)]
        self._tried = False
        self._error = ""
        self._since = setting.clock.now()

    async def run(self) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                for lane in self._lanes:
                    nursery.start_soon(lane.run)
                nursery.start_soon(self._look_again)

    async def _look_again(self) -> None:
        while True:
            await sleep(self._setting.clock, LOOK_SECONDS)
            if self.channels:
                with suppress(NefiaError):  # of what goes wrong the lanes tell
                    self._seen(await self._ask_who())

    def _seen(self, welcome: Welcome) -> None:
        """Only of the process that the lanes go to."""
        if self.welcome and self.channels and welcome.incarnation == self.welcome.incarnation:
            self.welcome = welcome
            self._setting.events.peer_seen(welcome)

    async def _ask_who(self) -> Welcome:
        """As the peer introduces itself now. Raises NefiaError, also if it would not have us."""
        setting = self._setting
        hello = hello_to(setting.local(), PROBE, self.peer)
        deadline = setting.clock.now() + setting.attempt_seconds
        channel, welcome = await reach(setting, self.reached_at, hello, deadline)
        await channel.close()
        return welcome

    def send(self, message: Message) -> bool:
        """Queue it on its lane; False if that lane is down or full."""
        lane = self._lanes[min(lane_of(message), len(self._lanes) - 1)]
        channel = lane.channel
        return channel is not None and channel.post(Kind.MESSAGE, MESSAGES.encode(message))

    async def renew(self) -> None:
        """Make the lanes anew, one after the other, if the peer would have us as we are now."""
        setting = self._setting
        try:
            await self._ask_who()
        except NefiaError as error:
            setting.events.report("warning", "not_renewed", peer=self.peer, error=error.message)
            return
        for lane in self._lanes:
            lane.renewal.set()
            await sleep(setting.clock, RENEWAL_SECONDS)

    def status(self) -> PeerStatus:
        up = len(self.channels)
        return PeerStatus(
            peer=self.peer,
            address=self.target.address,
            lanes_up=up,
            lane_count=len(self._lanes),
            since=self._since,
            error=self._error if up < len(self._lanes) else "",
            said_goodbye=self.presence.said_goodbye,
        )

    def address(self, attempt: int) -> str:
        """Where to dial: in turn where the peer should be and where it says it is.

        A member may have come back at another address, which the configuration can only learn from
        a leader, for whom that member's vote may be needed.
        """
        known = self.target.address
        choices = [known, self.announced] if self.announced not in ("", known) else [known]
        return choices[attempt % len(choices)]

    @property
    def channels(self) -> list[Channel]:
        return [lane.channel for lane in self._lanes if lane.channel is not None]

    def kick(self) -> None:
        """Something has happened that makes it worth while to dial at once."""
        for lane in self._lanes:
            lane.kick.set()

    # What the lanes and the acceptor tell. `connection` is any object that stands for one.

    def opened(self, connection: object, incarnation: str) -> None:
        if self.presence.opened(connection, incarnation):
            self._lost()

    def ended(self, connection: object) -> None:
        if self.presence.ended(connection, self._setting.clock.now()):
            self._lost()
        elif not self.presence.connected:
            self.kick()

    def refused(self) -> None:
        if self.presence.refused(self._setting.clock.now()):
            self._lost()

    def _lost(self) -> None:
        self._setting.events.report("warning", "peer_lost", peer=self.peer)
        self._setting.events.peer_lost(self.peer)

    def lane_up(self, welcome: Welcome, lane: int) -> None:
        events = self._setting.events
        self.welcome = welcome
        if len(self.channels) == 1:
            self._since = self._setting.clock.now()
            self._error = ""
            events.report("info", "peer_connected", peer=self.peer, address=self.reached_at)
        if lane == Lane.CONTROL:
            events.peer_met(self.peer, welcome)
            self._have_tried()

    def lane_down(self, end: Cut | Malformed) -> None:
        self._failed(str(end), "peer_disconnected")
        if not self.channels:
            self._since = self._setting.clock.now()
        self._setting.events.peer_broken(self.peer)

    def attempt_failed(self, error: NefiaError) -> None:
        self._failed(error.message, "peer_unreachable")
        if isinstance(error, PeerRefused):
            self.refused()
        self._have_tried()

    def _failed(self, error: str, event: str) -> None:
        """The same failure again, on another lane or at the next attempt, is no news."""
        if error != self._error:
            self._setting.events.report("warning", event, peer=self.peer, error=error)
        self._error = error

    def _have_tried(self) -> None:
        if not self._tried:
            self._tried = True
            self._setting.events.peer_tried(self.peer)


class _DialledLane:
    """One connection to the peer, dialled again whenever it ends. `channel`: while it is up."""

    def __init__(self, link: Link, setting: Setting, number: int) -> None:
        self.channel: Channel | None = None
        self.kick = trio.Event()
        self.renewal = trio.Event()
        self._link = link
        self._setting = setting
        self._number = number
        self._failures = 0

    async def run(self) -> None:
        clock = self._setting.clock
        while not self._link.leaving:
            began = clock.now()
            self.kick = trio.Event()
            held_seconds = await self._attempt()
            stable = held_seconds is not None and held_seconds >= STABLE_SECONDS
            self._failures = 0 if stable else self._failures + 1
            await self._wait(began, may_be_kicked=held_seconds is None)

    async def _wait(self, began: float, may_be_kicked: bool) -> None:
        """A kick shortens the wait of who could not connect, but attempts never follow without any.

        Who could connect and was cut is not kicked: two nodes that cut each other's lanes would
        kick each other without end.
        """
        clock = self._setting.clock
        due = began + self._backoff_seconds()
        if may_be_kicked:
            with clock.deadline_scope(due):
                await self.kick.wait()
            due = min(due, began + FIRST_BACKOFF_SECONDS)
        await clock.sleep_until(due)

    def _backoff_seconds(self) -> float:
        """From the beginning of one attempt to that of the next, at least.

        Since it counts from the beginning, whoever was connected for a while dials at once.
        """
        doubled = FIRST_BACKOFF_SECONDS * 2.0 ** min(self._failures, MAX_BACKOFF_DOUBLINGS)
        return min(doubled, MAX_BACKOFF_SECONDS) * self._setting.random.uniform(0.5, 1.0)

    async def _attempt(self) -> float | None:
        """Dial, and serve until the connection ends. How long it held; None if it never was."""
        link, setting = self._link, self._setting
        hello = hello_to(setting.local(), RAFT, link.peer, link.target.instance, lane=self._number)
        deadline = setting.clock.now() + setting.attempt_seconds
        try:
            address = link.address(self._failures)
            channel, welcome = await reach(setting, address, hello, deadline)
        except NefiaError as error:
            link.attempt_failed(error)
            return None
        up_at = setting.clock.now()
        link.reached_at = address
        self.channel = channel
        if link.leaving:
            channel.post(Kind.GOODBYE)
        try:
            link.opened(channel, welcome.incarnation)
            link.lane_up(welcome, self._number)
            end = await run_until_cut(
                channel.write_loop,
                partial(self._read, channel),
                partial(self._ping, channel),
                self._until_renewal,
            )
        finally:
            self.channel = None
            await channel.close()
        link.lane_down(end)
        link.ended(channel)
        return setting.clock.now() - up_at

    async def _until_renewal(self) -> None:
        self.renewal = trio.Event()
        await self.renewal.wait()
        raise Cut("made anew, as certificates have changed")

    async def _read(self, channel: Channel) -> None:
        """Nothing but signs of life comes back; reading is what notices the connection's end."""
        while True:
            for frame in await channel.receive():
                match frame.kind:
                    case Kind.PONG:
                        pass
                    case Kind.GOODBYE:
                        self._link.presence.goodbye(channel)
                    case _:
                        raise Malformed(f"a {frame.kind.name} frame on a lane that we dialled")

    async def _ping(self, channel: Channel) -> None:
        clock, period_seconds = self._setting.clock, self._setting.ping_seconds
        while True:
            channel.post(Kind.PING)
            await sleep(clock, period_seconds / TICKS_PER_PING)
            silent_seconds = clock.now() - channel.heard_at
            if silent_seconds > SILENT_PINGS * period_seconds:
                raise Cut(f"nothing heard for {silent_seconds:.1f} s")
