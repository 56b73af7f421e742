"""Hand-overs of the leader's services between real daemons, as seen from outside (issue 8).

    python -m tests.end_to_end.handovers [--trials 100] [--kinds kill freeze ...]
    python -m tests.end_to_end.handovers --mutants [NAME ...]

The first prints a table, and fails if two services ever lived at once. The second takes the safety
mechanisms away, each in a copy of the package, and fails if two services did not live at once.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, contextmanager, suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from random import Random
from typing import TypeAlias

from attrs import frozen

from nefia.errors import NefiaError
from nefia.guard.kernel import boottime
from tests.end_to_end import lasting
from tests.end_to_end.cluster import Cluster, Daemon, new_cluster, until
from tests.end_to_end.handover_mutants import MUTANTS, Mutant
from tests.end_to_end.namespaces import Hosts
from tests.end_to_end.patched import patched_tree
from tests.end_to_end.takeover import hosted_daemons
from tests.end_to_end.test_disk import LOST, SLOW, hung_disk

FROZEN_SECONDS = 5.0
STUTTER_SECONDS = (0.3, 0.7)
"""How long a stuttering daemon is stopped at a time, and at most MAX_STOPS times."""
BREATH_SECONDS = (0.05, 0.3)
MAX_STOPS = 40
PUSH_SECONDS = 0.2
SETTLED = "one service, on the leader of a healthy cluster"
STOP_TIMEOUT = "500ms"
"""Of the service: what a planned stop of a stubborn one takes."""
LOOK_SECONDS = 0.05
MUTANT_TRIALS = 5
START_SAMPLES = 20

_GUARD = re.compile(r"guard_(?:started|found)\b.*?\bpid\W+(\d+)")
_random = Random()


# What the services have written down.


@frozen
class Life:
    """One process of a service; `ended` is its last sign of life so far."""

    node_id: str
    term: int
    service: int
    pid: int
    began: float
    ended: float
    had_lock: bool


@frozen
class Run:
    """All processes of one start of a service."""

    lives: tuple[Life, ...]

    @property
    def node_id(self) -> str:
        return self.lives[0].node_id

    @property
    def key(self) -> tuple[str, int, int]:
        first = self.lives[0]
        return first.node_id, first.term, first.service

    @property
    def began(self) -> float:
        return min(life.began for life in self.lives)

    @property
    def ended(self) -> float:
        return max(life.ended for life in self.lives)

    @property
    def had_lock(self) -> bool:
        return all(life.had_lock for life in self.lives)

    @property
    def lives_on(self) -> bool:
        return any(Path(f"/proc/{life.pid}").exists() for life in self.lives)


def _life(path: Path) -> Life:
    node_id, term, service, pid = path.name.rsplit(".", 3)
    began, ended, had_lock = lasting.LIFE.unpack(path.read_bytes())
    return Life(node_id, int(term), int(service), int(pid), began, ended, had_lock)


@frozen
class HandOver:
    """Times in seconds: `gap` between the old service's end and the new one's begin, `after` from
    the fault to that begin. `overlaps` says of each two that lived at once who they were."""

    gap: float
    after: float
    overlaps: tuple[str, ...]


def overlaps_of(runs: Sequence[Run]) -> tuple[str, ...]:
    """`runs[0]` was there before."""
    found = [f"{run.key} did not get the lock" for run in runs[1:] if not run.had_lock]
    for number, run in enumerate(runs):
        for later in runs[number + 1 :]:
            if run.ended > later.began:
                seconds = min(run.ended, later.ended) - later.began
                found.append(f"{later.key} began {seconds:.3f} s before {run.key} had ended")
    return tuple(found)


# The cluster.


class Scene:
    """A cluster of three whose only service is the lasting one. Made by `staged`."""

    def __init__(self, cluster: Cluster, hosts: Hosts | None, lives: Path) -> None:
        self.cluster = cluster
        self._hosts = hosts
        self._lives = lives
        self._old: Run | None = None

    @property
    def hosts(self) -> Hosts:
        assert self._hosts is not None
        return self._hosts

    def host_of(self, daemon: Daemon) -> int:
        return self.cluster.daemons.index(daemon)

    def try_once(self, fault: Fault) -> HandOver:
        leader, old = self.settle()
        time.sleep(_random.uniform(0.1, 0.6))  # anywhere between two heartbeats
        self._old = old
        fault_at = fault(self, leader)
        # Two that live at once may do so for ever.
        until(lambda: self._settled() or overlaps_of(self.runs()), SETTLED)
        old, new, *others = self.runs()
        for path in self._lives.glob("[!.]*"):
            if not Path(f"/proc/{_life(path).pid}").exists():
                path.unlink()
        overlaps = overlaps_of([old, new, *others])
        return HandOver(new.began - old.ended, new.began - fault_at, overlaps)

    def runs(self) -> list[Run]:
        """Since the last trial, in the order of their beginning."""
        lives = [_life(path) for path in sorted(self._lives.glob("[!.]*"))]
        by_service = groupby(lives, key=lambda life: (life.node_id, life.term, life.service))
        return sorted((Run(tuple(group)) for _, group in by_service), key=lambda run: run.began)

    def successor(self) -> Run | None:
        """The run that followed the one from before the fault."""
        assert self._old is not None
        return next((run for run in self.runs() if run.key != self._old.key), None)

    def await_successor(self) -> None:
        until(self.successor, "the service runs again")

    def end_of_old(self) -> float:
        """So far."""
        assert self._old is not None
        return next(run.ended for run in self.runs() if run.key == self._old.key)

    def settle(self) -> tuple[Daemon, Run]:
        """Until all nodes answer, each has its guard, and one service runs, on the leader."""
        found: tuple[Daemon, Run] = until(self._settled, SETTLED)
        return found

    def _settled(self) -> tuple[Daemon, Run] | None:
        alive = [run for run in self.runs() if run.lives_on]
        if len(alive) == 1 and all(map(guard_of, self.cluster.daemons)):
            leader = self.cluster.leader()
            status = leader.ask("status") if leader else None
            if leader and status and status["healthy"] and leader.node_id == alive[0].node_id:
                return leader, alive[0]
        time.sleep(LOOK_SECONDS)  # to ask costs time that the daemons need
        return None


def guard_of(daemon: Daemon) -> int | None:
    """The pid of the guard that the daemon has at present, None if it has none."""
    pids = _GUARD.findall(daemon.log_text)
    with suppress(IndexError, OSError):
        if os.fsencode(daemon.state_dir) in Path(f"/proc/{pids[-1]}/cmdline").read_bytes():
            return int(pids[-1])
    return None


@contextmanager
def staged(
    manners: str, *, on_hosts: bool, raft: Mapping[str, str] | None = None
) -> Iterator[Scene]:
    """`manners` of the service: see `lasting`. With hosts, each node is on one of its own."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nefia-")))
        stack.callback(_end_all_of, place)
        lives = place / "lives"
        lives.mkdir()
        hosts = stack.enter_context(Hosts(3)) if on_hosts else None
        cluster = Cluster(hosted_daemons(place, hosts)) if hosts else new_cluster(place)
        run = [sys.executable, "-I", "-S", lasting.__file__, str(lives), manners]
        service = {"name": "app", "kind": "command", "run": run, "stop_timeout": STOP_TIMEOUT}
        for daemon in cluster.daemons:
            values = json.loads(daemon.config.read_text()) | {"services": [service]}
            values["cluster"]["raft"] = dict(raft or {})
            daemon.config.write_text(json.dumps(values))
        scene = Scene(stack.enter_context(cluster).form(), hosts, lives)
        yield scene


