"""What `exec` and `alert` do: a command with the event on its input, a webhook, a line in the log.

Each is done at least once. A failure is an `ActionFailed`, whose message is kept with the task.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec
import structlog
import trio

from nefia import __version__
from nefia.clock import NodeClock
from nefia.config.reactor import AlertConfig, ExecConfig
from nefia.errors import NefiaError
from nefia.services.reactor.events import Event
from nefia.services.reactor.rules import rendered_argument, rendered_values
from nefia.units import format_duration

if TYPE_CHECKING:
    from httpx2 import AsyncClient

MAX_OUTPUT_BYTES = 4096
"""Of a command's output: the end of it is kept."""
OUTPUT_CHUNK_BYTES = 4096
OUTPUT_SECONDS = 0.5
"""How long we read on after a command has ended, if something that it started holds its output."""
REAP_SECONDS = 1.0
"""What SIGKILL may take; a process that the kernel cannot kill is left behind."""

_LEVELS = {"debug": "debug", "info": "info", "warning": "warning"}
_encode = msgspec.json.Encoder().encode
_log = structlog.get_logger()


class ActionFailed(NefiaError):
    """A command or webhook did not do its part. It is tried again."""

    code = "action_failed"


class Commands:
    """Runs commands, each in a process group of its own, which ends with it."""

    def __init__(self, clock: NodeClock) -> None:
        self._clock = clock
        self._groups: set[int] = set()
        self._fenced = False

    def fence(self) -> None:
        """Kill all that run, and what is just being started as soon as it has begun."""
        self._fenced = True
        for group in self._groups:
            _kill(group)

    async def run(
        self, action: ExecConfig, event: Event, text: bytes, environment: Mapping[str, str]
    ) -> dict[str, Any]:
        """{"output"} of a command that has exited with 0.

        Raises ActionFailed for any other end, and InvalidArgument where the event lacks a value.
        """
        argv = [rendered_argument(each, event) for each in action.run]
        try:
            process = await trio.lowlevel.open_process(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **environment},
            )
        except (OSError, ValueError) as error:
            raise ActionFailed(f"{argv[0]} cannot be run: {error}") from error
        self._groups.add(process.pid)
        if self._fenced:
            _kill(process.pid)
        output = bytearray()
        try:
            with self._until(action.timeout) as running:
                await self._attend(process, text, output)
        finally:
            _kill(process.pid)
            self._groups.discard(process.pid)
            with self._until(REAP_SECONDS) as reaping:
                reaping.shield = True
                await process.wait()
        said = output.decode(errors="replace")
        if running.cancelled_caught:
            lasted = format_duration(action.timeout)
            raise ActionFailed(f"{argv[0]} was killed after its timeout, {lasted}: {said}")
        if process.returncode != 0:
            raise ActionFailed(f"{argv[0]} ended with {_end_of(process)}: {said}")
        return {"output": said}

    async def _attend(self, process: trio.Process, text: bytes, output: bytearray) -> None:
        """Feed it, hear it, and return when it has ended."""
        assert process.stdin is not None
        assert process.stdout is not None
        ended = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_feed, process.stdin, text)
            nursery.start_soon(_drain, process.stdout, output, ended)
            await process.wait()
            with self._until(OUTPUT_SECONDS):
                await ended.wait()
            nursery.cancel_scope.cancel()

    def _until(self, seconds: float) -> trio.CancelScope:
        return self._clock.deadline_scope(self._clock.now() + seconds)


def _kill(group: int) -> None:
    # Nothing may be left of it, or what is left has become another user's.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _end_of(process: trio.Process) -> str:
    code = process.returncode
    assert code is not None
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


async def _feed(stdin: trio.abc.SendStream, text: bytes) -> None:
    # Not every command reads its input.
    async with stdin:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stdin.send_all(text + b"\n")


async def _drain(stdout: trio.abc.ReceiveStream, output: bytearray, ended: trio.Event) -> None:
    async with stdout:
        while chunk := await stdout.receive_some(OUTPUT_CHUNK_BYTES):
            output += chunk
            del output[:-MAX_OUTPUT_BYTES]
    ended.set()


class Alerts:
    """Posts to webhooks over connections that are kept, and writes to the log."""

    def __init__(self, clock: NodeClock) -> None:
        self._clock = clock
        self._client: AsyncClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            with trio.CancelScope() as closing:
                closing.cancel()  # without a goodbye to each server
                await client.aclose()

    async def tell(
        self, action: AlertConfig, event: Event, text: bytes, rule: str, key: str
    ) -> dict[str, Any]:
        """{"status"} of a webhook that took it, or {"logged": true}. Raises ActionFailed.

        `key` is the same each time that this alert is tried, and no other's.
        """
        if action.payload:
            content = _encode(rendered_values(action.payload, event))
        else:
            content = _encode({"rule": rule, "event": msgspec.Raw(text)})
        if action.webhook:
            return {"status": await self._post(action, content, key)}
        told = msgspec.json.decode(content)
        level = _LEVELS.get(event.severity, "error")
        getattr(_log, level)("alert", rule=rule, host=event.host, type=event.type, content=told)
        return {"logged": True}

    async def _post(self, action: AlertConfig, content: bytes, key: str) -> int:
        if self._client is None:
            # It takes a quarter of a second, in which the loop would keep no lease.
            self._client = await trio.to_thread.run_sync(_new_client)
        from httpx2 import HTTPError, InvalidURL

        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": key,
            "User-Agent": f"nefia/{__version__}",
        }
        status = 0
        with self._clock.deadline_scope(self._clock.now() + action.timeout) as asking:
            try:
                request = self._client.stream(
                    "POST", action.webhook, content=content, headers=headers
                )
                async with request as response:
                    status = response.status_code
            except (HTTPError, InvalidURL, OSError) as error:
                raise ActionFailed(f"the webhook cannot be reached: {error!r}") from error
        if asking.cancelled_caught and not status:
            lasted = format_duration(action.timeout)
            raise ActionFailed(f"the webhook has not answered within its timeout, {lasted}")
        if not 200 <= status < 300:
            raise ActionFailed(f"the webhook answered with the status {status}")
        return status


def _new_client() -> AsyncClient:
    """The whole of a request is bounded by its action's timeout, which its own would not do."""
    from httpx2 import AsyncClient

    return AsyncClient(timeout=None, follow_redirects=False)
