"""Netlink: the bytes, and what the kernel answers to them."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_interface

import pytest

from nefia.guard.netlink import (
    ACK,
    MAX_ANSWER_BYTES,
    NETLINK_ROUTE,
    Netlink,
    add_address,
    delete_address,
    delete_link,
    message,
)
from tests.hosts import Host, needs_hosts

UNKNOWN_KIND = 9998


@pytest.fixture
def netlink() -> Iterator[Netlink]:
    with closing(Netlink(NETLINK_ROUTE)) as opened:
        yield opened


def test_the_removal_of_a_link_is_by_name() -> None:
    header = "28000000 1100 0500 00000000 00000000"
    no_index = "00 00 0000 00000000 00000000 00000000"
    name = "0800 0300 77673000"  # wg0 and its end
    assert delete_link("wg0").hex() == (header + no_index + name).replace(" ", "")


def test_the_removal_of_an_ipv4_address() -> None:
    header = "28000000 1500 0500 00000000 00000000"
    of = "02 18 00 00 07000000"
    both = "0800 0200 c000020a 0800 0100 c000020a"
    made = delete_address(ip_interface("192.0.2.10/24"), 7)
    assert made.hex() == (header + of + both).replace(" ", "")


def test_an_ipv6_address_is_used_at_once() -> None:
    made = add_address(ip_interface("2001:db8::10/64"), 7)
    header = "40000000 1400 0505 00000000 00000000"
    assert made.hex().startswith((header + "0a 40 02 00 07000000").replace(" ", ""))


def test_what_is_there_is_found(netlink: Netlink) -> None:
    loopback = netlink.find_link("lo")
    assert loopback == 1
    assert netlink.has_address(ip_interface("127.0.0.1/8"), loopback)
    assert not netlink.has_address(ip_interface("127.0.0.1/32"), loopback)
    assert not netlink.has_address(ip_interface("127.0.0.2/8"), loopback)
    assert not netlink.has_address(ip_interface("127.0.0.1/8"), loopback + 1)


def test_what_is_not_there_is_not_found(netlink: Netlink) -> None:
    assert netlink.find_link("no-such-link") is None


def test_without_file_descriptors_it_still_knows(netlink: Netlink) -> None:
    """ "I cannot tell" is not "it is gone": looking needs nothing that could run out."""
    program = (
        "import resource, socket\n"
        "from nefia.guard.netlink import NETLINK_ROUTE, Netlink\n"
        "netlink = Netlink(NETLINK_ROUTE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "try:\n"
        "    socket.socket()\n"
        "except OSError:\n"
        "    print(netlink.find_link('lo'), netlink.find_link('no-such-link'))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "1 None\n", done.stderr


def test_not_to_know_is_no_absence(netlink: Netlink, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_of: object) -> None:
        raise PermissionError

    monkeypatch.setattr("nefia.guard.netlink.fcntl.ioctl", refuse)
    with pytest.raises(PermissionError):
        netlink.find_link("lo")


@needs_hosts
def test_the_removal_of_nothing_is_no_error(netlink: Netlink) -> None:
    removal = delete_link("no-such-link")
    netlink.request_gone(removal)
    with pytest.raises(OSError, match="No such device") as caught:
        netlink.request(removal)
    assert caught.value.errno == errno.ENODEV


def test_other_errors_are_raised(netlink: Netlink) -> None:
    with pytest.raises(OSError, match="not supported") as caught:
        netlink.request_gone(message(UNKNOWN_KIND, ACK))
    assert caught.value.errno == errno.EOPNOTSUPP


@needs_hosts
def test_a_long_list_is_read_to_its_end() -> None:
    """Of addresses, the one asked for may be in any piece that the kernel sends."""
    count = MAX_ANSWER_BYTES // 80 * 2
    lines = "\n".join(f"address add 10.9.{n // 250}.{n % 250}/32 dev lo" for n in range(count))
    last = f"10.9.{(count - 1) // 250}.{(count - 1) % 250}/32"
    program = (
        "from ipaddress import ip_interface\n"
        "from nefia.guard.netlink import NETLINK_ROUTE, Netlink\n"
        "netlink = Netlink(NETLINK_ROUTE)\n"
        f"for address in ('127.0.0.1/8', '10.9.0.0/32', '{last}', '10.9.255.255/32'):\n"
        "    print(netlink.has_address(ip_interface(address), 1))\n"
        "print(netlink.find_link('lo'))\n"
    )
    with Host() as host:
        subprocess.run((*host.prefix, "ip", "-batch", "-"), input=lines, text=True, check=True)
        assert host.run(sys.executable, "-c", program).split() == [
            "True",
            "True",
            "True",
            "False",
            "1",
        ]
