"""Whether a Reactor's rules and files go together, and with this machine (SPEC 10)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nefia.config.findings import Finding
from nefia.config.reactor import ExecConfig, RuleConfig
from nefia.config.schema import Config
from nefia.config.services import ReactorConfig


def _reactors(config: Config) -> Iterator[tuple[str, ReactorConfig]]:
    for number, service in enumerate(config.services):
        if isinstance(service, ReactorConfig):
            yield f"services[{number}]", service


def _one_reactor(config: Config) -> Iterator[Finding]:
    """Two would take each other's orders for one's own."""
    for key, _ in list(_reactors(config))[1:]:
        yield Finding((f"{key}.kind",), "is a second Reactor; one can have all rules, so keep one")


def _files(config: Config) -> Iterator[Finding]:
    from nefia.config.reactor_files import mistakes_of

    for key, reactor in _reactors(config):
        for name, sentence in mistakes_of(reactor):
            yield Finding((f"{key}.{name}",), sentence)


def _rules(config: Config) -> Iterator[Finding]:
    for key, reactor in _reactors(config):
        first_with: dict[str, int] = {}
        for number, rule in enumerate(reactor.rules):
            inner = f"{key}.rules[{number}]"
            if rule.name in first_with:
                yield Finding(
                    (f"{inner}.name",),
                    f'"{rule.name}" is also the name of rules[{first_with[rule.name]}]',
                )
            first_with.setdefault(rule.name, number)
            yield from _rule(inner, rule)


def _rule(key: str, rule: RuleConfig) -> Iterator[Finding]:
    if not rule.do:
        yield Finding((f"{key}.do",), "has no action; write at least one")
    for number, action in enumerate(rule.do):
        if isinstance(action, ExecConfig):
            name = f"{key}.do[{number}].run"
            if not action.run:
                yield Finding((name,), "is empty; write the program and its arguments")
            elif not action.run[0].is_plain or action.run[0].parts == ("",):
                yield Finding(
                    (name,), "begins with no fixed program; which one runs is not for an event"
                )


CHECKS: tuple[Callable[[Config], Iterator[Finding]], ...] = (_one_reactor, _files, _rules)
