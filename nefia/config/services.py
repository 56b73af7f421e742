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
    one_of,
    shown,
)
from nefia.config.kinds import duration as duration_kind
from nefia.config.settings import described, setting

MAX_SERVICES = 32
MAX_ARGUMENTS = 100
SHORTEST = "10ms"
LONGEST = "10m"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")


def _name(raw: Scalar) -> str:
    if not isinstance(raw, str) or not _NAME.fullmatch(raw):
        raise WrongValue(
            f"{shown(raw)} is not a service's name; write 1 to 32 letters, digits, dots, hyphens "
            "and underscores that begin with a letter or digit"
        )
    return raw


_STOP = duration_kind(SHORTEST, LONGEST)
_ARGUMENTS = Texts(TEXT, MAX_ARGUMENTS)
RETRY, YIELD = "retry", "yield"


@frozen(kw_only=True)
class _Service:
    """What all kinds have. Durations in seconds."""

    name: str = field(
        metadata=described(Kind("name", _name), None, "Unique among the services of this node.")
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
    kind: str = field(
        default=word, metadata=described(one_of(word), None, "What kind of service this is.")
    )
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

    @property
    def interface(self) -> str:
        return self.config.name.removesuffix(".conf")


@frozen(kw_only=True)
class AddressConfig(_Service):
    """A floating address: it moves with the leader and is announced by gratuitous ARP."""

    kind: str = _kind_of("address")
    address: str = field(
        metadata=described(TEXT, None, "The address with its prefix, such as `192.0.2.10/24`.")
    )
    interface: str = field(metadata=described(TEXT, None, "The interface that gets it."))


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
