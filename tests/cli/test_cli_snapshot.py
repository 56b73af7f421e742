"""`nefia snapshot` and `nefia cluster snapshot` against a fake daemon and real files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nefia.admin.protocol import Request
from nefia.admin.restoring import restore_step
from nefia.errors import ChangeInProgress, NefiaError, NoLeader, OutcomeUnknown
from nefia.state.commands import Change, EndRestore
from nefia.state.machine import Machine
from nefia.storage.snapshot_files import SnapshotDirectory
from nefia.storage.snapshot_format import Encoder, Sealer, SnapshotInfo
from tests.cli.asking import ask, run
from tests.cli.fake_daemon import FakeDaemon
from tests.storage.snapshots_made import described, state

INDEX = 40
TASKS = 1_200


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SnapshotDirectory:
    """That of a node, which has two snapshots."""
    config = tmp_path / "nefia.yaml"
    config.write_text(
        "cluster: {enabled: true, node_id: n1, bind_addr: '127.0.0.1:9700',"
        " advertise_addr: '127.0.0.1:9700'}\n"
    )
    monkeypatch.setenv("NEFIA_CONFIG", str(config))
    data_dir = tmp_path / "cluster"
    data_dir.mkdir()
    directory = SnapshotDirectory(data_dir / "snapshots")
    for index in (7, INDEX):
        make(directory, index)
    return directory


def make(directory: SnapshotDirectory, index: int) -> None:
    encoder, sealer = Encoder(state(index, TASKS)), Sealer()
    path, file = directory.begin(f"2-{index}")
    while records := encoder.next_chunk():
        file.append(sealer.seal(records))
    file.sync()
    file.close()
    directory.complete(path, sealer.info(described(index), encoder.kinds))


def newest(directory: SnapshotDirectory) -> SnapshotInfo:
    return directory.found[0]


TAKEN = {"index": INDEX, "term": 2, "bytes": 5}


def save(tmp_path: Path, *options: str) -> Any:
    (tmp_path / "admin.sock").unlink(missing_ok=True)
    result, _ = ask(tmp_path, "snapshot", TAKEN, "snapshot", "save", str(tmp_path / "f"), *options)
    return result


class TestSaving:
    def test_a_file_that_can_be_inspected(
        self, tmp_path: Path, directory: SnapshotDirectory
    ) -> None:
        saved = save(tmp_path)
        assert saved.exit_code == 0
        assert f"2-{INDEX} is in {tmp_path}/f: {TASKS + 1} records" in saved.stdout
        assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600
        shown = run("snapshot", "inspect", str(tmp_path / "f"))
        assert f"ID:          2-{INDEX}\n" in shown.stdout
        assert "Cluster ID:  cluster-a\n" in shown.stdout
        assert "Members:     node-1, node-2\n" in shown.stdout
        assert f"task     {TASKS}" in shown.stdout

    def test_as_json(self, tmp_path: Path, directory: SnapshotDirectory) -> None:
        told = json.loads(save(tmp_path, "-o", "json").stdout)
        seen = run("snapshot", "inspect", str(tmp_path / "f"), "-o", "json").stdout
        assert told == json.loads(seen)
        assert (told["index"], told["term"]) == (INDEX, 2)
        assert told["kinds"]["task"]["count"] == TASKS

    def test_without_a_daemon_the_newest_there_is(
        self, tmp_path: Path, directory: SnapshotDirectory
    ) -> None:
        saved = run("snapshot", "save", str(tmp_path / "f"))
        assert saved.exit_code == 0
        assert f"2-{INDEX} is in" in saved.stdout
        assert "No daemon runs here" in saved.stderr

    def test_what_is_damaged_replaces_nothing(
        self, tmp_path: Path, directory: SnapshotDirectory
    ) -> None:
        save(tmp_path)
        before = (tmp_path / "f").read_bytes()
        data = directory.place_of(newest(directory)) / "data"
        spoilt = bytearray(data.read_bytes())
        spoilt[-3] ^= 4
        data.write_bytes(spoilt)
        refused = save(tmp_path)
        assert refused.exit_code == 1
        assert "data_damaged" in refused.stderr
        assert (tmp_path / "f").read_bytes() == before
        assert not list(tmp_path.glob(".f*"))

    def test_where_there_is_none(self, tmp_path: Path, directory: SnapshotDirectory) -> None:
        directory.prune(0)
        refused = run("snapshot", "save", str(tmp_path / "f"))
        assert refused.exit_code == 1
        assert "there is no snapshot in" in refused.stderr

    def test_into_a_directory_that_is_not_there(
        self, tmp_path: Path, directory: SnapshotDirectory
    ) -> None:
        refused = run("snapshot", "save", str(tmp_path / "no" / "f"))
        assert refused.exit_code == 1
        assert "there is no such file" in refused.stderr

    def test_while_one_is_restored(self, tmp_path: Path, directory: SnapshotDirectory) -> None:
        busy = ChangeInProgress("a snapshot is being restored")
        result, _ = ask(tmp_path, "snapshot", busy, "snapshot", "save", str(tmp_path / "f"))
        assert result.exit_code == 5
        assert not (tmp_path / "f").exists()


def test_taking_one(tmp_path: Path) -> None:
    result, _ = ask(tmp_path, "snapshot", TAKEN, "cluster", "snapshot")
    assert result.stdout == f"Snapshot 2-{INDEX} is taken: 5 bytes.\n"
    (tmp_path / "admin.sock").unlink()
    result, _ = ask(tmp_path, "snapshot", TAKEN, "cluster", "snapshot", "-o", "json")
    assert json.loads(result.stdout) == TAKEN


def test_inspecting_what_is_no_snapshot(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("hello\n")
    refused = run("snapshot", "inspect", str(tmp_path / "f"))
    assert refused.exit_code == 1
    assert "data_damaged" in refused.stderr
    assert "Traceback" not in refused.stderr


class Cluster:
    """What a leader would do with the steps."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.forwarded: set[bool] = set()
        self.later: list[tuple[int, str | None]] = []
        """What it says of term and leader, one after the other, once all has come."""

    def restore(self, request: Request) -> dict[str, Any]:
        self.forwarded.add(request.forward)
        step = restore_step(request.params.step)
        index = self.machine.applied_index + 1
        self.machine.apply(index, [Change(1_000, request.request_id, step)])
        if isinstance(step, EndRestore):
            self.later = [(2, "n1"), (9, None), (9, "n1")]
        return {"changed": isinstance(step, EndRestore)}

    def status(self, _: Request) -> dict[str, Any]:
        term, leader_id = self.later.pop(0) if self.later else (2, "n1")
        return {"term": term, "leader_id": leader_id}


