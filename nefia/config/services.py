"""The leader's services in nefia.yaml: one class for each kind (SPEC 9).

They run in the order of the list and stop in reverse.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeAlias

from attrs import field, frozen

from nefia.config.kinds import (
    BIND_ADDRESS,
    PATH,
    TEXT,
    Kind,
    Scalar,
    Texts,
    WrongValue,
    name_of,
    one_of,
    optional,
    parse_address,
    shown,
)
from nefia.config.kinds import duration as duration_kind
from nefia.config.reactor import CONNECTIONS, EVENTS_PER_SECOND, RULES, URLS, RuleConfig
from nefia.config.settings import described, setting, variant

MAX_SERVICES = 32
MAX_ARGUMENTS = 100
SHORTEST = "10ms"
LONGEST = "10m"
SHORTEST_KEEPALIVE = "1s"
LONGEST_KEEPALIVE = "18h"
MAX_INTERFACE_CHARACTERS = 15
"""The kernel's limit."""

_INTERFACE = re.compile(rf"[!-.0-9;-~]{{1,{MAX_INTERFACE_CHARACTERS}}}")


def _interface(raw: Scalar) -> str:
    is_name = isinstance(raw, str) and _INTERFACE.fullmatch(raw) and raw not in (".", "..")
    if not is_name:
        raise WrongValue(
            f"{shown(raw)} is not an interface's name; write 1 to {MAX_INTERFACE_CHARACTERS} "
            'characters without "/", ":" and spaces, such as "eth0"'
        )
    return str(raw)


def _ip(raw: Scalar) -> str:
    import ipaddress

    try:
        if isinstance(raw, str):
            return str(ipaddress.ip_address(raw))
    except ValueError:
        pass
    raise WrongValue(f'{shown(raw)} is not an IP address; write one such as "192.0.2.10"')


def _ip_with_prefix(raw: Scalar) -> str:
    import ipaddress

    try:
        if isinstance(raw, str) and "/" in raw:
            return str(ipaddress.ip_interface(raw))
    except ValueError:
        pass
    raise WrongValue(
        f'{shown(raw)} is not an IP address with its prefix; write one such as "192.0.2.10/24"'
    )


_INTERFACE_NAME = Kind("interface", _interface)
_STOP = duration_kind(SHORTEST, LONGEST)
_ARGUMENTS = Texts(TEXT, MAX_ARGUMENTS)
RETRY, YIELD = "retry", "yield"


@frozen(kw_only=True)
class _Service:
    """What all kinds have. Durations in seconds."""

    name: str = field(
        metadata=described(name_of("a service"), None, "Unique among the services of this node.")
    )
    start_timeout: float = setting(
        _STOP, "10s", "A service that is not ready after so long has failed to start."
    )
    stop_timeout: float = setting(
        _STOP, "10s", "How long a planned stop may take before what is left is killed."
    )
    on_failure: str = setting(
        one_of(RETRY, YIELD),
        RETRY,
        "What happens when it fails: it is started again with back-off, or the leader hands over "
        "to a node where it may work.",
    )


def _kind_of(word: str) -> str:
    """The field `kind`: in the file it names the class, so that it can have no other value."""
    kind: str = variant(word, "What kind of service this is.")
    return kind


@frozen(kw_only=True)
class WireguardConfig(_Service):
    """A tunnel that wg-quick brings up, of WireGuard in the kernel or of wireguard-go."""

    kind: str = _kind_of("wireguard")
    config: Path = field(
        metadata=described(
            PATH, None, "wg-quick's file, the same on every node; it names the interface."
        )
    )
    source: str | None = setting(
        optional(Kind("IP address", _ip), absent=None),
        "",
        "The address from which the hub's packets leave: that of an `address` service that stands "
        "before. Peers behind NAT need it. Empty: as the kernel routes.",
    )
    keepalive: float = setting(
        duration_kind(SHORTEST_KEEPALIVE, LONGEST_KEEPALIVE),
        "25s",
        "A new leader sends to every peer whose endpoint is known so often, beginning at once: "
        "that is how they find it.",
    )

    @property
    def interface(self) -> str:
        return self.config.name.removesuffix(".conf")


