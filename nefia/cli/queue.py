"""`nefia queue`: the cluster's task queue."""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any, NoReturn

import click

from nefia.admin import MAX_LINE_BYTES
from nefia.admin.client import DEFAULT_TIMEOUT_SECONDS
from nefia.cli.framework import (
    Group,
    Json,
    Setup,
    argument_or_option,
    changing_state,
    pass_setup,
    reading_state,
)
from nefia.cli.listing import show_list
from nefia.cli.output import (
    STRUCTURED,
    label_of,
    line,
    note,
    show_changed,
    show_fields,
    show_objects,
)
from nefia.errors import InvalidArgument
from nefia.units import parse_duration

STATES = ("pending", "leased", "done", "dead", "cancelled")
LIST_COLUMNS = ("id", "queue", "state", "priority", "attempt", "host", "worker", "run_at")
WIDE_COLUMNS = (
    *LIST_COLUMNS,
    "max_attempts",
    "key",
    "token",
    "lease_expires_at",
    "created_at",
    "updated_at",
    "finished_at",
    "error",
    "payload",
)
STATS_COLUMNS = ("queue", "pending", "ready", *STATES[1:], "oldest_ready_at")
WIDE_STATS_COLUMNS = (
    *STATS_COLUMNS,
    "oldest_pending_at",
    "pushed/min",
    "claimed/min",
    "done/min",
    "failed/min",
)


@click.group(cls=Group)
def queue() -> None:
    """The task queue."""


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def json_value(context: click.Context, parameter: click.Parameter, text: str | None) -> Json | None:
    """A callback: the value of a JSON text, or of stdin for `-`."""
    if text is None:
        return None
    if text == "-":
        # The daemon takes no more, and an endless pipe must not fill the memory.
        text = sys.stdin.read(MAX_LINE_BYTES)
    try:
        return Json(json.loads(text, parse_constant=_refuse))
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"the {parameter.name} is not JSON: {error}",
            hint="text needs quotes of its own within the shell's: '\"text\"'",
        ) from None


def _show_state(result: dict[str, Any], form: str) -> None:
    task = result["task"]
    when = f", not before {task['run_at']}" if task["state"] == "pending" else ""
    show_changed(result, form, f"Task {task['id']} is {task['state']}{when}.")


def _show_fields(task: dict[str, Any]) -> None:
    show_fields({label_of(key): value for key, value in task.items()})


@queue.command()
@click.argument("payload", callback=json_value, required=False)
@click.option(
    "--batch",
    callback=json_value,
    metavar="JSON",
    help="Several tasks: a list of objects with payload and the like; - for stdin.",
)
@click.option("--queue", help="Which queue.")
@click.option("--host", help="The host that it is for.")
@click.option("--priority", type=int, help="Higher goes first.")
@click.option("--delay", metavar="DURATION", help="Not before so long from now.")
@click.option("--key", help="A second push under it changes nothing.")
@click.option("--max-attempts", type=int, help="Claims before it is dead.")
@changing_state
@pass_setup
def push(setup: Setup, /, form: str, batch: Json | None, **params: Any) -> None:
    """Add a task and print its id. PAYLOAD is JSON, or - to read it from stdin."""
    if (batch is None) == (params["payload"] is None):
        raise click.UsageError("Give either a PAYLOAD or a --batch of tasks.")
    result = setup.change("queue_push", tasks=batch, **params)
    if batch is not None:
        show_changed(result, form, "\n".join(task["id"] for task in result["tasks"]))
        return
    task = result["task"]
    if not result["changed"]:
        note(f"Task {task['id']} has this key already; nothing was changed.")
    show_changed(result, form, task["id"])