def _end_all_of(place: Path) -> None:
    """Guards and services that a mutant has left: whatever has our directory in its command."""
    for path in Path("/proc").glob("[1-9]*/cmdline"):
        with suppress(OSError):
            if os.fsencode(place) in path.read_bytes():
                os.kill(int(path.parent.name), signal.SIGKILL)


# The faults: each returns when it happened, once another service has begun and all is repaired.

Fault: TypeAlias = Callable[[Scene, Daemon], float]


def kill(scene: Scene, leader: Daemon) -> float:
    at = boottime()
    leader.kill()
    scene.await_successor()
    leader.start()
    return at


def freeze(scene: Scene, leader: Daemon) -> float:
    at = boottime()
    leader.pause()
    try:
        scene.await_successor()
        time.sleep(max(0.0, at + FROZEN_SECONDS - boottime()))
    finally:
        leader.resume()
    return at


def stutter(scene: Scene, leader: Daemon) -> float:
    """The stop that counts is the last before the old service's end."""
    stops: list[float] = []
    while not scene.successor():
        assert len(stops) < MAX_STOPS, "nobody takes over"
        stops.append(boottime())
        leader.pause()
        time.sleep(_random.uniform(*STUTTER_SECONDS))
        leader.resume()
        time.sleep(_random.uniform(*BREATH_SECONDS))
    ended = scene.end_of_old()
    return max(at for at in stops if at <= ended)


