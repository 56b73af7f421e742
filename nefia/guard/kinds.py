"""From a service's section to what it is to the guard: one plan for each external kind."""

from __future__ import annotations

from typing import Any

import msgspec

from nefia.config.services import (
    KINDS,
    AddressConfig,
    CommandConfig,
    HookConfig,
    ReactorConfig,
    ServiceConfig,
    WireguardConfig,
)
from nefia.guard import address, wireguard
from nefia.guard.plan import Plan, Run
from nefia.guard.protocol import GuardMessageMalformed, HubFacts, Section


def to_section(config: ServiceConfig) -> Section:
    section: Section = msgspec.to_builtins(config, enc_hook=str)
    return section


def from_section(section: Section) -> ServiceConfig:
    """Raises GuardMessageMalformed."""
    try:
        config: ServiceConfig = msgspec.convert(
            section, type=KINDS[section["kind"]], dec_hook=_decoded
        )
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        raise GuardMessageMalformed(f"not a service of this version: {error}") from None
    return config


def _decoded(kind: type, value: Any) -> Any:
    """What JSON has no word for is a path."""
    return kind(value)


def plan_of(config: ServiceConfig, hub: HubFacts | None) -> Plan:
    """`hub` is there for a tunnel. Reads no file, since the guard never waits for a disk (SPEC 9).

    Raises OSError where the plan cannot be made.
    """
    match config:
        case CommandConfig():
            return Plan(main=config.run, ready=config.ready)
        case HookConfig():
            return Plan(start=_runs(config.on_promote), after=_runs(config.on_demote))
        case WireguardConfig():
            return wireguard.plan_of(config, hub or HubFacts())
        case AddressConfig():
            return address.plan_of(config)
        case ReactorConfig():
            raise AssertionError("the daemon's own kind never comes here")


def cleaning_of(config: ServiceConfig) -> Plan:
    """As `plan_of`, but for its leftovers alone, for which nothing else has to be known."""
    if isinstance(config, WireguardConfig):
        return wireguard.removal_of(config)
    return plan_of(config, None)


def _runs(argv: tuple[str, ...]) -> tuple[Run, ...]:
    return (Run(argv),) if argv else ()
