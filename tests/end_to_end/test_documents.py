"""What README.md and docs/ say is so: commands run, configurations load, options exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from base64 import b64encode
from pathlib import Path
from shutil import copy, which
from typing import Any

import pytest
from ruamel.yaml import YAML

from nefia.admin.why import degradations
from nefia.config import load
from tests.end_to_end.cluster import Cluster, Daemon, free_ports, new_cluster, until
from tests.end_to_end.documents import (
    DOCUMENTS,
    Block,
    blocks,
    commands,
    hides_commands,
    inline_commands,
    misuse,
)

KINDS = {"sh", "console", "text", "yaml", "json", "toml", "ini", "python"}
PROGRAMS = {
    "worker.py": "test_worker_docs.py",
    "worker.sh": "test_worker_docs.py",
    "beacon.py": "test_reactor.py",
    "counter.py": "test_embedding.py",
}
"""And the test beside this one that runs them."""
NOT_RUN = {
    "python3 -m venv": "the first thing that .ci/run does",
    ".venv/bin/pip install": "the second",
    ".venv/bin/nefia dev": "tests/test_dev.py does",
    ".venv/bin/pytest": "this is part of it",
    ".venv/bin/nox": "takes minutes or hours",
    ".venv/bin/python -m tests.": "takes minutes or hours",
    ".ci/run": "this is part of it",
    "claude mcp add": "another program",
    "npx ": "tests/mcp/test_mcp_inspector.py does",
    "nefia drill": "tests/end_to_end/test_drill.py does, in every kind",
}
"""How commands begin that are only looked at, and why."""
NOT_WELL = "docs/runbooks.md"
"""What its `console` blocks show is seen in trouble only: tests/end_to_end/test_runbooks.py."""
DAEMON = "nefia daemon"
"""On every node, says the README."""
ENDLESS = ("nefia watch",)
"""Until Ctrl-C."""
SHORTER = {
    "nefia bench": "nefia bench --count 200",
    "nefia bench --in-flight 1 --duration 10s": "nefia bench --in-flight 1 --count 50",
    "nefia bench --in-flight 256 --duration 10s": "nefia bench --in-flight 256 --count 1000",
    "nefia bench --batch 100 --count 100000": "nefia bench --batch 100 --count 1000",
    "nefia bench --payload 4096 -o json": "nefia bench --payload 4096 --count 200 -o json",
}
"""What would take too long as it stands."""
NOT_OURS = {"scrape_configs": "Prometheus'"}
"""First keys of YAML that is no nefia.yaml, and whose it is."""
SERVICES = """
services:
  - {name: app, kind: command, run: ["sleep", "1000"]}
  - {name: notify, kind: hook, on_promote: ["true"]}
  - {name: reactor, kind: reactor, listen: "127.0.0.1:%d", max_connections: 10}
"""
"""As in docs/services.md and docs/reactor.md, with what every machine has."""
LOOK_SECONDS = 0.2
COUNT = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d)?)+[.,;]?|\d+-\d+|[0-9a-f]{16}\.?")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_says_what_it_is(document: str) -> None:
    for block in blocks(document):
        assert block.kind in KINDS, f"{block}: {block.kind!r} is nothing that is checked"
        assert not hides_commands(block), f"{block}: commands in a block of text"
        if block.program or block.kind == "python":
            test = Path(__file__).with_name(PROGRAMS[block.program])
            assert f'"{block.program}"' in test.read_text(), f"{block}: not run by {test.name}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_command_line_is_as_documented(document: str) -> None:
    shown = [command for block in blocks(document) for command, _ in commands(block)]
    for command in (*shown, *inline_commands(document)):
        if not command.startswith("npx "):  # whose own options come behind ours
            assert misuse(command) == "", command


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_for_other_programs_are_sound(document: str) -> None:
    for block in blocks(document):
        if block.kind == "toml":
            assert_ours(tomllib.loads(block.text))
        elif block.kind == "json" and block.text.startswith("{\n"):
            assert_ours(json.loads(block.text))
        elif block.kind == "json":
            assert all(isinstance(json.loads(line), dict) for line in block.text.splitlines())


def assert_ours(settings: dict[str, Any]) -> None:
    """An agent's settings name a call of nefia that there is."""
    [[server]] = [servers.values() for servers in settings.values()]
    assert misuse(shlex.join([server["command"], *server["args"]])) == ""


