"""A floating address: the frames that announce it, and a neighbour that follows it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv6Address

import pytest

from nefia.config.services import AddressConfig
from nefia.guard import address
from nefia.guard.address import ANNOUNCED_AFTER_SECONDS, advertisement_frames, arp_frames
from nefia.guard.plan import Do
from tests.guard.plan_runner import Runner
from tests.hosts import Host, Switch, needs_hosts

MAC = bytes.fromhex("02aabbccddee")
FLOATING = "10.231.8.10/24"
FLOATING_6 = "2001:db8:8::10/64"
RUNNING_ON = 0.3


def hexadecimal(*parts: str) -> str:
    return "".join(parts).replace(" ", "")


def test_gratuitous_arp_is_a_request_and_a_reply() -> None:
    """RFC 826 for the fields; both have the address as sender's and target's."""
    to_all = "ffffffffffff 02aabbccddee 0806 0001 0800 06 04"
    sender, target = "02aabbccddee c000020a", "c000020a"
    assert [frame.hex() for frame in arp_frames(IPv4Address("192.0.2.10"), MAC)] == [
        hexadecimal(to_all, "0001", sender, "000000000000", target),
        hexadecimal(to_all, "0002", sender, "ffffffffffff", target),
    ]


def test_an_unsolicited_advertisement_overrides() -> None:
    """RFC 4861, sections 4.4 and 7.2.6; the checksum worked out by hand."""
    source, everyone = "20010db8000000000000000000000010", "ff020000000000000000000000000001"
    [frame] = advertisement_frames(IPv6Address("2001:db8::10"), MAC)
    assert frame.hex() == hexadecimal(
        "333300000001 02aabbccddee 86dd",
        f"60000000 0020 3a ff {source} {everyone}",
        f"88 00 {checksum(source, everyone):04x} 20000000 {source} 02 01 02aabbccddee",
    )


def checksum(source: str, everyone: str) -> int:
    """RFC 8200, section 8.1, over the sixteen-bit words as they are written."""
    text = source + everyone + "00000020" + "0000003a" + "8800" + "20000000" + source
    text += "0201" + "02aabbccddee"
    total = sum(int(text[at : at + 4], 16) for at in range(0, len(text), 4))
    return 0xFFFF - total % 0xFFFF


def test_it_is_announced_again_with_later_renewals(monkeypatch: pytest.MonkeyPatch) -> None:
    """At growing distances, once each, and only until it is removed."""
    times: list[float] = []
    now = 100.0
    monkeypatch.setattr(address, "Netlink", _Deaf)
    plan = address.plan_of(
        AddressConfig(name="floating", address="127.0.0.77/8", interface="lo"), lambda: now
    )
    floating = plan.renew.__self__  # type: ignore[attr-defined]
    monkeypatch.setattr(floating, "announce", lambda: times.append(round(now - 100.0, 1)))
    plan.renew(0.0)
    assert times == []
    add, _ = plan.start
    assert isinstance(add, Do)
    add.action()
    while now < 120.0:
        now += 0.1
        plan.renew(0.0)
    assert len(times) == len(ANNOUNCED_AFTER_SECONDS)
    assert times == pytest.approx(ANNOUNCED_AFTER_SECONDS, abs=0.11)
    add.action()
    plan.fence()
    now += 1.0
    plan.renew(0.0)
    assert len(times) == len(ANNOUNCED_AFTER_SECONDS)


class _Deaf:
    """A Netlink that does nothing."""

    def __init__(self, _subsystem: int) -> None:
        pass

    def find_link(self, _name: str) -> int:
        return 1

    def request(self, _content: bytes) -> None:
        pass

    request_gone = request


@contextmanager
def three_hosts() -> Iterator[tuple[Host, Host, Host]]:
    """Two members and a neighbour."""
    with ExitStack() as stack:
        switch = stack.enter_context(Switch())
        first, second, neighbour = (stack.enter_context(Host()) for _ in range(3))
        for number, host in enumerate((first, second, neighbour), 1):
            switch.plug_in(host, f"10.231.8.{number}/24")
            host.run("ip", "address", "add", f"2001:db8:8::{number}/64", "dev", "eth0", "nodad")
        yield first, second, neighbour


def mac_of(host: Host) -> str:
    return host.run("ip", "-brief", "link", "show", "eth0").split()[2]


def known_mac(neighbour: Host, ip: str) -> str:
    words = neighbour.run("ip", "neighbour", "show", ip).split()
    return words[words.index("lladdr") + 1] if "lladdr" in words else ""


def pings(host: Host, ip: str) -> bool:
    return ", 0% packet loss" in host.run("ping", "-n", "-c1", "-W1", ip, check=False)


@needs_hosts
@pytest.mark.parametrize("floating", [FLOATING, FLOATING_6])
def test_it_comes_and_goes(floating: str) -> None:
    with Switch() as switch, Host() as host:
        switch.plug_in(host, "10.231.8.1/24")
        with Runner(host, kind="address", address=floating, interface="eth0") as run:
            run("leftovers")
            assert run("present") is False
            for end in ("stop", "fence"):
                run("start")
                assert run("present") is True
                assert f"{floating} " in host.run("ip", "address")
                run("start")  # also where it is there
                run(end)
                assert run("present") is False
                assert floating not in host.run("ip", "address")
                run(end)
            assert "10.231.8.1/24" in host.run("ip", "address")


@needs_hosts
def test_what_an_earlier_guard_left_is_removed() -> None:
    with Switch() as switch, Host() as host:
        switch.plug_in(host, "10.231.8.1/24")
        host.run("ip", "address", "add", FLOATING, "dev", "eth0")
        with Runner(host, kind="address", address=FLOATING, interface="eth0") as run:
            assert run("present") is True
            run("leftovers")
            assert run("present") is False


@needs_hosts
def test_without_its_interface_it_does_not_start() -> None:
    with (
        Host() as host,
        Runner(host, kind="address", address=FLOATING, interface="eth7") as run,
    ):
        run("leftovers")
        with pytest.raises(AssertionError, match="there is no interface eth7"):
            run("start")
        run("fence")
        assert run("present") is False


@needs_hosts
@pytest.mark.parametrize("floating", [FLOATING, FLOATING_6])
@pytest.mark.parametrize("is_announced", [True, False])
def test_a_neighbour_follows(floating: str, is_announced: bool) -> None:
    """Without the announcement it goes on sending to where the address was."""
    ip = floating.partition("/")[0]
    with three_hosts() as (first, second, neighbour):
        with Runner(first, kind="address", address=floating, interface="eth0") as run:
            run("start")
            assert pings(neighbour, ip)
            run("fence")
        assert known_mac(neighbour, ip) == mac_of(first)
        if is_announced:
            with Runner(second, kind="address", address=floating, interface="eth0") as run:
                run("start")
        else:
            second.run("ip", "address", "add", floating, "dev", "eth0", "nodad")
        time.sleep(0.05)
        assert known_mac(neighbour, ip) == mac_of(second if is_announced else first)
        assert pings(neighbour, ip) == is_announced
