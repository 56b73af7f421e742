"""A small HTTP client: one request, one connection."""

from __future__ import annotations

import trio
from attrs import frozen


@frozen
class Answered:
    code: int
    headers: dict[str, str]
    body: bytes


async def get(port: int, path: str, method: str = "GET", extra: str = "") -> Answered:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        request = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{extra}Connection: close\r\n\r\n"
        await stream.send_all(request.encode())
        received = b"".join([chunk async for chunk in stream])
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Answered(int(first.split(" ")[1]), headers, body)
