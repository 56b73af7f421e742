"""TLS on real daemons: who is let in, a cluster from its first day to new certificates, abuse."""

from __future__ import annotations

import os
import signal
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from nefia.config import load
from nefia.dev import layout
from nefia.net.acceptor import MAX_PENDING_HANDSHAKES
from tests.certificates import RECIPES, bake, signer, write
from tests.end_to_end import tls_table
from tests.end_to_end.cluster import Cluster, Daemon, certified, free_ports, new_cluster, until
from tests.end_to_end.test_abuse import (
    MAX_GROWTH_KIB,
    dial,
    memory_kib,
    open_files,
    read_to_the_end,
)

HALF_OPEN = 500


def test_who_is_let_in(place: Path) -> None:
    rows = tls_table.measure(place)
    outcome = {(row.stranger, row.side): row.accepted for row in rows}
    expected = {
        (stranger, side): stranger in RECIPES and RECIPES[stranger].good
        for stranger, side in outcome
    }
    assert outcome == expected
    assert all(row.log for row in rows if not row.accepted)
    # To be made anew with `python -m tests.end_to_end.tls_table --rewrite`.
    assert tls_table.rendered(rows) in tls_table.DOCUMENT.read_text()


@pytest.fixture
def secured(place: Path) -> Iterator[Cluster]:
    with new_cluster(place, tls=True) as cluster:
        yield cluster.form()


def leaderships(cluster: Cluster) -> int:
    return sum(daemon.log_text.count("event=leadership_ends") for daemon in cluster.daemons)


def push(daemon: Daemon, what: str) -> None:
    assert daemon.call("queue_push", payload=what, key=what)["task"]["payload"] == what


def loaded(daemon: Daemon) -> int:
    return daemon.log_text.count("event=certificates_loaded")


def renew(daemon: Daemon, place: Path, *, ca: bytes, recipe: str, hup: bool) -> None:
    """New files, and wait until the daemon has taken them up."""
    before = loaded(daemon)
    write(place / f"{daemon.node_id}-tls", bake(recipe, daemon.node_id), ca=ca)
    if hup:
        os.kill(daemon.pid, signal.SIGHUP)
    until(lambda: loaded(daemon) > before, f"{daemon.node_id} takes up its certificates")


def test_a_cluster_fails_over_and_gets_another_authority(secured: Cluster, place: Path) -> None:
    """Formed with add-peer; then another leader; then everything about its certificates is new."""
    leader = secured.wait_leader()
    push(leader, "one")
    leader.kill()
    leader.start()
    leader.wait_ready()
    leader = secured.wait_healthy()
    push(leader, "two")

    term, ended = leader.status()["term"], leaderships(secured)
    old, new = signer("authority").pem, signer("other").pem
    rounds = [(old + new, "both"), (old + new, "other-authority"), (new, "other-authority")]
    for number, (ca, recipe) in enumerate(rounds):
        for daemon in secured.daemons:
            renew(daemon, place, ca=ca, recipe=recipe, hup=number != 1)
            push(leader, f"{number}-{daemon.node_id}")
    secured.wait_healthy()
    secured.wait_equal()
    assert leader.status()["is_leader"]
    assert leader.status()["term"] == term, "no election"
    assert leaderships(secured) == ended, "no lease was lost"

    with shake_hands(leader, place / "stale", "both") as stale, pytest.raises(ssl.SSLError):
        stale.recv(1)  # the authority of before is no longer one
    for daemon in secured.daemons:
        assert "Traceback" not in daemon.log_text
        assert "not_renewed" not in daemon.log_text


