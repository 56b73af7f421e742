"""`nefia mcp serve`: the cluster as tools for agents."""

from __future__ import annotations

from typing import Any, Literal

import click

from nefia.cli.cluster import initialize
from nefia.cli.framework import Group, Setup, pass_setup


@click.group(cls=Group)
def mcp() -> None:
    """The Model Context Protocol, for agents."""


@mcp.command()
@click.option("--read-only", is_flag=True, help="Neither list nor perform what changes anything.")
@click.option(
    "--tool-names",
    "names",
    type=click.Choice(["dotted", "underscore"]),
    default="dotted",
    show_default=True,
    help="nefia.cluster.status, or nefia_cluster_status for clients that reject dots.",
)
@pass_setup
def serve(setup: Setup, read_only: bool, names: Literal["dotted", "underscore"]) -> None:
    """Speak MCP on stdin and stdout, and ask the daemon for what an agent wants."""
    from nefia.mcp_server import serve  # it takes a second to import

    serve(_Admin(setup), read_only=read_only, names=names)


class _Admin:
    """The daemon that the command's options lead to, looked for at each question."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup

    def ask(self, action: str, *, timeout: float | None, **params: object) -> dict[str, Any]:
        return self._setup.ask(action, timeout=timeout, **params)

    def initialize(self, timeout: float | None) -> str:
        return initialize(self._setup, timeout)
