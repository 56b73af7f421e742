"""`nefia watch`: what happens on a node, as it happens."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

import click

from nefia.admin.client import AdminClient
from nefia.cli.framework import Command, Setup, pass_setup
from nefia.cli.output import cell, line

TOPICS = ("role", "leader", "membership", "service", "queue", "session")
CHANGE_WIDTH = 10
TOPIC_WIDTH = 10
SHOWN = {
    "queue": ("id", "queue", "host", "state", "attempt", "worker", "token", "error"),
    "session": ("id", "host", "user", "cwd"),
}
"""What a line tells of a task or session, if it is not empty."""


@click.command(cls=Command)
@click.option(
    "--event",
    "events",
    multiple=True,
    type=click.Choice(TOPICS),
    help="Only of this kind. May be given several times.",
)
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    help="A line for people or a JSON object for each event.",
)
@pass_setup
def watch(setup: Setup, events: tuple[str, ...], form: str) -> None:
    """Show what happens on this node until Ctrl-C: roles, leaders, members, tasks, sessions.

    A follower shows the changes of tasks and sessions that it applies, as the leader does.
    """
    asked = {"events": list(events)} if events else {}
    with AdminClient(setup.socket_path()) as client:
        for event in client.watch(**asked):
            if form == "json":
                line(json.dumps(event))
            else:
                line(_described(event))
            sys.stdout.flush()


def _described(event: dict[str, Any]) -> str:
    topic = event.pop("event")
    change = event.pop("change", "")
    record = event.pop("task", None) or event.pop("session", None)
    if record is not None:
        event = {name: record[name] for name in SHOWN[topic] if record.get(name) not in ("", None)}
    if "members" in event:
        event["members"] = [
            member["id"] + ("" if member["voter"] else " (learner)") for member in event["members"]
        ]
    now = datetime.now(UTC).strftime("%H:%M:%S.%f")[:-3]
    details = " ".join(f"{name}={_short(value)}" for name, value in event.items())
    return f"{now} {topic:<{TOPIC_WIDTH}} {change:<{CHANGE_WIDTH}} {details}".rstrip()


def _short(value: object) -> str:
    return ",".join(map(cell, value)) if isinstance(value, list) else cell(value)
