"""`nefia cluster recover`: going on without a lost majority, on a stopped node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nefia.cli.framework import Command, Setup, pass_setup
from nefia.cli.output import line, note, show_table
from nefia.errors import InvalidArgument, Permission

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nefia.recovery.act import Outcome
    from nefia.recovery.plan import Summary

HEADERS = ("node", "lineage", "entries", "last term", "term", "voters")
STDOUT = "-"

WARNING = """\
Changes that were acknowledged and that no survivor's log holds are lost.
That no two nodes lead at once holds only while every node that was left out stays off:
keep it off, empty its data directory, and only then start it and add it again."""


@click.command(cls=Command)
@click.option("--lost", multiple=True, metavar="ID", help="A voter that is gone for good.")
@click.option(
    "--data-dir",
    "data_dirs",
    multiple=True,
    metavar="DIRECTORY",
    type=click.Path(path_type=Path),
    help="The data directory of another survivor.",
)
@click.option(
    "--summary",
    "summaries",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="What --export wrote on another survivor.",
)
@click.option("--plan", is_flag=True, help="Show what would be done, and change nothing.")
@click.option("--export", metavar="FILE", help="Only write this node's summary; - is stdout.")
@click.option("--follow", metavar="LINEAGE", help="On another survivor: what recover has printed.")
@click.option("--reason", default="", help="For the history.")
@pass_setup
def recover(
    setup: Setup,
    /,
    export: str | None,
    follow: str | None,
    plan: bool,
    **request: Any,
) -> None:
    """Go on without a lost majority, on the stopped survivor whose log is the newest.

    Every voter has to be accounted for: as this node, by --data-dir or --summary, or by --lost.
    """
    if export and follow:
        raise click.UsageError("--export and --follow exclude each other.")
    if export is not None:
        _export(setup, export)
    elif follow is not None:
        _follow(setup, follow)
    else:
        _recover(setup, plan, request)


def _export(setup: Setup, target: str) -> None:
    import trio

    from nefia.recovery import act
    from nefia.recovery.plan import to_json

    text = to_json(trio.run(act.export, setup.load_cluster()))
    if target == STDOUT:
        line(text.rstrip())
        return
    try:
        Path(target).write_text(text)
    except OSError as error:
        raise Permission(f"cannot write {target}: {error.strerror}") from error
    line(f"{target} holds the summary of this node.")


def _follow(setup: Setup, text: str) -> None:
    import trio

    from nefia.recovery import act
    from nefia.recovery.plan import Ticket

    ticket = Ticket.parse(text)
    summary = trio.run(act.follow, setup.load_cluster(), ticket)
    line(f"{summary.node_id} follows the lineage {ticket.lineage}. Start its daemon.")


def _recover(setup: Setup, plan_only: bool, request: dict[str, Any]) -> None:
    from functools import partial

    import trio

    from nefia.recovery import act

    config = setup.load_cluster()
    if not request["lost"]:
        raise InvalidArgument(
            "no voter is named as lost",
            hint="name each that is gone for good with --lost ID; nefia cluster recover --help "
            "says how the other survivors are given",
        )
    asked = act.Request(**request)
    outcome = trio.run(
        partial(act.recover, config, asked, plan_only=plan_only, show=_show_survivors)
    )
    _show_plan(outcome)
    note(WARNING)
    if outcome.ticket is None:
        line("Nothing was changed. Without --plan, this is what will be done.")
        return
    line(f"Recovered. The lineage of this cluster is now {outcome.ticket.lineage}.")
    line("Start the daemon of this node.")
    for survivor in outcome.plan.survivors[1:]:
        line(f"On {survivor.node_id}, while it is stopped, run:")
        line(f"  nefia cluster recover --follow {outcome.ticket}")


def _show_survivors(survivors: Sequence[Summary]) -> None:
    """What the log of each holds, the newest first."""
    newest_first = sorted(survivors, key=lambda each: each.position, reverse=True)
    show_table(
        [header.upper() for header in HEADERS],
        (
            (
                each.node_id,
                each.lineage or "original",
                f"{each.first_index}-{each.last_index}",
                each.last_term,
                each.term,
                ", ".join(sorted(each.configuration.voters)),
            )
            for each in newest_first
        ),
    )


def _show_plan(outcome: Outcome) -> None:
    plan = outcome.plan
    now, then = plan.winner.configuration.voters, plan.configuration.voters
    line(f"{plan.winner.node_id} wins: no survivor's log is newer.")
    line(f"Voters now:       {', '.join(sorted(now))}")
    line(f"Voters from then: {', '.join(sorted(then))}")
    line(f"Left out:         {', '.join(plan.lost + plan.dropped)}")
    for member in outcome.answering:
        note(f"{member.id} is not off: something answers at {member.address}.")
