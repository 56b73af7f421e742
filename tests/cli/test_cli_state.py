"""`nefia session` and `nefia queue` against a fake daemon."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from nefia.admin.protocol import Request
from nefia.errors import NoLeader
from nefia.state.commands import AckTask, ExtendTask, FailTask, NewTask, UpdateSession

sys.path.insert(0, str(Path(__file__).parent))
from tests.cli.asking import TASK, ask, run
from tests.cli.fake_daemon import FakeDaemon

SESSION = {
    "id": "0123456789abcdef",
    "host": "web-1",
    "user": "",
    "cwd": "/" + "x" * 100,
    "last_used_at": "2026-01-02T03:04:05.006Z",
    "expires_at": "2026-01-02T03:34:05.006Z",
    "labels": {"a": "b"},
}


class TestSessions:
    def test_open_prints_the_id(self, tmp_path: Path) -> None:
        result, request = ask(
            tmp_path, "session_open", {"session": SESSION}, "session", "open", "--host", "web-1",
            "--label", "a=b=c", "--label", "d=", "--user", "root",
        )  # fmt: skip
        assert request.params.labels == {"a": "b=c", "d": ""}
        assert request.params.user == "root"
        assert result.stdout == "0123456789abcdef\n"

    def test_update_sends_only_what_was_given(self, tmp_path: Path) -> None:
        _, request = ask(
            tmp_path, "session_update", {"session": SESSION}, "session", "update", "01234567",
            "--cwd", "/tmp",
        )  # fmt: skip
        assert request.params == UpdateSession("01234567", "/tmp", None)

    def test_show_lists_the_fields(self, tmp_path: Path) -> None:
        result, request = ask(
            tmp_path, "session_get", {"session": SESSION}, "session", "show", "01234567", "--local"
        )
        assert request.consistency == "local"
        assert "Host:          web-1\n" in result.stdout

    def test_list_cuts_what_is_long(self, tmp_path: Path) -> None:
        answer = {"sessions": [SESSION], "cursor": "0123456789abcdef"}
        result, request = ask(
            tmp_path, "session_list", answer, "session", "list", "--limit", "1", "--host", "web-1"
        )
        assert (request.params.limit, request.params.host) == (1, "web-1")
        header, row = result.stdout.splitlines()
        assert header.split() == ["ID", "HOST", "USER", "CWD", "LAST-USED-AT", "EXPIRES-AT"]
        assert row.split()[2] == "-"
        assert "xxx..." in row
        assert result.stderr == "There are more: add --cursor 0123456789abcdef\n"

    @pytest.mark.parametrize("command", ["touch", "close"])
    def test_touch_and_close(self, tmp_path: Path, command: str) -> None:
        action = f"session_{command}"
        result, request = ask(
            tmp_path, action, {"session": SESSION}, "session", command, "01234567"
        )
        assert request.params.id == "01234567"
        assert result.stdout.startswith("0123456789abcdef is ")


class TestQueue:
    @pytest.mark.parametrize(
        ("payload", "sent"),
        [('{"a": 1}', b'{"a":1}'), ("null", b"null"), ('"\\ud800"', b'"\\ud800"'), ("0", b"0")],
    )
    def test_push_sends_any_json_and_prints_the_id(
        self, tmp_path: Path, payload: str, sent: bytes
    ) -> None:
        answer = {"task": TASK, "changed": True}
        result, request = ask(tmp_path, "queue_push", answer, "queue", "push", payload)
        assert request.params.payload == sent
        assert (result.stdout, result.stderr) == ("12\n", "")

    def test_push_reads_stdin_and_takes_options(self, tmp_path: Path) -> None:
        _, request = ask(
            tmp_path, "queue_push", {"task": TASK, "changed": False}, "queue", "push", "-",
            "--queue", "q", "--priority", "-5", "--delay", "1m", "--key", "k", "--host", "h",
            "--max-attempts", "1", stdin="[1]\n",
        )  # fmt: skip
        assert request.params == NewTask(
            b"[1]", queue="q", host="h", priority=-5, delay_ms=60_000, key="k", max_attempts=1
        )

    def test_push_under_a_taken_key_says_so(self, tmp_path: Path) -> None:
        answer = {"task": TASK, "changed": False}
        result, _ = ask(tmp_path, "queue_push", answer, "queue", "push", "1", "--key", "k")
        assert result.stdout == "12\n"
        assert "nothing was changed" in result.stderr

    def test_claim_shows_the_task_and_its_token(self, tmp_path: Path) -> None:
        result, request = ask(
            tmp_path, "queue_claim", {"task": TASK}, "queue", "claim", "--wait", "1s"
        )
        assert request.params.worker
        assert request.params.wait_ms == 1000
        assert "Token:             7\n" in result.stdout
        assert 'Payload:           {"a": null}\n' in result.stdout

    def test_claim_without_a_ready_task(self, tmp_path: Path) -> None:
        result, _ = ask(tmp_path, "queue_claim", {"task": None}, "queue", "claim")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", "No task is ready.\n")

    def test_claim_of_several(self, tmp_path: Path) -> None:
        result, request = ask(
            tmp_path, "queue_claim", {"tasks": [TASK, TASK]}, "queue", "claim", "--limit", "2"
        )
        assert request.params.limit == 2
        assert result.stdout.count("Token:") == 2

    @pytest.mark.parametrize("args", [("7", "5"), ("7", "--token", "5")])
    def test_ack(self, tmp_path: Path, args: tuple[str, ...]) -> None:
        done = {"task": TASK | {"state": "done"}}
        result, request = ask(
            tmp_path, "queue_ack", done, "queue", "ack", *args, "--result", "null"
        )
        assert request.params == AckTask("7", 5, b"null")
        assert result.stdout == "Task 12 is done.\n"

    def test_fail_says_when_it_is_tried_again(self, tmp_path: Path) -> None:
        pending = {"task": TASK | {"state": "pending"}}
        result, request = ask(
            tmp_path, "queue_fail", pending, "queue", "fail", "7", "5", "--error", "e",
            "--retry-after", "1m",
        )  # fmt: skip
        assert request.params == FailTask("7", 5, "e", 60_000)
        assert result.stdout == "Task 12 is pending, not before 2026-01-02T03:04:05.006Z.\n"

    def test_extend(self, tmp_path: Path) -> None:
        result, request = ask(
            tmp_path, "queue_extend", {"task": TASK}, "queue", "extend", "7", "5", "--lease", "1m"
        )
        assert request.params == ExtendTask("7", 5, 60_000)
        assert result.stdout == "Task 12 is leased until 2026-01-02T03:04:35.006Z.\n"

    @pytest.mark.parametrize("command", ["cancel", "retry"])
    def test_cancel_and_retry(self, tmp_path: Path, command: str) -> None:
        result, request = ask(tmp_path, f"queue_{command}", {"task": TASK}, "queue", command, "7")
        assert request.params.id == "7"
        assert result.stdout == "Task 12 is leased.\n"

    def test_show_and_list(self, tmp_path: Path) -> None:
        shown, _ = ask(tmp_path, "queue_get", {"task": TASK}, "queue", "show", "12")
        assert "State:             leased\n" in shown.stdout
        (tmp_path / "admin.sock").unlink()
        answer = {"tasks": [TASK], "cursor": None}
        listed, request = ask(
            tmp_path, "queue_list", answer, "queue", "list", "--state", "leased", "--queue", "q"
        )
        assert (request.params.state, request.params.queue) == ("leased", "q")
        assert listed.stdout == (
            "ID QUEUE   STATE  PRIORITY ATTEMPT HOST WORKER RUN-AT\n"
            "12 default leased 0        1       -    w      2026-01-02T03:04:05.006Z\n"
        )

    def test_stats(self, tmp_path: Path) -> None:
        counts = {"pending": 6, "ready": 1, "leased": 2, "done": 3, "dead": 4, "cancelled": 5}
        rates = {"per_minute": {"pushed": 7.5, "claimed": 8, "done": 9, "failed": 0}}
        ages = {"oldest_pending_at": "then", "oldest_ready_at": None}
        answer = {"queues": {"default": counts | ages | rates}}
        result, _ = ask(tmp_path, "queue_stats", answer, "queue", "stats")
        assert result.stdout == (
            "QUEUE   PENDING READY LEASED DONE DEAD CANCELLED OLDEST-READY-AT\n"
            "default 6       1     2      3    4    5         -\n"
        )
        (tmp_path / "admin.sock").unlink()
        wide, _ = ask(tmp_path, "queue_stats", answer, "queue", "stats", "-o", "wide")
        header, row = (text.split() for text in wide.stdout.splitlines())
        shown = dict(zip(header, row, strict=True))
        assert (shown["PUSHED/MIN"], shown["OLDEST-PENDING-AT"]) == ("7.5", "then")

    def test_a_batch_is_pushed_at_once(self, tmp_path: Path) -> None:
        tasks = [{"payload": 1}, {"payload": 2, "queue": "q"}]
        answer = {"tasks": [TASK, TASK | {"id": "13"}], "changed": True}
        result, request = ask(
            tmp_path, "queue_push", answer, "queue", "push", "--batch", "-", stdin=json.dumps(tasks)
        )
        assert request.raw["tasks"] == tasks
        assert result.stdout == "12\n13\n"

    @pytest.mark.parametrize("args", [(), ("1", "--batch", "[]")])
    def test_either_one_task_or_a_batch(self, args: tuple[str, ...]) -> None:
        result = run("queue", "push", *args)
        assert result.exit_code == 2
        assert "either a PAYLOAD or a --batch" in result.stderr

    def test_a_list_as_json_is_all_of_it(self, tmp_path: Path) -> None:
        """One valid object, whatever the number of pages, and each record on a line of its own."""

        def page(request: Request) -> dict[str, Any]:
            first = int(request.params.cursor or 0)
            numbers = range(first + 1, min(first + request.params.limit, 1200) + 1)
            tasks = [TASK | {"id": str(number)} for number in numbers]
            return {"tasks": tasks, "cursor": str(numbers[-1]) if numbers[-1] < 1200 else None}

        with FakeDaemon(tmp_path, queue_list=page) as daemon:
            everything = run("queue", "list", "-o", "json")
            some = run("queue", "list", "-o", "json", "--limit", "700", "--cursor", "10")
        shown = json.loads(everything.stdout)
        assert [task["id"] for task in shown["tasks"]] == [str(n) for n in range(1, 1201)]
        assert shown["cursor"] is None
        assert len(everything.stdout.splitlines()) == 1202
        shown = json.loads(some.stdout)
        assert [task["id"] for task in shown["tasks"]] == [str(n) for n in range(11, 711)]
        assert shown["cursor"] == "710"
        assert [request.params.limit for request in daemon.requests] == [500] * 3 + [500, 200]

    def test_an_empty_list_as_json(self, tmp_path: Path) -> None:
        answer: dict[str, Any] = {"sessions": [], "cursor": None}
        result, _ = ask(tmp_path, "session_list", answer, "session", "list", "-o", "json")
        assert json.loads(result.stdout) == answer

    def test_a_list_that_breaks_off_is_no_json(self, tmp_path: Path) -> None:
        answers = iter([{"tasks": [TASK], "cursor": "12"}, NoLeader("nobody leads")])
        with FakeDaemon(tmp_path, queue_list=lambda _: next(answers)):
            result = run("queue", "list", "-o", "json")
        assert result.exit_code == 4
        assert "nobody leads" in result.stderr
        with pytest.raises(ValueError, match="Expecting"):
            json.loads(result.stdout)

    @pytest.mark.parametrize("form", ["json", "yaml"])
    def test_any_payload_can_be_printed(self, tmp_path: Path, form: str) -> None:
        task = TASK | {"payload": ["\ud800", 2**70, "\u4e16\u754c", "\x1b[31m"]}
        result, _ = ask(tmp_path, "queue_get", {"task": task}, "queue", "show", "12", "-o", form)
        assert result.exit_code == 0, result.stderr
        read = json.loads if form == "json" else YAML(typ="safe").load
        assert read(result.stdout) == {"task": task}

    def test_a_payload_cannot_play_with_the_terminal(self, tmp_path: Path) -> None:
        task = TASK | {"error": "\x1b]0;owned\x07", "payload": "\x1b[2J"}
        result, _ = ask(tmp_path, "queue_get", {"task": task}, "queue", "show", "12")
        assert "\x1b" not in result.stdout
