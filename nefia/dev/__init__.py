"""`nefia dev`: a cluster of real daemons on loopback, to meet nefia and to try failures on.

One loop in one thread: it waits until a daemon ends (a pidfd tells at once) or a little while has
passed, then looks at who is there and who leads. Signals only set a flag that the waits look at,
so that a stop never cuts a start in two.

Nothing is left behind. The daemons are in process groups of their own, so that Ctrl-C reaches only
this process, which ends them in order. Should it be killed itself, the kernel kills them: each has
PR_SET_PDEATHSIG set, which needs nothing of theirs, not even that they are running (SIGSTOP).
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from nefia.dev.cluster import Cluster
from nefia.dev.layout import lay_out, workplace
from nefia.dev.screen import screen
from nefia.errors import InvalidArgument

MAX_NODES = 9
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(nodes: int, directory: str | None, *, tls: bool = False) -> int:
    """Run until SIGINT, SIGTERM or SIGHUP; returns the exit code, 0.

    The cluster is kept in `directory`, and the one found there is started again, with at least
    `nodes` nodes; None is a temporary one. A new one speaks TLS if `tls` says so. Raises NefiaError
    if the cluster cannot be started.
    """
    if not 1 <= nodes <= MAX_NODES:
        raise InvalidArgument(f"--nodes must be 1 to {MAX_NODES}, not {nodes}")
    with _stop_signals() as is_stopping, workplace(directory) as root:
        cluster = Cluster(lay_out(root, nodes, tls=tls), is_stopping)
        with suppress(KeyboardInterrupt):
            try:
                cluster.start()
                print(screen(cluster, root, kept=directory is not None), flush=True)
                cluster.supervise()
            finally:
                cluster.stop()
    return 0


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether one of them has come."""
    received: set[int] = set()

    def receive(number: int, frame: object) -> None:
        received.add(number)

    before = {number: signal.signal(number, receive) for number in STOP_SIGNALS}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