def shake_hands(daemon: Daemon, directory: Path, recipe: str) -> ssl.SSLSocket:
    files = write(directory, bake(recipe, "node-9"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(files.cert, files.key)
    raw = dial(daemon)
    try:
        return context.wrap_socket(raw)
    except OSError:
        raw.close()
        raise


def test_whoever_is_no_longer_trusted_is_cut(secured: Cluster, place: Path) -> None:
    """An authority that goes takes its connections along, not only the handshakes to come."""
    leader = secured.wait_healthy()
    follower = next(daemon for daemon in secured.daemons if daemon is not leader)
    renew(follower, place, ca=signer("other").pem, recipe="other-authority", hup=True)
    assert "no_longer_trusted=0" not in follower.log_text
    until(
        lambda: "is not signed by an authority in tls_ca_file" in leader.log_text,
        "the leader refuses the follower",
    )
    until(lambda: leader.status()["failure_tolerance"] == 0, "the follower is alone")
    push(leader, "the others go on")


def test_files_that_cannot_be_used_change_nothing(secured: Cluster, place: Path) -> None:
    leader = secured.wait_healthy()
    term = leader.status()["term"]
    keys = [(place / f"{d.node_id}-tls/key.pem").read_text() for d in secured.daemons]
    files = place / f"{leader.node_id}-tls"
    (files / "key.pem").write_text("half a fi")
    os.kill(leader.pid, signal.SIGHUP)
    until(lambda: "certificates_refused" in leader.log_text, "the refusal is logged")
    warning = leader.status()["warning"]
    assert str(files / "key.pem") in warning
    assert "the certificates of before are still in use" in warning
    certified(place, leader.node_id)
    until(lambda: "warning" not in leader.status() or loaded(leader), "the repaired ones are used")
    assert leader.status()["term"] == term
    secured.wait_healthy()
    check_secrets(secured, keys)


def test_status_warns_in_time(place: Path) -> None:
    with new_cluster(place, 1, tls=True) as cluster:
        [daemon] = cluster.form().daemons
        shown = daemon.status()
        assert "warning" not in shown
        assert shown["certificate_expires_at"].endswith("Z")
        renew(daemon, place, ca=signer("authority").pem, recipe="expired", hup=True)
        assert f"CN={daemon.node_id} has expired" in daemon.status()["warning"]
        assert "Certificate Expires At:" in daemon.cli("cluster", "status", "-o", "wide").stdout
        assert "has expired" in daemon.cli("cluster", "status").stderr
        until(lambda: "event=certificate_due" in daemon.log_text, "the log says so too")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda files: files.key.chmod(0o644), "may be read by others (mode 0644)"),
        (lambda files: files.cert.write_bytes(bake("server-only", "n").certificate), "only the"),
        (lambda files: files.ca.write_bytes(signer("other").pem), "is not signed by an authority"),
    ],
)
def test_a_daemon_that_nobody_would_accept_does_not_start(
    place: Path, spoil: object, why: str
) -> None:
    assert callable(spoil)
    files = certified(place, "node-1")
    spoil(files)
    daemon = Daemon(place, "node-1", "127.0.0.1:1", tls=files)
    done = daemon.cli("daemon")
    assert done.returncode == 2
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_nefia_dev_with_tls(place: Path) -> None:
    """Its nodes accept each other, and a second start finds them as they were."""
    one, two = layout.lay_out(place, 2, tls=True)
    again = layout.lay_out(place, 3, tls=False)
    for daemon in again:
        path = daemon.directory / "nefia.yaml"
        config = load(path, state_dir=str(daemon.directory), environ={}, is_root=True)
        assert config.cluster.tls_enabled
    certificates = {(daemon.directory / "cluster-ca.pem").read_bytes() for daemon in again}
    assert len(certificates) == 1
    assert [daemon.address for daemon in again[:2]] == [one.address, two.address]


def test_a_node_without_tls_says_so_when_it_hears_tls(place: Path) -> None:
    plain = Daemon(place, "node-1", f"127.0.0.1:{free_ports(1)[0]}")
    with Cluster([plain]):
        plain.start()
        plain.wait_ready()
        with pytest.raises(OSError, match=r"EOF|reset|closed"):
            shake_hands(plain, place / "stranger", "both")
        until(lambda: "this is TLS, which this node does not speak" in plain.log_text, "log")


def check_secrets(cluster: Cluster, keys: list[str]) -> None:
    """Nothing of the keys is in what people get to see."""
    shown = "".join(
        daemon.log_text
        + daemon.cli("cluster", "status", "-o", "json").stdout
        + daemon.cli("cluster", "members", "-o", "json").stdout
        for daemon in cluster.daemons
    )
    assert shown.count("node-1") > 1
    assert "PRIVATE KEY" not in shown
    for key in keys:
        assert not any(line in shown for line in key.splitlines()[1:-1])


@pytest.fixture
def impatient(place: Path) -> Iterator[Cluster]:
    with new_cluster(place, tls=True, raft={"transport_timeout": "2s"}) as cluster:
        yield cluster.form()


def test_half_open_slow_and_broken_handshakes_disturb_nobody(
    impatient: Cluster, place: Path
) -> None:
    """More half-open connections than are allowed; then garbage where a nefia hello belongs."""
    leader = impatient.wait_healthy()
    term, ended = leader.status()["term"], leaderships(impatient)
    memory, files = memory_kib(leader), open_files(leader)
    with ExitStack() as stack:
        for number in range(HALF_OPEN):
            connection = stack.enter_context(dial(leader))
            if number % 3:
                with suppress(OSError):  # the beginning of a ClientHello, and then nothing
                    connection.sendall(bytes.fromhex("16030100c8010000c40303")[: number % 11 + 1])
        until(
            lambda: open_files(leader) <= files + MAX_PENDING_HANDSHAKES,
            "only so many are kept",
        )
        dripping = stack.enter_context(dial(leader))
        for byte in bytes.fromhex("16030100c801"):
            with suppress(OSError):
                dripping.sendall(bytes([byte]))
            time.sleep(0.05)
        read_to_the_end(dripping)  # each byte is progress, and yet there is an end
        with shake_hands(leader, place / "stranger", "no-id") as secure:
            secure.sendall(b"\xff" * 10_000)
            with suppress(OSError):
                assert secure.recv(1) == b""
        push(leader, "still here")
        follower = next(daemon for daemon in impatient.daemons if daemon is not leader)
        follower.kill()
        follower.start()  # its handshakes have to come through
        impatient.wait_healthy()
        assert memory_kib(leader) - memory < MAX_GROWTH_KIB
    assert leader.status()["term"] == term
    assert leaderships(impatient) == ended
    until(lambda: open_files(leader) <= files + 4, "the connections are closed")
    assert "Traceback" not in leader.log_text
