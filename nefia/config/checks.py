"""What no single value shows: whether the settings go together, and with this machine.

Each check yields findings. A finding about a key that is faulty in itself is dropped, so that one
slip gives one message.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from nefia.config import reactor_checks, service_checks
from nefia.config.findings import Finding
from nefia.config.reader import Report
from nefia.config.schema import ClusterConfig, Config
from nefia.errors import TLSFailed
from nefia.units import format_duration

MIN_STOP_BUDGET = 0.2
"""Seconds between the end of a lease and the earliest successor: what services have to stop in."""


def check(config: Config, report: Report) -> None:
    """Note in `report` every mistake that shows only in the whole."""
    for find in CHECKS:
        # What is wrong already makes no second mistake, but one check may find several of one key.
        known = [f for f in find(config) if not any(report.is_faulty(key) for key in f.keys)]
        for finding in known:
            report.add(finding.keys[0], finding.sentence)


def _needed_if_enabled(config: Config) -> Iterator[Finding]:
    cluster = config.cluster
    examples = {
        "node_id": (cluster.node_id, "node-1"),
        "bind_addr": (cluster.bind_addr, "0.0.0.0:9700"),
        "advertise_addr": (cluster.advertise_addr, "10.99.0.1:9700"),
    }
    for name, (value, example) in examples.items():
        if cluster.enabled and not value:
            yield Finding(
                (f"cluster.{name}", "cluster.enabled"),
                f'is missing; a cluster needs it, such as {name}: "{example}"',
            )


def _timeouts(config: Config) -> Iterator[Finding]:
    raft = config.cluster.raft
    lease, heartbeat, election = "leader_lease", "heartbeat_timeout", "election_timeout"
    if raft.leader_lease >= raft.heartbeat_timeout:
        yield Finding(
            (f"cluster.raft.{lease}", f"cluster.raft.{heartbeat}"),
            f"{format_duration(raft.leader_lease)} is not shorter than {heartbeat}, "
            f"{format_duration(raft.heartbeat_timeout)}; a leader's lease has to end before "
            f"the others may elect a new one, so write a shorter {lease} or a longer {heartbeat}",
        )
    if raft.heartbeat_timeout > raft.election_timeout:
        yield Finding(
            (f"cluster.raft.{heartbeat}", f"cluster.raft.{election}"),
            f"{format_duration(raft.heartbeat_timeout)} is longer than {election}, "
            f"{format_duration(raft.election_timeout)}; write a shorter {heartbeat} or a "
            f"longer {election}",
        )


def _stop_budget(config: Config) -> Iterator[Finding]:
    raft = config.cluster.raft
    budget = raft.heartbeat_timeout - raft.leader_lease
    if config.services and raft.leader_lease < raft.heartbeat_timeout and budget < MIN_STOP_BUDGET:
        yield Finding(
            ("cluster.raft.leader_lease", "cluster.raft.heartbeat_timeout", "services"),
            f"leaves {format_duration(budget)} until heartbeat_timeout; services need at least "
            f"{format_duration(MIN_STOP_BUDGET)} to stop once the lease is lost, so write a "
            "shorter leader_lease or a longer heartbeat_timeout",
        )


def _service_names(config: Config) -> Iterator[Finding]:
    first_with: dict[str, int] = {}
    for number, service in enumerate(config.services):
        if service.name in first_with:
            yield Finding(
                (f"services[{number}].name",),
                f'"{service.name}" is also the name of services[{first_with[service.name]}]',
            )
        first_with.setdefault(service.name, number)


def _peers(config: Config) -> Iterator[Finding]:
    cluster = config.cluster
    first_with: dict[str, int] = {}
    for number, peer in enumerate(cluster.peers):
        key = f"cluster.peers[{number}]"
        if peer.id in first_with:
            yield Finding(
                (f"{key}.id",),
                f'"{peer.id}" is also the id of peers[{first_with[peer.id]}]; every node has an '
                "id of its own",
            )
        first_with.setdefault(peer.id, number)
        if peer.id == cluster.node_id and peer.address != cluster.advertise_addr:
            yield Finding(
                (f"{key}.id", f"{key}.address", "cluster.node_id", "cluster.advertise_addr"),
                f'"{peer.id}" is this node\'s own id, but {peer.address} is not its '
                "advertise_addr; write the other node's id, or leave this peer out",
            )


def _tls(config: Config) -> Iterator[Finding]:
    if not config.cluster.tls_enabled:
        return
    cluster = config.cluster
    files = {
        "tls_cert_file": cluster.tls_cert_file,
        "tls_key_file": cluster.tls_key_file,
        "tls_ca_file": cluster.tls_ca_file,
    }
    unusable = {name: why for name, path in files.items() if (why := _why_unusable(path))}
    for name, why in unusable.items():
        yield Finding(
            (f"cluster.{name}",), f"{why}; tls_enabled needs a file that this user may read"
        )
    if not unusable:
        yield from _credentials(cluster)


def _credentials(cluster: ClusterConfig) -> Iterator[Finding]:
    """What is in the files: whether others would accept it, and nobody else may read the key."""
    from nefia.credentials import load_credentials, tls_files

    try:
        load_credentials(tls_files(cluster), cluster.node_id)
    except TLSFailed as error:
        yield Finding((f"cluster.{error.details['key']}",), error.message)


def _why_unusable(path: Path | None) -> str | None:
    if path is None:
        return "is missing"
    if not os.path.isfile(path):
        return f"{path} is not a file"
    if not os.access(path, os.R_OK, effective_ids=True):
        return f"{path} is not readable"
    return None


def _admin_group(config: Config) -> Iterator[Finding]:
    import grp

    if config.admin_group is not None:
        try:
            grp.getgrnam(config.admin_group)
        except KeyError:
            yield Finding(
                ("admin_group",),
                f'"{config.admin_group}" is not a group of this machine; create it, or leave the '
                "key out",
            )


CHECKS: tuple[Callable[[Config], Iterator[Finding]], ...] = (
    _needed_if_enabled,
    _timeouts,
    _stop_budget,
    _service_names,
    _peers,
    _tls,
    _admin_group,
    *service_checks.CHECKS,
    *reactor_checks.CHECKS,
)
