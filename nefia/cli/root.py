"""`nefia` itself, and the commands that stand alone."""

from __future__ import annotations

import click

from nefia import __version__
from nefia.cli.bench import bench
from nefia.cli.cert import cert
from nefia.cli.cluster import cluster
from nefia.cli.drill import drill
from nefia.cli.event import event
from nefia.cli.framework import Root, Setup, pass_setup
from nefia.cli.guard import guard
from nefia.cli.mcp import mcp
from nefia.cli.output import line
from nefia.cli.queue import queue
from nefia.cli.service import service
from nefia.cli.session import session
from nefia.cli.snapshot import snapshot
from nefia.cli.watch import watch

MAX_DEV_NODES = 9


@click.group(cls=Root)
@click.version_option(__version__, message="nefia %(version)s")
def root() -> None:
    """Active-passive high availability for an operator's daemon."""


root.add_command(cluster)
root.add_command(session)
root.add_command(queue)
root.add_command(service)
root.add_command(event)
root.add_command(watch)
root.add_command(cert)
root.add_command(snapshot)
root.add_command(bench)
root.add_command(drill)
root.add_command(guard)
root.add_command(mcp)


@root.command()
@pass_setup
def daemon(setup: Setup) -> int:
    """Run this node."""
    config = setup.load()
    from nefia.starting import start

    return start(config)


@root.command()
@click.option(
    "--nodes", type=click.IntRange(1, MAX_DEV_NODES), default=3, show_default=True, metavar="N"
)
@click.option("--directory", type=click.Path(), help="Where to keep it. Else it is temporary.")
@click.option("--tls", is_flag=True, help="With TLS between the nodes of a new one.")
def dev(nodes: int, directory: str | None, tls: bool) -> int:
    """Run a whole cluster on this machine, to try nefia out."""
    from nefia.dev import main

    return main(nodes, directory, tls=tls)


@root.command()
def version() -> None:
    """Print the version."""
    line(f"nefia {__version__}")


@root.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes SHELL complete nefia's commands: eval "$(nefia completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, shell
    line(kind(root, {}, "nefia", "_NEFIA_COMPLETE").source())


@root.group()
def config() -> None:
    """The configuration file."""


@config.command()
@pass_setup
def check(setup: Setup) -> None:
    """Check nefia.yaml as the daemon does at its start."""
    line(f"{setup.load().path} is correct.")
