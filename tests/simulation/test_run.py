"""The command line: what is run, what is written down, and the table."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation import jobs, run
from tests.simulation.history import FIELDS, Operation, from_lines
from tests.simulation.jobs import Plan, plans, unequal_seeds
from tests.simulation.linearizability import Linearizable, Violation, check
from tests.simulation.models import QueueModel, SessionModel
from tests.simulation.report import Report, Totals, table


def test_both_simulators_share_the_seeds_and_one_has_all() -> None:
    assert plans(None, 7, 5000, 120.0) == (
        Plan("core", 7, 5000, 120.0),
        Plan("daemon", 7, 500, 60.0),
    )
    assert plans("daemon", 0, 30, 20.0) == (Plan("daemon", 0, 30, 20.0),)
    assert plans(None, 0, 1, 8.0)[1].seeds == 1


def test_a_run_ends_with_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--seeds", "3", "--seconds", "4", "--jobs", "2"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-1] == "| violations | 0 | 0 |"
    assert "| seeds | 3 | 1 |" in lines
    named = {line.split("|")[1].strip() for line in lines if line.startswith("|")}
    assert named >= {"elections won", "entries committed", "linearizability checks"}
    assert any(name.startswith("fault: ") for name in named)


def test_a_violation_is_told_with_the_command_that_shows_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Report(41, "at 1.0 s: two leaders", transcript=["1.0 n1 leads"])
    monkeypatch.setitem(jobs.SIMULATORS, "core", lambda *_, **__: broken)
    assert run.main(["--kind", "core", "--seed", "41", "--transcript"]) == 1
    assert capsys.readouterr().out.startswith("1.0 n1 leads\ncore seed 41: at 1.0 s: two leaders")
    monkeypatch.setattr(run, "outcomes", lambda task, jobs, *_: ((j, task(j)) for j in jobs))
    assert run.main(["--kind", "core", "--seeds", "2", "--seconds", "9"]) == 1
    said = capsys.readouterr().out
    command = "python -m tests.simulation.run --kind core --seed 1 --seconds 9 --transcript"
    assert said.count(command) == 2
    assert "| violations | 2 |" in said


def test_only_the_daemon_has_histories(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["--kind", "core", "--histories", "somewhere"])
    assert "no clients' histories" in capsys.readouterr().err


def test_a_history_can_be_judged_by_whoever_reads_it(tmp_path: Path) -> None:
    assert run.main(["--seed", "2", "--seconds", "16", "--histories", str(tmp_path)]) == 0
    (written,) = tmp_path.iterdir()
    assert written.name == "daemon-2.jsonl"
    lines = written.read_text().splitlines(keepends=True)
    assert all(set(json.loads(line)) == set(FIELDS) for line in lines)
    history = from_lines(lines)
    assert len(history) > 50
    assert isinstance(check(QueueModel(), history), Linearizable)
    assert isinstance(check(SessionModel(), history), Linearizable)
    # The same with two clients that hold one task by one token is none.
    claim = next(o for o in history if o.op == "queue_claim" and (o.result or {}).get("task"))
    twice = Operation("thief", "queue_claim", {"worker": "thief"}, claim.latest + 1, *_later(claim))
    assert isinstance(check(QueueModel(), [*history, twice]), Violation)


def _later(claim: Operation) -> tuple[object, float]:
    task = {**claim.result["task"], "worker": "thief"}
    return {**claim.result, "task": task}, claim.latest + 2


def test_the_table_has_what_only_one_simulator_counts() -> None:
    core, daemon = Totals(), Totals()
    core.add(Report(1, counts=Counter({"fault crash": 1200, "fault wipe": 2})))
    daemon.add(Report(1, "broken", counts=Counter({"fault crash": 3, "fault reset": 4})))
    lines = table({"core": core, "daemon": daemon}).splitlines()
    assert lines[:3] == ["| | core | daemon |", "|---|---|---|", "| seeds | 1 | 1 |"]
    crash = lines.index("| fault: crash | 1,200 | 3 |")
    assert {"| fault: wipe | 2 | - |", "| fault: reset | - | 4 |"} == set(
        lines[crash + 1 : crash + 3]
    )
    assert lines[-1] == "| violations | 0 | 1 |"


def test_a_seed_that_prints_something_else_is_found() -> None:
    texts = [frozenset({"1 abc", "2 def", "3 ghi"}), frozenset({"1 abc", "2 xyz", "3 ghi"})]
    assert unequal_seeds(texts) == [2]
    assert unequal_seeds(texts[:1]) == []
