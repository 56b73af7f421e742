"""Meshes over TLS on real sockets: who may speak for whom, and new certificates under way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from nefia.credentials import load_credentials, trust_store
from nefia.errors import PeerUnreachable, TLSFailed
from nefia.net.handshake import Refusal, vouch
from nefia.net.network import TcpNetwork
from nefia.net.tls import TlsNetwork, tls_context
from tests.certificates import bake, signer, write
from tests.net.net_driver import Node, eventually, small
from tests.net.test_net_tcp import NET, free_port

Make = Callable[..., Node]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def node(name: str, *, certificate_of: str = "", recipe: str = "both") -> Node:
        files = write(tmp_path / name, bake(recipe, certificate_of or name))
        network = TlsNetwork(TcpNetwork(10.0), tls_context(load_credentials(files)))
        return Node(name, network, address=f"127.0.0.1:{free_port()}")

    return node


async def start(nursery: trio.Nursery, *nodes: Node) -> None:
    for node in nodes:
        node.knows(*nodes)
        await nursery.start(node.run)


def up(one: Node, other: Node) -> bool:
    return one.mesh.status()[other.name].lanes_up == 2


@pytest.mark.parametrize(
    ("certified_ids", "refused"),
    [(set(), False), ({"n"}, False), ({"n", "m"}, False), ({"m"}, True), ({""}, True)],
)
def test_who_may_speak_for_a_node(certified_ids: set[str], refused: bool) -> None:
    refusal = vouch("n", certified_ids)
    assert isinstance(refusal, Refusal) == refused
    assert refusal is None or refusal.code == "tls"


async def test_messages_pass(make: Make, nursery: trio.Nursery) -> None:
    one, two = make("one"), make("two", recipe="any")
    await start(nursery, one, two)
    await eventually(lambda: up(one, two) and up(two, one))
    assert one.mesh.send(small("one", "two"))
    await eventually(lambda: two.events.messages)
    assert (await one.mesh.ask("two", b"x", 5.0)) == b"answer to x"
    nursery.cancel_scope.cancel()


async def test_no_member_speaks_in_anothers_name(make: Make, nursery: trio.Nursery) -> None:
    """A node with the certificate of `three`, signed by the same authority, calls itself `two`."""
    one, two = make("one"), make("two", certificate_of="three")
    await start(nursery, one, two)
    await eventually(lambda: one.events.reported("peer_refused"))
    [told] = one.events.reported("peer_refused")
    assert told["reason"] == "the certificate of who calls itself two is for three"
    with pytest.raises(TLSFailed, match="is for three"):
        await one.mesh.probe(two.address, "two", 5.0)
    with pytest.raises(TLSFailed, match="is for three"):
        await two.mesh.probe(one.address, "one", 5.0)
    assert not one.mesh.send(small("one", "two"))
    assert one.events.messages == two.events.messages == []
    assert one.events.met == two.events.met == []
    nursery.cancel_scope.cancel()


async def test_the_dialling_side_learns_why_it_is_refused(
    make: Make, nursery: trio.Nursery
) -> None:
    """The alert comes after its own handshake is done, in place of an answer to its hello."""
    one, two = make("one"), make("two", recipe="expired")
    await start(nursery, one, two)
    for _ in range(10):
        with pytest.raises(TLSFailed, match=r"refuses this node's certificate.*expired"):
            await two.mesh.probe(one.address, "one", 5.0)
    with pytest.raises(TLSFailed, match=f"{two.address}: its certificate CN=two has expired"):
        await one.mesh.probe(two.address, "two", 5.0)
    nursery.cancel_scope.cancel()


async def test_plaintext_on_either_side(make: Make, nursery: trio.Nursery) -> None:
    secure, plain = make("secure"), Node("plain", NET, address=f"127.0.0.1:{free_port()}")
    await start(nursery, secure, plain)
    with pytest.raises(PeerUnreachable, match="does it speak TLS"):
        await secure.mesh.probe(plain.address, "plain", 5.0)
    with pytest.raises(PeerUnreachable):
        await plain.mesh.probe(secure.address, "secure", 5.0)
    reasons = [told["reason"] for told in secure.events.reported("tls_refused")]
    assert reasons == ["it does not speak TLS: what came is plaintext"]
    assert "this is TLS" in str(plain.events.reported("garbage")[0]["reason"])
    nursery.cancel_scope.cancel()


async def test_new_certificates_for_all_connections(
    make: Make, nursery: trio.Nursery, tmp_path: Path
) -> None:
    """Lane by lane: the peer is never without one, and so is never taken for lost."""
    one, two = make("one"), make("two")
    await start(nursery, one, two)
    await eventually(lambda: up(one, two) and up(two, one))
    network = one.network
    assert isinstance(network, TlsNetwork)
    before = one.mesh._acceptor.lanes_of("two"), two.mesh._acceptor.lanes_of("one")
    fresh = load_credentials(write(tmp_path / "new", bake("any", "one")))
    assert await network.replace(tls_context(fresh), trust_store(fresh.authorities)) == 0
    await one.mesh.renew()
    await eventually(lambda: up(one, two) and len(two.mesh._acceptor.lanes_of("one")) == 2)
    assert not set(map(id, before[1])) & set(map(id, two.mesh._acceptor.lanes_of("one")))
    assert one.mesh._acceptor.lanes_of("two") == before[0], "those are for the other side to renew"
    assert one.events.lost == two.events.lost == []
    nursery.cancel_scope.cancel()


async def test_nothing_is_cut_for_certificates_that_the_peer_refuses(
    make: Make, nursery: trio.Nursery, tmp_path: Path
) -> None:
    one, two = make("one"), make("two")
    await start(nursery, one, two)
    await eventually(lambda: up(one, two) and up(two, one))
    network = one.network
    assert isinstance(network, TlsNetwork)
    both = signer("other").pem + signer("authority").pem
    files = write(tmp_path / "new", bake("other-authority", "one"), ca=both)
    fresh = load_credentials(files)
    await network.replace(tls_context(fresh), trust_store(fresh.authorities))
    await one.mesh.renew()
    assert "(TLS alert" in str(one.events.reported("not_renewed"))
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert one.events.broken == two.events.broken == []
    assert up(one, two)
    nursery.cancel_scope.cancel()


async def test_whoever_is_no_longer_trusted_is_cut_on_both_sides(
    make: Make, nursery: trio.Nursery, tmp_path: Path
) -> None:
    one, two = make("one"), make("two")
    await start(nursery, one, two)
    await eventually(lambda: up(one, two) and up(two, one))
    network = one.network
    assert isinstance(network, TlsNetwork)
    files = write(tmp_path / "new", bake("other-authority", "one"), ca=signer("other").pem)
    fresh = load_credentials(files)
    assert await network.replace(tls_context(fresh), trust_store(fresh.authorities)) == 4
    await eventually(lambda: not up(one, two) and not one.mesh._acceptor.lanes_of("two"))
    nursery.cancel_scope.cancel()
