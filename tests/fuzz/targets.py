"""What reads bytes from outside, and what it may do with them: return, or raise its own error."""

from __future__ import annotations

import ssl
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random

from attrs import evolve, frozen

from nefia import wire
from nefia.admin import MAX_LINE_BYTES
from nefia.admin.lines import LineBuffer
from nefia.admin.protocol import Refusal, Request, encode_error, parse_request
from nefia.admin.restoring import Step, encode_step, restore_step, steps
from nefia.certificates import describe, untrusted
from nefia.credentials import load_credentials
from nefia.errors import InvalidArgument
from nefia.net import handshake
from nefia.net.frames import MAX_HELLO_BYTES, FrameReader, Kind, header
from nefia.net.handshake import ASK, PROBE, RAFT, Hello, View, Welcome
from nefia.net.tls import tls_context
from nefia.net.tls_object import TlsObject
from nefia.openssl import SSL, x509
from nefia.raft.configuration import Member
from nefia.state.commands import (
    Change,
    ClaimTasks,
    Command,
    NewTask,
    OpenSession,
    PushTasks,
    RestorePart,
)
from nefia.state.machine import Machine
from nefia.storage.snapshot_format import INFOS, Encoder, Sealer
from nefia.wire import Malformed
from tests.certificates import RECIPES, bake, spoiled, write
from tests.storage.snapshots_made import described, state

FIXTURES = Path(__file__).parents[2] / "fixtures/wire"
FEED_BYTES = 4096
END = b"-----END CERTIFICATE-----\n"


@frozen
class Target:
    """`run` raises for a mistake of ours only. `weight`: inputs in each hundred or so."""

    name: str
    seeds: Callable[[], Sequence[bytes]]
    run: Callable[[bytes], None]
    weight: int


@cache
def recorded(name: str) -> tuple[bytes, ...]:
    """The encodings in fixtures/wire/: indented lines of hexadecimal bytes."""
    lines = (FIXTURES / name).read_text().splitlines()
    return tuple(bytes.fromhex(line) for line in lines if line.startswith("  "))


def decoding(decode: Callable[[bytes], object]) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        with suppress(Malformed):
            decode(data)

    return run


# Frames and handshakes.


@cache
def handshakes() -> tuple[bytes, ...]:
    members = (Member("node-1", "10.99.0.1:9700", voter=True),)
    view = View(state="Leader", term=7, leader_id="node-1", leader_addr="h:1", members=members)
    welcome = Welcome(node_id="node-1", instance_id="i", cluster_id="c", incarnation="x")
    hello = Hello(
        purpose=RAFT,
        node_id="node-1",
        instance_id="i",
        cluster_id="c",
        incarnation="x",
        address="10.99.0.1:9700",
    )
    values: tuple[handshake.Handshake, ...] = (
        *(evolve(hello, purpose=purpose) for purpose in (RAFT, ASK, PROBE)),
        welcome,
        evolve(welcome, view=view),
        handshake.Refusal("busy", "not now"),
    )
    return tuple(handshake.encode(value) for value in values)


@cache
def frames() -> tuple[bytes, ...]:
    bodies = [(Kind.HANDSHAKE, body) for body in handshakes()]
    bodies += [(Kind.MESSAGE, body) for body in recorded("messages.txt")]
    bodies += [(kind, b"") for kind in (Kind.PING, Kind.PONG, Kind.GOODBYE)]
    single = [header(kind, body) + body for kind, body in bodies]
    too_long = header(Kind.MESSAGE, bytes(MAX_HELLO_BYTES)) + bytes(MAX_HELLO_BYTES)
    return (*single, b"".join(single), too_long)


def read_frames(data: bytes) -> None:
    """In pieces of every size; what is held is bounded by the limit and what was fed last."""
    pieces, reader = Random(len(data)), FrameReader(MAX_HELLO_BYTES)
    fed = 0
    while fed < len(data):
        piece = data[fed : fed + pieces.randrange(1, FEED_BYTES)]
        fed += len(piece)
        reader.feed(piece)
        try:
            while (frame := reader.next()) is not None:
                assert len(frame.body) < MAX_HELLO_BYTES
        except Malformed:
            return
        assert len(reader._buffer) <= MAX_HELLO_BYTES + len(piece)


# Snapshots: what a leader offers, and what an operator puts back.


@cache
def offers() -> tuple[bytes, ...]:
    encoder, sealer = Encoder(state(7)), Sealer()
    while records := encoder.next_chunk():
        sealer.seal(records)
    return (INFOS.encode(sealer.info(described(7), encoder.kinds)),)


@cache
def restoring() -> tuple[Step, ...]:
    """The steps that put back two tasks and a session."""
    machine = Machine()
    session = OpenSession("0011aabb", "web-1", "/", "/", "root", "sh", {"a": "b"}, 60_000, 1_000)
    tasks = (NewTask(b"1", key="k"), NewTask(b"2", delay_ms=9_000, priority=-3))
    commands: tuple[Command, ...] = (session, PushTasks(tasks), ClaimTasks("w", "", "", 1_000, 1))
    for index, command in enumerate(commands):
        machine.apply(index + 1, [Change(1_000, "", command)])
    return tuple(steps("r", machine.snapshot_records(), 2))


@cache
def parts() -> tuple[bytes, ...]:
    (part,) = [step for step in restoring() if isinstance(step, RestorePart)]
    return part.sessions, part.tasks


