"""`nefia cluster why|watch`: what a node knows of its cluster, in words and live in a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import click
from attrs import frozen

from nefia.admin.why import degradations, explain
from nefia.cli.framework import Command, Setup, duration, output_option, pass_setup, timeout_option
from nefia.cli.output import STRUCTURED, cell, line
from nefia.errors import InvalidArgument, NefiaError, NewerFormat

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

MIN_INTERVAL_SECONDS = 0.2
"""The screen is drawn no more often."""
MAX_INTERVAL_SECONDS = 60.0
READ_SECONDS = 2.0
SHOWN_EVENTS = 6
MEMBER_COLUMNS = ("id", "address", "state", "voter", "last_contact_ms", "lag")
STATE_STYLES = {
    "Leader": "bold green",
    "Candidate": "yellow",
    "Unreachable": "bold red",
    "Removed": "red",
}


@click.command(cls=Command)
@output_option
@timeout_option
@pass_setup
def why(setup: Setup, form: str, timeout: float | None) -> None:
    """Why there is no leader, or why this node cannot lead: what it knows, in plain words.

    It asks nobody but the daemon here, so it works when the cluster does not.
    """
    status = setup.ask("status", timeout=timeout)
    sentences = explain(status)
    if not sentences:
        raise NewerFormat(
            "the daemon that answers is of an earlier version, which has nothing to say of this",
            hint="restart it",
        )
    if form in STRUCTURED:
        STRUCTURED[form]({"why": sentences, "evidence": status["evidence"]})
    else:
        line("\n".join(sentences))


@click.command("watch", cls=Command)
@click.option(
    "--interval",
    metavar="DURATION",
    default="1s",
    show_default=True,
    callback=duration,
    help="How often to look and draw.",
)
@pass_setup
def live(setup: Setup, interval: float) -> None:
    """Show the cluster live in the terminal until Ctrl-C; elsewhere, show it once."""
    if not MIN_INTERVAL_SECONDS <= interval <= MAX_INTERVAL_SECONDS:
        raise InvalidArgument("--interval must be between 200ms and 1m")
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if not sys.stdout.isatty():
        console.print(frame(look(setup)))
        return
    with Live(console=console, screen=True, auto_refresh=False) as screen:
        while True:
            screen.update(frame(look(setup)), refresh=True)
            time.sleep(interval)


@frozen
class View:
    """What one look has found. `error` is why something is missing, None if nothing is."""

    status: Mapping[str, Any] | None
    members: Mapping[str, Any] | None
    events: tuple[Mapping[str, Any], ...]
    error: NefiaError | None
    at: str


def look(setup: Setup) -> View:
    """Never raises for what may pass: a daemon that is down, a cluster without a leader."""
    status = members = error = None
    events: list[dict[str, Any]] = []
    try:
        status = setup.ask("status", timeout=READ_SECONDS)
        members = setup.ask("members", timeout=READ_SECONDS)
        recent = setup.ask("history", timeout=READ_SECONDS, limit=SHOWN_EVENTS, consistency="local")
        events = recent["events"]
    except NefiaError as problem:
        error = problem
    return View(status, members, tuple(events), error, time.strftime("%H:%M:%S"))


def frame(view: View) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    if view.status is not None:
        parts.append(_headline(view.status, view.at))
        parts += [Text(f"  {each}") for each in explain(view.status)]
    if view.members is not None:
        parts += [Text(), _members(view.members)]
    if view.events:
        parts += [Text(), _events(view.events)]
    if view.error is not None:
        parts += [Text(), Text(f"{view.error.code}: {view.error.message}", style="red")]
    return Group(*parts)


def _headline(status: Mapping[str, Any], at: str) -> Text:
    from rich.text import Text

    state = str(status["state"])
    text = Text.assemble(
        (str(status["node_id"]), "bold"),
        "  ",
        (state, STATE_STYLES.get(state, "")),
        f"  leader {cell(status['leader_id'])}  term {status['term']}"
        f"  applied {status['applied_index']} of {status['commit_index']}  {at}  ",
    )
    found = degradations(status)
    return text.append("degraded" if found else "healthy", style="red" if found else "green")


def _members(members: Mapping[str, Any]) -> RenderableType:
    from rich.text import Text

    def shown(value: object) -> Text:
        return Text(cell(value), style=STATE_STYLES.get(str(value), ""))

    rows = [[shown(row.get(key)) for key in MEMBER_COLUMNS] for row in members["members"]]
    return _table(("ID", "ADDRESS", "STATE", "VOTER", "LAST CONTACT (MS)", "LAG"), rows)


def _events(events: Iterable[Mapping[str, Any]]) -> RenderableType:
    from rich.text import Text

    keys = ("at", "kind", "node_id", "term", "detail")
    rows = [[Text(cell(event.get(key) or None)) for key in keys] for event in events]
    return _table(("AT", "EVENT", "NODE", "TERM", "DETAIL"), rows)


def _table(headers: tuple[str, ...], rows: Iterable[Iterable[Text]]) -> RenderableType:
    from rich.table import Table

    table = Table(*headers, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row)
    return table
