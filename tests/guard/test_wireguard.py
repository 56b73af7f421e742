"""Tunnels of real WireGuard: what a host at the other end notices of starts, stops and force."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from nefia.config.services import WireguardConfig
from nefia.config.wg_quick import read_hub
from nefia.guard import wireguard
from nefia.guard.kernel_lease import KernelLease
from nefia.guard.kinds import cleaning_of
from nefia.guard.netlink import Netlink, delete_link
from nefia.guard.nft import removal
from nefia.guard.plan import Do, Plan, Run, Step
from tests.end_to_end.tunnels import (
    FLOATING,
    HUB_IN_TUNNEL,
    PORT,
    Network,
    Ping,
    longest_gap,
    needs_wireguard,
    new_pair,
    write_tunnel,
)
from tests.guard.plan_runner import Runner
from tests.hosts import Host

NOWHERE = "10.231.8.99"
LEASE_SECONDS = 0.5
SLACK_SECONDS = 0.25
"""How late the kernel's timer, and a ping on a busy machine, may be."""
SOON_SECONDS = 5.0


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """Two hubs and two hosts whose tunnels are down."""
    with Network(tmp_path, hubs=2, with_nat=False) as made:
        yield made


def plan_of(path: Path, endpoints: Mapping[str, str] | None = None, **values: Any) -> Plan:
    facts = wireguard.facts_of(read_hub(path), endpoints or {})
    return wireguard.plan_of(WireguardConfig(name="tunnel", config=path, **values), facts)


def hub(network: Network, number: int = 0, **values: object) -> Runner:
    config = {"kind": "wireguard", "config": str(network.hub_file)} | values
    return Runner(network.hubs[number], **config)


def reaches(host: Host, seconds: float = SOON_SECONDS) -> bool:
    """Whether the hub answers through the tunnel soon."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if ", 0% packet loss" in host.run("ping", "-nc1", "-W0.2", HUB_IN_TUNNEL, check=False):
            return True
    return False


def processes(host: Host) -> list[int]:
    """Those of wireguard-go there, if it is used at all."""
    return [pid for pid in host.processes() if name_of(pid).startswith("wireguard")]


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def until_no_process(host: Host) -> None:
    deadline = time.monotonic() + SOON_SECONDS
    while processes(host) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert processes(host) == []


def commands(steps: tuple[Step, ...]) -> list[tuple[str, ...]]:
    return [step.argv for step in steps if isinstance(step, Run)]


@needs_wireguard
@pytest.mark.parametrize("end", ["stop", "fence"])
def test_a_tunnel_comes_and_goes(network: Network, tmp_path: Path, end: str) -> None:
    log = tmp_path / "hooks"
    lines = "".join(f"{hook} = echo {hook} %i >> {log}\n" for hook in ("PreDown", "PostDown"))
    text = network.hub_file.read_text()
    network.hub_file.write_text(text.replace("[Interface]\n", f"[Interface]\n{lines}"))
    with hub(network) as run:
        run("leftovers")
        assert run("present") is False
        run("lease", "1")
        run("start")
        assert run("present") is True
        assert run("status") == {"lease_in_kernel": True}
        network.bring_up_remotes("10.231.8.1")
        assert reaches(network.remotes[0])
        run(end)
        assert run("present") is False
        assert not reaches(network.remotes[0], 0.3)
        run("after")
        expected = ["PreDown wg0", "PostDown wg0"] if end == "stop" else ["PostDown wg0"]
        assert log.read_text().splitlines() == expected
        assert network.hubs[0].run("nft", "list", "tables") == ""
        until_no_process(network.hubs[0])
        run("start")
        assert run("present") is True


@needs_wireguard
def test_a_fence_takes_the_tunnel_of_a_broken_start(network: Network) -> None:
    """wg-quick is killed after the link was made and before it is done."""
    with hub(network) as run:
        text = network.hub_file.read_text()
        hold = "[Interface]\nPostUp = sleep 60\n"
        network.hub_file.write_text(text.replace("[Interface]\n", hold))
        argv = (*network.hubs[0].prefix, "wg-quick", "up", str(network.hub_file))
        up = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + SOON_SECONDS
        while not run("present"):
            assert time.monotonic() < deadline
        up.kill()
        up.wait()
        run("fence")
        assert run("present") is False
        until_no_process(network.hubs[0])


@needs_wireguard
def test_what_an_earlier_guard_left_is_removed(network: Network, tmp_path: Path) -> None:
    """With its PostDown, which nobody ran. A link that is no WireGuard's goes too."""
    text = network.hub_file.read_text()
    hook = f"[Interface]\nPostDown = touch {tmp_path}/cleaned\n"
    network.hub_file.write_text(text.replace("[Interface]\n", hook))
    with hub(network) as run:
        run("lease", "1")
        run("start")
    with hub(network) as run:
        assert run("present") is True
        run("leftovers")
        assert run("present") is False
        assert (tmp_path / "cleaned").exists()
        assert network.hubs[0].run("nft", "list", "tables") == ""
        network.hubs[0].run("ip", "link", "add", "wg0", "type", "bridge")
        run("leftovers")
        assert run("present") is False
        run("start")


