"""`nefia bench`: how many changes a second this cluster takes, and how long each of them waits.

A change is one task pushed to a queue of the benchmark's own, synced on a majority and applied, as
every push is. The tasks are not to be had by any worker, not even by one that claims from any
queue, since they are delayed by a year; at the end they are cancelled, which is not measured. As
all finished tasks they stay in the state for a day, so there is a limit to how much of them one
run may leave.
"""

from __future__ import annotations

import json
import math
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click
from attrs import frozen

from nefia.admin import MAX_LINE_BYTES
from nefia.admin.client import DEFAULT_TIMEOUT_SECONDS, AdminClient, connect
from nefia.admin.lines import LineBuffer
from nefia.cli.framework import (
    Command,
    Setup,
    duration,
    output_option,
    pass_setup,
    timeout_option,
)
from nefia.cli.load import Load, Plan, percentile
from nefia.cli.output import STRUCTURED, note, show_fields
from nefia.cli.processes import cpu_seconds, listeners_at, server_of
from nefia.errors import EXIT_INTERRUPTED, InvalidArgument, NefiaError, NoDaemon, TooLarge
from nefia.units import format_size

DEFAULT_QUEUE = "nefia-bench"
DEFAULT_COUNT = 10_000
DELAY = "8760h"
"""The longest that a task may be delayed."""

MAX_IN_FLIGHT = 4096
"""What the daemon reads of one connection before it answers; more would only wait in the socket."""
MAX_BATCH = 1000
MAX_PAYLOAD_BYTES = 256 * 1024 - 2
"""What a task may carry, without the quotes of a string."""
TASK_OVERHEAD_BYTES = 1024
"""About what a task takes in a daemon's memory besides its payload."""
MAX_LEFT_BYTES = 256 << 20
"""What one run may leave in every node's memory for a day."""

IN_FLIGHT = 64
FORWARDED_IN_FLIGHT = 8
"""A leader answers few requests of another node at a time, and refuses more."""
CANCEL_ATTEMPTS = 5
"""The first one here, the others by whoever leads by then."""
CANCEL_PAUSE_SECONDS = 1.0

_DONE = re.compile(rb'\{"seq":\s*(\d+),\s*"ok":\s*true')
"""How the daemon writes an answer; one that is written otherwise is read as JSON."""
_TASK_ID = re.compile(rb'"id":\s*"(\d+)"')


class Calls:
    """An `Exchange` of calls of the admin API. `line` makes a request; `done` is told answers."""

    def __init__(
        self, line: Callable[[int], bytes], done: Callable[[bytes], None] = lambda answer: None
    ) -> None:
        self.error: NefiaError | None = None
        self.refused = 0
        self.request = line
        self._done = done
        self._lines = LineBuffer()

    def feed(self, data: bytes) -> list[int]:
        answers = [line for line in self._lines.feed(data) if line is not None]
        return [number for number in map(self._read, answers) if number is not None]

    def owed(self) -> bytes:
        return b""

    def _read(self, line: bytes) -> int | None:
        if found := _DONE.match(line):
            number = int(found[1])
        else:
            answer = json.loads(line)
            if answer["ok"] is not True:
                self.refused += 1
                self.error = self.error or NefiaError.from_json(answer["error"])
                return None
            number = answer["seq"]
        self._done(line)
        return number


@frozen
class Pushes:
    """What is pushed: `batch` tasks a request, each with a string of `payload_bytes`."""

    queue: str
    payload_bytes: int
    batch: int
    forward: bool

    def line(self) -> Callable[[int], bytes]:
        """Makes the line of request n. Raises TooLarge if there is no room for it in a line."""
        task = {"payload": "x" * self.payload_bytes, "queue": self.queue, "delay": DELAY}
        rest = task if self.batch == 1 else {"tasks": [task] * self.batch}
        make = _line_of("queue_push", rest, self.forward)
        longest = len(make(sys.maxsize))
        if longest > MAX_LINE_BYTES:
            raise TooLarge(
                f"{self.batch} tasks of {self.payload_bytes} bytes make a request of {longest} "
                f"bytes, of at most {MAX_LINE_BYTES}",
                hint="lower --batch or --payload",
            )
        return make

    def most(self) -> int:
        """How many tasks one run may leave behind for a day."""
        return MAX_LEFT_BYTES // (self.payload_bytes + TASK_OVERHEAD_BYTES)


