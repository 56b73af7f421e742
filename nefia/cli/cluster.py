"""`nefia cluster`: who is in the cluster, who leads, and changes of both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from nefia.admin.why import degradations
from nefia.cli.framework import (
    Group,
    Setup,
    argument_or_option,
    changing,
    pass_setup,
    reading,
    reading_state,
    timeout_option,
)
from nefia.cli.live import live, why
from nefia.cli.output import (
    STRUCTURED,
    header_of,
    label_of,
    line,
    note,
    show_fields,
    show_objects,
    show_table,
)
from nefia.cli.recover import recover
from nefia.cli.snapshot import take
from nefia.errors import EXIT_DEGRADED, AlreadyInitialized, NoDaemon

MEMBERSHIP_TIMEOUT_SECONDS = 150.0
"""Longer than the leader itself takes at most to add a node and have it catch up."""

STATUS_FIELDS = ("node_id", "state", "is_leader", "leader_id")
STATUS_LABEL_WIDTH = 12
MEMBER_COLUMNS = ("id", "address", "state", "local")
MEMBER_WIDTHS = (8, 17, 10)
EVENT_COLUMNS = ("at", "kind", "node_id", "term", "detail", "reason")
REMARKS = ("note", "warning", "hint")
"""What an answer says besides the object asked for: shown on stderr, in tables only."""
FOR_PROGRAMS = ("evidence",)
"""What `nefia cluster why` says in words: in JSON and YAML only."""


@click.group(cls=Group)
def cluster() -> None:
    """The cluster and its members."""


cluster.add_command(recover)
cluster.add_command(take)
cluster.add_command(why)
cluster.add_command(live)


@cluster.command()
@click.option("--if-needed", is_flag=True, help="Succeed if this node has a cluster already.")
@timeout_option
@pass_setup
def init(setup: Setup, if_needed: bool, timeout: float | None) -> None:
    """Create a cluster with this node as its only member."""
    try:
        cluster_id = initialize(setup, timeout)
    except AlreadyInitialized as error:
        if not if_needed:
            raise
        note(f"{error.message}; nothing was changed.")
    else:
        line(f"Cluster ID: {cluster_id}")


def initialize(setup: Setup, timeout: float | None) -> str:
    """Through the daemon if one answers, else on its data directory; returns the cluster's id.

    Raises AlreadyInitialized, and what either way raises.
    """
    try:
        return str(setup.ask("init", timeout=timeout)["cluster_id"])
    except NoDaemon:
        config = setup.load()
        from nefia import daemon

        return daemon.initialize(config)


@cluster.command()
@reading
@click.option("--check", is_flag=True, help="Exit with 3, and say why, if anything is amiss.")
@pass_setup
def status(setup: Setup, form: str, timeout: float | None, check: bool) -> int:
    """How this node sees itself and its cluster."""
    result = setup.ask("status", timeout=timeout)
    if form in STRUCTURED:
        STRUCTURED[form](result)
    else:
        keys = STATUS_FIELDS if form == "table" else _with_others(STATUS_FIELDS, [result])
        services = [f"{each['name']} {each['state']}" for each in result.get("services", [])]
        shown = result | {"services": ", ".join(services) or None}
        fields = {label_of(key): shown.get(key) for key in keys}
        show_fields(fields, STATUS_LABEL_WIDTH)
        _remark(result)
    found = degradations(result) if check else []
    for each in found:
        note(f"degraded: {each}")
    return EXIT_DEGRADED if found else 0


@cluster.command()
@reading
@pass_setup
def members(setup: Setup, form: str, timeout: float | None) -> None:
    """All members, unreachable ones too."""
    result = setup.ask("members", timeout=timeout)
    if form in STRUCTURED:
        STRUCTURED[form](result)
        return
    rows = result["members"]
    keys = MEMBER_COLUMNS if form == "table" else _with_others(MEMBER_COLUMNS, rows)
    headers = [header_of(key) for key in keys]
    show_table(headers, ([_member_cell(row, key) for key in keys] for row in rows), MEMBER_WIDTHS)
    _remark(result)


def _member_cell(member: dict[str, Any], key: str) -> object:
    if key == "local":
        return "*" if member.get(key) else ""
    return member.get(key)


def _with_others(keys: tuple[str, ...], objects: Iterable[dict[str, Any]]) -> tuple[str, ...]:
    """`keys`, then whatever else the objects have."""
    others = dict.fromkeys(key for each in objects for key in each)
    return (*keys, *(key for key in others if key not in (*keys, *REMARKS, *FOR_PROGRAMS)))


def _remark(result: dict[str, Any]) -> None:
    for key in REMARKS:
        if result.get(key):
            note(f"{key}: {result[key]}")


reason_option = click.option("--reason", help="For the history and the log.")
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Check, show voters and quorum before and after, and stop."
)


@cluster.command()
@argument_or_option("id", "The new node's id.", key="node_id")
@click.option("--addr", required=True, metavar="HOST:PORT", help="Where other nodes dial it.")
@click.option("--no-preflight", is_flag=True, help="Do not dial it first to check that it fits.")
@click.option("--no-wait", is_flag=True, help="Do not wait until it is a voter.")
@dry_run_option
@reason_option
@changing
@pass_setup
def add_peer(
    setup: Setup,
    /,
    node_id: str,
    addr: str,
    no_preflight: bool,
    no_wait: bool,
    dry_run: bool,
    reason: str | None,
    timeout: float | None,
    **common: Any,
) -> None:
    """Add a node: as a learner at first, as a voter once it has caught up."""
    from nefia.cli.progress import Progress

    with Progress(f"adding {node_id}", lambda: _progress_of(setup, node_id)):
        result = setup.change(
            "add_peer",
            id=node_id,
            addr=addr,
            preflight=False if no_preflight else None,
            wait=False if no_wait else None,
            dry_run=dry_run or None,
            reason=reason,
            timeout=MEMBERSHIP_TIMEOUT_SECONDS if timeout is None else timeout,
            **common,
        )
    if dry_run:
        _show_preview(result)
        return
    member = result.get("member") or {}
    address = member.get("address", addr)
    if not result["changed"]:
        line(f"{node_id} at {address} is a member already; nothing was changed.")
    elif member.get("voter"):
        line(f"{node_id} at {address} is a voter.")
    else:
        line(f"{node_id} at {address} is a learner; it becomes a voter once it has caught up.")


def _progress_of(setup: Setup, node_id: str) -> str:
    """What the leader says of the node that is being added."""
    result = setup.ask("members", timeout=1.0)
    member = next((each for each in result["members"] if each["id"] == node_id), None)
    if member is None:
        return "checking it"
    has, lag = member.get("match_index"), member.get("lag")
    if has is None or lag is None:
        return str(member["state"])
    left = member.get("estimate_ms")
    remaining = f", about {left / 1000:.0f} s left" if left else ""
    return f"{member['state']}, {has} of {has + lag} entries{remaining}"


def _show_preview(result: dict[str, Any]) -> None:
    """What `--dry-run` is answered."""
    before, after = result["before"], result["after"]
    rows = ((label_of(key), before[key], after[key]) for key in before)
    shown = ((label, _listed(was), _listed(will)) for label, was, will in rows)
    show_table(("", "BEFORE", "AFTER"), shown)
    note("Nothing was changed.")


def _listed(value: object) -> object:
    return ", ".join(value) or "-" if isinstance(value, list) else value


@cluster.command()
@argument_or_option("id", "The member's id.", key="node_id")
@click.option("--force", is_flag=True, help="Even if it would not survive another failure then.")
@dry_run_option
@reason_option
@changing
@pass_setup
def remove_peer(
    setup: Setup,
    /,
    node_id: str,
    force: bool,
    dry_run: bool,
    reason: str | None,
    timeout: float | None,
    **common: Any,
) -> None:
    """Remove a member."""
    result = setup.change(
        "remove_peer",
        id=node_id,
        force=force or None,
        dry_run=dry_run or None,
        reason=reason,
        timeout=MEMBERSHIP_TIMEOUT_SECONDS if timeout is None else timeout,
        **common,
    )
    if dry_run:
        _show_preview(result)
        return
    line(
        f"{node_id} is removed."
        if result["changed"]
        else f"{node_id} was no member; nothing was changed."
    )


@cluster.command()
@click.option("--to", metavar="ID", help="The next leader. Else it is the one most up to date.")
@reason_option
@changing
@pass_setup
def transfer_leader(
    setup: Setup, /, to: str | None, reason: str | None, timeout: float | None, **common: Any
) -> None:
    """Hand leadership over to another node."""
    result = setup.change(
        "transfer_leader",
        to=to,
        reason=reason,
        timeout=MEMBERSHIP_TIMEOUT_SECONDS if timeout is None else timeout,
        **common,
    )
    phases = ", ".join(
        f"{name.removesuffix('_ms').replace('_', ' ')} {ms} ms"
        for name, ms in result["phases"].items()
    )
    line(f"{result['leader_id']} leads in term {result['term']} ({phases}).")


@cluster.command()
@click.option("--limit", type=click.IntRange(1), metavar="N", help="The newest so many; else 100.")
@reading_state
@pass_setup
def history(
    setup: Setup, limit: int | None, form: str, timeout: float | None, consistency: str | None
) -> None:
    """Elections, transfers, changes of members and recoveries, the oldest first."""
    result = setup.ask("history", limit=limit, consistency=consistency, timeout=timeout)
    if form in STRUCTURED:
        STRUCTURED[form](result)
        return
    keys = EVENT_COLUMNS if form == "table" else _with_others(EVENT_COLUMNS, result["events"])
    show_objects(result["events"], keys)