class TestRestoring:
    def restore(
        self, tmp_path: Path, cluster: Cluster, cluster_id: str, *options: str
    ) -> tuple[Any, list[str]]:
        (tmp_path / "admin.sock").unlink(missing_ok=True)

        def status(request: Request) -> dict[str, Any]:
            return cluster.status(request) | {"cluster_id": cluster_id}

        with FakeDaemon(tmp_path, status=status, snapshot_restore=cluster.restore) as daemon:
            result = run("snapshot", "restore", str(tmp_path / "f"), *options)
        return result, [request.action for request in daemon.requests]

    def test_the_state_is_that_of_the_file(
        self, tmp_path: Path, directory: SnapshotDirectory
    ) -> None:
        save(tmp_path)
        cluster = Cluster()
        result, _ = self.restore(tmp_path, cluster, "cluster-a", "--forward")
        assert result.exit_code == 0, result.stderr
        assert result.stdout == f"0 sessions and {TASKS} tasks of 2-{INDEX} are in place.\n"
        tasks, cursor = cluster.machine.list_tasks(limit=1_000)
        assert [task.number for task in tasks] == list(range(1, 1 + len(tasks)))
        assert cursor
        assert cluster.forwarded == {True}
        assert not cluster.later, "whoever asks next finds the new epoch's leader"

    def test_another_leader_goes_on_with_it(
        self, tmp_path: Path, directory: SnapshotDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nefia.cli.snapshot.RETRY_SECONDS", 0.0)
        save(tmp_path)
        cluster = Cluster()
        failures: list[NefiaError] = [NoLeader("an election"), OutcomeUnknown("who knows")]
        restore = cluster.restore

        def now_and_then(request: Request) -> Any:
            """The second time it happens nevertheless, and the answer is lost."""
            if cluster.machine.applied_index == 3 and failures:
                if len(failures) == 1:
                    restore(request)
                return failures.pop(0)
            return restore(request)

        monkeypatch.setattr(cluster, "restore", now_and_then)
        result, _ = self.restore(tmp_path, cluster, "cluster-a")
        assert result.exit_code == 0, result.stderr
        assert not failures
        assert cluster.machine.get_task(str(TASKS)).number == TASKS

    def test_one_of_a_program_is_refused(self, tmp_path: Path) -> None:
        """Its machine's state would be missing."""
        recorded = Path(__file__).parents[2] / "fixtures" / "snapshots" / "format-1.snapshot"
        (tmp_path / "f").write_bytes(recorded.read_bytes())
        result, actions = self.restore(tmp_path, Cluster(), "c1", "--dry-run", "--force")
        assert result.exit_code == 5
        assert "other_machine" in result.stderr
        assert actions == ["status"]

    def test_a_dry_run_changes_nothing(self, tmp_path: Path, directory: SnapshotDirectory) -> None:
        save(tmp_path)
        result, actions = self.restore(tmp_path, Cluster(), "cluster-a", "--dry-run")
        assert result.exit_code == 0
        assert "nothing was changed" in result.stdout
        assert actions == ["status"]

    def test_another_clusters_is_refused(
        self, tmp_path: Path, directory: SnapshotDirectory
    ) -> None:
        save(tmp_path)
        result, actions = self.restore(tmp_path, Cluster(), "cluster-b")
        assert result.exit_code == 5
        assert "of the cluster cluster-a, and this one is cluster-b" in result.stderr
        assert actions == ["status"]
        forced, _ = self.restore(tmp_path, Cluster(), "cluster-b", "--force")
        assert forced.exit_code == 0

    def test_damage_is_found_before_anything_is_sent(
        self, tmp_path: Path, directory: SnapshotDirectory
    ) -> None:
        save(tmp_path)
        file = tmp_path / "f"
        file.write_bytes(file.read_bytes()[:-1])
        result, actions = self.restore(tmp_path, Cluster(), "cluster-a")
        assert result.exit_code == 1
        assert "data_damaged" in result.stderr
        assert actions == []