def _line_of(action: str, params: dict[str, Any], forward: bool) -> Callable[[int], bytes]:
    params = params | ({"forward": True} if forward else {})
    before = f'{{"action":"{action}","seq":'.encode()
    after = b"," + json.dumps(params, separators=(",", ":")).encode()[1:] + b"\n"
    return lambda number: b"%b%d%b" % (before, number, after)


@click.command(cls=Command)
@click.option(
    "--in-flight",
    type=click.IntRange(1, MAX_IN_FLIGHT),
    metavar="N",
    help=f"Requests on their way at a time, {IN_FLIGHT}, or {FORWARDED_IN_FLIGHT} with --forward.",
)
@click.option(
    "--payload",
    "payload_bytes",
    type=click.IntRange(0, MAX_PAYLOAD_BYTES),
    default=256,
    show_default=True,
    metavar="BYTES",
    help="What each task carries.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, MAX_BATCH),
    default=1,
    show_default=True,
    metavar="N",
    help="Tasks in one request.",
)
@click.option(
    "--count",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Tasks in all, {DEFAULT_COUNT} unless --duration is given.",
)
@click.option(
    "--duration",
    "seconds",
    metavar="DURATION",
    callback=duration,
    help="How long to go on. With --count: whichever is reached first.",
)
@click.option(
    "--queue",
    default=DEFAULT_QUEUE,
    show_default=True,
    metavar="NAME",
    help="Where the tasks go; no worker gets them.",
)
@click.option("--forward", is_flag=True, help="On a follower: pass them on to the leader.")
@timeout_option
@output_option
@pass_setup
def bench(
    setup: Setup,
    /,
    form: str,
    timeout: float | None,
    in_flight: int | None,
    count: int | None,
    seconds: float | None,
    **params: Any,
) -> int:
    """Measure this cluster: push tasks, show changes a second and latencies, cancel the tasks.

    Ctrl-C ends it early and shows what was measured until then.
    """
    pushes = Pushes(**params)
    line = pushes.line()
    tasks = _tasks(pushes, count, seconds)
    plan = Plan(
        in_flight=in_flight or (FORWARDED_IN_FLIGHT if pushes.forward else IN_FLIGHT),
        count=math.ceil(tasks / pushes.batch),
        seconds=math.inf if seconds is None else seconds,
        timeout_seconds=DEFAULT_TIMEOUT_SECONDS if timeout is None else timeout,
    )
    path = str(setup.socket_path())
    with AdminClient(path) as client:
        members = client.call("members", timeout=plan.timeout_seconds)["members"]
    made: list[bytes] = []
    calls = Calls(line, lambda answer: made.extend(_TASK_ID.findall(answer)))
    with connect(path) as connection, _bar("pushing tasks") as progress:
        load = Load(connection, calls, plan, progress)
        cpu = _Cpu(members, connection)
        with _ending_at_ctrl_c(load) as interrupted:
            load.run()
    if load.sent == plan.count and count is None and seconds is not None:
        note(f"It ended after {tasks} tasks, the most that one run may leave behind.")
    if load.latencies:
        result = _result(load, pushes, plan.in_flight, cpu) | {"interrupted": bool(interrupted)}
        STRUCTURED.get(form, _show)(result)
    _cancel(path, made, pushes.queue, plan.timeout_seconds, lost=load.outstanding * pushes.batch)
    if load.error:
        if load.latencies:
            note("The run ended early, by a request that failed:")
        raise load.error
    return EXIT_INTERRUPTED if interrupted else 0


def _tasks(pushes: Pushes, count: int | None, seconds: float | None) -> int:
    """How many to push at most. Raises InvalidArgument for more than may be left behind."""
    if seconds == 0:
        raise InvalidArgument("--duration must be longer than nothing")
    most = pushes.most()
    if count is not None and count > most:
        raise InvalidArgument(
            f"{count} tasks of {pushes.payload_bytes} bytes would take more than "
            f"{format_size(MAX_LEFT_BYTES)} of every node's memory for a day",
            hint=f"at most {most} of them can be pushed in one run",
        )
    if count is not None:
        return count
    return most if seconds is not None else min(DEFAULT_COUNT, most)


@contextmanager
def _bar(label: str) -> Iterator[Callable[[float], None]]:
    """A progress bar on a terminal: the function that moves it to a share of its length."""
    if not sys.stderr.isatty():
        yield lambda share: None
        return
    with click.progressbar(length=1000, label=label, file=sys.stderr) as bar:
        yield lambda share: bar.update(round(1000 * share) - bar.pos)


