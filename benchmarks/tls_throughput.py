"""How fast nefia's TLS is, next to the standard library's under the same trio.SSLStream.

python -m benchmarks.tls_throughput [--rounds 9] [--megabytes 64]

Both ends run in this one process, over a TCP connection on loopback, with the same certificates.
Seconds are those of the processor (user and system), so that others on this machine count little,
and the kinds take turns: look at the ratio of the medians.
"""

from __future__ import annotations

import argparse
import ssl
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import trio
from trio.abc import Stream

from nefia.credentials import TlsFiles, load_credentials
from nefia.net.channel import RECEIVE_BYTES
from nefia.net.tls import TlsStream, tls_context
from tests.certificates import bake, write

CHUNK_BYTES = 256 * 1024
SMALL_BYTES = 100
SMALL_COUNT = 2000

Wrap = Callable[[Stream, bool], Stream]


def ours(files: TlsFiles) -> Wrap:
    context = tls_context(load_credentials(files))
    return lambda stream, server_side: TlsStream(stream, context, server_side=server_side)


def pythons(files: TlsFiles) -> Wrap:
    contexts = {}
    for server_side, purpose in ((False, ssl.Purpose.SERVER_AUTH), (True, ssl.Purpose.CLIENT_AUTH)):
        context = ssl.create_default_context(purpose, cafile=files.ca)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(files.cert, files.key)
        contexts[server_side] = context
    return lambda stream, server_side: trio.SSLStream(
        stream, contexts[server_side], server_side=server_side
    )


def plain(stream: Stream, server_side: bool) -> Stream:
    return stream


async def connected(wrap: Wrap) -> tuple[Stream, Stream]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    near = await trio.open_tcp_stream(*listener.socket.getsockname()[:2])
    far = await listener.accept()
    await listener.aclose()
    ends = wrap(near, False), wrap(far, True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends[0].send_all, b"x")
        assert await ends[1].receive_some(1) == b"x"
    return ends


async def bulk(wrap: Wrap, size_bytes: int) -> float:
    """MB in a second of processor time, one way."""
    near, far = await connected(wrap)
    chunk = bytes(CHUNK_BYTES)

    async def send() -> None:
        for _ in range(size_bytes // CHUNK_BYTES):
            await near.send_all(chunk)

    began, received = time.process_time(), 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while received < size_bytes // CHUNK_BYTES * CHUNK_BYTES:
            received += len(await far.receive_some(RECEIVE_BYTES))
    seconds = time.process_time() - began
    await trio.aclose_forcefully(near)
    await trio.aclose_forcefully(far)
    return received / seconds / 1e6


async def ping_pong(wrap: Wrap, _: int) -> float:
    """Round trips of small messages in a second of processor time."""
    near, far = await connected(wrap)
    message = bytes(SMALL_BYTES)

    async def echo() -> None:
        for _ in range(SMALL_COUNT):
            await far.send_all(await far.receive_some(RECEIVE_BYTES))

    began = time.process_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo)
        for _ in range(SMALL_COUNT):
            await near.send_all(message)
            await near.receive_some(RECEIVE_BYTES)
    seconds = time.process_time() - began
    await trio.aclose_forcefully(near)
    await trio.aclose_forcefully(far)
    return SMALL_COUNT / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--megabytes", type=int, default=64)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        files = write(Path(name), bake("both", "node-1"))
        kinds = {"nefia": ours(files), "ssl": pythons(files), "plain TCP": plain}
    print("| | nefia | ssl | plain TCP | nefia / ssl |")
    print("|---|---|---|---|---|")
    for what, measure in (("MB/s, one way", bulk), ("round trips/s", ping_pong)):
        rates: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(asked.rounds):
            for kind, wrap in kinds.items():
                rates[kind].append(trio.run(measure, wrap, asked.megabytes << 20))
        medians = {kind: statistics.median(rates[kind]) for kind in kinds}
        shown = " | ".join(f"{medians[kind]:.0f}" for kind in kinds)
        print(f"| {what} | {shown} | {medians['nefia'] / medians['ssl']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
