"""A claim: the directory's lock, and the child that looks through raft.db (SPEC 6)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from nefia import errors
from nefia.storage import lmdb_store
from nefia.storage.claim import Check, Claim
from nefia.storage.lmdb_store import open_lmdb
from nefia.storage.locking import DirectoryLock
from tests.storage.lmdb_files import filled


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have children run a script in place of Python."""

    def replace(script: str) -> None:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(path))

    return replace


def maps() -> str:
    return Path("/proc/self/maps").read_text()


def test_a_new_directory_is_its_owners_and_has_nothing_to_check(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    assert claim.check is None
    with pytest.raises(errors.DataInUse):
        Claim(tmp_path / "a" / "b")
    claim.release()
    Claim(tmp_path / "a" / "b").release()


async def test_a_store_takes_a_claim_over(tmp_path: Path) -> None:
    """And with it the check that has begun: no second child is started."""
    await filled(tmp_path)
    claim = Claim(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", None)
        store = await open_lmdb(tmp_path, "node-1", claim=claim)
    assert (await store.load(0)).last_index == 200
    with pytest.raises(errors.DataInUse):
        DirectoryLock(tmp_path)
    await store.close()
    DirectoryLock(tmp_path).release()


async def test_damage_is_found_by_a_check_that_began_before(tmp_path: Path) -> None:
    path = await filled(tmp_path)
    os.truncate(path, 2 * os.sysconf("SC_PAGE_SIZE"))
    claim = Claim(tmp_path)
    with pytest.raises(errors.DataDamaged, match="is damaged") as caught:
        await open_lmdb(tmp_path, "node-1", claim=claim)
    assert "remove-peer --id node-1" in caught.value.hint
    DirectoryLock(tmp_path).release()


async def test_a_file_is_not_mapped_before_it_is_checked(
    tmp_path: Path, interpreter: Callable[[str], None]
) -> None:
    """However long that takes."""
    path = await filled(tmp_path)
    interpreter("exec sleep 60")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_lmdb, tmp_path, "node-1")
        await trio.sleep(0.2)
        assert str(path) not in maps()
        nursery.cancel_scope.cancel()
    DirectoryLock(tmp_path).release()


async def test_a_check_that_takes_too_long_is_given_up(
    tmp_path: Path, interpreter: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(tmp_path)
    interpreter("exec sleep 60")
    monkeypatch.setattr(lmdb_store, "VERIFY_TIMEOUT_SECONDS", 0.05)
    with pytest.raises(errors.DiskFailed, match="took more than"):
        await open_lmdb(tmp_path, "node-1")
    DirectoryLock(tmp_path).release()


def test_a_check_that_nobody_wants_is_killed(
    tmp_path: Path, interpreter: Callable[[str], None]
) -> None:
    interpreter("exec sleep 60")
    check = Check(tmp_path / "raft.db")
    check.end()
    check.end()
    assert check._child.returncode == -signal.SIGKILL


def test_what_may_not_be_read_is_said_to_be_so(
    tmp_path: Path, interpreter: Callable[[str], None]
) -> None:
    answer = errors.Permission("raft.db: Permission denied").to_json()
    interpreter(f"printf '%s' '{json.dumps(answer)}'")
    check = Check(tmp_path / "raft.db")
    with pytest.raises(errors.Permission, match="Permission denied"):
        check.hear()
    check.end()