def test_nothing_is_left_out_without_need() -> None:
    shown = [c for document in DOCUMENTS for block in blocks(document) for c, _ in commands(block)]
    unused = {begin for begin in NOT_RUN if not any(c.startswith(begin) for c in shown)}
    assert unused == set()


class Reader:
    """Somebody who does what the documents say, in a directory in place of /etc and /backup."""

    def __init__(self, place: Path, cluster: Cluster) -> None:
        self.cluster = cluster
        self.work, self.etc = place / "work", place / "etc"
        self._substitutes = {
            "/etc/nefia": str(self.etc / "nefia"),
            "/etc/wireguard": str(self.etc / "wireguard"),
            "/backup": str(place),
            "/usr/local/bin/app": "/bin/true",
            "eth0": "lo",
        }
        self._addresses = {
            f"10.99.0.{number}:9700": daemon.address
            for number, daemon in enumerate(cluster.daemons, 1)
        }
        tools = place / "bin"
        for directory in (self.work, self.etc / "nefia", self.etc / "wireguard", tools):
            directory.mkdir(parents=True)
        (tools / "nefia").write_text(f'#!/bin/sh\nexec {sys.executable} -m nefia "$@"\n')
        (tools / "nefia").chmod(0o755)
        self._ran: set[str] = set()
        self._path = f"{tools}:{os.environ['PATH']}"

    def follow(self, block: Block) -> None:
        if (block.document, block.kind) == (NOT_WELL, "console"):
            return
        for command, output in commands(block):
            if any(map(command.startswith, NOT_RUN)):
                continue
            if "jq" in command and which("jq") is None:
                continue
            if command == DAEMON:
                self._start_all()
                continue
            bare = re.sub(r"\s+#.*", "", command)
            if output:
                self.compare(block, command, output, self._leader)
            elif bare not in self._ran:
                self._run(self._here(SHORTER.get(bare, bare)), str(block))
            self._ran.add(bare)

    def compare(self, block: Block, command: str, output: str, node: Daemon) -> None:
        """Until each line of `output` has been seen: services, for instance, take a moment."""
        missing = shapes(output)

        def all_seen() -> bool:
            nonlocal missing
            missing -= shapes(self._see(command, node))
            if missing:
                time.sleep(LOOK_SECONDS)  # a look costs time that the daemons need
            return not missing

        until(all_seen, f"{block}: {command} shows {missing}")

    def _here(self, text: str) -> str:
        for documented, actual in (self._substitutes | self._addresses).items():
            text = text.replace(documented, actual)
        return text

    def _see(self, command: str, node: Daemon) -> str:
        """What a command prints on that node, errors too, with the addresses of the documents."""
        words = shlex.split(self._here(command))
        assert words[0] == "nefia", command
        done = node.cli(*words[1:])
        printed = done.stdout + done.stderr
        for documented, actual in self._addresses.items():
            printed = printed.replace(actual, documented)
        return printed

    def _start_all(self) -> None:
        for daemon in self.cluster.daemons:
            daemon.start()
        for daemon in self.cluster.daemons:
            daemon.wait_ready()
        self.cluster.wait_leader()

    @property
    def _leader(self) -> Daemon:
        """Or the first node while there is none."""
        return self.cluster.wait_leader() if self.cluster.running else self.cluster.daemons[0]

    def _run(self, command: str, where: str) -> None:
        node = self._leader
        environment = os.environ | {
            "PATH": self._path,
            "NEFIA_CONFIG": str(node.config),
            "NEFIA_STATE_DIR": str(node.state_dir),
            "NO_COLOR": "1",
        }
        argv = ["bash", "-o", "pipefail", "-c", command]
        if command.startswith(ENDLESS):
            argv[-1] = f"exec {command}"
            with subprocess.Popen(
                argv, cwd=self.work, env=environment, stdout=subprocess.PIPE, text=True
            ) as endless:
                assert endless.stdout is not None
                assert endless.stdout.readline()
                endless.send_signal(signal.SIGINT)
                assert endless.wait(10) == 130, f"{where}: {command}"
                return
        done = subprocess.run(
            argv, cwd=self.work, env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{where}: {command}\n{done.stdout}{done.stderr}"

    def settle(self) -> None:
        """Until nothing is amiss: services, for instance, take a moment to start."""
        until(lambda: not degradations(self._leader.status()), "all is well")

    def write_nodes(self, example: Block) -> None:
        """nefia.yaml of the first node as it stands in the README, and the others' after it."""
        services = SERVICES % free_ports(1)[0]
        for number, daemon in enumerate(self.cluster.daemons, 1):
            text = example.text.replace("node-1", daemon.node_id)
            text = text.replace("10.99.0.1:", f"10.99.0.{number}:")
            daemon.config.write_text(self._here(text) + services)

    def fail_tasks(self) -> None:
        """Two that are dead, whose ids take the place of those in the documents."""
        leader = self.cluster.wait_leader()
        for documented in ("show 17", "retry 17", "retry ID"):
            if documented == "retry 17":
                dead = self._substitutes["show 17"].split()[1]
            else:
                leader.call("queue_push", payload=1, max_attempts=1)
                task = leader.call("queue_claim", worker="w")["task"]
                leader.call("queue_fail", id=task["id"], token=task["token"])
                dead = task["id"]
            self._substitutes[documented] = f"{documented.split()[0]} {dead}"

    def provide_files(self) -> None:
        """What the configurations name; the certificates are those that docs/tls.md has made."""
        nefia = self.etc / "nefia"
        for path in (self.work / "node-1").glob("*.pem"):
            copy(path, nefia)
            copy(path, nefia / path.name.replace("cluster", "reactor"))
        (nefia / "reactor-token").write_text("0123456789abcdef\n")
        (nefia / "reactor-token").chmod(0o600)
        for name in ("promoted.sh", "demoted.sh"):
            (nefia / name).write_text("#!/bin/sh\n")
            (nefia / name).chmod(0o755)
        [tunnel] = [each for each in blocks("docs/wireguard.md") if each.kind == "ini"]
        key = b64encode(bytes(32)).decode()
        conf = self.etc / "wireguard" / "wg0.conf"
        conf.write_text(tunnel.text.replace("= ...", f"= {key}"))
        conf.chmod(0o600)

    def load(self, block: Block) -> None:
        """The block as it stands, in the configuration of a node where it is only a part of one."""
        text = self._here(block.text)
        values = YAML(typ="safe").load(text)
        if next(iter(values)) in NOT_OURS:
            return
        if "kind: wireguard" in text and which("wg-quick") is None:
            return
        [example] = [b for b in blocks("README.md") if b.text.startswith("cluster:")]
        base = YAML(typ="safe").load(self._here(example.text))
        values["cluster"] = base["cluster"] | values.get("cluster", {})
        path = self.work / "nefia.yaml"
        path.write_text(json.dumps(values))
        load(path, state_dir=str(self.work), environ={}, is_root=True)


def shapes(text: str) -> set[str]:
    """The lines with one space between words, and with # in place of counts, times and ids."""
    lines = (
        " ".join("#" if COUNT.fullmatch(word) else word for word in line.split())
        for line in text.splitlines()
    )
    return {line for line in lines if line}


def test_everything_works_as_written(place: Path) -> None:
    """From the README's first configuration on, on one cluster."""
    with new_cluster(place) as cluster:
        reader = Reader(place, cluster)
        for document in DOCUMENTS:
            for block in blocks(document):
                if block.text.startswith("cluster:") and not cluster.running:
                    reader.write_nodes(block)
                reader.follow(block)
            reader.settle()
            if document == "README.md":
                reader.fail_tasks()
        reader.provide_files()
        for document in DOCUMENTS:
            for block in blocks(document):
                if block.kind == "yaml":
                    reader.load(block)


class TestTheseTestsNotice:
    @pytest.mark.parametrize(
        "command",
        [
            "nefia cluster stauts",
            "nefia cluster status --chek",
            "nefia queue push|clam",
            "nefia cluster transfer-leader [--too ID]",
            "claude mcp add nefia -- ssh root@node-1 nefia mcp serve --read-onyl",
        ],
    )
    def test_a_call_that_there_is_not(self, command: str) -> None:
        assert misuse(command) != ""

    @pytest.mark.parametrize(
        "text", ["nefia daemon\n", "$ systemctl start\n", "a\n.venv/bin/nox\n"]
    )
    def test_commands_in_a_text(self, text: str) -> None:
        assert hides_commands(Block("README.md", 1, "text", text))

    def test_another_output(self) -> None:
        assert not shapes("app  command running 12s") <= shapes("app command waiting 3s")
        assert shapes("app  command running 12s") <= shapes("NAME\napp command running 3ms\n")