def put_back(data: bytes) -> None:
    begin, *_, end = restoring()
    for sessions, tasks in ((data, parts()[1]), (parts()[0], data)):
        endure(begin, RestorePart("r", 0, sessions, tasks), end)


def read_step(data: bytes) -> None:
    begin, part, end = restoring()
    with suppress(InvalidArgument):
        step = restore_step(b64encode(data).decode())
        for steps_taken in ((step, part, end), (begin, step, end), (begin, part, step)):
            endure(*steps_taken)


def endure(*steps_taken: Step) -> None:
    """Whatever they hold, the state machine goes on: it would fail on all nodes at once."""
    machine, claim = Machine(), ClaimTasks("w", "", "", 1_000, 10)
    for index, command in enumerate((*steps_taken, claim)):
        change = Change(10_000 * index, "", command)
        wire.encode_change(change)
        machine.apply(index + 1, [change])
    encoder = Encoder(machine.snapshot_records())
    while encoder.next_chunk():
        pass
    assert machine.digest() == Machine.from_records(machine.snapshot_records()).digest()


# The admin protocol.

LINES = (
    b'{"action": "status", "seq": 7}\n',
    b'{"action": "queue_push", "payload": {"n": [1, null, "x"]}, "priority": 3, "delay": "1.5s"}\n',
    b'{"action": "queue_claim", "worker": "w", "wait": "30s", "limit": 5, "seq": "a"}\n',
    b'{"action": "session_open", "host": "h", "labels": {"a": "b"}, "request_id": "r"}\n',
    b'{"action": "add_peer", "id": "node-2", "addr": "10.99.0.2:9700", "forward": true}\n',
    b'{"action": "queue_list", "state": "leased", "cursor": "x", "consistency": "local"}\n',
    b'{"action": "queue_ack", "id": "1", "token": 18446744073709551616, "result": 1e400}\n',
)


def read_lines(data: bytes) -> None:
    buffer = LineBuffer()
    for line in (*buffer.feed(data), *buffer.feed(data[::-1]), *buffer.finish()):
        parsed = parse_request(line)
        assert isinstance(parsed, Request | Refusal)
        if isinstance(parsed, Refusal):
            assert len(encode_error(parsed.seq, parsed.error)) <= MAX_LINE_BYTES + 1


# TLS: before anybody has proved anything.


@cache
def certificates() -> tuple[bytes, ...]:
    pems = [bake(recipe, "node-1").certificate for recipe in RECIPES]
    leaves = [pem[: pem.index(END) + len(END)] for pem in (*pems, spoiled(pems[0]))]
    return tuple(ssl.PEM_cert_to_DER_cert(pem.decode()) for pem in leaves)


def read_certificate(data: bytes) -> None:
    with suppress(ValueError):
        untrusted(lambda: describe(x509.load_der_x509_certificate(data)))


@cache
def context() -> SSL.Context:
    with tempfile.TemporaryDirectory() as directory:
        return tls_context(load_credentials(write(Path(directory), bake("both", "node-1"))))


def ends() -> tuple[TlsObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = TlsObject(context())
    server.wrap_bio(incoming, outgoing, server_side=True, server_hostname=None)
    return server, incoming, outgoing


@cache
def hellos() -> tuple[bytes, ...]:
    """What clients begin with: ours, one that speaks older versions too, and alerts after it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = TlsObject(context())
    ours.wrap_bio(incoming, outgoing, server_side=False, server_hostname=None)
    with suppress(ssl.SSLError):
        ours.do_handshake()
    old, old_out = ssl.create_default_context(), ssl.MemoryBIO()
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    with suppress(ssl.SSLError):
        old.wrap_bio(ssl.MemoryBIO(), old_out, server_hostname="x").do_handshake()
    close_notify, handshake_failure = (bytes.fromhex("15030300020" + n) for n in ("100", "228"))
    hello = outgoing.read()
    return hello, old_out.read(), hello + close_notify, hello + handshake_failure


def begin_tls(data: bytes) -> None:
    server, incoming, _ = ends()
    incoming.write(data)
    incoming.write_eof()
    for _ in range(4):
        with suppress(ssl.SSLError):
            server.do_handshake()
    assert server.verdict.certificate is None, "nobody has shown one"


TARGETS = (
    Target("frames", frames, read_frames, 20),
    Target("handshakes", handshakes, decoding(handshake.decode), 20),
    Target("messages", lambda: recorded("messages.txt"), decoding(wire.MESSAGES.decode), 25),
    Target("entries", lambda: recorded("entries.txt"), decoding(wire.decode_entry), 15),
    Target(
        "configurations",
        lambda: recorded("configurations.txt"),
        decoding(wire.decode_configuration),
        5,
    ),
    Target("batches", lambda: recorded("batches.txt"), decoding(wire.decode_batch), 15),
    Target("snapshot offers", offers, decoding(INFOS.decode), 5),
    Target("restore steps", lambda: [b64decode(encode_step(s)) for s in restoring()], read_step, 3),
    Target("restored records", parts, put_back, 3),
    Target("records", lambda: recorded("records.txt"), decoding(wire.RECORDS.decode), 10),
    Target("admin lines", lambda: LINES, read_lines, 25),
    Target("certificates", certificates, read_certificate, 8),
    Target("TLS hellos", hellos, begin_tls, 2),
)
