"""What `exec` and `alert` really do: processes, sockets, and what is left of them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from nefia.clock import TrioNodeClock
from nefia.config.reactor import AlertConfig, ExecConfig, parse_template
from nefia.errors import InvalidArgument
from nefia.services.reactor import performing
from nefia.services.reactor.events import parse_event
from nefia.services.reactor.performing import ActionFailed, Alerts, Commands
from tests.services.reactor.driving import EVENT, until

EVENT_VALUE, EVENT_TEXT = parse_event(json.dumps(EVENT))


def shell(script: str, *arguments: str, timeout: float = 10.0) -> ExecConfig:
    words = ("/bin/sh", "-c", script.replace("$", "$$"), "sh", *arguments)
    return ExecConfig(run=tuple(parse_template(word) for word in words), timeout=timeout)


async def run(action: ExecConfig, **environment: str) -> str:
    commands = Commands(TrioNodeClock())
    try:
        result = await commands.run(action, EVENT_VALUE, EVENT_TEXT, environment)
    finally:
        assert not commands._groups
    return str(result["output"])


def is_running(pid_file: Path) -> bool:
    """A zombie does not run."""
    try:
        stat = Path(f"/proc/{pid_file.read_text().strip()}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


class TestCommands:
    async def test_the_event_is_on_its_input(self) -> None:
        assert json.loads(await run(shell("cat"))) == EVENT

    async def test_arguments_and_environment(self) -> None:
        said = await run(shell('echo "$1 $NEFIA_TERM"', "--host=${host}"), NEFIA_TERM="7")
        assert said == "--host=web-1 7\n"

    async def test_no_shell_looks_at_a_value(self) -> None:
        event, text = parse_event(json.dumps(EVENT | {"data": {"x": "$(touch /tmp/x); `id`"}}))
        action = ExecConfig(run=(parse_template("/bin/echo"), parse_template("${data.x}")))
        result = await Commands(TrioNodeClock()).run(action, event, text, {})
        assert result["output"] == "$(touch /tmp/x); `id`\n"

    async def test_other_ends_are_failures(self) -> None:
        with pytest.raises(ActionFailed, match="exit code 3: oh no"):
            await run(shell("echo oh no >&2; exit 3"))
        with pytest.raises(ActionFailed, match="SIGKILL"):
            await run(shell("kill -9 $$"))
        with pytest.raises(ActionFailed, match="cannot be run"):
            await run(ExecConfig(run=(parse_template("/no/such/program"),)))
        with pytest.raises(InvalidArgument, match=r"data\.gone"):
            await run(shell("true", "${data.gone}"))

    async def test_only_the_end_of_its_output_is_kept(self) -> None:
        said = await run(shell("yes | head -c 1000000; echo end"))
        assert len(said) == performing.MAX_OUTPUT_BYTES
        assert said.endswith("y\nend\n")

    async def test_its_time_is_limited_and_nothing_is_left(self, tmp_path: Path) -> None:
        pid = tmp_path / "pid"
        script = f"sleep 60 & echo $! > {pid}; wait"
        with pytest.raises(ActionFailed, match="timeout"):
            await run(shell(script, timeout=0.3))
        await until(lambda: not is_running(pid))

    async def test_what_it_leaves_behind_ends_with_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(performing, "OUTPUT_SECONDS", 0.05)
        pid = tmp_path / "pid"
        assert await run(shell(f"sleep 60 & echo $! > {pid}; echo done")) == "done\n"
        await until(lambda: not is_running(pid))

    async def test_a_cancelled_one_is_killed(self, tmp_path: Path) -> None:
        pid = tmp_path / "pid"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, shell(f"trap '' TERM; echo $$ > {pid}; sleep 60; sleep 60"))
            await until(lambda: pid.exists() and pid.read_text())
            nursery.cancel_scope.cancel()
        await until(lambda: not is_running(pid))

    async def test_a_fence_kills_without_waiting(self, tmp_path: Path) -> None:
        commands = Commands(TrioNodeClock())
        pid = tmp_path / "pid"

        async def work() -> None:
            action = shell(f"echo $$ > {pid}; sleep 60")
            with pytest.raises(ActionFailed, match="SIGKILL"):
                await commands.run(action, EVENT_VALUE, EVENT_TEXT, {})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            await until(lambda: commands._groups and pid.exists() and pid.read_text())
            commands.fence()
            await until(lambda: not is_running(pid))

    async def test_what_is_started_when_the_fence_comes_is_killed_too(self) -> None:
        commands = Commands(TrioNodeClock())
        commands.fence()
        with pytest.raises(ActionFailed, match="SIGKILL"):
            await commands.run(shell("sleep 60"), EVENT_VALUE, EVENT_TEXT, {})

    async def test_a_command_that_reads_nothing(self) -> None:
        event, text = parse_event(json.dumps(EVENT | {"data": {"x": "y" * 60_000}}))
        action = ExecConfig(run=(parse_template("/bin/true"),))
        assert await Commands(TrioNodeClock()).run(action, event, text, {}) == {"output": ""}


class Webhook:
    """A server that answers with `status` and keeps what it is sent."""

    def __init__(self) -> None:
        self.status = 204
        self.hang = threading.Event()
        self.hang.set()
        self.requests: list[tuple[dict[str, str], Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append((dict(self.headers), json.loads(body)))
                outer.hang.wait(10)
                self.send_response(outer.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    hook = Webhook()
    thread = threading.Thread(target=hook.server.serve_forever, args=(0.01,))
    thread.start()
    yield hook
    hook.hang.set()
    hook.server.shutdown()
    thread.join()
    hook.server.server_close()


@pytest.fixture
async def alerts() -> AsyncIterator[Alerts]:
    async with Alerts(TrioNodeClock()) as made:
        yield made


async def tell(alerts: Alerts, action: AlertConfig) -> dict[str, Any]:
    return await alerts.tell(action, EVENT_VALUE, EVENT_TEXT, "rule", "event:1:rule:0")


class TestAlerts:
    async def test_a_webhook_gets_rule_and_event(self, alerts: Alerts, webhook: Webhook) -> None:
        assert await tell(alerts, AlertConfig(webhook=webhook.url)) == {"status": 204}
        [(headers, body)] = webhook.requests
        assert body == {"rule": "rule", "event": EVENT}
        assert headers["Content-Type"] == "application/json"
        assert headers["Idempotency-Key"] == "event:1:rule:0"
        assert headers["User-Agent"].startswith("nefia/")

    async def test_its_json_can_be_of_another_form(self, alerts: Alerts, webhook: Webhook) -> None:
        payload = (("text", parse_template("${host}: ${type} is at ${data.n}")),)
        await tell(alerts, AlertConfig(webhook=webhook.url, payload=payload))
        assert webhook.requests[0][1] == {"text": "web-1: disk.usage is at 1"}

    @pytest.mark.parametrize("status", [302, 404, 500])
    async def test_any_other_answer_is_a_failure(
        self, alerts: Alerts, webhook: Webhook, status: int
    ) -> None:
        webhook.status = status
        with pytest.raises(ActionFailed, match=str(status)):
            await tell(alerts, AlertConfig(webhook=webhook.url))
        assert len(webhook.requests) == 1, "a redirect is not followed"

    async def test_one_that_cannot_be_reached(self, alerts: Alerts) -> None:
        with pytest.raises(ActionFailed, match="cannot be reached"):
            await tell(alerts, AlertConfig(webhook="http://127.0.0.1:1/"))

    async def test_one_that_does_not_answer(self, alerts: Alerts, webhook: Webhook) -> None:
        webhook.hang.clear()
        with pytest.raises(ActionFailed, match="timeout"):
            await tell(alerts, AlertConfig(webhook=webhook.url, timeout=0.2))

    async def test_a_line_in_the_log(self, alerts: Alerts) -> None:
        with structlog.testing.capture_logs() as lines:
            assert await tell(alerts, AlertConfig()) == {"logged": True}
        [told] = lines
        assert (told["event"], told["log_level"]) == ("alert", "warning")
        assert (told["rule"], told["host"], told["type"]) == ("rule", "web-1", "disk.usage")
        assert told["content"] == {"rule": "rule", "event": EVENT}


def test_nothing_was_touched() -> None:
    assert not os.path.exists("/tmp/x")
