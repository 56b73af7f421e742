"""A WireGuard tunnel: up by wg-quick, down by removing its link (SPEC 9).

It goes down by the same few steps in good order and by force. `wg-quick down` would do nothing more
for a file that has passed the checks, and nothing at all once the link is gone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from nefia.config.services import WireguardConfig
from nefia.config.wg_quick import Hub
from nefia.guard.kernel_lease import KernelLease, remove_lease
from nefia.guard.netlink import NETLINK_ROUTE, Netlink, delete_link
from nefia.guard.plan import Do, Plan, Run, Step
from nefia.guard.protocol import HubFacts

MAX_HOOK_CHARACTERS = 16 * 1024
"""Of PreDown and PostDown together: they are part of a message (`MAX_MESSAGE_BYTES`)."""
RELOAD = 'wg syncconf "$1" <(wg-quick strip "$2")'


def facts_of(hub: Hub, endpoints: Mapping[str, str]) -> HubFacts:
    """`endpoints`: where peers were last heard, by public key.

    Raises ValueError with a sentence.
    """
    if sum(map(len, (*hub.pre_down, *hub.post_down))) > MAX_HOOK_CHARACTERS:
        raise ValueError(f"has more than {MAX_HOOK_CHARACTERS} characters of PreDown and PostDown")
    known = [peer for peer in hub.peers if peer.public_key in endpoints]
    return HubFacts(
        listen_port=hub.listen_port,
        has_dns=hub.has_dns,
        pre_down=hub.pre_down,
        post_down=hub.post_down,
        endpoints={p.public_key: endpoints[p.public_key] for p in known if not p.has_keepalive},
        kept={p.public_key: endpoints[p.public_key] for p in known if p.has_keepalive},
    )


def plan_of(config: WireguardConfig, hub: HubFacts) -> Plan:
    """Raises OSError without a netlink socket."""
    tunnel = _Tunnel(config, hub)
    link_goes = Do(f"remove the link {config.interface}", tunnel.remove)
    # A kernel without nftables can do without the lease, but not pin the source.
    lease_comes = Do(
        "let nftables hold the lease", tunnel.make_lease, may_fail=config.source is None
    )
    lease_goes = Do("remove the lease from nftables", tunnel.remove_lease, may_fail=True)
    return Plan(
        leftovers=removal_of(config).leftovers,
        start=(
            lease_comes,
            Run(("wg-quick", "up", str(config.config))),
            *_call_peers(config, hub),
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
    """Takes down what an earlier guard has left. Raises OSError without a netlink socket."""
    tunnel = _Tunnel(config, HubFacts())

    def remove_lease_if_silent() -> None:
        if not tunnel.is_present():
            remove_lease(config.interface)

    return Plan(
        leftovers=(
            *_wg_quick_down(config, tunnel),
            Do(f"remove the link {config.interface}", tunnel.remove),
            Do("remove the lease from nftables", remove_lease_if_silent, may_fail=True),
        ),
        fence=tunnel.fence,
        is_present=tunnel.is_present,
    )


class _Tunnel:
    """What is held ready of one tunnel."""

    def __init__(self, config: WireguardConfig, hub: HubFacts) -> None:
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


def _kernel_lease(config: WireguardConfig, hub: HubFacts) -> KernelLease | None:
    if hub.listen_port is None:
        return None
    try:
        return KernelLease(config.interface, hub.listen_port, config.source)
    except OSError:
        return None


def _call_peers(config: WireguardConfig, hub: HubFacts) -> Iterator[Run]:
    """Have the hub begin a handshake with everyone it can reach: they know it from then on.

    An endpoint alone starts none, a keepalive does; one in the file is left as it is. `wg set`
    would add a peer that the file has no more. The tunnel is of use even where it fails.
    """
    keepalive = ("persistent-keepalive", str(math.ceil(config.keepalive)))
    words: list[str] = []
    for key, endpoint in hub.endpoints.items():
        words += ("peer", key, "endpoint", endpoint, *keepalive)
    for key, endpoint in hub.kept.items():
        words += ("peer", key, "endpoint", endpoint)
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


def _unset_dns(interface: str, hub: HubFacts) -> Iterator[Run]:
    """wg-quick puts `tun.` before the name where /etc/resolvconf has an order of interfaces."""
    if hub.has_dns:
        for name in (interface, f"tun.{interface}"):
            yield Run(("resolvconf", "-f", "-d", name), may_fail=True)
