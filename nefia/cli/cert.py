"""`nefia cert`: an authority for the cluster, certificates of its nodes, and what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nefia.certificate_files import CA, CA_KEY, CERT, KEY, read_file, write_files
from nefia.cli.framework import Group, output_option
from nefia.cli.output import STRUCTURED, line, note, show_fields
from nefia.errors import InvalidArgument, TLSFailed

if TYPE_CHECKING:
    from nefia.certificates import Description

MAX_DAYS = 36_500
days_option = click.IntRange(1, MAX_DAYS)


@click.group(cls=Group)
def cert() -> None:
    """Certificates for TLS between nodes."""


@cert.command()
@click.option("--directory", type=click.Path(), default=".", help="Where to write it.")
@click.option("--name", default="nefia", show_default=True, help="What it is called.")
@click.option("--days", type=days_option, default=3650, show_default=True, help="Valid so long.")
def ca(directory: str, name: str, days: int) -> None:
    """Make an authority that signs the certificates of a cluster's nodes."""
    from nefia.certificates import make_authority

    try:
        pair = make_authority(name, timedelta(days=days), datetime.now(UTC))
    except ValueError as error:
        raise InvalidArgument(f"--name {name!r} cannot be used: {error}") from None
    place = Path(directory)
    # The only thing that could replace it is another authority, which no node would know.
    write_files(place, {CA_KEY: pair.key, CA: pair.certificate})
    line(f"Wrote {place / CA} and {place / CA_KEY}.")
    note(
        f"Every node needs {CA}. Whoever has {CA_KEY} can make nodes: keep it off the nodes.\n"
        f"Next: nefia cert issue --node ID"
    )


@cert.command()
@click.option("--node", "node_id", required=True, metavar="ID", help="The node's id.")
@click.option(
    "--directory", type=click.Path(), default=".", help="Where `nefia cert ca` wrote the authority."
)
@click.option("--out", type=click.Path(), help="Where to write; else a directory named ID there.")
@click.option("--days", type=days_option, default=365, show_default=True, help="Valid so long.")
@click.option("--replace", is_flag=True, help="Replace a certificate that is there already.")
def issue(node_id: str, directory: str, out: str | None, days: int, replace: bool) -> None:
    """Make a node's certificate and key: the three files that its configuration names."""
    from nefia.certificates import KeyPair, make_node
    from nefia.config import parse_node_id

    try:
        parse_node_id(node_id)
    except ValueError as error:
        raise InvalidArgument(f"--node: {error}") from None
    place = Path(directory)
    target = Path(out) if out else place / node_id
    authority = KeyPair(read_file(place / CA), read_file(place / CA_KEY))
    try:
        pair = make_node(authority, node_id, timedelta(days=days), datetime.now(UTC))
    except ValueError as error:
        raise TLSFailed(
            f"{place / CA} and {place / CA_KEY} cannot sign: {error}",
            hint="name the directory of what `nefia cert ca` wrote with --directory",
        ) from None
    files = {KEY: pair.key, CERT: pair.certificate, CA: authority.certificate}
    write_files(target, files, replace=replace)
    line(f"Wrote {target / CERT}, {target / KEY} and {target / CA}.")
    note(
        f"Copy the three to {node_id}, such as to /etc/nefia; they are tls_cert_file, tls_key_file "
        "and tls_ca_file there. A daemon that runs takes them up by itself."
    )


@cert.command()
@click.argument("files", nargs=-1, required=True, type=click.Path())
@output_option
def inspect(files: tuple[str, ...], form: str) -> None:
    """What is in certificates, and whether a node can use them."""
    shown = [each for file in files for each in _inspected(Path(file))]
    if form in STRUCTURED:
        STRUCTURED[form]({"certificates": shown})
        return
    for number, fields in enumerate(shown):
        if number:
            line("")
        show_fields({_label(key): _cell(value) for key, value in fields.items()})


def _inspected(path: Path) -> Iterator[dict[str, object]]:
    from nefia.certificates import describe, in_pem, untrusted

    try:
        for certificate in in_pem(read_file(path)):
            described = untrusted(partial(describe, certificate))
            yield _fields(path, described, datetime.now(UTC))
    except ValueError:
        raise TLSFailed(f"{path} holds no certificate in PEM form that can be understood") from None


def _fields(path: Path, certificate: Description, now: datetime) -> dict[str, object]:
    from nefia.certificates import why_no_node

    why_not = why_no_node(certificate)
    usages = certificate.usages
    return {
        "file": str(path),
        "subject": certificate.subject,
        "issuer": certificate.issuer,
        "serial": certificate.serial,
        "not_before": _instant(certificate.not_before),
        "not_after": _instant(certificate.not_after),
        "valid_now": certificate.not_before <= now <= certificate.not_after,
        "days_left": (certificate.not_after - now).days,
        "authority": certificate.is_authority,
        "extended_key_usages": None if usages is None else sorted(usages),
        "node_ids": sorted(certificate.node_ids),
        "for_nodes": why_not is None,
        "why_not": why_not,
        "sha256": certificate.fingerprint,
    }


def _instant(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _label(key: str) -> str:
    return {"sha256": "SHA-256", "node_ids": "Node IDs"}.get(key, key.replace("_", " ").title())


def _cell(value: object) -> object:
    return ", ".join(value) or None if isinstance(value, list) else value
