"""Whether the leader's services fit this machine, its cluster and each other (SPEC 9)."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from glob import escape, glob
from typing import TYPE_CHECKING, TypeAlias

from nefia.config.findings import Finding
from nefia.config.kinds import parse_address
from nefia.config.schema import Config
from nefia.config.services import AddressConfig, CommandConfig, WireguardConfig

if TYPE_CHECKING:
    from nefia.config.wg_quick import Hub, HubPeer, Interface

UNIT_LINKS = "/etc/systemd/system/*.wants/wg-quick@{}.service"
"""What `systemctl enable` leaves."""


Sentences: TypeAlias = Iterator[str]


def tunnels(config: Config) -> Iterator[Finding]:
    """All that is wrong with the `wireguard` services."""
    first_with: dict[str, int] = {}
    for number, service in enumerate(config.services):
        if isinstance(service, WireguardConfig):
            key = f"services[{number}].config"
            interface = service.interface
            if interface in first_with:
                yield Finding((key,), f"is the interface of services[{first_with[interface]}] too")
            first_with.setdefault(interface, number)
            yield from (Finding((key,), sentence) for sentence in _of_tunnel(config, service))
            yield from _source(config, number, service)


def _of_tunnel(config: Config, service: WireguardConfig) -> Sentences:
    from nefia.config.wg_quick import FILE_NAME, read_hub

    for tool in ("wg-quick", "wg"):
        if shutil.which(tool) is None:
            yield f"needs the program {tool}, which is not in the PATH; install wireguard-tools"
    path = service.config
    if not FILE_NAME.fullmatch(path.name):
        yield (
            f"{path.name} does not name an interface; write 1 to 15 letters, digits and the "
            "characters _=+.- before .conf, such as wg0.conf"
        )
    try:
        mode = os.stat(path).st_mode
        hub = read_hub(path)
    except (OSError, ValueError) as error:
        yield f"{path} cannot be used: {getattr(error, 'strerror', None) or error}"
        return
    if stat.S_IMODE(mode) & stat.S_IRWXO:
        yield f"{path} is open to everyone, and has the private key; chmod 600 it"
    if glob(UNIT_LINKS.format(escape(service.interface))):
        yield (
            f"systemd would start the tunnel too, on every node; run "
            f"systemctl disable --now wg-quick@{service.interface}"
        )
    for judge in HUB_RULES:
        yield from (f"{path} {sentence}" for sentence in judge(hub))
    if config.cluster.enabled:
        yield from (f"{path} {sentence}" for sentence in _raft_inside(config, hub))


def _hub_settings(hub: Hub) -> Sentences:
    if hub.saves_config:
        yield (
            "has SaveConfig = true, with which a leader that stops would write over the file that "
            "is the same on every node; leave it out"
        )
    if hub.has_dns and shutil.which("resolvconf") is None:
        yield (
            "has DNS, which wg-quick sets through resolvconf, and that is not in the PATH; leave "
            "DNS out, or install resolvconf"
        )
    if hub.listen_port is None:
        yield (
            "has no ListenPort, so that every leader would have another; write one, such as "
            "ListenPort = 51820"
        )


def _default_route(hub: Hub) -> Sentences:
    if hub.table == "auto" and any(_is_everything(ip) for p in hub.peers for ip in p.allowed_ips):
        yield (
            "has a peer with AllowedIPs of prefix /0, by which wg-quick would send all traffic of "
            "this node through the tunnel, the cluster's too; write Table = off, or the networks "
            "behind that peer"
        )


def _keepalive(hub: Hub) -> Sentences:
    if any(peer.has_keepalive and not peer.has_endpoint for peer in hub.peers):
        yield (
            "has PersistentKeepalive for a peer without Endpoint. A new leader would begin with a "
            "handshake to nowhere and then wait 5 s; leave it out, since nefia sets it for every "
            "peer whose endpoint is known"
        )


def _is_everything(network: Interface) -> bool:
    return network.network.prefixlen == 0


HUB_RULES: tuple[Callable[[Hub], Sentences], ...] = (_hub_settings, _default_route, _keepalive)


def _raft_inside(config: Config, hub: Hub) -> Sentences:
    """Whether nodes would reach each other through the tunnel, which only the leader has.

    Host names are not looked up. Without routes of wg-quick's own, AllowedIPs lead nowhere.
    """
    from ipaddress import ip_address

    cluster = config.cluster
    named = {"advertise_addr": cluster.advertise_addr}
    named |= {f"peers[{number}]": peer.address for number, peer in enumerate(cluster.peers)}
    routed = [ip for peer in _routed(hub) for ip in peer.allowed_ips if not _is_everything(ip)]
    for name, address in named.items():
        try:
            ip = ip_address(parse_address(address)[0])
        except ValueError:
            continue
        if any(ip in each.network for each in (*hub.addresses, *routed)):
            yield (
                f"has the cluster's {name}, {address}, inside the tunnel. Only the leader has the "
                "tunnel, so nobody could follow or succeed it; write the node's own address there"
            )


def _routed(hub: Hub) -> tuple[HubPeer, ...]:
    return hub.peers if hub.table in ("auto", "main") else ()


def _source(config: Config, number: int, service: WireguardConfig) -> Iterator[Finding]:
    if service.source is None:
        return
    key = f"services[{number}].source"
    before = config.services[:number]
    floating = [each.ip for each in before if isinstance(each, AddressConfig)]
    if service.source not in floating:
        yield Finding(
            (key,),
            f"{service.source} is not the address of an address service that stands before; write "
            "such a service into the list above this one",
        )


def addresses(config: Config) -> Iterator[Finding]:
    """All that is wrong with the `address` services."""
    first_with: dict[str, int] = {}
    for number, service in enumerate(config.services):
        if not isinstance(service, AddressConfig):
            continue
        key = f"services[{number}].address"
        if service.ip in first_with:
            yield Finding((key,), f"is also that of services[{first_with[service.ip]}]")
        first_with.setdefault(service.ip, number)
        if config.cluster.enabled and _host(config.cluster.advertise_addr) == service.ip:
            yield Finding(
                (key, "cluster.advertise_addr"),
                f"{service.ip} is this node's advertise_addr too; a floating address moves with "
                "the leader, so write another for one of them",
            )


def commands(config: Config) -> Iterator[Finding]:
    """All that is wrong with the `command` services."""
    for number, service in enumerate(config.services):
        if isinstance(service, CommandConfig) and not service.run:
            key = f"services[{number}].run"
            yield Finding((key,), "is empty; write the program and its arguments")


def _host(address: str) -> str | None:
    try:
        return parse_address(address)[0]
    except ValueError:
        return None


CHECKS: tuple[Callable[[Config], Iterator[Finding]], ...] = (tunnels, addresses, commands)