def _cut(*directions: str) -> Fault:
    def fault(scene: Scene, leader: Daemon) -> float:
        at = boottime()
        scene.hosts.cut(scene.host_of(leader), *directions)
        scene.await_successor()
        scene.hosts.heal(scene.host_of(leader))
        return at

    return fault


def hang_disk(scene: Scene, leader: Daemon) -> float:
    with hung_disk(leader, SLOW, LOST):
        at = boottime()
        with suppress(NefiaError):  # its followers may well store and confirm it
            leader.call("queue_push", timeout=PUSH_SECONDS, payload="hangs")
        scene.await_successor()
    leader.kill()
    leader.start()
    return at


def terminate(scene: Scene, leader: Daemon) -> float:
    at = boottime()
    leader.stop()
    scene.await_successor()
    leader.start()
    return at


def transfer(scene: Scene, leader: Daemon) -> float:
    at = boottime()
    leader.call("transfer_leader")
    scene.await_successor()
    return at


def _signal_guard(number: signal.Signals) -> Fault:
    def fault(scene: Scene, leader: Daemon) -> float:
        guard = guard_of(leader)
        assert guard is not None
        at = boottime()
        os.kill(guard, number)
        scene.await_successor()
        return at

    return fault


@frozen
class Kind:
    title: str
    fault: Fault
    manners: str = "polite"
    on_hosts: bool = False


KINDS = {
    "kill": Kind("kill -9", kill),
    "freeze": Kind("SIGSTOP for 5 s", freeze),
    "stutter": Kind("SIGSTOP for 0.3-0.7 s, again and again", stutter),
    "disk": Kind("disk hangs", hang_disk),
    "sigterm": Kind("SIGTERM", terminate),
    "transfer": Kind("transfer", transfer),
    "cut": Kind("cut off", _cut("incoming", "outgoing"), on_hosts=True),
    "cut_incoming": Kind("hears nothing", _cut("incoming"), on_hosts=True),
    "cut_outgoing": Kind("is not heard", _cut("outgoing"), on_hosts=True),
    "kill_stubborn": Kind("kill -9, stubborn service", kill, "stubborn"),
    "freeze_stubborn": Kind("SIGSTOP for 5 s, stubborn service", freeze, "stubborn"),
    "transfer_stubborn": Kind("transfer, stubborn service", transfer, "stubborn"),
    "guard": Kind("guard killed, stubborn service", _signal_guard(signal.SIGKILL), "stubborn"),
    "guard_frozen": Kind(
        "guard frozen, stubborn service", _signal_guard(signal.SIGSTOP), "stubborn"
    ),
}


