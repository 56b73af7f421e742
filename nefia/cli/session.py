"""`nefia session`: the SSH sessions that the cluster keeps."""

from __future__ import annotations

from typing import Any

import click

from nefia.cli.framework import (
    Group,
    Setup,
    changing_state,
    pass_setup,
    reading_state,
)
from nefia.cli.listing import show_list
from nefia.cli.output import STRUCTURED, label_of, show_changed, show_fields

LIST_COLUMNS = ("id", "host", "user", "cwd", "last_used_at", "expires_at")
WIDE_COLUMNS = (*LIST_COLUMNS, "root", "shell", "created_at", "labels")


@click.group(cls=Group)
def session() -> None:
    """SSH sessions. An id may be shortened to a unique prefix of 8 digits."""


def _labels(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str] | None:
    pairs = [value.partition("=") for value in values]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise click.BadParameter("write it as name=value")
    return {name: value for name, _, value in pairs} if pairs else None


labels_option = click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_labels,
    help="May be given several times.",
)


@session.command("open")
@click.option("--host", required=True, help="The host that it is on.")
@click.option("--root", help="Its root directory there.")
@click.option("--cwd", help="Its working directory.")
@click.option("--user", help="Who is logged in.")
@click.option("--shell", help="What is run.")
@labels_option
@changing_state
@pass_setup
def open_session(setup: Setup, /, form: str, **params: Any) -> None:
    """Open a session and print its id."""
    result = setup.change("session_open", **params)
    show_changed(result, form, result["session"]["id"])


@session.command()
@click.argument("id")
@reading_state
@pass_setup
def show(setup: Setup, /, form: str, **params: Any) -> None:
    """Show one session."""
    result = setup.ask("session_get", **params)
    if form in STRUCTURED:
        STRUCTURED[form](result)
    else:
        show_fields({label_of(key): value for key, value in result["session"].items()})


@session.command("list")
@click.option("--host", help="Only those on this host.")
@click.option("--limit", type=int, help="At most so many.")
@click.option("--cursor", help="Where the page before ended.")
@reading_state
@pass_setup
def list_sessions(setup: Setup, /, form: str, **params: Any) -> None:
    """List sessions; with -o json all of them."""
    show_list(setup, "session_list", "sessions", form, (LIST_COLUMNS, WIDE_COLUMNS), **params)


@session.command()
@click.argument("id")
@click.option("--cwd", help="Its working directory.")
@labels_option
@changing_state
@pass_setup
def update(setup: Setup, /, form: str, **params: Any) -> None:
    """Change a session; its labels are replaced as a whole."""
    result = setup.change("session_update", **params)
    show_changed(result, form, f"{result['session']['id']} is updated.")


@session.command()
@click.argument("id")
@changing_state
@pass_setup
def touch(setup: Setup, /, form: str, **params: Any) -> None:
    """Renew a session's idle timeout."""
    result = setup.change("session_touch", **params)
    until = result["session"]["expires_at"]
    show_changed(result, form, f"{result['session']['id']} is kept until {until}.")


@session.command()
@click.argument("id")
@changing_state
@pass_setup
def close(setup: Setup, /, form: str, **params: Any) -> None:
    """Close a session."""
    result = setup.change("session_close", **params)
    show_changed(result, form, f"{result['session']['id']} is closed.")
