"""SSH sessions: opened, used, updated, closed; gone when their time or their idle time is over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import takewhile

from msgspec.structs import replace

from nefia.state.commands import CloseSession, OpenSession, TouchSession, UpdateSession
from nefia.state.digest import Table
from nefia.state.limits import MAX_EXPIRIES_PER_APPLY, MAX_SESSIONS, MIN_SESSION_ID_DIGITS
from nefia.state.ordered import SortedList
from nefia.state.pages import page_of
from nefia.state.records import Outcome, Refusal, Session, SessionOutcome


class Sessions:
    """All sessions, and where to find them; everything but `table` is derived from it.

    `now` is always the time of the state. A session that has expired by then does not exist for
    any caller, even while its turn to be removed has not come: that is at the next collection.
    """

    def __init__(self, sessions: Iterable[Session]) -> None:
        self.table: Table[str, Session] = Table((session.id, session) for session in sessions)
        records = self.table.records
        self.ids: SortedList[str] = SortedList(records)
        self._ids_of_host: dict[str, SortedList[str]] = {}
        for session in records.values():
            self._ids_of_host.setdefault(session.host, SortedList()).add(session.id)
        self._by_expiry: SortedList[tuple[int, str]] = SortedList(
            (session.expires_ms, session.id) for session in records.values()
        )

    # Commands.

    def open(self, command: OpenSession, now: int) -> Outcome:
        former = self.table.records.get(command.id)
        if former is not None and now < former.expires_ms:
            return Refusal("conflict", f"There is a session {command.id} already.")
        if former is not None:
            self._remove(former)
        if len(self.ids) >= MAX_SESSIONS:
            self.expire(now)  # earlier than their turn, to make room
        if len(self.ids) >= MAX_SESSIONS:
            return Refusal("overloaded", f"There are {MAX_SESSIONS} sessions, the most allowed.")
        session = Session(
            id=command.id,
            host=command.host,
            root=command.root,
            cwd=command.cwd,
            user=command.user,
            shell=command.shell,
            labels=command.labels,
            created_ms=now,
            last_used_ms=now,
            ttl_end_ms=now + command.ttl_ms,
            idle_timeout_ms=command.idle_timeout_ms,
        )
        self.insert(session)
        return SessionOutcome(session)

    def insert(self, session: Session) -> None:
        """One whose id is not here yet."""
        self.table.put(session.id, session)
        self.ids.add(session.id)
        self._ids_of_host.setdefault(session.host, SortedList()).add(session.id)
        self._by_expiry.add((session.expires_ms, session.id))

    def touch(self, command: TouchSession, now: int) -> Outcome:
        session = self.find(command.id, now)
        if isinstance(session, Refusal):
            return session
        return self._use(session, replace(session, last_used_ms=now))

    def update(self, command: UpdateSession, now: int) -> Outcome:
        session = self.find(command.id, now)
        if isinstance(session, Refusal):
            return session
        cwd = session.cwd if command.cwd is None else command.cwd
        labels = session.labels if command.labels is None else command.labels
        return self._use(session, replace(session, cwd=cwd, labels=labels, last_used_ms=now))

    def close(self, command: CloseSession, now: int) -> Outcome:
        session = self.find(command.id, now)
        if isinstance(session, Refusal):
            return session
        self._remove(session)
        return SessionOutcome(session)

    # Time.

    def expire(self, now: int) -> bool:
        """Whether nothing is overdue any more."""
        for _ in range(MAX_EXPIRIES_PER_APPLY):
            if not self._by_expiry or self._by_expiry[0][0] > now:
                return True
            self._remove(self.table.records[self._by_expiry[0][1]])
        return False

    def next_expiry_ms(self, now: int, gc_ms: int) -> int | None:
        """When the next session expires, or those that have are collected, every `gc_ms`."""
        following = next(self._by_expiry.irange((now + 1, ""), inclusive=(True, True)), None)
        times = [] if following is None else [following[0]]
        if self._by_expiry and (first_ms := self._by_expiry[0][0]) <= now:
            times.append(first_ms + -first_ms % gc_ms)
        return min(times, default=None)

    # Reading.

    def find(self, prefix: str, now: int) -> Session | Refusal:
        """The session whose id is `prefix`, or else the only one whose id begins with it."""
        exact = self.table.records.get(prefix)
        if exact is not None and now < exact.expires_ms:
            return exact
        if len(prefix) < MIN_SESSION_ID_DIGITS:
            return Refusal("not_found", f'There is no session "{prefix}".')
        following = self.ids.irange(prefix, inclusive=(True, True))
        matching = self._alive(takewhile(lambda found: found.startswith(prefix), following), now)
        first, second = next(matching, None), next(matching, None)
        if first is None:
            return Refusal("not_found", f'There is no session "{prefix}".')
        if second is not None:
            return Refusal("conflict", f'Several session ids begin with "{prefix}".')
        return first

    def page(
        self, host: str, limit: int, cursor: str, now: int
    ) -> tuple[tuple[Session, ...], str | None]:
        """See `Machine.list_sessions`."""
        ids = self._ids_of_host.get(host, SortedList()) if host else self.ids
        following = ids.irange(cursor, inclusive=(False, True))
        page, more = page_of(self._alive(following, now), limit)
        return page, page[-1].id if more else None

    def _alive(self, ids: Iterable[str], now: int) -> Iterator[Session]:
        sessions = (self.table.records[session_id] for session_id in ids)
        return (session for session in sessions if now < session.expires_ms)

    # Keeping the records and what is derived from them together.

    def _use(self, old: Session, new: Session) -> SessionOutcome:
        self.table.put(new.id, new)
        self._by_expiry.remove((old.expires_ms, old.id))
        self._by_expiry.add((new.expires_ms, new.id))
        return SessionOutcome(new)

    def _remove(self, session: Session) -> None:
        self.table.remove(session.id)
        self.ids.remove(session.id)
        self._by_expiry.remove((session.expires_ms, session.id))
        ids_of_host = self._ids_of_host[session.host]
        ids_of_host.remove(session.id)
        if not ids_of_host:
            del self._ids_of_host[session.host]
