"""`nefia drill`: take the leader away on purpose, and see what that does to the cluster's users."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from nefia.admin.client import connect
from nefia.cli.framework import Command, Setup, duration, output_option, pass_setup
from nefia.cli.output import STRUCTURED, cell, line, note, show_fields
from nefia.cli.processes import server_of
from nefia.errors import EXIT_FAILED, DrillRefused, InvalidArgument

if TYPE_CHECKING:
    from nefia.drill.drilling import Drill
    from nefia.drill.judging import Report

KINDS = ("transfer", "kill", "freeze")
MAX_PATIENCE_SECONDS = 600.0
WILL = {
    "transfer": "The leader {leader} is asked to hand over to another node.",
    "kill": "The daemon of the leader {leader} (pid {pid}) gets SIGKILL; "
    "whatever supervises it has to start it again.",
    "freeze": "The daemon of the leader {leader} (pid {pid}) gets SIGSTOP, and SIGCONT "
    "when another leads.",
}
WILL_BY_HAND = (
    "The leader {leader} runs on another machine ({address}): you are told what to run there, "
    "and this command watches."
)


@click.command("drill", cls=Command)
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    default="transfer",
    show_default=True,
    help="What happens to the leader.",
)
@click.option("--yes", is_flag=True, help="Do not ask first.")
@click.option(
    "--patience",
    metavar="DURATION",
    default="1m",
    show_default=True,
    callback=duration,
    help="How long to wait for another leader, and for its services.",
)
@output_option
@pass_setup
def drill(setup: Setup, /, kind: str, yes: bool, patience: float, form: str) -> int:
    """A fire drill: take the leader away, measure the gap, and check that nothing was lost.

    Meanwhile it makes changes of its own, tasks that no worker gets, and cancels them afterwards.
    Exits with 1 if a promise was broken, and with 5 if it was refused and nothing was done.
    """
    if not 0 < patience <= MAX_PATIENCE_SECONDS:
        raise InvalidArgument("--patience must be longer than nothing and at most 10m")
    from nefia.drill.drilling import Course, Kind, prepare
    from nefia.drill.judging import judge

    path = str(setup.socket_path())
    with connect(path) as connection:
        pid = server_of(connection)
    plan = prepare(Kind(kind), path, pid)
    _agree(plan, yes)
    course = Course(plan, patience, note)
    evidence, left = course.run()
    report = judge(evidence)
    if left:
        note(
            f"note: {left} tasks are left in the queue {course.queue}. No worker gets them; "
            f"`nefia queue list --queue {course.queue} --state pending` shows them."
        )
    if form in STRUCTURED:
        STRUCTURED[form](report.to_json())
    else:
        _show(report)
    return 0 if report.passed else EXIT_FAILED


def _agree(plan: Drill, yes: bool) -> None:
    """Raises DrillRefused unless the operator agrees."""
    text = WILL_BY_HAND if plan.by_hand else WILL[plan.kind]
    pid = plan.local.pid if plan.local else None
    note(text.format(leader=plan.before.node_id, pid=pid, address=plan.address))
    services = f", and these services: {', '.join(plan.services)}" if plan.services else ""
    note(f"Until another leads, the cluster takes no changes{services}.")
    if yes:
        return
    if not sys.stdin.isatty():
        raise DrillRefused("nobody can be asked here", hint="add --yes to go on all the same")
    if not click.confirm("Go on?", err=True):
        raise DrillRefused("it was not agreed to")


def _show(report: Report) -> None:
    fields: dict[str, object] = {
        "Drill": report.kind + (", by hand" if report.by_hand else ""),
        "Leader before": f"{report.before.node_id}, in term {report.before.term}",
        "Leader after": report.after and f"{report.after.node_id}, in term {report.after.term}",
        "Changes": f"{report.acknowledged} acknowledged, one every {_ms(report.usual_ms)}",
        "Gap of changes": _ms(report.gap_ms),
    }
    if report.services:
        fields["Gap of services"] = _ms(report.services_gap_ms)
    fields["Nodes compared"] = ", ".join(report.compared) or None
    if report.missing:
        fields["Not back yet"] = ", ".join(report.missing)
    show_fields(fields)
    line("")
    for finding in report.findings:
        verdict = "holds " if finding.holds else "BROKEN"
        line(f"{verdict}  {finding.promise} ({finding.detail})")


def _ms(value: Any) -> str:
    return cell(None) if value is None else f"{value:.0f} ms"
