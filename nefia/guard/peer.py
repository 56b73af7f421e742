"""The guard's end of its connection to the daemon. Never waits."""

from __future__ import annotations

import socket
from collections import deque

from nefia.guard.protocol import MAX_MESSAGE_BYTES, FromGuard, ToGuard, decode_to_guard, encode

MAX_RECEIVED_AT_ONCE = 32
"""Messages taken before timers and processes have their turn."""
MAX_WAITING = 256
"""Messages for a daemon that does not read them; it is cut off then."""


class PeerGone(Exception):
    """The daemon's end is closed, or does not read."""


class Peer:
    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._waiting: deque[bytes] = deque()

    @property
    def fd(self) -> int:
        return self._socket.fileno()

    @property
    def wants_to_send(self) -> bool:
        return bool(self._waiting)

    def send(self, message: FromGuard) -> None:
        """Raises PeerGone."""
        if len(self._waiting) >= MAX_WAITING:
            raise PeerGone("it does not read")
        self._waiting.append(encode(message))
        self.send_waiting()

    def send_waiting(self) -> None:
        """As much as goes. Raises PeerGone."""
        try:
            while self._waiting:
                self._socket.send(self._waiting[0], socket.MSG_NOSIGNAL)
                self._waiting.popleft()
        except BlockingIOError:
            pass
        except OSError as error:
            raise PeerGone(str(error)) from error

    def receive(self) -> list[ToGuard]:
        """What has come, in order. Raises PeerGone and GuardMessageMalformed.

        What came before the end of the connection comes before PeerGone.
        """
        messages: list[ToGuard] = []
        try:
            for _ in range(MAX_RECEIVED_AT_ONCE):
                data = self._socket.recv(MAX_MESSAGE_BYTES)
                if not data:
                    raise ConnectionResetError("its end is closed")
                messages.append(decode_to_guard(data))
        except BlockingIOError:
            pass
        except OSError as error:
            if not messages:
                raise PeerGone(str(error)) from error
        return messages

    def close(self) -> None:
        self._socket.close()