@needs_wireguard
def test_it_starts_again_after_its_processes_were_killed(network: Network) -> None:
    """As a fence does: wireguard-go leaves its socket behind then."""
    with hub(network) as run:
        run("lease", "1")
        for _ in range(2):
            run("start")
            for pid in processes(network.hubs[0]):
                os.kill(pid, signal.SIGKILL)
            run("fence")
            assert run("present") is False
        run("start")
        network.bring_up_remotes("10.231.8.1")
        assert reaches(network.remotes[0])


@needs_wireguard
@pytest.mark.parametrize("has_table", [True, False])
def test_a_frozen_hub_falls_silent(network: Network, has_table: bool) -> None:
    """By the lease in the kernel, since neither daemon nor guard can do anything; without it the
    tunnel speaks on. wireguard-go is left running: WireGuard in the kernel cannot be frozen."""
    with hub(network) as run:
        run("lease", str(LEASE_SECONDS))
        run("start")
        network.bring_up_remotes("10.231.8.1")
        assert reaches(network.remotes[0])
        ping = Ping(network.remotes[0])
        time.sleep(0.3)
        run.process.send_signal(signal.SIGSTOP)
        frozen_at = time.time()
        if not has_table:
            network.hubs[0].run("nft", "delete", "table", "inet", "nefia_wg0")
        time.sleep(2 * LEASE_SECONDS)
        replies = ping.end()
        assert len(replies) > 3
        lasted = replies[-1] - frozen_at
        if has_table:
            assert lasted < LEASE_SECONDS + SLACK_SECONDS
        else:
            assert lasted > LEASE_SECONDS + SLACK_SECONDS


@needs_wireguard
@pytest.mark.parametrize("are_known", [True, False])
def test_a_new_hub_calls_the_peers_it_knows(network: Network, are_known: bool) -> None:
    """The hosts know an address where nobody is, so that only the hub can begin."""
    ports = {}
    network.bring_up_remotes(NOWHERE)
    for number, host in enumerate(network.remotes):
        port = host.run("wg", "show", "wg0", "listen-port").strip()
        ports[network.remote_keys[number].public] = f"10.231.8.{21 + number}:{port}"
    stranger = {new_pair().public: "10.231.8.98:1"}
    with hub(network, endpoints=ports | stranger if are_known else {}) as run:
        run("lease", "1")
        run("start")
        assert reaches(network.remotes[0], SOON_SECONDS if are_known else 1.0) == are_known
        assert network.endpoints(0) == (ports if are_known else {})


@needs_wireguard
@pytest.mark.parametrize(
    ("floating", "own", "of_host"),
    [("10.231.8.10/24", "10.231.8.1", "10.231.8.21"), ("fd08::10/64", "fd08::1", "fd08::21")],
)
@pytest.mark.parametrize("is_pinned", [True, False])
def test_packets_leave_from_the_floating_address(
    network: Network, floating: str, own: str, of_host: str, is_pinned: bool
) -> None:
    """Otherwise from whichever the kernel prefers, which a NAT before the peer would not let in."""
    host, address = network.remotes[0], floating.partition("/")[0]
    for member, ip in ((network.hubs[0], own), (host, of_host)):
        if ":" in ip:
            member.run("ip", "address", "add", f"{ip}/64", "dev", "eth0", "nodad")
    network.bring_up_remotes(NOWHERE)
    at = with_port(of_host, int(host.run("wg", "show", "wg0", "listen-port")))
    known = {network.remote_keys[0].public: at}
    service = {"kind": "address", "address": floating, "interface": "eth0"}
    with (
        Runner(network.hubs[0], **service) as moves,
        hub(network, endpoints=known, source=address if is_pinned else None) as run,
    ):
        moves("start")
        if not is_pinned:
            prefer(network.hubs[0], own, of_host)
        run("lease", "1")
        run("start")
        assert reaches(host)
        heard_from = host.run("wg", "show", "wg0", "endpoints").split()[1]
        assert heard_from == with_port(address if is_pinned else own, PORT)