@frozen(kw_only=True)
class AddressConfig(_Service):
    """A floating address: it moves with the leader and is announced by gratuitous ARP."""

    kind: str = _kind_of("address")
    address: str = field(
        metadata=described(
            Kind("IP address", _ip_with_prefix),
            None,
            "The address with its prefix, such as `192.0.2.10/24`.",
        )
    )
    interface: str = field(metadata=described(_INTERFACE_NAME, None, "The interface that gets it."))

    @property
    def ip(self) -> str:
        return self.address.partition("/")[0]


@frozen(kw_only=True)
class CommandConfig(_Service):
    """A long-running child, started again with back-off while this node leads."""

    kind: str = _kind_of("command")
    run: tuple[str, ...] = field(
        metadata=described(_ARGUMENTS, None, "The program and its arguments.")
    )
    ready: tuple[str, ...] = field(
        default=(),
        metadata=described(
            _ARGUMENTS,
            "",
            "A command that is repeated until it exits with 0: the service is ready then. Empty: "
            "it is ready once it runs.",
        ),
    )


@frozen(kw_only=True)
class HookConfig(_Service):
    """One-shot commands at the beginning and the end of leadership."""

    kind: str = _kind_of("hook")
    on_promote: tuple[str, ...] = field(
        default=(),
        metadata=described(_ARGUMENTS, "", "Run when this node begins to lead; ready at exit 0."),
    )
    on_demote: tuple[str, ...] = field(
        default=(), metadata=described(_ARGUMENTS, "", "Run when it has ceased to lead.")
    )


@frozen(kw_only=True)
class ReactorConfig(_Service):
    """The listener for the events of managed hosts (SPEC 10)."""

    kind: str = _kind_of("reactor")
    listen: str = field(metadata=described(BIND_ADDRESS, None, "Where it listens, `host:port`."))
    urls: tuple[tuple[str, str], ...] = field(
        default=(),
        metadata=described(
            URLS,
            "",
            "By node id: where beacons reach that node's Reactor. A node that is not here: its "
            "host in the cluster with the port of `listen`.",
        ),
    )
    token_file: Path | None = field(
        default=None,
        metadata=described(
            optional(PATH, absent=None),
            "",
            "The token that beacons have to send; of several, one a line. Empty: none is needed.",
        ),
    )
    tls_cert_file: Path | None = field(
        default=None,
        metadata=described(
            optional(PATH, absent=None),
            "",
            "The certificate that beacons see, PEM, with what is between it and the authority. "
            "Empty: no TLS.",
        ),
    )
    tls_key_file: Path | None = field(
        default=None,
        metadata=described(
            optional(PATH, absent=None),
            "",
            "The certificate's key, PEM, which nobody else may read.",
        ),
    )
    max_connections: int = setting(
        CONNECTIONS, 1000, "Beacons that may be connected at a time; one more is turned away."
    )
    max_connections_per_address: int = setting(
        CONNECTIONS, 100, "Of these, from one IP address. Behind NAT many beacons share one."
    )
    events_per_second: int = setting(
        EVENTS_PER_SECOND,
        100,
        "Of one connection, twice as many at once. What comes faster waits to be read.",
    )
    rules: tuple[RuleConfig, ...] = field(
        default=(), metadata=described(RULES, "", "What is done about which events.")
    )

    def url_of(self, node_id: str, address: str) -> str:
        """Where beacons reach the Reactor of the member `node_id`, which is at `address`."""
        named = dict(self.urls)
        if node_id in named:
            return named[node_id]
        host, port = parse_address(address)[0], parse_address(self.listen)[1]
        scheme = "wss" if self.tls_cert_file else "ws"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


ServiceConfig: TypeAlias = (
    WireguardConfig | AddressConfig | CommandConfig | HookConfig | ReactorConfig
)

KINDS: dict[str, type[ServiceConfig]] = {
    "wireguard": WireguardConfig,
    "address": AddressConfig,
    "command": CommandConfig,
    "hook": HookConfig,
    "reactor": ReactorConfig,
}

EXTERNAL_KINDS = frozenset(KINDS) - {"reactor"}
"""Those that only the guard starts and ends."""
