"""`nefia cluster history|recover` and what membership commands show besides their one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from nefia.raft.configuration import Configuration, Member
from nefia.raft.effects import Write
from nefia.raft.entries import Entry, HardState
from nefia.storage.lmdb_store import open_lmdb
from tests.cli.asking import ask, run

EVENT = {
    "number": 7,
    "at": "2026-01-02T03:04:05.006Z",
    "kind": "removed",
    "node_id": "node-3",
    "term": 4,
    "index": 12,
    "detail": "voters: node-1, node-2",
    "reason": "broken fan",
}
SIDE = {
    "voters": ["node-1", "node-2", "node-3"],
    "learners": [],
    "quorum": 2,
    "answering": ["node-1", "node-2", "node-3"],
    "failure_tolerance": 1,
}
PREVIEW = {
    "changed": False,
    "before": SIDE,
    "after": SIDE
    | {"voters": ["node-1", "node-2"], "answering": ["node-1"], "failure_tolerance": -1},
}


def test_history_is_a_table(tmp_path: Path) -> None:
    result, request = ask(tmp_path, "history", {"events": [EVENT]}, "cluster", "history")
    assert result.stdout == (
        "AT                       KIND    NODE-ID TERM DETAIL                 REASON\n"
        "2026-01-02T03:04:05.006Z removed node-3  4    voters: node-1, node-2 broken fan\n"
    )
    assert vars(request.params) == {"limit": 100}
    assert request.consistency == "linearizable"


def test_history_whole_and_bounded(tmp_path: Path) -> None:
    arguments = ("cluster", "history", "--limit", "5", "--local", "-o", "json")
    result, request = ask(tmp_path, "history", {"events": [EVENT]}, *arguments)
    assert json.loads(result.stdout) == {"events": [EVENT]}
    assert (vars(request.params), request.consistency) == ({"limit": 5}, "local")


@pytest.mark.parametrize(
    ("action", "arguments"),
    [
        ("add_peer", ("add-peer", "node-4", "--addr", "10.99.0.4:9700")),
        ("remove_peer", ("remove-peer", "node-3")),
    ],
)
def test_a_dry_run_shows_before_and_after(
    tmp_path: Path, action: str, arguments: tuple[str, ...]
) -> None:
    result, request = ask(tmp_path, action, PREVIEW, "cluster", *arguments, "--dry-run")
    assert request.params.dry_run is True
    assert result.stdout == (
        "                  BEFORE                 AFTER\n"
        "Voters            node-1, node-2, node-3 node-1, node-2\n"
        "Learners          -                      -\n"
        "Quorum            2                      2\n"
        "Answering         node-1, node-2, node-3 node-1\n"
        "Failure Tolerance 1                      -1\n"
    )
    assert result.stderr == "Nothing was changed.\n"


def test_a_transfer_tells_how_long_its_phases_took(tmp_path: Path) -> None:
    answer = {
        "leader_id": "node-2",
        "term": 5,
        "phases": {"record_ms": 3, "catch_up_ms": 0, "election_ms": 12},
    }
    arguments = ("cluster", "transfer-leader", "--to", "node-2", "--reason", "upgrade")
    result, request = ask(tmp_path, "transfer_leader", answer, *arguments)
    assert result.stdout == (
        "node-2 leads in term 5 (record 3 ms, catch up 0 ms, election 12 ms).\n"
    )
    assert vars(request.params) == {"to": "node-2", "reason": "upgrade"}


# Recovering.


@pytest.fixture
def stopped(tmp_path: Path) -> tuple[str, ...]:
    """The options of a stopped node-1, the only one left of three."""

    async def make() -> None:
        store = await open_lmdb(tmp_path / "cluster", "node-1")
        await store.join("cafe")
        names = ("node-1", "node-2", "node-3")
        members = [Member(name, f"{name}.invalid:9700", voter=True) for name in names]
        entries = (Entry(1, 1, Configuration(members)), Entry(2, 3, b"2"))
        await store.write(Write(1, hard_state=HardState(4), entries=entries))
        await store.close()

    trio.run(make)
    config = tmp_path / "nefia.yaml"
    config.write_text(
        'cluster: {enabled: true, node_id: node-1, bind_addr: "127.0.0.1:9700", '
        'advertise_addr: "127.0.0.1:9700"}\n'
    )
    return ("--config", str(config), "--state-dir", str(tmp_path))


LOST = ("--lost", "node-2", "--lost", "node-3")


def test_recover_plans_and_recovers(stopped: tuple[str, ...]) -> None:
    planned = run(*stopped, "cluster", "recover", *LOST, "--plan")
    assert planned.exit_code == 0, planned.stderr
    assert planned.stdout == (
        "NODE   LINEAGE  ENTRIES LAST TERM TERM VOTERS\n"
        "node-1 original 1-2     3         4    node-1, node-2, node-3\n"
        "node-1 wins: no survivor's log is newer.\n"
        "Voters now:       node-1, node-2, node-3\n"
        "Voters from then: node-1\n"
        "Left out:         node-2, node-3\n"
        "Nothing was changed. Without --plan, this is what will be done.\n"
    )
    assert "acknowledged" in planned.stderr
    assert "holds only while every node that was left out stays off" in planned.stderr
    done = run(*stopped, "cluster", "recover", *LOST)
    assert done.exit_code == 0, done.stderr
    assert "The lineage of this cluster is now " in done.stdout
    again = run(*stopped, "cluster", "recover", *LOST)
    assert again.exit_code == 2
    assert "node-2: there is no such voter; the voters are node-1" in again.stderr


def test_recover_says_who_is_missing(stopped: tuple[str, ...]) -> None:
    refused = run(*stopped, "cluster", "recover", "--lost", "node-2")
    assert refused.exit_code == 5
    assert "nothing is said of the voter node-3" in refused.stderr
    assert "Nothing was changed" in refused.stderr
    assert "node-1 original" in refused.stdout, "what the survivors hold is shown nevertheless"
    nobody = run(*stopped, "cluster", "recover")
    assert nobody.exit_code == 2


def test_recover_exports(stopped: tuple[str, ...], tmp_path: Path) -> None:
    shown = run(*stopped, "cluster", "recover", "--export", "-")
    assert json.loads(shown.stdout)["last_index"] == 2
    file = tmp_path / "node-1.json"
    assert run(*stopped, "cluster", "recover", "--export", str(file)).exit_code == 0
    assert json.loads(file.read_text()) == json.loads(shown.stdout)
    nowhere = run(*stopped, "cluster", "recover", "--export", str(tmp_path / "no" / "file"))
    assert nowhere.exit_code == 6
    both = run(*stopped, "cluster", "recover", "--export", "-", "--follow", "l1:1:1")
    assert both.exit_code == 2


def test_recover_follows(stopped: tuple[str, ...]) -> None:
    assert run(*stopped, "cluster", "recover", "--follow", "nonsense").exit_code == 2
    assert run(*stopped, "cluster", "recover", "--follow", "l1:3:1").exit_code == 5
    followed = run(*stopped, "cluster", "recover", "--follow", "l1:3:2")
    assert followed.stdout == "node-1 follows the lineage l1. Start its daemon.\n"