def with_port(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def prefer(host: Host, source: str, target: str) -> None:
    """Of two addresses that fit, the kernel may take either."""
    host.run("ip", "route", "add", target, "dev", "eth0", "src", source)


@needs_wireguard
def test_a_reload_drops_nobody(network: Network) -> None:
    new_keys = new_pair()
    with hub(network) as run:
        run("lease", "1")
        run("start")
        network.bring_up_remotes("10.231.8.1")
        assert reaches(network.remotes[0])
        ping = Ping(network.remotes[0])
        time.sleep(0.3)
        with network.hub_file.open("a") as file:
            file.write(f"[Peer]\nPublicKey = {new_keys.public}\nAllowedIPs = 10.77.0.99/32\n")
        run("reload")
        reloaded_at = time.time()
        time.sleep(0.5)
        replies = ping.end()
        assert replies[0] < reloaded_at < replies[-1]
        assert longest_gap(replies) < 2 * SLACK_SECONDS
        assert new_keys.public in network.hubs[0].run("wg", "show", "wg0", "peers")


@needs_wireguard
def test_while_the_link_is_there_the_kernel_keeps_it_silent(network: Network) -> None:
    """A link that cannot be removed must not speak because the table went."""
    with hub(network) as run:
        run("start")
        run("after")
        assert "nefia_wg0" in network.hubs[0].run("nft", "list", "tables")


def test_a_fence_silences_before_it_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel takes tens of milliseconds to remove a link, and may fail."""
    calls: list[str] = []
    monkeypatch.setattr(KernelLease, "silence", lambda _lease: calls.append("silence"))
    monkeypatch.setattr(Netlink, "request_gone", lambda _link, _bytes: calls.append("remove"))
    path = write_tunnel(tmp_path, {"ListenPort": str(PORT)})
    plan_of(path).fence()
    assert calls == ["silence", "remove"]


def test_without_its_file_a_link_goes_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that an earlier guard has left, when the file has been broken since."""
    removed: list[bytes] = []
    monkeypatch.setattr(Netlink, "request_gone", lambda _link, content: removed.append(content))
    config = WireguardConfig(name="tunnel", config=tmp_path / "wg0.conf")
    for step in cleaning_of(config).leftovers:
        assert isinstance(step, Do)
        step.action()
    assert removed == [delete_link("wg0"), removal("wg0")]


class NoNetfilter:
    """A kernel, or a container, without it."""

    def __init__(self, *_of: object) -> None:
        raise OSError("Protocol not supported")


@pytest.mark.parametrize("source", [None, FLOATING])
def test_without_nftables_only_a_source_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None
) -> None:
    monkeypatch.setattr(wireguard, "KernelLease", NoNetfilter)
    path = write_tunnel(tmp_path, {"ListenPort": str(PORT)})
    plan = plan_of(path, source=source)
    make = plan.start[0]
    assert isinstance(make, Do)
    with pytest.raises(OSError, match="no nftables"):
        make.action()
    assert make.may_fail == (source is None)
    assert plan.status() == {"lease_in_kernel": False}
    plan.renew(0.0)


def test_keepalives_are_as_configured(tmp_path: Path) -> None:
    own = {"PublicKey": "C=", "Endpoint": "192.0.2.3:7", "PersistentKeepalive": "3"}
    path = write_tunnel(tmp_path, {}, {"PublicKey": "A="}, {"PublicKey": "B="}, own)
    known = {"B=": "[2001:db8::1]:7", "C=": "192.0.2.3:8", "gone=": "192.0.2.1:7"}
    plan = plan_of(path, known, keepalive=7.5)
    calls = "peer B= endpoint [2001:db8::1]:7 persistent-keepalive 8 peer C= endpoint 192.0.2.3:8"
    assert commands(plan.start)[-1] == ("wg", "set", "wg0", *calls.split())


def test_dns_is_taken_back(tmp_path: Path) -> None:
    path = write_tunnel(tmp_path, {"DNS": "192.0.2.53"})
    plan = plan_of(path)
    assert ("resolvconf", "-f", "-d", "wg0") in commands(plan.after)


def test_hooks_have_to_fit_into_a_message(tmp_path: Path) -> None:
    path = write_tunnel(tmp_path, {"PostDown": "x" * (wireguard.MAX_HOOK_CHARACTERS + 1)})
    with pytest.raises(ValueError, match="PreDown and PostDown"):
        plan_of(path)


def test_the_private_key_is_in_no_command(tmp_path: Path) -> None:
    """Everyone on a machine may read command lines."""
    secret = "s" * 43 + "="
    path = write_tunnel(tmp_path, {"PrivateKey": secret, "ListenPort": "7"}, {"PublicKey": "A="})
    plan = plan_of(path, {"A=": "192.0.2.1:7"})
    steps = (*plan.leftovers, *plan.start, *plan.stop, *plan.after, *plan.reload)
    assert all(secret not in word for argv in commands(steps) for word in argv)
    assert secret not in repr(wireguard.facts_of(read_hub(path), {}))
