"""A node in a program: `nefia.open_node`, on real disks and sockets (docs/embedding.md)."""

from __future__ import annotations

import ast
import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path

import pytest
import trio

import nefia
from nefia.errors import (
    DataInUse,
    DiskFailed,
    InvalidArgument,
    InvalidConfiguration,
    NotLeader,
    OutcomeUnknown,
    ShuttingDown,
)
from nefia.guard.kernel import KillTimer
from nefia.raft.effects import Write
from nefia.storage.lmdb_store import LmdbStore
from nefia.storage.store import Ended
from tests.end_to_end.cluster import free_ports
from tests.state.words import Words

ROOT = Path(__file__).parent.parent


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name, since a Unix socket's path has 107 bytes at most."""
    directory = Path(tempfile.mkdtemp(prefix="nefia-"))
    yield directory
    shutil.rmtree(directory)


def config_of(place: Path, name: str = "single", port: int | None = None) -> nefia.Config:
    cluster = {"enabled": port is not None, "node_id": name}
    if port is not None:
        cluster |= {"bind_addr": f"127.0.0.1:{port}", "advertise_addr": f"127.0.0.1:{port}"}
    path = place / f"{name}.yaml"
    path.write_text(json.dumps({"state_dir": str(place / name), "cluster": cluster}))
    return nefia.load_config(path)


def run(main: Callable[[], Awaitable[object]]) -> None:
    async def within_limits() -> None:
        with trio.fail_after(30):
            await main()

    trio.run(within_limits, clock=nefia.BootClock())


async def leads(node: nefia.EmbeddedNode[Words]) -> None:
    while not node.leads:  # noqa: ASYNC110
        await trio.sleep(0.01)


def test_a_machine_outlives_the_program(place: Path) -> None:
    config = config_of(place)

    async def main() -> None:
        async with nefia.open_node(config, machine=Words) as node:
            await leads(node)
            assert await node.apply(b"a", request_id="r-1") == b"1"
            assert (await node.read()).words == [b"a"]
            with pytest.raises(nefia.Refused, match="Nothing is no word"):
                await node.apply(b"")
            await node.ask("snapshot")
            assert await node.apply(b"b") == b"2"
        with pytest.raises(ShuttingDown):
            await node.apply(b"c")
        async with nefia.open_node(config, machine=Words) as node:
            await leads(node)
            assert await node.apply(b"a", request_id="r-1") == b"1"
            assert node.local().words == [b"a", b"b"]

    run(main)


def test_three_nodes_in_one_program(place: Path) -> None:
    first, second, third = free_ports(3)

    async def main() -> None:
        async with (
            nefia.open_node(config_of(place, "a", first), machine=Words) as one,
            nefia.open_node(config_of(place, "b", second), machine=Words) as two,
        ):
            await one.ask("init")
            await leads(one)
            await one.ask("add_peer", id="b", addr=f"127.0.0.1:{second}")
            async with nefia.open_node(config_of(place, "c", third), machine=Words) as three:
                await one.ask("add_peer", id="c", addr=f"127.0.0.1:{third}")
                assert await one.apply(b"a") == b"1"
                assert await two.apply(b"b", forward=True) == b"2"
                with pytest.raises(NotLeader):
                    await three.apply(b"c")
                with pytest.raises(NotLeader):
                    await three.read()
                with pytest.raises(nefia.Refused):
                    await three.apply(b"", forward=True)
                await one.ask("transfer_leader", to="c")
                assert await three.apply(b"c") == b"3"
            # It has handed over, so the two others go on at once.
            while not (one.leads or two.leads):  # noqa: ASYNC110
                await trio.sleep(0.01)
            assert await one.apply(b"d", forward=True) == b"4"

    run(main)


class Service:
    """Of a program: it writes down when it began and ended."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.began = trio.Event()

    async def __call__(self, node: nefia.EmbeddedNode[Words], tenure: nefia.Tenure) -> None:
        self.told.append(f"term {tenure.term}")
        try:
            await node.apply(b"by the service")
            self.began.set()
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await node.apply(b"last words")
            self.told.append("ended")


def test_leaving_the_block_stops_the_service_in_good_order(place: Path) -> None:
    service = Service()
    config = config_of(place)

    async def main() -> None:
        async with nefia.open_node(config, machine=Words, serve=service):
            await service.began.wait()
        assert [told.split()[0] for told in service.told] == ["term", "ended"]
        async with nefia.open_node(config, machine=Words) as node:
            await leads(node)
            assert (await node.read()).words == [b"by the service", b"last words"]

    run(main)


def test_a_node_that_nobody_can_succeed_may_stand_still(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A breakpoint, or a busy machine, must not cost a lone program its life."""
    service = Service()
    set_to: set[float] = set()

    class Timer(KillTimer):
        def set(self, when: float) -> None:
            set_to.add(when)

    monkeypatch.setattr("nefia.services.program.KillTimer", Timer)

    async def main() -> None:
        async with nefia.open_node(config_of(place), machine=Words, serve=service):
            await service.began.wait()

    run(main)
    assert set_to == {math.inf}


