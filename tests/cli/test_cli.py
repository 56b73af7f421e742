"""The command line against a fake daemon: outputs to the letter, errors, exit codes (SPEC 3)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
from ruamel.yaml import YAML

from nefia import __version__, errors
from nefia.cli.framework import commands_of
from nefia.cli.root import root

sys.path.insert(0, str(Path(__file__).parent))
from tests.cli.asking import TASK, ask, run
from tests.cli.fake_daemon import FakeDaemon

STATUS = {
    "node_id": "node-1",
    "state": "Leader",
    "is_leader": True,
    "leader_id": "node-1",
    "leader_addr": "10.99.0.1:9700",
    "term": 3,
    "commit_index": 17,
    "cluster_id": "c0ffee",
    "healthy": True,
    "services": [],
}


def member(
    node_id: str, address: str, state: str, local: bool = False, **more: Any
) -> dict[str, Any]:
    return {"id": node_id, "address": address, "state": state, "local": local, **more}


MEMBERS = {
    "members": [
        member("node-1", "10.99.0.1:9700", "Leader", True, voter=True, last_contact_ms=0),
        member("node-2", "10.99.0.2:9700", "Follower", voter=True, last_contact_ms=12),
        member("node-3", "10.99.0.3:9700", "Follower", voter=True, last_contact_ms=None),
    ],
    "source": "node-1",
    "note": None,
}


class TestStatus:
    def test_is_to_the_letter(self, tmp_path: Path) -> None:
        result, _ = ask(tmp_path, "status", STATUS, "cluster", "status")
        assert result.stdout == (
            "Node ID:    node-1\nState:      Leader\nIs Leader:  true\nLeader ID:  node-1\n"
        )
        assert (result.exit_code, result.stderr) == (0, "")

    def test_without_a_leader(self, tmp_path: Path) -> None:
        lost = STATUS | {"state": "Candidate", "is_leader": False, "leader_id": None}
        result, _ = ask(tmp_path, "status", lost, "cluster", "status")
        assert result.stdout == (
            "Node ID:    node-1\nState:      Candidate\nIs Leader:  false\nLeader ID:  -\n"
        )

    def test_passes_the_daemons_hint_on_beside_it(self, tmp_path: Path) -> None:
        waiting = STATUS | {"hint": "run nefia cluster init"}
        result, _ = ask(tmp_path, "status", waiting, "cluster", "status")
        assert result.stderr == "hint: run nefia cluster init\n"
        assert len(result.stdout.splitlines()) == 4

    def test_wide_adds_the_rest(self, tmp_path: Path) -> None:
        result, _ = ask(tmp_path, "status", STATUS, "cluster", "status", "-o", "wide")
        lines = result.stdout.splitlines()
        assert lines[0] == "Node ID:       node-1"
        assert "Commit Index:  17" in lines
        assert "Cluster ID:    c0ffee" in lines

    def test_as_json_and_yaml(self, tmp_path: Path) -> None:
        as_json, _ = ask(tmp_path, "status", STATUS, "cluster", "status", "-o", "json")
        (tmp_path / "admin.sock").unlink()
        as_yaml, _ = ask(tmp_path, "status", STATUS, "cluster", "status", "-o", "yaml")
        assert json.loads(as_json.stdout) == STATUS
        assert YAML(typ="safe").load(as_yaml.stdout) == STATUS

    @pytest.mark.parametrize(("healthy", "code"), [(True, 0), (False, 3)])
    def test_check_tells_a_degraded_cluster(self, tmp_path: Path, healthy: bool, code: int) -> None:
        status = STATUS | {"healthy": healthy}
        result, _ = ask(tmp_path, "status", status, "cluster", "status", "--check")
        assert result.exit_code == code


class TestMembers:
    def test_are_to_the_letter(self, tmp_path: Path) -> None:
        result, _ = ask(tmp_path, "members", MEMBERS, "cluster", "members")
        assert result.stdout == (
            "ID       ADDRESS           STATE      LOCAL\n"
            "node-1   10.99.0.1:9700    Leader     *\n"
            "node-2   10.99.0.2:9700    Follower\n"
            "node-3   10.99.0.3:9700    Follower\n"
        )

    def test_columns_grow_with_their_values(self, tmp_path: Path) -> None:
        members = {
            "members": [member("a-long-node-id", "node.example.org:9700", "Unreachable", True)]
        }
        result, _ = ask(tmp_path, "members", members, "cluster", "members")
        assert result.stdout == (
            "ID             ADDRESS               STATE       LOCAL\n"
            "a-long-node-id node.example.org:9700 Unreachable *\n"
        )

    def test_wide_adds_the_rest(self, tmp_path: Path) -> None:
        result, _ = ask(tmp_path, "members", MEMBERS, "cluster", "members", "-o", "wide")
        lines = result.stdout.splitlines()
        assert lines[0] == "ID       ADDRESS           STATE      LOCAL VOTER LAST-CONTACT-MS"
        assert lines[3] == "node-3   10.99.0.3:9700    Follower         true  -"

    def test_say_whose_view_it_is(self, tmp_path: Path) -> None:
        own = MEMBERS | {"note": "this is node-1's own view"}
        result, _ = ask(tmp_path, "members", own, "cluster", "members")
        assert result.stderr == "note: this is node-1's own view\n"


class TestErrors:
    def test_say_what_happened_and_what_to_do(self, tmp_path: Path) -> None:
        error = errors.NotLeader(
            "this node is a follower; the leader is node-1 at 10.99.0.1:9700",
            leader_id="node-1",
            leader_addr="10.99.0.1:9700",
        )
        result, _ = ask(tmp_path, "remove_peer", error, "cluster", "remove-peer", "node-3")
        assert result.stderr == (
            "error: not_leader: this node is a follower; the leader is node-1 at 10.99.0.1:9700.\n"
            "Nothing was changed. Run the command there, or add --forward.\n"
        )
        assert (result.exit_code, result.stdout) == (1, "")

    @pytest.mark.parametrize("kind", errors.BY_CODE.values(), ids=lambda kind: str(kind.code))
    def test_exit_as_the_table_says(self, tmp_path: Path, kind: type[errors.NefiaError]) -> None:
        result, _ = ask(tmp_path, "status", kind("what happened"), "cluster", "status")
        assert result.exit_code == errors.EXIT_CODES.get(kind.code, 1)
        assert result.stderr.startswith(f"error: {kind.code}: what happened.\n")

    def test_no_daemon(self, tmp_path: Path) -> None:
        result = run("cluster", "status")
        assert result.exit_code == 8
        assert str(tmp_path / "admin.sock") in result.stderr
        assert "Nothing was changed. Start it with `nefia daemon`" in result.stderr

    def test_an_unknown_outcome_gives_the_id_to_repeat_it_with(self, tmp_path: Path) -> None:
        result, request = ask(
            tmp_path, "queue_cancel", None, "queue", "cancel", "7", "--timeout", "50ms"
        )
        assert result.exit_code == 7
        assert "Whether it was done is not known." in result.stderr
        assert f"add --request-id {request.request_id}." in result.stderr
        (tmp_path / "admin.sock").unlink()
        _, again = ask(
            tmp_path, "queue_cancel", {"task": TASK}, "queue", "cancel", "7",
            "--request-id", request.request_id,
        )  # fmt: skip
        assert again.request_id == request.request_id

    def test_a_read_without_an_answer_changed_nothing(self, tmp_path: Path) -> None:
        result, _ = ask(tmp_path, "status", None, "cluster", "status", "--timeout", "50ms")
        assert result.exit_code == 7
        assert "Nothing was changed." in result.stderr

    @pytest.mark.parametrize(
        "args",
        [
            ("nonsense",),
            ("cluster", "nonsense"),
            ("cluster", "status", "--nonsense"),
            ("cluster", "status", "-o", "xml"),
            ("cluster", "status", "--timeout", "5"),
            ("cluster", "add-peer", "--addr", "a:1"),
            ("cluster", "add-peer", "a", "--id", "a", "--addr", "a:1"),
            ("queue", "push", "not json"),
            ("queue", "push", "NaN"),
            ("queue", "push", "[" * 100_000),
            ("queue", "ack", "7"),
            ("queue", "ack", "7", "--token", "x"),
            ("queue", "claim", "--wait", "5"),
            ("session", "open", "--host", "h", "--label", "x"),
            ("completion", "tcsh"),
            ("--config", "/does/not/exist", "cluster", "status"),
            ("config", "check", "--config", "/does/not/exist"),
        ],
    )
    def test_usage_errors_exit_with_2_and_say_why(self, args: tuple[str, ...]) -> None:
        result = run(*args)
        assert result.exit_code == 2
        assert result.stderr.startswith(("error: invalid_argument: ", "error: invalid_conf"))
        assert "Nothing was changed." in result.stderr
        assert "Traceback" not in result.stderr

    def test_a_broken_configuration_lists_all_mistakes(self, tmp_path: Path) -> None:
        path = tmp_path / "nefia.yaml"
        path.write_text("cluster:\n  enabeld: true\n  node_id: 7\n")
        result = run("config", "check", "--config", str(path))
        assert result.exit_code == 2
        assert f"  {path}:2: " in result.stderr
        assert f"  {path}:3: " in result.stderr

    def test_no_colour_but_on_a_terminal(self, tmp_path: Path) -> None:
        result, _ = ask(tmp_path, "members", MEMBERS, "cluster", "members")
        assert "\x1b" not in result.output


class TestGlobalOptions:
    @pytest.mark.parametrize(
        "args",
        [
            ("--state-dir", "{}", "cluster", "status"),
            ("cluster", "--state-dir", "{}", "status"),
            ("cluster", "status", "--state-dir", "{}"),
        ],
    )
    def test_are_taken_anywhere(self, tmp_path: Path, args: tuple[str, ...]) -> None:
        directory = tmp_path / "elsewhere"
        directory.mkdir()
        with FakeDaemon(directory, status=STATUS):
            result = run(*(arg.format(directory) for arg in args))
        assert result.exit_code == 0, result.stderr

    def test_the_file_says_where_the_socket_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("NEFIA_STATE_DIR")
        directory = tmp_path / "state"
        directory.mkdir()
        path = tmp_path / "nefia.yaml"
        path.write_text(f"state_dir: {directory}\n")
        with FakeDaemon(directory, status=STATUS):
            assert run("cluster", "status", "--config", str(path)).exit_code == 0


class TestMembership:
    def test_add_peer_sends_what_was_asked(self, tmp_path: Path) -> None:
        answer = {"changed": True, "member": member("n", "a:1", "Follower", voter=True)}
        result, request = ask(
            tmp_path, "add_peer", answer, "cluster", "add-peer", "--id", "n", "--addr", "a:1",
            "--no-wait", "--no-preflight", "--forward", "--reason", "why",
        )  # fmt: skip
        assert vars(request.params) == {
            "id": "n", "addr": "a:1", "wait": False, "preflight": False, "reason": "why",
            "dry_run": False,
        }  # fmt: skip
        assert request.forward
        assert len(request.request_id) == 32
        assert result.stdout == "n at a:1 is a voter.\n"

    def test_add_peer_takes_the_id_as_an_argument(self, tmp_path: Path) -> None:
        answer = {"changed": False, "member": member("n", "a:1", "Follower", voter=True)}
        result, request = ask(
            tmp_path, "add_peer", answer, "cluster", "add-peer", "n", "--addr", "a:1"
        )
        assert request.params.id == "n"
        assert request.params.wait is True
        assert "nothing was changed" in result.stdout

    def test_add_peer_says_that_a_learner_is_none_yet(self, tmp_path: Path) -> None:
        answer = {"changed": True, "member": member("n", "a:1", "Learner", voter=False)}
        result, _ = ask(tmp_path, "add_peer", answer, "cluster", "add-peer", "n", "--addr", "a:1")
        assert "is a learner" in result.stdout

    def test_remove_peer(self, tmp_path: Path) -> None:
        result, request = ask(
            tmp_path, "remove_peer", {"changed": True}, "cluster", "remove-peer", "n", "--force"
        )
        assert vars(request.params) == {"id": "n", "force": True, "reason": "", "dry_run": False}
        assert result.stdout == "n is removed.\n"

    def test_transfer_leader(self, tmp_path: Path) -> None:
        answer = {"leader_id": "node-2", "term": 4, "phases": {"election_ms": 9}}
        result, request = ask(
            tmp_path, "transfer_leader", answer, "cluster", "transfer-leader", "--to", "node-2"
        )
        assert request.params.to == "node-2"
        assert result.stdout == "node-2 leads in term 4 (election 9 ms).\n"


class TestInit:
    def test_asks_the_daemon(self, tmp_path: Path) -> None:
        result, _ = ask(tmp_path, "init", {"cluster_id": "c0ffee"}, "cluster", "init")
        assert result.stdout == "Cluster ID: c0ffee\n"

    def test_a_second_one_says_which_cluster_is_there(self, tmp_path: Path) -> None:
        error = errors.AlreadyInitialized("this node is in cluster c0ffee", cluster_id="c0ffee")
        result, _ = ask(tmp_path, "init", error, "cluster", "init")
        assert result.exit_code == 5
        assert "c0ffee" in result.stderr

    def test_if_needed_is_content_with_it(self, tmp_path: Path) -> None:
        error = errors.AlreadyInitialized("this node is in cluster c0ffee", cluster_id="c0ffee")
        result, _ = ask(tmp_path, "init", error, "cluster", "init", "--if-needed")
        assert result.exit_code == 0
        assert result.stderr == "this node is in cluster c0ffee; nothing was changed.\n"

    def test_needs_a_configuration_without_a_daemon(self) -> None:
        result = run("cluster", "init", "--config", "/does/not/exist")
        assert result.exit_code == 2


class TestAlone:
    def test_version(self) -> None:
        assert run("version").stdout == f"nefia {__version__}\n"

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_completion(self, shell: str) -> None:
        assert "_NEFIA_COMPLETE" in run("completion", shell).stdout

    def test_every_command_has_help(self) -> None:
        def visit(*path: str) -> None:
            result = run(*path, "--help")
            assert result.exit_code == 0
            command: Any = root
            for name in path:
                command = commands_of(command)[name]
            assert command.help
            for name in commands_of(command) if isinstance(command, click.Group) else ():
                visit(*path, name)

        visit()


def process(tmp_path: Path, *args: str, **options: Any) -> subprocess.Popen[str]:
    code = "from nefia.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        env=os.environ | {"NEFIA_STATE_DIR": str(tmp_path), "PYTHONPATH": os.getcwd()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


class TestProcess:
    def test_ctrl_c_exits_with_130_and_the_request_id(self, tmp_path: Path) -> None:
        with FakeDaemon(tmp_path, queue_cancel=None) as daemon:
            child = process(tmp_path, "queue", "cancel", "7")
            while not daemon.requests:
                time.sleep(0.01)
            child.send_signal(signal.SIGINT)
            _, stderr = child.communicate(timeout=10)
        assert child.returncode == 130
        assert f"--request-id {daemon.requests[0].request_id}" in stderr
        assert "Traceback" not in stderr

    def test_a_closed_pipe_is_no_news(self, tmp_path: Path) -> None:
        many = {"tasks": [TASK] * 2000, "cursor": None}
        with FakeDaemon(tmp_path, queue_list=many):
            child = process(tmp_path, "queue", "list", "-o", "json")
            assert child.stdout is not None
            child.stdout.close()
            assert child.stderr is not None
            assert child.stderr.read() == ""
            child.wait(10)
            child.stderr.close()

    def test_asking_imports_nothing_heavy(self, tmp_path: Path) -> None:
        code = (
            "import sys\n"
            "from nefia.cli import main\n"
            "try:\n    main()\n"
            "finally:\n    print(*sys.modules, file=sys.stderr)\n"
        )
        with FakeDaemon(tmp_path, status=STATUS):
            done = subprocess.run(
                [sys.executable, "-c", code, "cluster", "status"],
                env=os.environ | {"NEFIA_STATE_DIR": str(tmp_path), "PYTHONPATH": os.getcwd()},
                capture_output=True,
                text=True,
                check=True,
            )
        heavy = {
            "trio",
            "cattrs",
            "structlog",
            "msgpack",
            "lmdb",
            "asyncio",
            "OpenSSL",
            "hypothesis",
        }
        assert heavy.isdisjoint(done.stderr.split())
