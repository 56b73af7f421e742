"""A running cluster is upgraded node by node to a build with a newer feature level (SPEC 6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nefia.drill.pushing import Pusher
from nefia.drill.ways import Way
from nefia.errors import EXIT_CODES, NewerFormat
from tests.end_to_end.cluster import CALL_SECONDS, Cluster, Daemon, all_tasks, new_cluster, until
from tests.end_to_end.patched import Patch, patched_tree

QUEUE = "upgrade"
MIN_CHANGES = 50
"""Of those that go on meanwhile; there are some 50 a second, and it takes two or three."""
GREETED = "greeted"
"""The kind of event that the newer build's command leaves in the history."""

GATE = "while raft.log.configuration_at(raft.commit_index)[1].features < GREETING:"
NEWER_BUILD = (
    Patch("nefia/state/features.py", "FEATURES = 1\n", "FEATURES = 2\nGREETING = 2\n"),
    Patch(
        "nefia/state/commands.py",
        "Command: TypeAlias = (",
        """class Greet(_Command, frozen=True, tag=99):
    node_id: str
    term: int


Command: TypeAlias = (
    Greet |""",
    ),
    Patch(
        "nefia/state/machine.py",
        "            commands.Remember: self._memories.remember,",
        f"""            commands.Remember: self._memories.remember,
            commands.Greet: lambda greeting, now: self._history.record(
                self.applied_index,
                now,
                commands.RecordEvent("{GREETED}", greeting.node_id, greeting.term, "", "", now),
            ),""",
    ),
    Patch(
        "nefia/node/chronicle.py",
        "                await self.replica.changed.wait()\n",
        f"""                await self.replica.changed.wait()
        from nefia.state.commands import Greet
        from nefia.state.features import GREETING
        {GATE}
            await self.replica.changed.wait()
        await self.replica.change(Greet(raft.node_id, raft.term))
""",
    ),
)
"""A command that this build cannot read, which each leader proposes once all voters can."""
UNGATED = Patch("nefia/node/chronicle.py", GATE, "while False:")


def run_from(tree: Path, daemon: Daemon) -> None:
    """Stop the daemon as an operator does, and start the build in `tree` on its data."""
    assert daemon.stop() == 0
    daemon.prefix = ("env", "-C", str(tree))
    daemon.start()
    daemon.wait_ready()


def level(cluster: Cluster) -> int:
    in_force: int = cluster.wait_healthy().status()["feature_level"]
    return in_force


def await_met(cluster: Cluster, daemon: Daemon, known: int) -> None:
    """Until the leader has written down which level `daemon` knows."""

    def met() -> bool:
        shown = cluster.wait_leader().call("members")["members"]
        return any((m["id"], m["feature_level"]) == (daemon.node_id, known) for m in shown)

    until(met, f"{daemon.node_id} is known to know level {known}")


def greeted_by(daemon: Daemon) -> list[str]:
    events = daemon.call("history", consistency="local")["events"]
    return [event["node_id"] for event in events if event["kind"] == GREETED]


@contextmanager
def changes_go_on(cluster: Cluster) -> Iterator[Pusher]:
    """At the end, all nodes have all that was acknowledged, each change once."""
    pusher = Pusher([Way(d.node_id, str(d.socket), None) for d in cluster.daemons], QUEUE)
    pusher.start()
    try:
        yield pusher
    finally:
        pusher.stop()
        left = pusher.clean_up()
    assert not left
    cluster.wait_equal()
    acknowledged = {each.number for each in pusher.acknowledged}
    assert len(acknowledged) >= MIN_CHANGES
    for daemon in cluster.daemons:
        held = Counter(task["payload"] for task in all_tasks(daemon))
        assert acknowledged <= held.keys()
        assert set(held.values()) == {1}


def ends_as_too_old(daemon: Daemon) -> None:
    assert daemon.process is not None
    assert daemon.process.wait(20) == EXIT_CODES[NewerFormat.code]
    told = daemon.log_text
    assert "this cluster has the feature level 2 and this version of nefia knows 1" in told
    assert "Run the version of nefia here that the other nodes run" in told
    assert "Traceback" not in told


def test_upgrade_while_changes_go_on(cluster: Cluster) -> None:
    old = Path.cwd()
    with patched_tree(*NEWER_BUILD) as new:
        with changes_go_on(cluster):
            leader = cluster.wait_leader()
            followers = [daemon for daemon in cluster.daemons if daemon is not leader]
            run_from(new, followers[0])
            await_met(cluster, followers[0], 2)
            run_from(old, followers[0])
            await_met(cluster, followers[0], 1)
            for follower in followers:
                run_from(new, follower)
                await_met(cluster, follower, 2)
            assert level(cluster) == 1
            # To a newer one. It is tried again where the leader is busy with a change of its own.
            until(lambda: leader.ask("transfer_leader", timeout=CALL_SECONDS), "another leads")
            cluster.wait_equal()
            assert level(cluster) == 1
            assert not any(map(greeted_by, cluster.daemons))
            run_from(new, leader)
            until(lambda: level(cluster) == 2, "the level rises")
            until(lambda: all(map(greeted_by, cluster.daemons)), "the new command is applied")
        # Too late now to go back.
        assert leader.stop() == 0
        leader.prefix = ("env", "-C", str(old))
        leader.start()
        ends_as_too_old(leader)
        leader.prefix = ("env", "-C", str(new))
        leader.start()
        leader.wait_ready()
        cluster.wait_healthy()
        cluster.wait_equal()


def test_without_the_level_an_older_node_cannot_go_on(place: Path) -> None:
    """What the test above would see if a leader did not wait for it."""
    with patched_tree(*NEWER_BUILD, UNGATED) as new, new_cluster(place, 2) as cluster:
        leader, follower = cluster.form().daemons
        run_from(new, follower)

        def ended() -> int | None:
            leader.ask("transfer_leader")  # unless the newer one leads by now
            assert leader.process is not None
            return leader.process.poll()

        assert until(ended, "the older node ends") == 1
        assert "holds no command that this version knows" in leader.log_text
