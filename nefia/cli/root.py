"""`nefia` itself, and the commands that stand alone."""

from __future__ import annotations

import click

from nefia import __version__
from nefia.cli.framework import Root, Setup, pass_setup
from nefia.cli.output import line

MAX_DEV_NODES = 9

MODULES = frozenset(
    {
        "bench",
        "cert",
        "cluster",
        "drill",
        "event",
        "guard",
        "mcp",
        "queue",
        "service",
        "session",
        "snapshot",
        "watch",
    }
)
"""Commands in modules of this package with their names: a call needs one of them at most."""


@click.group(cls=Root, modules=MODULES)
@click.version_option(__version__, message="nefia %(version)s")
def root() -> None:
    """Active-passive high availability for an operator's daemon."""


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
