"""Every kind of certificate and of failure, on both sides of a real daemon: what comes of it.

python -m tests.end_to_end.tls_table [--rewrite]   # the table in docs/tls.md

One daemon leads a cluster of its own. A stranger, whose TLS is the standard library's and not
nefia's, comes to it with each certificate, or waits for it to be dialled. The stranger accepts
anything, so that what happens is the daemon's doing.
"""

from __future__ import annotations

import argparse
import re
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from attrs import frozen

from nefia.net.frames import FrameReader, Kind, header
from nefia.net.handshake import PROBE, Hello, Welcome, decode, encode
from nefia.wire import Malformed
from tests.certificates import RECIPES, bake, write
from tests.end_to_end.cluster import Cluster, Daemon, new_cluster, until

DOCUMENT = Path(__file__).parents[2] / "docs/tls.md"
BEGIN, END = "<!-- table: begins -->\n", "<!-- table: ends -->\n"
SECONDS = 10.0
CERTIFICATES = tuple(RECIPES)
OTHERS = ("no certificate", "TLS 1.2", "plaintext")


@frozen
class Row:
    """`stranger`: what the other side has. `log`: the daemon's line on it, from the event on."""

    stranger: str
    side: str
    accepted: bool
    log: str


def node_of(stranger: str) -> str:
    """Each has an id of its own, so that each has log lines of its own."""
    return "node-" + stranger.replace(" ", "-")


def context_of(stranger: str, directory: Path, *, server: bool) -> ssl.SSLContext | None:
    """None for plaintext."""
    if stranger == "plaintext":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if stranger == "TLS 1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if stranger != "no certificate":
        recipe = stranger if stranger in RECIPES else "both"
        files = write(directory / node_of(stranger), bake(recipe, node_of(stranger)))
        context.load_cert_chain(files.cert, files.key)
    return context


def wrapped(raw: socket.socket, context: ssl.SSLContext | None, *, server: bool) -> socket.socket:
    raw.settimeout(SECONDS)
    return raw if context is None else context.wrap_socket(raw, server_side=server)


def one_handshake(connection: socket.socket) -> object:
    """The first frame that comes, decoded. Raises OSError."""
    reader = FrameReader(1 << 20)
    while (frame := reader.next()) is None:
        data = connection.recv(4096)
        if not data:
            raise ConnectionError("closed")
        reader.feed(data)
    return decode(frame.body)


def send(connection: socket.socket, message: Hello | Welcome) -> None:
    body = encode(message)
    connection.sendall(header(Kind.HANDSHAKE, body) + body)


def come(daemon: Daemon, stranger: str, directory: Path) -> Row:
    """The stranger dials the daemon."""
    host, port = daemon.address.rsplit(":", 1)
    context = context_of(stranger, directory, server=False)
    hello = Hello(
        purpose=PROBE,
        node_id=node_of(stranger),
        instance_id="i",
        cluster_id="",
        incarnation="x",
    )
    accepted = False
    with socket.create_connection((host, int(port)), SECONDS) as raw:
        own_port = raw.getsockname()[1]
        with suppress(OSError), wrapped(raw, context, server=False) as connection:
            send(connection, hello)
            accepted = isinstance(one_handshake(connection), Welcome)
    if accepted:
        return Row(stranger, "accepting", True, "")
    line = until(lambda: log_line(daemon, rf"remote=127\.0\.0\.1:{own_port}\b"), f"{stranger}: log")
    return Row(stranger, "accepting", False, line)


@contextmanager
def waiting(stranger: str, directory: Path, cluster_id: str) -> Iterator[str]:
    """A stranger that can be dialled at the address that this gives."""
    context = context_of(stranger, directory, server=True)
    listener = socket.create_server(("127.0.0.1", 0))
    held = []

    def serve() -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            held.append(raw)
            with suppress(OSError, Malformed):
                connection = wrapped(raw, context, server=True)
                held.append(connection)
                one_handshake(connection)
                send(
                    connection,
                    Welcome(
                        node_id=node_of(stranger),
                        instance_id=f"data of {stranger}",
                        cluster_id=cluster_id,
                        incarnation="x",
                    ),
                )
                continue
            raw.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for connection in held:
            connection.close()


def go(daemon: Daemon, stranger: str, directory: Path) -> Row:
    """The daemon dials the stranger, which has become a member without being looked at first."""
    node = node_of(stranger)
    cluster_id = daemon.status()["cluster_id"]
    with waiting(stranger, directory, cluster_id) as address:
        daemon.call("add_peer", id=node, addr=address, wait=False, preflight=False)
        line = until(
            lambda: log_line(daemon, rf"event=peer_(connected|unreachable) peer={node} "),
            f"{stranger}: log",
        )
        until(lambda: daemon.ask("remove_peer", id=node, force=True), f"{node} is removed")
    accepted = "event=peer_connected" in line
    return Row(stranger, "dialling", accepted, "" if accepted else line.replace(address, "HOST"))


def log_line(daemon: Daemon, pattern: str) -> str:
    """The first with `pattern`, from its event on; ports, which differ each time, left out."""
    for line in daemon.log_text.splitlines():
        if re.search(pattern, line):
            return re.sub(r"127\.0\.0\.1:\d+", "HOST", line[line.index("event=") :])
    return ""


def measure(directory: Path) -> list[Row]:
    with ExitStack() as stack:
        cluster: Cluster = stack.enter_context(new_cluster(directory, 1, tls=True))
        [daemon] = cluster.form().daemons
        strangers = (*CERTIFICATES, *OTHERS)
        rows = [come(daemon, stranger, directory) for stranger in strangers]
        rows += [
            go(daemon, stranger, directory)
            for stranger in strangers
            if stranger != "no certificate"  # TLS 1.3 knows no server without one
        ]
        assert daemon.status()["is_leader"]
        assert daemon.status()["term"] == 2, "nobody has disturbed it"
        assert "Traceback" not in daemon.log_text
    return rows


def rendered(rows: list[Row]) -> str:
    lines = ["| the other side has | it dials this node | this node dials it |", "|---|---|---|"]
    for stranger in dict.fromkeys(row.stranger for row in rows):
        by_side = {row.side: row for row in rows if row.stranger == stranger}
        cells = [_cell(by_side.get(side)) for side in ("accepting", "dialling")]
        lines.append(f"| {stranger} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    return "accepted" if row.accepted else f"`{row.log}`"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rewrite", action="store_true", help="put the table into docs/tls.md")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nefia-") as name:
        table = rendered(measure(Path(name)))
    print(table)
    if asked.rewrite:
        before, _, rest = DOCUMENT.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        DOCUMENT.write_text(before + BEGIN + table + END + after)


if __name__ == "__main__":
    main()
