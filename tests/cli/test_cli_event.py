"""`nefia event send`, to Reactors that are there and to none."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from nefia.config.services import ReactorConfig
from nefia.state.records import Task
from tests.cli.asking import run
from tests.cli.fake_daemon import FakeDaemon
from tests.end_to_end.cluster import free_ports
from tests.services.reactor.certificates import certified
from tests.services.reactor.driving import FakeNode, reactor_config, started

SEND = ("event", "send", "--type", "disk.usage", "--host", "web-1")
TOKEN = "0123456789abcdef"


@contextmanager
def serving(config: ReactorConfig) -> Iterator[FakeNode]:
    """A Reactor in a thread of its own."""
    node, ready = FakeNode(), threading.Event()
    stops: list[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = []

    async def main() -> None:
        with trio.CancelScope() as scope:
            async with started(config, node):
                stops.append((trio.lowlevel.current_trio_token(), scope))
                ready.set()
                await trio.sleep_forever()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert ready.wait(10)
    yield node
    token, scope = stops[0]
    token.run_sync_soon(scope.cancel)
    thread.join()


def payload(task: Task) -> object:
    return json.loads(task.payload)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text(TOKEN)
    return path


def written(directory: Path, config: ReactorConfig, *, enabled: bool) -> str:
    """A nefia.yaml with this Reactor; its path."""
    cluster = {
        "enabled": enabled,
        "node_id": "n1",
        "bind_addr": "127.0.0.1:1",
        "advertise_addr": "127.0.0.1:1",
    }
    reactor = {"name": "reactor", "kind": "reactor", "listen": config.listen}
    if config.token_file:
        reactor["token_file"] = str(config.token_file)
    path = directory / "nefia.yaml"
    path.write_text(json.dumps({"cluster": cluster, "services": [reactor]}))
    return str(path)


def test_an_event_and_its_id() -> None:
    config = reactor_config()
    with serving(config) as node:
        result = run(
            *SEND,
            *("--severity", "error", "--data", '{"used": 1e2}', "--id", "seven"),
            *("--url", f"ws://{config.listen}"),
        )
    assert (result.exit_code, result.stdout, result.stderr) == (0, "seven\n", "")
    [task] = node.tasks("events")
    assert payload(task) == {
        "id": "seven",
        "type": "disk.usage",
        "host": "web-1",
        "severity": "error",
        "data": {"used": 100.0},
    }


def test_each_event_has_an_id_of_its_own_and_this_host() -> None:
    config = reactor_config()
    with serving(config) as node:
        for _ in range(2):
            assert (
                run("event", "send", "--type", "t", "--url", f"ws://{config.listen}").exit_code == 0
            )
    one, two = node.tasks("events")
    assert one.key != two.key


def test_the_reactors_of_the_members(tmp_path: Path, token_file: Path) -> None:
    config = reactor_config(token_file=token_file)
    members = [
        {"id": "n1", "address": "127.0.0.9:9700", "state": "Follower"},
        {"id": "n2", "address": "127.0.0.1:9700", "state": "Leader"},
    ]
    file = written(tmp_path, config, enabled=True)
    with serving(config) as node, FakeDaemon(tmp_path, members={"members": members}) as daemon:
        result = run(*SEND, "--config", file)
    assert result.exit_code == 0, result.stderr
    assert [request.action for request in daemon.requests] == ["members"]
    assert len(node.tasks("events")) == 1


def test_without_a_cluster_it_is_this_nodes(tmp_path: Path) -> None:
    config = reactor_config()
    with serving(config) as node:
        result = run(*SEND, "--config", written(tmp_path, config, enabled=False))
    assert result.exit_code == 0, result.stderr
    assert len(node.tasks("events")) == 1


def test_over_tls(tmp_path: Path, token_file: Path) -> None:
    files = certified(tmp_path / "tls")
    config = reactor_config(tls_cert_file=files.cert, tls_key_file=files.key, token_file=token_file)
    with serving(config) as node:
        options = ("--url", f"wss://{config.listen}", "--token-file", str(token_file))
        assert run(*SEND, *options, "--ca-file", str(files.ca)).exit_code == 0
        untrusted = run(*SEND, *options, "--timeout", "300ms")
        assert untrusted.exit_code == 4
        assert "certificate" in untrusted.stderr
        no_token = run(*SEND, "--url", f"wss://{config.listen}", "--ca-file", str(files.ca))
        assert no_token.exit_code == 6
    assert len(node.tasks("events")) == 1


def test_nobody_there_and_how_to_repeat_it() -> None:
    url = f"ws://127.0.0.1:{free_ports(1)[0]}"
    result = run(*SEND, "--url", url, "--timeout", "200ms", "--id", "seven")
    assert result.exit_code == 4
    assert "no_leader" in result.stderr
    assert url in result.stderr
    assert "add --id seven" in result.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--url", "http://h:1"), "WebSocket URL"),
        (("--url", "ws://h:99999"), "WebSocket URL"),
        (("--data", "{"), "not JSON"),
        (("--data", "NaN"), "not JSON"),
        (("--severity", "bad"), "severity"),
    ],
)
def test_what_is_wrong(options: tuple[str, ...], says: str) -> None:
    result = run(*SEND, "--url", "ws://127.0.0.1:1", *options)
    assert result.exit_code == 2
    assert says in result.stderr


def test_a_configuration_without_a_reactor(tmp_path: Path) -> None:
    path = tmp_path / "nefia.yaml"
    path.write_text("")
    result = run(*SEND, "--config", str(path))
    assert result.exit_code == 2
    assert "--url" in result.stderr


def test_files_that_cannot_be_used(tmp_path: Path, token_file: Path) -> None:
    token_file.chmod(0o644)
    result = run(*SEND, "--url", "ws://127.0.0.1:1", "--token-file", str(token_file))
    assert result.exit_code == 6
    assert "read by others" in result.stderr
    result = run(*SEND, "--url", "wss://127.0.0.1:1", "--ca-file", str(tmp_path / "none"))
    assert result.exit_code == 6
