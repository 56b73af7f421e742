"""A WireGuard tunnel: up by wg-quick, down by removing its link (SPEC 9).

It goes down by the same few steps in good order and by force. `wg-quick down` would do nothing more
for a file that has passed the checks, and nothing at all once the link is gone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from nefia.config.services import WireguardConfig
from nefia.config.wg_quick import Hub, read_hub
from nefia.errors import InvalidConfiguration
from nefia.guard.kernel_lease import KernelLease
from nefia.guard.netlink import NETLINK_ROUTE, Netlink, delete_link
from nefia.guard.plan import Do, Plan, Run, Step

RELOAD = 'wg syncconf "$1" <(wg-quick strip "$2")'


def plan_of(config: WireguardConfig, endpoints: Mapping[str, str]) -> Plan:
    """`endpoints`: where peers were last heard, `192.0.2.7:51820` by public key.

    Raises InvalidConfiguration if the file cannot be read, OSError without a netlink socket.
    """
    try:
        hub = read_hub(config.config)
    except (OSError, ValueError) as error:
        raise InvalidConfiguration(f"{config.config}: {error}") from error
    tunnel = _Tunnel(config, hub)
    link_goes = Do(f"remove the link {config.interface}", tunnel.remove)
    # A kernel without nftables can do without the lease, but not pin the source.
    lease_comes = Do(
        "let nftables hold the lease", tunnel.make_lease, may_fail=config.source is None
    )
    lease_goes = Do("remove the lease from nftables", tunnel.remove_lease, may_fail=True)
    return Plan(
        leftovers=(*_wg_quick_down(config, tunnel), link_goes, lease_goes),
        start=(
            lease_comes,
            Run(("wg-quick", "up", str(config.config))),
            *_call_peers(config, hub, endpoints),
        ),
        stop=(*_hooks(config.interface, hub.pre_down), link_goes),
        fence=tunnel.fence,
        after=(
            *_unset_dns(config.interface, hub),
            *_hooks(config.interface, hub.post_down),
            lease_goes,
        ),
        is_present=tunnel.is_present,
        renew=tunnel.renew,
        reload=(Run(("bash", "-c", RELOAD, "bash", config.interface, str(config.config))),),
        status=tunnel.status,
    )


def removal_of(config: WireguardConfig) -> Plan:
    """Takes down a link whose file cannot be read any more. Its hooks are not known.

    A lease in nftables stays, and keeps the port silent. Raises OSError without a netlink socket.
    """
    tunnel = _Tunnel(config, Hub())
    return Plan(
        leftovers=(Do(f"remove the link {config.interface}", tunnel.remove),),
        fence=tunnel.fence,
        is_present=tunnel.is_present,
    )


class _Tunnel:
    """What is held ready of one tunnel."""

    def __init__(self, config: WireguardConfig, hub: Hub) -> None:
        self._interface = config.interface
        self._netlink = Netlink(NETLINK_ROUTE)
        self._removal = delete_link(config.interface)
        self._port = hub.listen_port
        self._lease = _kernel_lease(config, hub)

    def remove(self) -> None:
        self._netlink.request_gone(self._removal)

    def fence(self) -> None:
        # Silent first: the kernel takes its time to remove a link.
        if self._lease is not None:
            self._lease.silence()
        self.remove()

    def is_present(self) -> bool:
        return self._netlink.find_link(self._interface) is not None

    def renew(self, end: float) -> None:
        if self._lease is not None:
            self._lease.renew(end)

    def make_lease(self) -> None:
        if self._port is None:
            raise OSError("the file has no ListenPort")
        if self._lease is None:
            raise OSError("the kernel has no nftables")
        self._lease.make()

    def remove_lease(self) -> None:
        """Only once the link is gone: until then nothing else may keep it silent."""
        if self._lease is not None and not self.is_present():
            self._lease.remove()

    def status(self) -> dict[str, Any]:
        return {"lease_in_kernel": self._lease is not None and self._lease.is_held}


def _kernel_lease(config: WireguardConfig, hub: Hub) -> KernelLease | None:
    if hub.listen_port is None:
        return None
    try:
        return KernelLease(config.interface, hub.listen_port, config.source)
    except OSError:
        return None


def _call_peers(config: WireguardConfig, hub: Hub, endpoints: Mapping[str, str]) -> Iterator[Run]:
    """Have the hub begin a handshake with everyone it can reach: they know it from then on.

    An endpoint alone starts none, a keepalive does; one in the file is left as it is. `wg set`
    would add a peer that the file has no more. The tunnel is of use even where it fails.
    """
    keepalive = ("persistent-keepalive", str(math.ceil(config.keepalive)))
    words: list[str] = []
    for peer in hub.peers:
        if endpoint := endpoints.get(peer.public_key):
            words += ("peer", peer.public_key, "endpoint", endpoint)
            words += () if peer.has_keepalive else keepalive
    if words:
        yield Run(("wg", "set", config.interface, *words), may_fail=True)


def _wg_quick_down(config: WireguardConfig, tunnel: _Tunnel) -> Iterator[Step]:
    """For a link that an earlier guard has left: its PostDown is due as well."""
    if tunnel.is_present():
        yield Run(("wg-quick", "down", str(config.config)), may_fail=True)


def _hooks(interface: str, lines: tuple[str, ...]) -> Iterator[Run]:
    """As wg-quick runs them."""
    for line in lines:
        yield Run(("bash", "-c", line.replace("%i", interface)), may_fail=True)


def _unset_dns(interface: str, hub: Hub) -> Iterator[Run]:
    """wg-quick puts `tun.` before the name where /etc/resolvconf has an order of interfaces."""
    if hub.has_dns:
        for name in (interface, f"tun.{interface}"):
            yield Run(("resolvconf", "-f", "-d", name), may_fail=True)
