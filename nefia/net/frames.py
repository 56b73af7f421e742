"""Frames: how bytes on a connection fall into pieces. Pure; no stream in sight.

A frame is a length (4 bytes, big-endian, of what follows), a kind (1 byte) and a body.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from attrs import frozen

from nefia.wire import Malformed

MAX_FRAME_BYTES = 8 * 1024 * 1024
"""Kind and body of one frame, at most."""

MAX_HELLO_BYTES = 4 * 1024
"""The same for a peer that has not introduced itself yet."""

MAX_WELCOME_BYTES = 256 * 1024
"""The same for the answer to our hello, which may list all members."""

TLS_PREFIX = 0x1603
"""What a TLS connection begins with (RFC 8446, 5.1): a length that is beyond every limit here."""

_HEADER = struct.Struct(">IB")
_LENGTH_BYTES = 4
FRAME_OVERHEAD_BYTES = _HEADER.size


class Kind(IntEnum):
    """What a frame is for. A number is never given to another kind."""

    HANDSHAKE = 1
    MESSAGE = 2
    """One Raft message; only from the dialling side."""
    REQUEST = 3
    ANSWER = 4
    PING = 5
    """"Do you hear me?", from the dialling side. It needs no answer of its own: see PONG."""
    PONG = 6
    """"I have heard something from you since my last pong.\""""
    GOODBYE = 7
    """The sender's process is about to end on purpose."""
    DATA = 8
    """A block of a snapshot."""


_KINDS = {int(kind): kind for kind in Kind}


@frozen
class Frame:
    kind: Kind
    body: bytes


def header(kind: Kind, body: bytes) -> bytes:
    """What precedes `body` on the connection."""
    assert len(body) < MAX_FRAME_BYTES, f"a body of {len(body)} bytes fits no frame"
    return _HEADER.pack(len(body) + 1, kind)


class FrameReader:
    """Bytes in, frames out. Holds at most one frame, and what the last `feed` brought beyond it.

    `max_frame_bytes` may be changed between two frames.
    """

    def __init__(self, max_frame_bytes: int) -> None:
        self.max_frame_bytes = max_frame_bytes
        self._buffer = bytearray()
        self._offset = 0
        """Where in `_buffer` the next frame begins; what is before it has been returned."""

    def feed(self, data: bytes | bytearray) -> None:
        self._buffer += data

    def next(self) -> Frame | None:
        """The next frame, or None until more bytes come.

        Raises `Malformed` for a length beyond the limit, as soon as it is seen, and for an unknown
        kind; the reader is of no use afterwards.
        """
        start = self._offset + _LENGTH_BYTES
        if len(self._buffer) < start:
            self._forget_returned()
            return None
        length = int.from_bytes(self._buffer[self._offset : start], "big")
        end = start + length
        if length >> 16 == TLS_PREFIX and length > self.max_frame_bytes:
            raise Malformed("this is TLS, which this node does not speak (tls_enabled is false)")
        if not 1 <= length <= self.max_frame_bytes:
            raise Malformed(f"a frame of {length} bytes; 1 to {self.max_frame_bytes} are allowed")
        if len(self._buffer) < end:
            self._forget_returned()
            return None
        kind = _KINDS.get(self._buffer[start])
        if kind is None:
            raise Malformed(f"a frame of the unknown kind {self._buffer[start]}")
        with memoryview(self._buffer) as view:
            body = bytes(view[start + 1 : end])
        self._offset = end
        return Frame(kind, body)

    def _forget_returned(self) -> None:
        """Once per batch and not once per frame, since it moves the rest of the buffer."""
        del self._buffer[: self._offset]
        self._offset = 0