@queue.command()
@click.option("--worker", help="Who will do it. Else this host and process.")
@click.option("--queue", help="Only of this queue.")
@click.option("--host", help="Only tasks for this host.")
@click.option("--lease", metavar="DURATION", help="How long the worker has.")
@click.option("--wait", metavar="DURATION", help="Wait for a task to become ready.")
@click.option("--limit", type=int, help="Up to so many tasks at once.")
@changing_state
@pass_setup
def claim(
    setup: Setup,
    /,
    form: str,
    worker: str | None,
    wait: str | None,
    timeout: float | None,
    **params: Any,
) -> None:
    """Lease the best ready task and show it, with the token that its worker needs."""
    if timeout is None:
        timeout = DEFAULT_TIMEOUT_SECONDS + _seconds("--wait", wait)
    worker = worker or f"{socket.gethostname()}:{os.getppid()}"
    result = setup.change("queue_claim", worker=worker, wait=wait, timeout=timeout, **params)
    if form in STRUCTURED:
        STRUCTURED[form](result)
        return
    tasks = result["tasks"] if "tasks" in result else [result["task"]] if result["task"] else []
    if not tasks:
        note("No task is ready.")
    for number, task in enumerate(tasks):
        if number:
            line("")
        _show_fields(task)


def _seconds(option: str, text: str | None) -> float:
    try:
        return parse_duration(text) if text is not None else 0.0
    except ValueError as error:
        raise InvalidArgument(f"{option}: {error}") from None


def _token(function: Any) -> Any:
    return argument_or_option("token", "That of the claim.", kind=int)(function)


@queue.command()
@click.argument("id")
@_token
@click.option("--lease", metavar="DURATION", help="How long the worker has, from now.")
@changing_state
@pass_setup
def extend(setup: Setup, /, form: str, **params: Any) -> None:
    """Prolong a lease."""
    result = setup.change("queue_extend", **params)
    task = result["task"]
    show_changed(result, form, f"Task {task['id']} is leased until {task['lease_expires_at']}.")


@queue.command()
@click.argument("id")
@_token
@click.option("--result", callback=json_value, metavar="JSON", help="What came of it; - for stdin.")
@changing_state
@pass_setup
def ack(setup: Setup, /, form: str, **params: Any) -> None:
    """Say that a task is done."""
    _show_state(setup.change("queue_ack", **params), form)


@queue.command()
@click.argument("id")
@_token
@click.option("--error", metavar="TEXT", help="Why.")
@click.option("--retry-after", metavar="DURATION", help="Else it is an exponential backoff.")
@changing_state
@pass_setup
def fail(setup: Setup, /, form: str, **params: Any) -> None:
    """Say that a task has failed; it is tried again, or dead after its last attempt."""
    _show_state(setup.change("queue_fail", **params), form)


@queue.command()
@click.argument("id")
@changing_state
@pass_setup
def cancel(setup: Setup, /, form: str, **params: Any) -> None:
    """Cancel a task."""
    _show_state(setup.change("queue_cancel", **params), form)


@queue.command()
@click.argument("id")
@changing_state
@pass_setup
def retry(setup: Setup, /, form: str, **params: Any) -> None:
    """Give a dead or cancelled task another life."""
    _show_state(setup.change("queue_retry", **params), form)


@queue.command()
@click.argument("id")
@reading_state
@pass_setup
def show(setup: Setup, /, form: str, **params: Any) -> None:
    """Show one task."""
    result = setup.ask("queue_get", **params)
    if form in STRUCTURED:
        STRUCTURED[form](result)
    else:
        _show_fields(result["task"])


@queue.command("list")
@click.option("--queue", help="Only this queue's.")
@click.option(
    "--state",
    type=click.Choice(STATES),
    help="Only those in this state.",
)
@click.option("--host", help="Only this host's.")
@click.option("--limit", type=int, help="At most so many.")
@click.option("--cursor", help="Where the page before ended.")
@reading_state
@pass_setup
def list_tasks(setup: Setup, /, form: str, **params: Any) -> None:
    """List tasks, oldest first; with -o json all of them."""
    show_list(setup, "queue_list", "tasks", form, (LIST_COLUMNS, WIDE_COLUMNS), **params)


@queue.command()
@click.option("--queue", help="Only this queue.")
@reading_state
@pass_setup
def stats(setup: Setup, /, form: str, **params: Any) -> None:
    """Count the tasks of each queue by state; with -o wide also what comes and goes."""
    result = setup.ask("queue_stats", **params)
    if form in STRUCTURED:
        STRUCTURED[form](result)
        return
    rows = [
        {"queue": name} | counts | {f"{what}/min": rate for what, rate in per_minute.items()}
        for name, counts in result["queues"].items()
        for per_minute in [counts["per_minute"]]
    ]
    show_objects(rows, STATS_COLUMNS if form == "table" else WIDE_STATS_COLUMNS)
