"""`nefia service`: what only the leader runs."""

from __future__ import annotations

from typing import Any

import click

from nefia.cli.framework import (
    Group,
    Setup,
    argument_or_option,
    changing,
    output_option,
    pass_setup,
    timeout_option,
)
from nefia.cli.output import STRUCTURED, line, show_table
from nefia.units import format_duration

_NAME = argument_or_option("name", "The service.")


@click.group(cls=Group)
def service() -> None:
    """The leader's services: tunnels, addresses, commands, hooks, the Reactor."""


@service.command("list")
@output_option
@timeout_option
@pass_setup
def list_(setup: Setup, form: str, timeout: float | None) -> None:
    """Show the services as they are on this node, in the order in which they start."""
    result = setup.ask("service_list", timeout=timeout)
    if form in STRUCTURED:
        STRUCTURED[form](result)
        return
    headers = ["NAME", "KIND", "STATE", "SINCE", "TERM", "FAILURES", "ERROR"]
    show_table(headers, (_row(each) for each in result["services"]))


def _row(each: dict[str, Any]) -> list[object]:
    since = format_duration(each["since_ms"] // 1000) if each["since_ms"] >= 1000 else "0s"
    keys = ("name", "kind", "state")
    return [*(each[key] for key in keys), since, each["term"], each["failures"], each["error"]]


@service.command()
@_NAME
@changing
@pass_setup
def restart(setup: Setup, /, name: str, **common: Any) -> None:
    """Stop a service and start it again; on the leader."""
    setup.change("service_restart", name=name, **common)
    line(f"{name} is being restarted; see nefia service list.")


@service.command()
@_NAME
@changing
@pass_setup
def reload(setup: Setup, /, name: str, **common: Any) -> None:
    """Have a service take up its files anew, without dropping anyone; on the leader."""
    setup.change("service_reload", name=name, **common)
    line(f"{name} has been reloaded.")