def measure(names: Sequence[str], trials: int) -> Iterator[tuple[str, HandOver]]:
    """By kind, in the order given. Kinds that can share a cluster do, if they are neighbours."""
    for (manners, on_hosts), group in groupby(
        names, key=lambda name: (KINDS[name].manners, KINDS[name].on_hosts)
    ):
        with staged(manners, on_hosts=on_hosts) as scene:
            for name in group:
                for _ in range(trials):
                    yield name, scene.try_once(KINDS[name].fault)


def violation(mutant: Mutant) -> str:
    """Of exclusivity, the first in a few hand-overs without that mechanism; empty if none is."""
    kind = KINDS[mutant.kind]
    with (
        patched_tree(mutant) as tree,
        chdir(tree),
        staged(kind.manners, on_hosts=kind.on_hosts, raft=mutant.raft) as scene,
    ):
        for _ in range(MUTANT_TRIALS):
            if overlaps := scene.try_once(kind.fault).overlaps:
                return overlaps[-1]
    return ""


def measure_start() -> float:
    """What the service itself takes to begin, in seconds."""
    environment = os.environ | {"NEFIA_NODE_ID": "none", "NEFIA_TERM": "0"}
    times: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        for _ in range(START_SAMPLES):
            argv = [sys.executable, "-I", "-S", lasting.__file__, name, "polite"]
            at = boottime()
            pid = os.posix_spawn(sys.executable, argv, environment)
            path = until(lambda: next(Path(name).glob("[!.]*"), None), "it begins")
            times.append(_life(path).began - at)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            path.unlink()
    return statistics.median(times)


def row(title: str, hand_overs: Sequence[HandOver]) -> str:
    gaps = [each.gap * 1000 for each in hand_overs]
    afters = [each.after * 1000 for each in hand_overs]
    overlapped = sum(bool(each.overlaps) for each in hand_overs)
    return (
        f"| {title} | {len(hand_overs)} | {overlapped} "
        f"| {statistics.median(gaps):.0f} ms | {max(gaps):.0f} ms "
        f"| {statistics.median(afters):.0f} ms | {max(afters):.0f} ms |"
    )


def tabulate(kinds: Sequence[str], trials: int) -> bool:
    """Whether all was well."""
    print(f"The service itself takes {measure_start() * 1000:.0f} ms to begin.\n")
    print("| the leader | hand-overs | overlaps | gap | worst | from the fault | worst |")
    print("|---|---|---|---|---|---|---|", flush=True)
    is_well = True
    for name, group in groupby(measure(kinds, trials), key=itemgetter(0)):
        hand_overs: list[HandOver] = []
        try:
            for _, hand_over in group:
                hand_overs.append(hand_over)
                for line in hand_over.overlaps:
                    is_well = False
                    print(f"{name}: {line}", file=sys.stderr, flush=True)
        finally:
            if hand_overs:
                print(row(KINDS[name].title, hand_overs), flush=True)
    return is_well


def try_mutants(names: Sequence[str]) -> bool:
    """Whether each is noticed."""
    print("| taken away | hand-over | what is seen |", "|---|---|---|", sep="\n", flush=True)
    survivors = 0
    for name in names or MUTANTS:
        seen = violation(MUTANTS[name])
        survivors += not seen
        print(f"| {name} | {KINDS[MUTANTS[name].kind].title} | {seen or 'NOTHING'} |", flush=True)
    return not survivors


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.end_to_end.handovers")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    parser.add_argument("--trials", type=int, default=100, help="of each kind (default 100)")
    parser.add_argument("--mutants", nargs="*", choices=MUTANTS, metavar="NAME")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))  # in good order
    if options.mutants is not None:
        return 0 if try_mutants(options.mutants) else 1
    return 0 if tabulate(options.kinds, options.trials) else 1


if __name__ == "__main__":
    sys.exit(main())