@contextmanager
def _ending_at_ctrl_c(load: Load) -> Iterator[list[int]]:
    """The first Ctrl-C lets the requests in flight be answered, the second one does not.

    Gives a list that is no longer empty after the first.
    """
    received: list[int] = []

    def receive(number: int, frame: object) -> None:
        if received:
            load.give_up()
        load.stop()
        received.append(number)

    before = signal.signal(signal.SIGINT, receive)
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, before)


class _Cpu:
    """The CPU seconds of all members' daemons from now on, as far as they run on this machine."""

    def __init__(self, members: list[dict[str, Any]], connection: socket.socket) -> None:
        own = {member["id"]: server_of(connection) for member in members if member["local"]}
        others = {member["id"]: member["address"] for member in members if not member["local"]}
        self._processes = own | listeners_at(others)
        self._before = self._now()

    def spent(self) -> dict[str, float | None]:
        """By node id; None where it is not known."""
        now = self._now()
        return {name: _less(now[name], before) for name, before in self._before.items()}

    def _now(self) -> dict[str, float | None]:
        return {name: cpu_seconds(pid) for name, pid in self._processes.items()}


def _less(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else round(after - before, 2)


def _result(load: Load, pushes: Pushes, in_flight: int, cpu: _Cpu) -> dict[str, Any]:
    ordered = sorted(load.latencies)
    changes = len(ordered) * pushes.batch
    return {
        "changes": changes,
        "seconds": round(load.seconds, 6),
        "changes_per_second": round(changes / load.seconds, 1),
        "latency_ms": {
            "p50": round(percentile(ordered, 0.50) * 1000, 3),
            "p99": round(percentile(ordered, 0.99) * 1000, 3),
            "max": round(ordered[-1] * 1000, 3),
        },
        "cpu_seconds": cpu.spent(),
        "client_cpu_seconds": round(load.cpu_seconds, 3),
        "in_flight": in_flight,
        "payload_bytes": pushes.payload_bytes,
        "batch": pushes.batch,
        "queue": pushes.queue,
    }


def _show(result: dict[str, Any]) -> None:
    fields: dict[str, object] = {
        "Changes": f"{result['changes']} in {result['seconds']:.3f} s",
        "Changes/s": round(result["changes_per_second"]),
    }
    for name, milliseconds in result["latency_ms"].items():
        fields[f"Latency {name}"] = f"{milliseconds:.2f} ms"
    for name, seconds in result["cpu_seconds"].items():
        unknown = "not known: it runs elsewhere or for another user"
        fields[f"CPU of {name}"] = unknown if seconds is None else f"{seconds:.2f} s"
    fields["CPU of nefia bench"] = f"{result['client_cpu_seconds']:.2f} s"
    show_fields(fields)


def _cancel(path: str, made: list[bytes], queue: str, timeout: float, *, lost: int) -> None:
    """Cancel the tasks that were made. `lost`: how many more there may be, never answered for.

    Should this node not lead by now, it is tried again after a pause, by whoever leads then.
    """
    remaining = dict.fromkeys(task.decode() for task in made)
    for attempt in range(CANCEL_ATTEMPTS):
        if not remaining:
            break
        if attempt:
            time.sleep(CANCEL_PAUSE_SECONDS)
        if _cancel_once(path, remaining, timeout, forward=attempt > 0):
            break
    if left := len(remaining) + lost:
        note(
            f"note: up to {left} tasks are left in the queue {queue}. No worker gets them; "
            f"`nefia queue list --queue {queue} --state pending` shows them."
        )


def _cancel_once(path: str, remaining: dict[str, None], timeout: float, *, forward: bool) -> bool:
    """Take those that are cancelled out of `remaining`; whether Ctrl-C ended it."""
    lines = [_line_of("queue_cancel", {"id": task}, forward) for task in remaining]

    def done(answer: bytes) -> None:
        for task in _TASK_ID.findall(answer):
            remaining.pop(task.decode(), None)

    calls = Calls(lambda number: lines[number](number), done)
    in_flight = FORWARDED_IN_FLIGHT if forward else IN_FLIGHT
    plan = Plan(in_flight, len(lines), timeout_seconds=timeout)
    with suppress(NoDaemon), connect(path) as connection, _bar("cancelling them") as progress:
        load = Load(connection, calls, plan, progress)
        with _ending_at_ctrl_c(load) as interrupted:
            load.run()
        return bool(interrupted)
    return False
