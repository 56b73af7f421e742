"""Where the nodes of a development cluster live: directories, configurations and ports."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

from nefia.certificate_files import CA, CA_KEY, CERT, KEY, read_file, write_files
from nefia.config import load
from nefia.dev.process import Daemon
from nefia.errors import InvalidConfiguration, NoDaemon, Permission
from nefia.storage.locking import DirectoryLock

FIRST_PORT = 20_000
EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
PORT_TRIES = 200
LIFETIME = timedelta(days=365)
TLS_FILES = {"cert": CERT, "key": KEY, "ca": CA}


@contextmanager
def workplace(directory: str | None) -> Iterator[Path]:
    with ExitStack() as stack:
        try:
            if directory is None:
                root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nefia-dev-")))
            else:
                root = Path(directory).absolute()
                root.mkdir(mode=0o700, parents=True, exist_ok=True)
            stack.callback(DirectoryLock(root).release)
        except OSError as error:
            where = directory or tempfile.gettempdir()
            raise Permission(f"{where} cannot be used: {error.strerror}") from None
        yield root


def lay_out(root: Path, nodes: int, *, tls: bool = False) -> list[Daemon]:
    """The nodes whose configurations are there, and new ones up to `nodes`. Raises NefiaError.

    `tls` is for a cluster that is new; one that is there goes on as it is.
    """
    known: dict[int, str] = {}
    while (path := _config_path(root, number := len(known) + 1)).exists():
        config = load(path, state_dir=str(path.parent), environ={}, is_root=False)
        if not config.cluster.enabled or config.cluster.node_id != f"node-{number}":
            raise InvalidConfiguration(f"{path} is not one that nefia dev wrote")
        known[number] = config.cluster.advertise_addr
        tls = config.cluster.tls_enabled
    new = range(len(known) + 1, nodes + 1)
    addresses = known | dict(zip(new, _free_addresses(len(new)), strict=True))
    for number in new:
        path = _config_path(root, number)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_text(_config_text(number, addresses, tls))
        if tls:
            _certify(root, path.parent)
    return [
        Daemon(f"node-{number}", _config_path(root, number).parent, address)
        for number, address in addresses.items()
    ]


def _config_path(root: Path, number: int) -> Path:
    return root / f"node-{number}" / "nefia.yaml"


def _certify(root: Path, place: Path) -> None:
    """The files of a node, signed by an authority of this cluster's own."""
    from nefia.certificates import KeyPair, make_authority, make_node

    now = datetime.now(UTC)
    if not (root / CA_KEY).exists():
        made = make_authority("nefia dev", LIFETIME, now)
        write_files(root, {CA_KEY: made.key, CA: made.certificate}, replace=True)
    authority = KeyPair(read_file(root / CA), read_file(root / CA_KEY))
    pair = make_node(authority, place.name, LIFETIME, now)
    files = {KEY: pair.key, CERT: pair.certificate, CA: authority.certificate}
    write_files(place, files, replace=True)


def _config_text(number: int, addresses: dict[int, str], tls: bool) -> str:
    lines = [
        "# Written by nefia dev.",
        "cluster:",
        "  enabled: true",
        f'  node_id: "node-{number}"',
        f'  bind_addr: "{addresses[number]}"',
        f'  advertise_addr: "{addresses[number]}"',
        f"  tls_enabled: {'true' if tls else 'false'}",
        *(f'  tls_{name}_file: "{file}"' for name, file in TLS_FILES.items() if tls),
        "  peers:",
    ]
    for peer, address in addresses.items():
        lines += [f'    - id: "node-{peer}"', f'      address: "{address}"']
    return "\n".join(lines) + "\n"


def _free_addresses(count: int) -> list[str]:
    """Loopback addresses whose ports nobody uses, below those that the kernel gives out itself:
    a port from among those could be taken while a daemon is being restarted."""
    end = int(EPHEMERAL_PORTS.read_text().split()[0])
    first = FIRST_PORT if end > FIRST_PORT + PORT_TRIES else 1024
    random = Random()
    with ExitStack() as held:
        addresses: list[str] = []
        for _ in range(PORT_TRIES):
            if len(addresses) == count:
                return addresses
            port = random.randrange(first, max(end, first + PORT_TRIES))
            listener = held.enter_context(socket.socket())
            with suppress(OSError):
                listener.bind(("127.0.0.1", port))
                addresses.append(f"127.0.0.1:{port}")
    raise NoDaemon(f"no free ports were found on 127.0.0.1 in {PORT_TRIES} tries")
