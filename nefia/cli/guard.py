"""`nefia guard`: the guard as a unit of its own."""

from __future__ import annotations

import json
import os
import sys

import click

from nefia.cli.framework import Setup, pass_setup


@click.command(hidden=True)
@pass_setup
def guard(setup: Setup) -> None:
    """Run the guard of this node's services, as systemd does (nefia-guard.service).

    Without it, the daemon starts a guard by itself.
    """
    config = setup.load()
    from nefia.config.services import EXTERNAL_KINDS
    from nefia.guard.environment import NODE_ID
    from nefia.guard.kinds import to_section

    config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    sections = [to_section(each) for each in config.services if each.kind in EXTERNAL_KINDS]
    services = os.memfd_create("services", 0)
    os.write(services, json.dumps(sections).encode())
    os.lseek(services, 0, os.SEEK_SET)
    os.environ[NODE_ID] = config.node_id
    # A program anew: what it took to read the configuration does not stay in its memory.
    options = ["--state-dir", str(config.state_dir), "--services", str(services)]
    os.execv(sys.executable, [sys.executable, "-m", "nefia.guard", *options])
