"""A lost majority, on real processes: what `cluster recover` refuses, does, and leaves behind."""

from __future__ import annotations

import shutil
from pathlib import Path

from nefia.raft.epoch import epoch_of
from tests.end_to_end.cluster import Daemon, new_cluster, until

LOST = ("--lost", "node-3", "--lost", "node-4")


def recover(daemon: Daemon, *arguments: str, code: int = 0) -> str:
    done = daemon.cli("cluster", "recover", *arguments)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def follow_command(text: str) -> list[str]:
    """The command that `recover` prints for another survivor, without `nefia cluster recover`."""
    (line,) = [line for line in text.splitlines() if "recover --follow" in line]
    return line.split()[3:]


def test_two_of_four_go_on_without_the_others(place: Path) -> None:
    with new_cluster(place, 4) as cluster:
        cluster.form()
        first, second, third, fourth = cluster.daemons
        pushed = [first.call("queue_push", payload=number)["task"]["id"] for number in range(3)]
        token = first.call("queue_claim", worker="w")["task"]["token"]
        cluster.wait_equal()
        fourth.kill()
        running = recover(first, "--plan", *LOST, code=5)
        assert "data_in_use" in running
        third.pause()  # it cannot take part any more, and is not off either
        first.kill()
        second.kill()

        summary = place / "node-2.json"
        recover(second, "--export", str(summary))
        alone = recover(first, "--plan", "--lost", "node-2", *LOST)
        assert "Voters from then: node-1\n" in alone
        assert "nothing is said of the voter node-2" in recover(first, *LOST, code=5)
        given = (*LOST, "--summary", str(summary))
        assert "node-3 is not off" in recover(first, "--plan", *given)
        assert "node-3 is not off" in recover(first, *given, code=5)
        third.kill()

        winner, other = first, second
        planned = recover(first, "--plan", *given)
        assert "Nothing was changed" in planned
        done = recover(winner, *given, "--reason", "flood in rack 7")
        assert "acknowledged" in done
        assert recover(winner, *given, code=5), "a second time: node-2 is of the lineage before"
        recover(other, *follow_command(done))
        winner.start()
        other.start()
        leader = cluster.wait_healthy()

        assert {member["id"] for member in leader.call("members")["members"]} == {
            "node-1",
            "node-2",
        }
        assert [task["id"] for task in leader.call("queue_list")["tasks"]] == pushed
        status = leader.status()
        assert (epoch_of(status["term"]), bool(status["lineage"])) == (1, True)
        later = leader.call("queue_claim", worker="w")["task"]["token"]
        assert later > token
        assert epoch_of(later) == 1
        events = leader.call("history")["events"]
        recovered = next(event for event in events if event["kind"] == "recovered")
        assert recovered["reason"] == "flood in rack 7 (without node-3, node-4)"
        shown = leader.cli("cluster", "history").stdout
        assert "recovered" in shown
        assert "flood in rack 7" in shown

        third.start()  # although it was to stay off
        until(lambda: "of this cluster" in third.log_text, "it is refused")
        until(lambda: "of this cluster" in leader.log_text, "and told so on the other side")
        assert third.status()["leader_id"] is None
        assert leader.status()["term"] == status["term"]
        refused = leader.cli("cluster", "add-peer", "node-3", "--addr", third.address)
        assert refused.returncode == 5
        assert "recovered without one of them" in refused.stderr
        third.kill()
        shutil.rmtree(third.state_dir / "cluster")
        third.start()
        third.wait_ready()
        leader.call("add_peer", id="node-3", addr=third.address, timeout=30)
        assert third.status()["lineage"] == status["lineage"]
        cluster.wait_equal()
