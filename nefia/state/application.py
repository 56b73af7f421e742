"""The state machine of a program that embeds nefia, hosted inside nefia's own (docs/embedding.md).

Its commands are changes like any other, so that request ids, cluster time, snapshots and the order
of the log are nefia's. What it may not do is decided here, alike on every node:

* a `Refused` that it raises is an outcome, and is remembered as one;
* whatever else it raises, and an answer that is none, is `MachineFailed` and ends the node, since
  nobody knows how much of the command was done. The entry stays in the log, so a corrected program
  performs it;
* a command for another machine, or state of another one, is `OtherMachine`, and ends it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Protocol

from nefia.errors import MachineFailed, OtherMachine, Refused
from nefia.state.commands import ApplicationCommand
from nefia.state.digest import DIGEST_BYTES, canonical, sum_of
from nefia.state.limits import MAX_ERROR_BYTES, MAX_RESULT_BYTES
from nefia.state.records import (
    ApplicationOutcome,
    ApplicationPart,
    ApplicationState,
    Outcome,
    Refusal,
)

PART_BYTES = 128 * 1024
"""A longer chunk of a snapshot is stored in such pieces, so that no record is large."""


class StateMachine(Protocol):
    """What a program brings. The same commands must make the same state and answers everywhere.

    So nothing in it may ask a clock, draw a random number, read a file or go by the order of a set:
    what depends on these belongs into the command.
    """

    @property
    def name(self) -> str:
        """What its commands are addressed to: the same on every node, at most 40 bytes."""
        ...

    def apply(self, command: bytes, time_ms: int, /) -> bytes:
        """Perform one command, at `time_ms` of cluster time, which never goes back.

        Called in the event loop: it must be quick. The answer has at most 256 KiB. Raises `Refused`
        before it has changed anything; whatever else it raises ends the node.
        """
        ...

    def snapshot(self) -> Iterable[bytes]:
        """The state as it is at this moment, in chunks of any size.

        Called in the event loop, so it must be quick: a list, or an iterator over something that
        never changes. The chunks are asked for later, while commands are applied.
        """
        ...

    def restore(self, chunks: Iterable[bytes], /) -> None:
        """Take the state that `snapshot` gave, of which these are the chunks, in order.

        Called once, before anything else, and in a thread.
        """
        ...


Host = Callable[[], StateMachine]
"""Makes a machine in its first state: one at the start, another for each snapshot that arrives."""


class Application:
    """The machine, which `host` has made, and what nefia itself keeps of it."""

    def __init__(self, host: Host, machine: StateMachine, state: ApplicationState | None) -> None:
        self.host = host
        self.machine = machine
        self.state = state or ApplicationState(machine.name, 0, b"")

    def apply(self, command: ApplicationCommand, now: int) -> Outcome:
        """Raises OtherMachine and MachineFailed, after which this state is of no use any more."""
        if command.machine != self.state.machine:
            raise other_machine(command.machine, self.state.machine)
        outcome: Outcome
        try:
            outcome = ApplicationOutcome(_checked(self.machine.apply(command.body, now)))
        except Refused as refusal:
            outcome = Refusal(Refused.code, _clean(refusal.message))
        except Exception as error:
            raise _failed(self.machine, "a command", error) from error
        link = canonical((self.state.chain, now, command.body, outcome))
        self.state = ApplicationState(
            command.machine,
            self.state.applied + 1,
            blake2b(link, digest_size=DIGEST_BYTES).digest(),
        )
        return outcome

    def digest(self) -> int:
        """Nothing, until there is something to restore."""
        return sum_of([self.state]) if self.state.applied else 0

    def records(self) -> Iterator[tuple[str, ApplicationState | ApplicationPart]]:
        """As it is now; its chunks are asked for later. Raises MachineFailed, then too."""
        if not self.state.applied:
            return iter(())
        try:
            chunks = iter(self.machine.snapshot())
        except Exception as error:
            raise _failed(self.machine, "a snapshot", error) from error
        return self._records(self.state, chunks)

    def _records(
        self, state: ApplicationState, chunks: Iterator[bytes]
    ) -> Iterator[tuple[str, ApplicationState | ApplicationPart]]:
        yield "application", state
        try:
            for chunk in chunks:
                for part in _parts(chunk):
                    yield "application_part", part
        except Exception as error:
            raise _failed(self.machine, "a snapshot", error) from error


def hosted(
    host: Host | None, state: ApplicationState | None = None, parts: Sequence[ApplicationPart] = ()
) -> Application | None:
    """What `host` makes, in the state of a snapshot if there is any; None for neither.

    Raises OtherMachine and MachineFailed.
    """
    if host is None:
        if state is not None:
            raise other_machine(state.machine, "")
        return None
    machine = host()
    if state is not None:
        if machine.name != state.machine:
            raise other_machine(state.machine, machine.name)
        try:
            machine.restore(_chunks(parts))
        except Exception as error:
            raise _failed(machine, "restoring a snapshot", error) from error
    return Application(host, machine, state)


def other_machine(wanted: str, found: str, where: str = "this node") -> OtherMachine:
    return OtherMachine(
        f"the changes are for a program's state machine, {wanted}; {where} runs {found or 'none'}",
        hint=f"run the program that brings {wanted} there; a plain nefia daemon cannot take part",
    )


def _failed(machine: StateMachine, what: str, error: Exception) -> MachineFailed:
    return MachineFailed(
        f"the state machine {machine.name} has failed at {what}: {type(error).__name__}: {error}",
        hint="correct the program and start it again: nothing is lost, and what failed comes again",
        machine=machine.name,
    )


def _checked(result: bytes) -> bytes:
    if type(result) is not bytes:
        raise TypeError(f"apply must return bytes, not {type(result).__name__}")
    if len(result) > MAX_RESULT_BYTES:
        raise ValueError(f"apply returned {len(result)} bytes; at most {MAX_RESULT_BYTES} may be")
    return result


def _clean(message: str) -> str:
    """Text that every encoding here takes."""
    return message[:MAX_ERROR_BYTES].encode("utf-8", "replace").decode()


def _parts(chunk: bytes) -> Iterator[ApplicationPart]:
    for begin in range(0, max(len(chunk), 1), PART_BYTES):
        end = begin + PART_BYTES
        yield ApplicationPart(bytes(chunk[begin:end]), more=end < len(chunk))


def _chunks(parts: Iterable[ApplicationPart]) -> Iterator[bytes]:
    pieces: list[bytes] = []
    for part in parts:
        pieces.append(part.data)
        if not part.more:
            yield b"".join(pieces)
            pieces.clear()
