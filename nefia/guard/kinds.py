"""From a service's section to what it is to the guard: one plan for each external kind."""

from __future__ import annotations

from collections.abc import Mapping
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
from nefia.errors import InvalidConfiguration
from nefia.guard.plan import Plan, Run
from nefia.guard.protocol import GuardMessageMalformed, Section


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


def plan_of(config: ServiceConfig, extra: Mapping[str, str]) -> Plan:
    """`extra` is what the daemon knows besides: for `wireguard`, endpoints by public key.

    Raises InvalidConfiguration or OSError where the plan cannot be made.
    """
    match config:
        case CommandConfig():
            return Plan(main=config.run, ready=config.ready)
        case HookConfig():
            return Plan(start=_runs(config.on_promote), after=_runs(config.on_demote))
        case WireguardConfig():
            from nefia.guard import wireguard

            return wireguard.plan_of(config, extra)
        case AddressConfig():
            from nefia.guard import address

            return address.plan_of(config)
        case ReactorConfig():
            raise AssertionError("the daemon's own kind never comes here")


def cleaning_of(config: ServiceConfig) -> Plan:
    """As `plan_of`, but for its leftovers alone: a file that cannot be read keeps no link up.

    Raises OSError where the plan cannot be made.
    """
    try:
        return plan_of(config, {})
    except InvalidConfiguration:
        if not isinstance(config, WireguardConfig):
            raise
        from nefia.guard import wireguard

        return wireguard.removal_of(config)


def _runs(argv: tuple[str, ...]) -> tuple[Run, ...]:
    return (Run(argv),) if argv else ()
