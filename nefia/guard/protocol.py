"""What the daemon and its guard say to each other: one JSON object a message, over SOCK_SEQPACKET.

Both ends are this program, but a guard may outlive the daemon that was updated: `Hello` carries the
version. A request has a `seq`, which its `Answered` repeats. All instants are seconds on
CLOCK_BOOTTIME, which is one for all processes of a machine.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from nefia.errors import NefiaError

VERSION = 2
SOCKET_NAME = "guard.sock"
LOCK_NAME = "guard.lock"
PATIENCE_SECONDS = 60.0
"""How long a guard waits for the one before it to end, and for what that has left to be gone; only
then it says hello."""
MAX_MESSAGE_BYTES = 128 * 1024
"""Below what a Unix socket takes at once by default (net.core.wmem_default), above any section of
nefia.yaml, which has 64 KiB in all."""
MAX_LEASE_SECONDS = 120.0
"""A lease end further ahead than this is a mistake: `leader_lease` is at most a minute."""

Section: TypeAlias = dict[str, Any]
"""One service of nefia.yaml as plain values (`nefia.guard.kinds`)."""


class GuardMessageMalformed(NefiaError):
    """Bytes that no message of this version encodes to."""

    code = "guard_message_malformed"


class _Message(Struct, frozen=True, tag_field="is", forbid_unknown_fields=True, gc=False):
    pass


# From the daemon.


class Configure(_Message, frozen=True, tag="configure"):
    """The services that may come: what an earlier guard left of them is removed, then `Over`.

    Waits for a tenure that is still being ended.
    """

    seq: int
    services: list[Section]


class Begin(_Message, frozen=True, tag="begin"):
    """A tenure. `stop_budget` in seconds: half of it after the end, what is left is fenced."""

    seq: int
    term: int
    lease_end: float
    stop_budget: float


class Renew(_Message, frozen=True, tag="renew"):
    """A later end of the lease; answered by `LeaseHeld`, unless the tenure is over."""

    lease_end: float


class End(_Message, frozen=True, tag="end"):
    """The tenure is over now. Followed by `Over`, at once if there is none."""

    seq: int
    reason: str


class HubFacts(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """What the guard has to know of a tunnel's file, which the daemon reads. No secret is in it.

    `endpoints`: where peers in the file were last heard, `192.0.2.7:51820` by public key; `kept`
    those of them that have a keepalive there.
    """

    listen_port: int | None = None
    has_dns: bool = False
    pre_down: tuple[str, ...] = ()
    post_down: tuple[str, ...] = ()
    endpoints: dict[str, str] = {}
    kept: dict[str, str] = {}


class Start(_Message, frozen=True, tag="start"):
    """Answered when it is ready or has failed to start. `hub` is there for a tunnel."""

    seq: int
    service: Section
    environment: dict[str, str]
    hub: HubFacts | None = None


class Stop(_Message, frozen=True, tag="stop"):
    """A planned stop, within the service's `stop_timeout`. Answered when nothing is left of it, at
    once if nothing is there."""

    seq: int
    name: str
    reason: str


class Fence(_Message, frozen=True, tag="fence"):
    name: str


class Reload(_Message, frozen=True, tag="reload"):
    seq: int
    name: str


class Ask(_Message, frozen=True, tag="ask"):
    """For the status of the services that run."""


ToGuard: TypeAlias = Configure | Begin | Renew | End | Start | Stop | Fence | Reload | Ask


# From the guard.


class Hello(_Message, frozen=True, tag="hello"):
    """The first message; `refused` is why it will be the last, empty if it is not."""

    version: int
    pid: int
    refused: str


class Answered(_Message, frozen=True, tag="answered"):
    """`error` is a sentence; empty when all went well."""

    seq: int
    error: str


class LeaseHeld(_Message, frozen=True, tag="lease"):
    """The guard will act on this lease end, and on no earlier one."""

    lease_end: float


class Failed(_Message, frozen=True, tag="failed"):
    """A service that was ready has ended by itself."""

    name: str
    detail: str


class Ending(_Message, frozen=True, tag="ending"):
    """The tenure has ended: all services are being stopped. `leaving`: the guard ends too."""

    reason: str
    leaving: bool


class Over(_Message, frozen=True, tag="over"):
    """Nothing external runs any more. `seq` is that of the last `Configure`, `Begin` or `End` that
    the guard had heard then."""

    seq: int


class Statuses(_Message, frozen=True, tag="statuses"):
    """By service, what its kind has to show."""

    services: dict[str, Section]


FromGuard: TypeAlias = Hello | Answered | LeaseHeld | Failed | Ending | Over | Statuses

_encoder = msgspec.json.Encoder(enc_hook=str)
_to_guard: msgspec.json.Decoder[ToGuard] = msgspec.json.Decoder(ToGuard)
_from_guard: msgspec.json.Decoder[FromGuard] = msgspec.json.Decoder(FromGuard)


def encode(message: ToGuard | FromGuard) -> bytes:
    """Raises GuardMessageMalformed for what no message may be as long as."""
    data = _encoder.encode(message)
    if len(data) > MAX_MESSAGE_BYTES:
        raise GuardMessageMalformed(f"a message of {len(data)} bytes is too long for the guard")
    return data


def decode_to_guard(data: bytes) -> ToGuard:
    """Raises GuardMessageMalformed."""
    try:
        return _to_guard.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise GuardMessageMalformed(f"not a message for the guard: {error}") from None


def decode_from_guard(data: bytes) -> FromGuard:
    """Raises GuardMessageMalformed."""
    try:
        return _from_guard.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise GuardMessageMalformed(f"not a message of the guard: {error}") from None
