"""The lease in the kernel: what nft is told, and an element that lasts as long as it is renewed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from nefia.guard.nft import LeaseMessages, table_name
from tests.hosts import Host, needs_hosts

PORT = 51820
BATCH_BYTES = 20
"""The message that begins a batch, and the one that ends it."""
CLOCK = "now = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)"
HEAD = f"""
import time
from nefia.guard.kernel_lease import KernelLease
{CLOCK}
lease = KernelLease("wg0", {PORT}, None)
lease.make()
"""


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as made:
        yield made


def element(host: Host) -> dict[str, Any] | None:
    """The one in the set: `timeout` and `expires` in whole seconds."""
    answer = json.loads(host.run("nft", "-j", "list", "set", "inet", "nefia_wg0", "lease"))
    [found] = [each["set"] for each in answer["nftables"] if "set" in each]
    elements = [each["elem"] for each in found.get("elem", [])]
    assert len(elements) <= 1
    assert all(each["val"] == PORT for each in elements)
    return elements[0] if elements else None


def tables(host: Host) -> str:
    return host.run("nft", "list", "tables")


def perform(host: Host, program: str) -> str:
    return host.run(sys.executable, "-c", HEAD + program)


@pytest.mark.parametrize(
    ("interface", "name"),
    [("wg0", "nefia_wg0"), ("a=b+c", "nefia_a_b_c"), ("a-b.c", "nefia_a-b.c")],
)
def test_the_table_has_a_name_that_nft_allows(interface: str, name: str) -> None:
    assert table_name(interface) == name


IN_NFTS_WORDS = """\
table inet nefia_wg0 {
	set lease {
		type inet_service
		flags timeout
	}

	chain incoming {
		type filter hook input priority raw; policy accept;
		udp dport 51820 udp dport != @lease drop
	}

	chain outgoing {
		type filter hook output priority raw; policy accept;
		udp sport 51820 udp sport != @lease drop%s
	}
}
"""


@needs_hosts
@pytest.mark.parametrize(
    ("source", "rule"),
    [
        (None, ""),
        ("192.0.2.10", "\n\t\tudp sport 51820 ip saddr set 192.0.2.10"),
        ("2001:db8::10", "\n\t\tudp sport 51820 ip6 saddr set 2001:db8::10"),
    ],
)
def test_nft_reads_back_what_was_meant(host: Host, source: str | None, rule: str) -> None:
    """Also in place of an old table."""
    program = f"lease = KernelLease('wg0', {PORT}, {source!r})\nlease.make()\nlease.make()"
    perform(host, program)
    assert host.run("nft", "list", "ruleset") == IN_NFTS_WORDS % rule


@needs_hosts
@pytest.mark.parametrize("interface", ["a=b+c", "a-b.c", "a_b"])
def test_nft_can_say_every_name(host: Host, interface: str) -> None:
    perform(host, f"KernelLease({interface!r}, {PORT}, None).make()")
    host.run("nft", "delete", "table", "inet", table_name(interface))


def test_a_renewal_empties_the_set_first() -> None:
    """A mere second add would leave the old end, before Linux 6.12: this kernel may not show it."""
    messages = LeaseMessages("wg0", PORT, None)
    assert messages.silence[BATCH_BYTES:-BATCH_BYTES] in messages.renew(1)


@needs_hosts
def test_a_renewal_prolongs(host: Host) -> None:
    perform(host, "lease.renew(now() + 3)\nlease.renew(now() + 1000)\nassert lease.is_held")
    found = element(host)
    assert found
    assert found["timeout"] == 999
    assert found["expires"] >= 990


@needs_hosts
def test_a_renewal_may_also_shorten(host: Host) -> None:
    perform(host, "lease.renew(now() + 1000)\nlease.renew(now() + 10)")
    found = element(host)
    assert found
    assert found["expires"] < 10


@needs_hosts
@pytest.mark.parametrize("end", ["lease.silence()", "lease.renew(now() - 1)", "lease.renew(now())"])
def test_it_ends_at_once(host: Host, end: str) -> None:
    perform(host, "lease.renew(now() + 1000)")
    assert element(host)
    perform(host, end)
    assert element(host) is None


@needs_hosts
def test_it_ends_by_itself(host: Host) -> None:
    program = "lease.renew(now() + 0.2)\ntime.sleep(0.1)\nprint(lease.is_held)\ntime.sleep(0.15)"
    assert perform(host, program) == "True\n"
    assert element(host) is None


@needs_hosts
def test_a_stop_between_the_look_at_the_clock_and_the_message_gains_nothing(host: Host) -> None:
    """The message would otherwise open the port for a whole lease, after its end."""
    late = """
end = now() + 5
times = iter([end - 5, end + 1])
class time:
    CLOCK_BOOTTIME = 7
    clock_gettime = lambda _: next(times)
from nefia.guard import kernel_lease
kernel_lease.time = time
lease.renew(end)
"""
    perform(host, late)
    assert element(host) is None


@needs_hosts
def test_a_lease_from_before_the_table_is_applied(host: Host) -> None:
    program = "lease.remove()\nlease.renew(now() + 1000)\nprint(lease.is_held)\n"
    assert perform(host, program) == "False\n"
    assert tables(host) == ""
    assert perform(host, program + "lease.make()\nprint(lease.is_held)") == "False\nTrue\n"
    assert element(host)


@needs_hosts
def test_a_flushed_ruleset_is_mended_with_the_next_renewal(host: Host) -> None:
    """Reloading a firewall begins with that."""
    flush = "import subprocess\nsubprocess.run(['nft', 'flush', 'ruleset'], check=True)\n"
    perform(host, f"lease.renew(now() + 5)\n{flush}lease.renew(now() + 5)\nassert lease.is_held")
    assert element(host)
    assert "drop" in host.run("nft", "list", "ruleset")


@needs_hosts
def test_the_table_goes(host: Host) -> None:
    host.run("nft", "add table inet theirs")
    perform(host, "lease.renew(now() + 5)\nlease.remove()\nlease.remove()\nlease.silence()")
    assert tables(host) == "table inet theirs\n"
