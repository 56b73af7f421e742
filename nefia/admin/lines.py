"""Bytes into lines, with a bound: pure, so that any way of cutting the stream can be tested."""

from __future__ import annotations

from nefia.admin import MAX_LINE_BYTES


class LineBuffer:
    """Collects what arrives and gives out whole lines without their newline.

    None stands for a line of more than `MAX_LINE_BYTES`: its bytes are dropped as they come, and
    the line after it is whole again. Holds at most `MAX_LINE_BYTES`, besides what is fed at once.
    """

    def __init__(self) -> None:
        self._begun = bytearray()
        self._too_long = False

    def feed(self, data: bytes | bytearray) -> list[bytes | None]:
        *ends, rest = bytes(data).split(b"\n")
        lines = [self._end(ends[0])] if ends else []
        # What is as short as a line has none in it that is longer.
        lines += ends[1:] if len(data) <= MAX_LINE_BYTES else map(_whole, ends[1:])
        self._grow(rest)
        return lines

    def finish(self) -> list[bytes | None]:
        """The last line, if the stream ended without a newline behind it."""
        return [self._end(b"")] if self._begun or self._too_long else []

    def _end(self, piece: bytes | bytearray) -> bytes | None:
        self._grow(piece)
        line = None if self._too_long else bytes(self._begun)
        self._begun = bytearray()
        self._too_long = False
        return line

    def _grow(self, piece: bytes | bytearray) -> None:
        if len(self._begun) + len(piece) > MAX_LINE_BYTES:
            self._too_long = True
        if self._too_long:
            self._begun = bytearray()
        else:
            self._begun += piece


def _whole(line: bytes) -> bytes | None:
    return line if len(line) <= MAX_LINE_BYTES else None
