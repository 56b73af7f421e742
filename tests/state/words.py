"""A program's own state machine, for tests: it keeps words in order, and does as it is told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nefia.errors import Refused


class Words:
    name = "words"

    def __init__(self) -> None:
        self.words: list[bytes] = []
        self.times: list[int] = []

    def apply(self, command: bytes, time_ms: int) -> bytes:
        if not command:
            raise Refused("Nothing is no word.")
        if command == b"raise":
            self.words.append(b"half done")
            raise ValueError("no such word")
        if command == b"too long":
            return bytes(256 * 1024 + 1)
        if command == b"no bytes":
            return "text"  # type: ignore[return-value]
        self.words.append(command)
        self.times.append(time_ms)
        return b"%d" % len(self.words)

    def snapshot(self) -> Iterable[bytes]:
        return list(self.words)

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.words = list(chunks)


class Lazy(Words):
    """Wrong: what it gives out is what there is when it is asked, not when the snapshot began."""

    def snapshot(self) -> Iterable[bytes]:
        return self._later()

    def _later(self) -> Iterator[bytes]:
        yield from self.words
