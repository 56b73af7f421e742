"""`nefia event`: events for the Reactor, from the command line."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nefia.cli.framework import Group, Json, Setup, pass_setup, timeout_option
from nefia.cli.output import line, note
from nefia.cli.queue import json_value
from nefia.config import parse_address
from nefia.config.reactor import SEVERITIES, websocket_url
from nefia.config.services import ReactorConfig
from nefia.errors import InvalidArgument, InvalidConfiguration, NefiaError, Permission, TLSFailed

if TYPE_CHECKING:
    from ssl import SSLContext

ID_BYTES = 16
DEFAULT_TIMEOUT_SECONDS = 15.0


@click.group(cls=Group)
def event() -> None:
    """Events for the Reactor."""


@event.command()
@click.option("--type", "kind", required=True, help="What has happened, such as disk.usage.")
@click.option("--host", help="Where. Else this host.")
@click.option("--severity", type=click.Choice(SEVERITIES), help="How bad it is. Else info.")
@click.option("--data", callback=json_value, metavar="JSON", help="An object; - for stdin.")
@click.option("--id", "event_id", metavar="ID", help="Else a random one. The same one, to repeat.")
@click.option("--url", "urls", multiple=True, metavar="URL", help="A Reactor; one for each node.")
@click.option("--token-file", type=click.Path(path_type=Path), help="Its first token is sent.")
@click.option("--ca-file", type=click.Path(path_type=Path), help="Whose certificates to trust.")
@timeout_option
@pass_setup
def send(
    setup: Setup,
    /,
    kind: str,
    host: str | None,
    severity: str | None,
    data: Json | None,
    event_id: str | None,
    urls: Sequence[str],
    token_file: Path | None,
    ca_file: Path | None,
    timeout: float | None,
) -> None:
    """Send one event to the Reactor that leads, and print its id once it is acknowledged.

    Without --url the Reactors are those of the cluster's members, as nefia.yaml configures them.
    """
    event_id = event_id or os.urandom(ID_BYTES).hex()
    message: dict[str, Any] = {"id": event_id, "type": kind, "host": host or socket.gethostname()}
    if severity is not None:
        message["severity"] = severity
    if data is not None:
        message["data"] = data.value
    if not urls:
        reactor = _reactor_of(setup)
        urls = _urls_of(setup, reactor)
        token_file = token_file or reactor.token_file
    seconds = DEFAULT_TIMEOUT_SECONDS if timeout is None else timeout
    try:
        _send(json.dumps(message).encode(), urls, token_file, ca_file, seconds)
    except (NefiaError, KeyboardInterrupt):
        note(f"To send the same event again, add --id {event_id}.")
        raise
    line(event_id)


def _send(
    message: bytes,
    urls: Sequence[str],
    token_file: Path | None,
    ca_file: Path | None,
    timeout: float,
) -> None:
    from functools import partial

    import trio

    from nefia.clock import BootClock, TrioNodeClock
    from nefia.services.reactor.client import Sender

    sender = Sender(
        urls,
        TrioNodeClock(),
        token="" if token_file is None else _first_token(token_file),
        context=_context(urls, ca_file),
    )
    trio.run(partial(sender.send, message, timeout), clock=BootClock())


def _reactor_of(setup: Setup) -> ReactorConfig:
    reactors = [each for each in setup.load().services if isinstance(each, ReactorConfig)]
    if not reactors:
        raise InvalidConfiguration(
            "nefia.yaml has no service of the kind reactor", hint="name its URLs with --url"
        )
    return reactors[0]


def _urls_of(setup: Setup, reactor: ReactorConfig) -> list[str]:
    """Those of all members, the leader's first; without a cluster, this node's own."""
    if not setup.load().cluster.enabled:
        host, port = parse_address(reactor.listen)
        here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return [reactor.url_of("", f"[{here}]:{port}" if ":" in here else f"{here}:{port}")]
    members = setup.ask("members", timeout=None)["members"]
    members.sort(key=lambda member: member["state"] != "Leader")
    return [reactor.url_of(member["id"], member["address"]) for member in members]


def _first_token(path: Path) -> str:
    from nefia.config.reactor_files import read_tokens

    try:
        return read_tokens(path)[0].decode()
    except InvalidConfiguration as error:
        raise Permission(error.message) from None


def _context(urls: Sequence[str], ca_file: Path | None) -> SSLContext | None:
    import ssl

    for url in urls:
        try:
            websocket_url(url)
        except ValueError as error:
            raise InvalidArgument(f"--url: {error}") from None
    if not any(url.startswith("wss:") for url in urls):
        return None
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        reason = error.strerror or str(error)
        raise TLSFailed(f"the certificates in {ca_file} cannot be used: {reason}") from None
