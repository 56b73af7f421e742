"""Damaged and foreign data directories on real daemons: each its message, and the way back."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from nefia.raft.entries import HardState
from nefia.storage import layout, raft_db
from tests.end_to_end.cluster import Daemon, all_tasks, new_cluster
from tests.storage.lmdb_files import raw_log, rewrite_meta, used_bytes


def cut(length: Callable[[int], int]) -> Callable[[Path], None]:
    """Truncate raft.db to `length(bytes in use)`."""
    return lambda path: os.truncate(path, length(used_bytes(path)))


def spoil_entry(path: Path) -> None:
    with raw_log(path) as transaction:
        cursor = transaction.cursor()
        assert cursor.last()
        key, record = cursor.item()
        transaction.put(key, record[:-1] + bytes([record[-1] ^ 1]))


def lose_entry(path: Path) -> None:
    with raw_log(path) as transaction:
        transaction.delete(layout.log_key(4))


def spoil_vote(path: Path) -> None:
    """What an older vote record would look like after a bit has flipped in it."""
    body = raft_db._RECORDS.encode(HardState(1, "node-1"))
    sealed = bytearray(layout.seal(layout.HARD_STATE, body))
    sealed[-1] ^= 1
    rewrite_meta(path, layout.HARD_STATE, bytes(sealed))


def newer_format(path: Path) -> None:
    newer = b"%d" % (layout.FORMAT_VERSION + 1)
    rewrite_meta(path, layout.FORMAT, layout.seal(layout.FORMAT, newer))


DAMAGE: dict[str, tuple[Callable[[Path], None], int, str]] = {
    "emptied": (cut(lambda _: 0), 1, "data_damaged"),
    "cut within the first page": (cut(lambda _: 100), 1, "data_damaged"),
    "cut in the middle": (cut(lambda used: used // 2), 1, "data_damaged"),
    "cut by a byte": (cut(lambda used: used - 1), 1, "data_damaged"),
    "damaged entry": (spoil_entry, 1, "has a bad checksum"),
    "missing entry": (lose_entry, 1, "entry 4 is missing"),
    "damaged vote": (spoil_vote, 1, "the record 'hard_state' has a bad checksum"),
    "newer format": (newer_format, 5, "newer_format"),
}
"""(what is done to raft.db, the daemon's exit code, what it says)"""


def refused_start(daemon: Daemon) -> subprocess.CompletedProcess[str]:
    """A daemon that does not run. Its own end, not a signal's, and no traceback."""
    done = daemon.cli("daemon")
    assert done.returncode > 0, "a signal killed it"
    assert "Traceback" not in done.stderr
    assert "Nothing was changed" in done.stderr
    return done


def test_every_kind_of_damage_has_its_message_and_one_way_back(place: Path) -> None:
    with new_cluster(place, raft={"trailing_logs": 1, "snapshot_retain": 1}) as cluster:
        cluster.form()
        leader, follower, _ = cluster.daemons
        for number in range(20):
            leader.call("queue_push", payload=number)
        cluster.wait_equal()

        assert "data_in_use" in refused_start(follower).stderr, "it runs already"
        stranger = Daemon(place / "other", "node-9", follower.address)
        follower.kill()
        database = follower.state_dir / "cluster" / layout.DATABASE_FILE
        shutil.copytree(follower.state_dir / "cluster", stranger.state_dir / "cluster")
        foreign = refused_start(stranger)
        assert foreign.returncode == 5
        assert "belongs to node node-2, and this node is node-9" in foreign.stderr

        sound = place / "sound.db"
        shutil.copy(database, sound)
        for name, (damage, code, sentence) in DAMAGE.items():
            shutil.copy(sound, database)
            damage(database)
            spoilt = database.read_bytes()
            refused = refused_start(follower)
            assert refused.returncode == code, (name, refused.stderr)
            assert sentence in refused.stderr, (name, refused.stderr)
            if code == 1:
                assert "remove-peer --id node-2" in refused.stderr, name
                assert database.read_bytes() == spoilt, f"{name}: something was repaired"

        shutil.copy(sound, database)
        follower.start()
        follower.wait_ready()
        cluster.wait_equal()
        follower.call("snapshot")
        # The log before a snapshot goes with the next write.
        cluster.wait_healthy().call("queue_push", payload=20)
        cluster.wait_equal()
        follower.kill()
        (data,) = (follower.state_dir / "cluster" / "snapshots").glob("*/data")
        data.write_bytes(data.read_bytes()[:-1] + b"?")
        refused = refused_start(follower)
        assert "there is no sound snapshot" in refused.stderr, refused.stderr

        leader = cluster.wait_leader()  # a busy machine may have changed it
        # As the message and docs/operations.md say: remove, empty, start, add.
        removed = leader.cli("cluster", "remove-peer", "node-2", "--reason", "damaged disk")
        assert removed.returncode == 0, removed.stderr
        shutil.rmtree(follower.state_dir / "cluster")
        follower.start()
        follower.wait_ready()
        added = leader.cli("cluster", "add-peer", "node-2", "--addr", follower.address)
        assert added.returncode == 0, added.stderr
        cluster.wait_healthy()
        cluster.wait_equal()
        assert len(all_tasks(follower)) == 21
