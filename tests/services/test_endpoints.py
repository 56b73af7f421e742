"""Where peers are heard, and what of it is worth a change of the replicated state."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from nefia.clock import TrioNodeClock
from nefia.config.services import CommandConfig, ServiceConfig, WireguardConfig
from nefia.errors import NotLeader
from nefia.services.endpoints import (
    MAX_CHANGES,
    MAX_ENDPOINTS,
    MAX_SHOWN_PEERS,
    READ_SECONDS,
    Endpoints,
    PeerFigures,
    parse_dump,
    read_peers,
)
from nefia.services.interface import ServiceFailed, Tenure
from nefia.services.tunnel import POLL_SECONDS, Tunnel
from tests.node.simulated import run_simulated

simulated = pytest.mark.trio(run=run_simulated)

DUMP = (
    "private=\tpublic=\t51820\toff\n"
    "A=\t(none)\t192.0.2.7:4711\t10.77.0.11/32\t1700000000\t532\t476\t25\n"
    "B=\tsecret=\t[2001:db8::7]:9\t(none)\t0\t0\t148\toff\n"
    "C=\t(none)\t(none)\t10.77.0.13/32\t0\t0\t0\toff\n"
    "of a later wg\n"
)


def peer(key: str, endpoint: str = "192.0.2.7:1", handshake: int = 1) -> PeerFigures:
    return PeerFigures(
        public_key=key,
        endpoint=endpoint,
        latest_handshake=handshake,
        received_bytes=1,
        sent_bytes=2,
    )


class Kept:
    """The replicated state's part, as a dict. `refuses`: nobody leads here any more."""

    def __init__(self, **known: str) -> None:
        self.known = known
        self.changes: list[tuple[str, str]] = []
        self.refuses = False

    def remembered(self) -> Mapping[str, str]:
        return dict(self.known)

    async def remember(self, key: str, value: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.refuses:
            raise NotLeader("this node does not lead")
        self.changes.append((key, value))
        if value:
            self.known[key] = value
        else:
            del self.known[key]


class Wire:
    """What wg would show, and how often it was asked."""

    def __init__(self, *peers: PeerFigures) -> None:
        self.peers = peers
        self.asked: list[float] = []
        self.hangs = False
        self.fails = False

    async def read(self, interface: str) -> tuple[PeerFigures, ...]:
        assert interface == "wg0"
        self.asked.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.hangs:
            await trio.sleep_forever()
        if self.fails:
            raise OSError("there is no wg")
        return self.peers


def endpoints(wire: Wire, kept: Kept) -> Endpoints:
    return Endpoints("wg0", kept, TrioNodeClock(), wire.read)


def test_a_dump_is_read_without_its_secrets() -> None:
    peers = parse_dump(DUMP)
    assert [peer.to_json() for peer in peers] == [
        {
            "public_key": "A=",
            "endpoint": "192.0.2.7:4711",
            "latest_handshake": "2023-11-14T22:13:20Z",
            "received_bytes": 532,
            "sent_bytes": 476,
        },
        {
            "public_key": "B=",
            "endpoint": "[2001:db8::7]:9",
            "latest_handshake": None,
            "received_bytes": 0,
            "sent_bytes": 148,
        },
        {
            "public_key": "C=",
            "endpoint": None,
            "latest_handshake": None,
            "received_bytes": 0,
            "sent_bytes": 0,
        },
    ]
    assert "private" not in repr(peers)
    assert "secret" not in repr(peers)


def test_no_interface_has_no_peers() -> None:
    assert parse_dump("") == ()


@pytest.mark.skipif(shutil.which("wg") is None, reason="needs wg")
async def test_of_no_interface_wg_shows_no_peers() -> None:
    assert await read_peers("no-such-link") == ()


@simulated
async def test_what_is_new_is_remembered_once() -> None:
    kept, wire = Kept(), Wire(peer("A="), peer("B=", "192.0.2.8:1"))
    watched = endpoints(wire, kept)
    await watched.look()
    assert sorted(kept.changes) == [("A=", "192.0.2.7:1"), ("B=", "192.0.2.8:1")]
    await watched.look()
    assert len(kept.changes) == 2
    wire.peers = (peer("A=", "192.0.2.7:2"), peer("B=", "192.0.2.8:1"))
    await watched.look()
    assert kept.changes[2:] == [("A=", "192.0.2.7:2")]


@simulated
async def test_only_a_handshake_shows_where_a_peer_is() -> None:
    """What this leader was told itself, and tries, is no news."""
    kept = Kept(**{"A=": "192.0.2.1:1"})
    await endpoints(Wire(peer("A=", "192.0.2.9:9", handshake=0), peer("B=", "")), kept).look()
    assert kept.changes == []


@simulated
async def test_a_peer_that_is_no_more_is_forgotten() -> None:
    kept = Kept(**{"A=": "192.0.2.7:1", "gone=": "192.0.2.9:1"})
    await endpoints(Wire(peer("A=")), kept).look()
    assert kept.changes == [("gone=", "")]


@simulated
async def test_a_tunnel_that_is_down_forgets_nobody() -> None:
    kept = Kept(**{"A=": "192.0.2.7:1"})
    await endpoints(Wire(), kept).look()
    assert kept.changes == []


@simulated
async def test_a_refusal_ends_the_look_and_not_the_watch() -> None:
    kept, wire = Kept(), Wire(peer("A="))
    watched = endpoints(wire, kept)
    kept.refuses = True
    await watched.look()
    kept.refuses = False
    await watched.look()
    assert kept.changes == [("A=", "192.0.2.7:1")]


@simulated
async def test_changes_at_a_time_and_all_that_is_remembered_are_bounded() -> None:
    kept, wire = Kept(), Wire(*(peer(f"{n}=", handshake=1 + n) for n in range(MAX_ENDPOINTS + 50)))
    watched = endpoints(wire, kept)
    await watched.look()
    assert len(kept.changes) == MAX_CHANGES
    for _ in range(2 * MAX_ENDPOINTS // MAX_CHANGES):
        await watched.look()
    assert len(kept.known) == MAX_ENDPOINTS
    assert "49=" not in kept.known
    assert "50=" in kept.known
    status = watched.status()
    assert status["peer_count"] == MAX_ENDPOINTS + 50
    assert len(status["peers"]) == MAX_SHOWN_PEERS
    assert status["peers"][0]["public_key"] == f"{MAX_ENDPOINTS + 49}="


@simulated
@pytest.mark.parametrize("how", ["hangs", "fails"])
async def test_a_wg_that_does_not_answer_is_asked_again(how: str) -> None:
    kept, wire = Kept(), Wire(peer("A="))
    setattr(wire, how, True)
    began = trio.current_time()
    with trio.move_on_after(READ_SECONDS + POLL_SECONDS + 0.1):
        await tunnel(Inner(), endpoints(wire, kept)).failed()
    again = POLL_SECONDS + (READ_SECONDS if how == "hangs" else 0.0)
    assert wire.asked[1] - began == pytest.approx(again)
    assert kept.changes == []


class Inner:
    """A service that a guard would run."""

    def __init__(self) -> None:
        self.config: ServiceConfig = CommandConfig(name="inner", run=("true",))
        self.calls: list[str] = []
        self.ends = trio.Event()
        self.has_lease = True
        self.is_asked = True

    async def start(self, tenure: Tenure) -> None:
        self.calls.append(f"start {dict(tenure.memory)}")

    async def failed(self) -> ServiceFailed:
        await self.ends.wait()
        return ServiceFailed("it has ended")

    async def stop(self, reason: str) -> None:
        self.calls.append(f"stop {reason}")

    def fence(self) -> None:
        self.calls.append("fence")

    def take(self, config: ServiceConfig) -> None:
        raise AssertionError

    async def reload(self) -> None:
        self.calls.append("reload")

    def status(self) -> dict[str, Any]:
        return {"lease_in_kernel": self.has_lease} if self.is_asked else {}


def tunnel(inner: Inner, watched: Endpoints) -> Tunnel:
    return Tunnel(inner, watched, TrioNodeClock())


@simulated
async def test_a_tunnel_is_watched_while_it_runs() -> None:
    kept, wire, inner = Kept(), Wire(peer("A=")), Inner()
    watched = tunnel(inner, endpoints(wire, kept))
    await watched.start(Tenure("n1", "c", 1, "it was elected", {"A=": "192.0.2.1:1"}))
    assert wire.asked == []
    async with trio.open_nursery() as nursery:

        async def expect_failure() -> None:
            failure = await watched.failed()
            assert failure.message == "it has ended"

        nursery.start_soon(expect_failure)
        await trio.sleep(2.5 * POLL_SECONDS)
        inner.ends.set()
    assert len(wire.asked) == 3
    assert kept.known == {"A=": "192.0.2.7:1"}
    assert watched.status()["lease_in_kernel"] is True
    assert watched.status()["peer_count"] == 1
    await watched.reload()
    await watched.stop("so it is wanted")
    watched.fence()
    assert inner.calls == [
        "start {'A=': '192.0.2.1:1'}",
        "reload",
        "stop so it is wanted",
        "fence",
    ]


@simulated
@pytest.mark.parametrize(
    ("is_asked", "has_lease", "warnings"), [(True, True, 0), (True, False, 1), (False, False, 0)]
)
async def test_without_a_lease_in_the_kernel_there_is_one_warning(
    is_asked: bool, has_lease: bool, warnings: int
) -> None:
    inner = Inner()
    inner.is_asked, inner.has_lease = is_asked, has_lease
    with capture_logs() as logs, trio.move_on_after(3.5 * POLL_SECONDS):
        await tunnel(inner, endpoints(Wire(), Kept())).failed()
    assert [log["event"] for log in logs] == ["no_lease_in_kernel"] * warnings


@simulated
async def test_a_tunnel_that_is_started_anew_may_have_another_interface() -> None:
    inner, asked = Inner(), list[str]()

    async def read(interface: str) -> tuple[PeerFigures, ...]:
        await trio.lowlevel.checkpoint()
        asked.append(interface)
        return ()

    inner.config = WireguardConfig(name="hub", config=Path("/etc/wireguard/wg1.conf"))
    watched = tunnel(inner, Endpoints("wg0", Kept(), TrioNodeClock(), read))
    await watched.start(Tenure("n1", "c", 1, "it was elected"))
    with trio.move_on_after(POLL_SECONDS / 2):
        await watched.failed()
    assert asked == ["wg1"]


async def test_a_file_with_a_mistake_does_not_come_to_wg(tmp_path: Path) -> None:
    inner, path = Inner(), tmp_path / "wg0.conf"
    inner.config = WireguardConfig(name="hub", config=path)
    path.write_text("[Interface]\nPrivateKey = half a secret\n")
    with pytest.raises(ServiceFailed, match="has a privatekey that is no key") as caught:
        await tunnel(inner, endpoints(Wire(), Kept())).reload()
    assert "half" not in caught.value.message
    assert inner.calls == []
