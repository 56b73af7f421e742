"""What `nefia daemon` does before it is one."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nefia import config, daemon, starting
from nefia.config import Config
from nefia.errors import DataInUse, Permission
from nefia.storage import verify
from nefia.storage.claim import Claim
from nefia.storage.locking import DirectoryLock
from tests.storage.lmdb_files import filled


def config_in(state_dir: Path) -> Config:
    return config.default(state_dir=str(state_dir), environ={}, is_root=False)


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Claim | None]]:
    """What the daemon proper is given; it does not run."""
    given: list[Claim | None] = []

    def run(_: Config, claim: Claim | None) -> int:
        given.append(claim)
        return 0

    monkeypatch.setattr(daemon, "run", run)
    yield given
    for claim in given:
        if claim is not None:
            claim.release()


async def test_the_log_is_being_checked_when_the_daemon_begins(
    tmp_path: Path, claims: list[Claim | None]
) -> None:
    settings = config_in(tmp_path)
    await filled(settings.data_dir)
    assert starting.start(settings) == 0
    [claim] = claims
    assert claim is not None
    assert claim.check is not None
    with pytest.raises(DataInUse):
        DirectoryLock(settings.data_dir)


def test_a_directory_that_is_another_daemons_is_the_daemons_to_complain_of(
    tmp_path: Path, claims: list[Claim | None]
) -> None:
    settings = config_in(tmp_path)
    claim = Claim(settings.data_dir)
    assert starting.start(settings) == 0
    claim.release()
    assert claims == [None]


def test_a_state_directory_that_others_may_write_into_is_refused(
    tmp_path: Path, claims: list[Claim | None]
) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(Permission, match="mode 0777"):
        starting.start(config_in(tmp_path))
    assert claims == []


def loaded_by(program: str) -> set[str]:
    program += "; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_check_begins_before_anything_heavy_is_imported() -> None:
    loaded = loaded_by("import nefia.starting")
    assert loaded & {"trio", "structlog", "cattrs", "msgspec", "msgpack", "zstandard"} == set()


def test_a_plain_daemon_imports_only_what_it_needs() -> None:
    """What TLS, services, HTTP, the command line and rich tracebacks need stays out."""
    program = (
        "import os, nefia.starting; from nefia import logs; logs.configure(os.environ); "
        "import nefia.daemon"
    )
    loaded = loaded_by(program)
    assert {"trio", "structlog", "nefia.node.node", "nefia.storage.lmdb_store"} <= loaded
    off = {
        "OpenSSL",
        "cryptography",
        "hypercorn",
        "mcp",
        "nefia.cli.root",
        "nefia.guard.process",
        "nefia.http",
        "nefia.services.reactor",
        "prometheus_client",
        "pydantic",
        "pygments",
        "rich",
        "starlette",
        "trio_websocket",
    }
    assert loaded & off == set()


def test_the_cache_is_forgotten_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a failed sync the kernel's cache holds what the disk has lost (SPEC 5)."""
    path = tmp_path / "raft.db"
    for file in (path, tmp_path / "raft.journal"):
        file.touch()
    done: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: done.append("sync"))
    monkeypatch.setattr(os, "posix_fadvise", lambda *arguments: done.append("forget"))
    monkeypatch.setattr(verify, "verify", lambda path: done.append("read"))
    monkeypatch.setattr(resource, "setrlimit", lambda *arguments: None)
    verify.main(str(path))
    assert done == ["sync", "forget", "sync", "forget", "read"]
    assert capsys.readouterr().out == "{}"
