"""The same over real sockets on loopback, where only real sockets can tell."""

from __future__ import annotations

import errno
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from nefia.errors import PeerUnreachable
from nefia.net.interface import PeerTarget
from nefia.net.link import STABLE_SECONDS
from nefia.net.network import TcpNetwork, remote_name
from tests.net.net_driver import Node, eventually, large, small

HERE = Path(__file__).parent
NET = TcpNetwork(10.0)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def tcp_node(name: str) -> Node:
    return Node(name, NET, address=f"127.0.0.1:{free_port()}")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
async def test_dial_and_listen(host: str, nursery: trio.Nursery) -> None:
    address = f"{host}:{free_port()}"
    try:
        listeners = await NET.listen(address)
    except OSError:
        pytest.skip(f"{host} is not there")
    accepted: list[trio.SocketStream] = []

    async def accept(listener: trio.abc.Listener[trio.abc.Stream]) -> None:
        stream = await listener.accept()
        assert isinstance(stream, trio.SocketStream)
        accepted.append(stream)

    for listener in listeners:
        nursery.start_soon(accept, listener)
    dialled = await NET.dial(address)
    assert isinstance(dialled, trio.SocketStream)
    await eventually(lambda: accepted)
    for stream in (dialled, accepted[0]):
        options = [
            stream.getsockopt(level, option)
            for level, option in (
                (socket.IPPROTO_TCP, socket.TCP_NODELAY),
                (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
            )
        ]
        assert options == [1, 1, 10_000]
        await stream.aclose()
    nursery.cancel_scope.cancel()
    for listener in listeners:
        with trio.CancelScope(shield=True):
            await listener.aclose()


async def test_the_remote_name_is_an_address() -> None:
    port = free_port()
    (listener,) = await NET.listen(f"127.0.0.1:{port}")
    dialled = await NET.dial(f"127.0.0.1:{port}")
    assert remote_name(dialled) == f"127.0.0.1:{port}"
    await dialled.aclose()
    await listener.aclose()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_refused_is_told_from_all_else(host: str) -> None:
    with pytest.raises(ConnectionRefusedError):
        await NET.dial(f"{host}:{free_port()}")


@pytest.mark.parametrize("address", ["no-port", "a b:1", "host:0", "host:99999", ":9700", ""])
async def test_what_is_no_address_is_an_ordinary_error(address: str) -> None:
    with pytest.raises(OSError, match=r"address|port|host") as caught:
        await NET.dial(address)
    assert caught.value.errno == errno.EINVAL


async def test_a_name_that_does_not_resolve() -> None:
    with pytest.raises(OSError, match=r"(?i)name|resolution") as caught:
        await NET.dial("no-such-host.invalid:9700")
    assert not isinstance(caught.value, ConnectionRefusedError)


async def test_an_address_in_use_is_named() -> None:
    address = f"127.0.0.1:{free_port()}"
    (listener,) = await NET.listen(address)
    with pytest.raises(OSError, match=f"cannot listen on {address}: Address already in use"):
        await NET.listen(address)
    await listener.aclose()


async def test_messages_large_and_small_over_tcp(nursery: trio.Nursery) -> None:
    one, two = tcp_node("one"), tcp_node("two")
    for node in (one, two):
        node.knows(one, two)
        await nursery.start(node.run)
    await eventually(lambda: one.mesh.status()["two"].lanes_up == 2)
    for term in range(1, 6):
        assert one.mesh.send(large("one", "two", term, 2_000_000))
        assert one.mesh.send(small("one", "two", 100 + term))
    await eventually(lambda: len(two.events.messages) == 10)
    terms = [m.term for m in two.events.messages]
    assert [t for t in terms if t < 100] == [1, 2, 3, 4, 5]
    assert [t for t in terms if t > 100] == [101, 102, 103, 104, 105]
    nursery.cancel_scope.cancel()


async def test_random_bytes_over_tcp_disturb_nobody(nursery: trio.Nursery) -> None:
    one, two = tcp_node("one"), tcp_node("two")
    for node in (one, two):
        node.knows(one, two)
        await nursery.start(node.run)
    await eventually(lambda: one.mesh.status()["two"].lanes_up == 2)
    for seed in range(20):
        stream = await NET.dial(two.address)
        try:
            await stream.send_all(bytes((seed * 37 + i * 101) % 256 for i in range(5000)))
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass
        await stream.aclose()
    assert len(two.events.reported("garbage")) == 20
    assert all("127.0.0.1:" in str(r["remote"]) for r in two.events.reported("garbage"))
    assert one.events.broken == two.events.broken == []
    assert one.mesh.send(small("one", "two"))
    await eventually(lambda: two.events.messages)
    nursery.cancel_scope.cancel()


VICTIM = """
import sys, trio
sys.path[:0] = [{here!r}, {root!r}]
from tests.net.net_driver import Node
from nefia.net.interface import PeerTarget
from nefia.net.link import STABLE_SECONDS
from nefia.net.network import TcpNetwork

async def main():
    node = Node("victim", TcpNetwork(10.0), address="127.0.0.1:{port}")
    node.mesh.set_peers({{"one": PeerTarget("{one}")}})
    await node.run()

trio.run(main)
"""


@pytest.fixture
async def one_and_victim(
    nursery: trio.Nursery,
) -> AsyncIterator[tuple[Node, trio.Process]]:
    """A node here and one in a process of its own, connected both ways."""
    one, port = tcp_node("one"), free_port()
    one.mesh.set_peers({"victim": PeerTarget(f"127.0.0.1:{port}")})
    await nursery.start(one.run)
    script = VICTIM.format(here=str(HERE), root=str(HERE.parents[1]), port=port, one=one.address)
    process = await trio.lowlevel.open_process([sys.executable, "-c", script])
    try:
        await eventually(lambda: one.mesh.status()["victim"].lanes_up == 2)
        await eventually(lambda: len(one.mesh._acceptor.lanes_of("victim")) == 2)
        yield one, process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def test_kill_9_is_a_loss(one_and_victim: tuple[Node, trio.Process]) -> None:
    one, victim = one_and_victim
    await trio.sleep(2 * STABLE_SECONDS)
    killed_at = trio.current_time()
    victim.kill()
    await eventually(lambda: one.events.lost)
    print(f"lost after {(one.events.lost[0][1] - killed_at) * 1000:.1f} ms")
    with pytest.raises(PeerUnreachable, match="nothing listens"):
        await one.mesh.probe(one.mesh.status()["victim"].address, None, 5.0)


async def test_a_stopped_process_is_no_loss_until_it_is_killed(
    one_and_victim: tuple[Node, trio.Process],
) -> None:
    one, victim = one_and_victim
    victim.send_signal(signal.SIGSTOP)
    await eventually(lambda: len(one.events.broken) == 2)
    assert one.events.lost == []
    victim.kill()
    await eventually(lambda: one.events.lost)
