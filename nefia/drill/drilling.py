"""The course of a drill: look, push, take the leader away, watch, put right, gather, clean up."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import Any

from attrs import frozen

from nefia.drill.judging import Acknowledged, Evidence, Leader, Node
from nefia.drill.pushing import Pusher
from nefia.drill.watching import Watch, leader_of, node_at
from nefia.drill.ways import LOOK_SECONDS, Way, find_ways
from nefia.errors import DrillRefused, NefiaError, OutcomeUnknown, Permission

QUEUE_PREFIX = "nefia-drill-"
ID_BYTES = 4
USUAL_SECONDS = 1.0
"""Of changes before the leader is taken away, and after all is well again."""
POLL_SECONDS = 0.02
TRANSFER_SECONDS = 60.0
SETTLE_SECONDS = 20.0
"""For whoever was away to come back, and for all to have applied the same."""
REASON = "nefia drill"


class Kind(StrEnum):
    TRANSFER = "transfer"
    KILL = "kill"
    FREEZE = "freeze"


@frozen
class Drill:
    """What will be done. `local` is the leader's daemon if it is to be signalled on this machine.

    `watchers` are the ways by which changes are made and watched meanwhile.
    """

    kind: Kind
    own: Way
    ways: tuple[Way, ...]
    watchers: tuple[Way, ...]
    before: Leader
    address: str
    local: Way | None
    services: tuple[str, ...]

    @property
    def by_hand(self) -> bool:
        return self.kind is not Kind.TRANSFER and self.local is None


def prepare(kind: Kind, path: str, pid: int | None) -> Drill:
    """By the daemon that serves at `path`. Raises DrillRefused, Permission, and what it answers."""
    own = Way("", path, pid)
    status = own.ask("status", LOOK_SECONDS)
    own.node_id = status["node_id"]
    view = own.ask("members", LOOK_SECONDS)
    _check_health(kind, status, view)
    before = Leader(status["leader_id"], status["term"])
    ways = find_ways(own, status["cluster_id"], view["members"])
    others = tuple(way for way in ways if way.node_id != before.node_id)
    local = None
    if kind is not Kind.TRANSFER:
        local = next((way for way in ways if way.node_id == before.node_id and way.pid), None)
        _check_signals(local, others)
    return Drill(
        kind=kind,
        own=own,
        ways=tuple(ways),
        watchers=others or tuple(ways),
        before=before,
        address=status["leader_addr"],
        local=local,
        services=tuple(service["name"] for service in view.get("services", [])),
    )


def _check_health(kind: Kind, status: dict[str, Any], view: dict[str, Any]) -> None:
    """A drill begins with a cluster that can stand it."""
    if status["leader_id"] is None or view.get("note"):
        raise DrillRefused(
            f"{status['node_id']} knows no leader that answers",
            hint="see nefia cluster why; a drill begins with all being well",
        )
    voters = [member for member in view["members"] if member["voter"]]
    if silent := [member["id"] for member in voters if not member["reachable"]]:
        raise DrillRefused(
            f"{', '.join(silent)} does not answer: a drill now could stop the cluster",
            hint="start a drill when nefia cluster members shows every voter reachable",
        )
    least = 2 if kind is Kind.TRANSFER else 3
    if len(voters) < least:
        raise DrillRefused(
            f"the cluster has {len(voters)} voters, and {kind} takes {least} at least: "
            "nobody could take over",
            hint="add nodes with nefia cluster add-peer",
        )
    down = [service["name"] for service in view.get("services", []) if not _runs(service)]
    if down:
        raise DrillRefused(
            f"not running on the leader: {', '.join(down)}",
            hint="see nefia service list there; a drill begins with all being well",
        )


def _check_signals(local: Way | None, others: tuple[Way, ...]) -> None:
    if local is None:
        return
    if not others:
        raise DrillRefused(
            f"{local.node_id} leads, and no other member's daemon runs on this machine, so that "
            "nobody could watch",
            hint="run the drill on a follower, which tells what to do here",
        )
    try:
        os.kill(local.pid or 0, 0)
    except OSError as error:
        raise Permission(
            f"the daemon of {local.node_id} (pid {local.pid}) may not be signalled: "
            f"{error.strerror}",
            hint="run the drill as the daemon's user, or as root",
        ) from None


def _runs(service: dict[str, Any]) -> bool:
    return bool(service["state"] == "running")


class Course:
    """One drill as it goes. `say` is told in sentences what happens."""

    def __init__(self, drill: Drill, patience_seconds: float, say: Callable[[str], None]) -> None:
        self._drill = drill
        self._patience_seconds = patience_seconds
        self._say = say
        self._queue = QUEUE_PREFIX + os.urandom(ID_BYTES).hex()
        self._pusher = Pusher(drill.watchers, self._queue)
        self._watch = Watch(drill.ways)
        self._after: Leader | None = None
        self._ran_at: float | None = None
        self._acted_at: float | None = None

    def run(self) -> tuple[Evidence, int]:
        """What was seen, and how many tasks could not be cancelled. Raises NefiaError.

        However it ends, a leader that was frozen goes on, and the tasks are cancelled.
        """
        try:
            with self._pushing():
                self._usual()
                with self._leader_away():
                    self._await_successor()
                    self._await_services()
                self._usual()
            missing, leader_index = self._settle()
            evidence = self._gather(missing, leader_index)
        except BaseException:
            self._clean_up()
            raise
        return evidence, self._clean_up()

    @contextmanager
    def _pushing(self) -> Iterator[None]:
        self._pusher.start()
        try:
            yield
        finally:
            self._pusher.stop()

    def _usual(self) -> None:
        """Changes as they are while nothing happens. Raises what they are refused with."""
        begun = time.monotonic()
        self._until(lambda: time.monotonic() - begun >= USUAL_SECONDS, 2 * USUAL_SECONDS)
        if not self._acknowledged_since(begun) and self._after is None and self._pusher.error:
            raise self._pusher.error

    @contextmanager
    def _leader_away(self) -> Iterator[None]:
        drill = self._drill
        if drill.by_hand:
            self._say(_instructions(drill))
            yield
            if drill.kind is Kind.FREEZE:
                self._say(f"Now let it go on:\n  {_signal_command('CONT')}")
            return
        self._acted_at = time.monotonic()
        if drill.kind is Kind.TRANSFER:
            # A leader that hands over may have no time left to say so; what follows shows it.
            with suppress(OutcomeUnknown):
                drill.own.ask("transfer_leader", TRANSFER_SECONDS, forward=True, reason=REASON)
            yield
            return
        assert drill.local is not None
        assert drill.local.pid
        number = signal.SIGKILL if drill.kind is Kind.KILL else signal.SIGSTOP
        os.kill(drill.local.pid, number)
        try:
            yield
        finally:
            if drill.kind is Kind.FREEZE:
                with suppress(ProcessLookupError):  # a watchdog may have ended it meanwhile
                    os.kill(drill.local.pid, signal.SIGCONT)

    def _await_successor(self) -> None:
        """A newer term, and a change acknowledged since that was seen."""
        if not self._until(self._successor_seen, self._patience_seconds):
            return
        seen_at = time.monotonic()
        if not self._until(lambda: self._acknowledged_since(seen_at), self._patience_seconds):
            self._after = None

    def _successor_seen(self) -> bool:
        found = leader_of(self._watch.look(self._drill.before.node_id))
        if found is None or found.term <= self._drill.before.term:
            return False
        self._after = found
        return True

    def _acknowledged_since(self, begun: float) -> bool:
        acknowledged = self._pusher.acknowledged
        return bool(acknowledged) and acknowledged[-1].at > begun

    def _await_services(self) -> None:
        if self._drill.services and self._after is not None:
            self._until(self._services_run, self._patience_seconds)

    def _services_run(self) -> bool:
        """As the new leader says, which tells since when too."""
        for way in self._drill.watchers:
            try:
                view = way.ask("members", LOOK_SECONDS)
            except NefiaError:
                continue
            services = view.get("services", [])
            names = {service["name"] for service in services if _runs(service)}
            if view["note"] is None and names >= set(self._drill.services):
                newest_ms = min(service["since_ms"] for service in services)
                self._ran_at = time.monotonic() - newest_ms / 1000
                return True
        return False

    def _settle(self) -> tuple[tuple[str, ...], int]:
        """The voters that the leader does not hear, and its last index, once all is well again.

        That is not waited for longer than SETTLE_SECONDS, nor longer than for a leader.
        """
        found: tuple[tuple[str, ...], int] = ((), 0)

        def settled() -> bool:
            nonlocal found
            statuses = self._watch.look()
            for way in self._drill.ways:
                try:
                    view = way.ask("members", LOOK_SECONDS)
                except NefiaError:
                    continue
                found = _absent(view), _last_index(view)
                absent, index = found
                applied = [status["applied_index"] for status in statuses.values()]
                expected = {way.node_id for way in self._drill.ways} - set(absent)
                return not absent and statuses.keys() >= expected and min(applied) >= index
            return False

        self._until(settled, min(SETTLE_SECONDS, self._patience_seconds))
        return found

    def _gather(self, missing: tuple[str, ...], leader_index: int) -> Evidence:
        nodes: dict[str, Node] = {}
        for way in self._drill.ways:
            try:
                self._watch.remember_history(way)
                nodes[way.node_id] = node_at(way, self._queue)
            except NefiaError:
                continue
        self._watch.look()
        drill = self._drill
        return Evidence(
            kind=drill.kind,
            before=drill.before,
            after=self._after,
            acted_at=self._acted_at,
            acknowledged=tuple[Acknowledged, ...](self._pusher.acknowledged),
            claims=frozenset(self._watch.claims),
            digests=self._watch.digests,
            nodes=nodes,
            services=drill.services,
            services_ran_at=self._ran_at,
            leader_index=leader_index,
            missing=missing,
        )

    def _clean_up(self) -> int:
        for way in self._drill.ways:
            way.close()
        return self._pusher.clean_up()

    def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    @property
    def queue(self) -> str:
        return self._queue


def _absent(view: dict[str, Any]) -> tuple[str, ...]:
    return tuple(each["id"] for each in view["members"] if each["voter"] and not each["reachable"])


def _last_index(view: dict[str, Any]) -> int:
    """Of the node whose view it is: the leader."""
    source = next(each for each in view["members"] if each["id"] == view["source"])
    return int(source["match_index"] or 0)


def _instructions(drill: Drill) -> str:
    what = "Kill" if drill.kind is Kind.KILL else "Freeze"
    number = "KILL" if drill.kind is Kind.KILL else "STOP"
    return (
        f"{what} the daemon of {drill.before.node_id} now, on its machine ({drill.address}):\n"
        f"  {_signal_command(number)}\n"
        f"or, without systemd: kill -{number} and the pid of `nefia daemon`."
    )


def _signal_command(number: str) -> str:
    return f"systemctl kill --kill-whom=main --signal={number} nefia.service"