@pytest.mark.parametrize("how", ["cancelled", "raised"])
def test_so_does_an_end_in_any_other_way(place: Path, how: str) -> None:
    service = Service()

    async def main() -> None:
        with trio.CancelScope() as outside:
            async with nefia.open_node(config_of(place), machine=Words, serve=service):
                await service.began.wait()
                if how == "raised":
                    raise ValueError("the program's own")
                outside.cancel()
                await trio.sleep_forever()
        assert how == "cancelled"

    if how == "raised":
        with pytest.raises(ValueError, match="the program's own"):
            run(main)
    else:
        run(main)
    assert service.told[1:] == ["ended"]


def test_a_machine_that_fails_ends_the_block(place: Path) -> None:
    told: list[nefia.NefiaError] = []

    async def ask(node: nefia.EmbeddedNode[Words]) -> None:
        try:
            await node.apply(b"raise", request_id="r-1")
        except nefia.NefiaError as error:
            told.append(error)

    async def main() -> None:
        async with (
            trio.open_nursery() as outside,
            nefia.open_node(config_of(place), machine=Words) as node,
        ):
            await leads(node)
            outside.start_soon(ask, node)
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                told.append(nefia.NefiaError("the block was cancelled"))
                raise

    with pytest.raises(ExceptionGroup) as caught:
        run(main)
    [error] = caught.value.exceptions
    assert isinstance(error, nefia.MachineFailed)
    assert isinstance(error.__cause__, ValueError)
    assert {type(each) for each in told} == {OutcomeUnknown, nefia.NefiaError}
    [unknown] = [each for each in told if isinstance(each, OutcomeUnknown)]
    assert unknown.details == {"request_id": "r-1"}


def test_what_the_world_does_wrong_is_raised_as_it_is(place: Path) -> None:
    config = config_of(place)

    async def main() -> None:
        async with nefia.open_node(config, machine=Words):
            with pytest.raises(DataInUse):
                async with nefia.open_node(config, machine=Words):
                    pass

    run(main)


def test_a_failed_disk_does_not_end_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node begins anew on what the disk holds, with another machine and the service."""
    service = Service()
    write, failures = LmdbStore.begin_write, [DiskFailed("no more")]

    def begin_write(store: LmdbStore, order: Write, ended: Ended) -> None:
        def end(error: Exception | None) -> None:
            breaks = b"break" in repr(order.entries).encode() and failures
            ended(failures.pop() if breaks else error)

        write(store, order, end)

    async def main() -> None:
        monkeypatch.setattr(LmdbStore, "begin_write", begin_write)
        async with nefia.open_node(config_of(place), machine=Words, serve=service) as node:
            await service.began.wait()
            before = node.local()
            with pytest.raises(OutcomeUnknown):
                await node.apply(b"break", request_id="r-1")
            service.began = trio.Event()
            await service.began.wait()
            await node.apply(b"break", request_id="r-1")
            after = await node.read()
            assert after is not before
            assert after.words.count(b"break") == 1

    monkeypatch.setattr("nefia.daemon.FIRST_RESTART_SECONDS", 0.1)
    run(main)
    assert not failures


class Generator(Words):
    def snapshot(self) -> Iterable[bytes]:
        yield from self.words


class Nameless(Words):
    name = ""


@pytest.mark.parametrize("machine", [Generator, Nameless])
def test_a_machine_that_cannot_be_right(place: Path, machine: type[Words]) -> None:
    async def main() -> None:
        with pytest.raises(InvalidArgument):
            async with nefia.open_node(config_of(place), machine=machine):
                pass

    run(main)


def test_a_command_is_bytes(place: Path) -> None:
    """Text would be taken here, and not by the nodes that decode it."""

    async def main() -> None:
        async with nefia.open_node(config_of(place), machine=Words) as node:
            with pytest.raises(InvalidArgument):
                await node.apply("text")  # type: ignore[arg-type]

    run(main)


def test_a_clock_that_stands_still_during_suspend_will_not_do(place: Path) -> None:
    async def main() -> None:
        async with nefia.open_node(config_of(place), machine=Words):
            pass

    with pytest.raises(InvalidConfiguration, match="suspended"):
        trio.run(main)


def test_it_needs_its_assertions() -> None:
    program = (
        "import trio, nefia\n"
        "async def main():\n"
        "    async with nefia.open_node(None, machine=None): pass\n"
        "trio.run(main, clock=nefia.BootClock())\n"
    )
    argv = [sys.executable, "-O", "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert "InvalidConfiguration: nefia does not run with python -O" in done.stderr


# The package.


def test_names_are_there_and_typed() -> None:
    stub = ast.parse((ROOT / "nefia" / "__init__.pyi").read_text())
    typed = {alias.asname for n in stub.body if isinstance(n, ast.ImportFrom) for alias in n.names}
    assert typed == vars(nefia)["_HOMES"].keys()
    for name in typed:
        assert getattr(nefia, str(name)) is not None
    with pytest.raises(AttributeError):
        _ = nefia.nothing  # type: ignore[attr-defined]
    assert (ROOT / "nefia" / "py.typed").exists()


def test_they_cost_nothing_until_they_are_asked_for() -> None:
    program = "import nefia, sys; assert 'trio' not in sys.modules; nefia.open_node; import trio"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
