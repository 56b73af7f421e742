"""What an action of the admin API is: its parameters, how they are checked, what it answers."""

from __future__ import annotations

from collections.abc import Callable, Container
from enum import Enum
from typing import Any

from attrs import Factory, field, frozen

from nefia.admin.values import (
    BOOLEAN,
    MAX_REQUEST_ID_CHARACTERS,
    Kind,
    nearest,
    one_of,
    shown,
    text_up_to,
)
from nefia.errors import InvalidArgument


class Default(Enum):
    """What stands in `Request.params` for a parameter that was not given, if not a value."""

    REQUIRED = "an error"
    ABSENT = "nothing: the key is missing there too"


@frozen
class Parameter:
    """`kind` checks and converts the value; `key` is its name in `Request.params`."""

    name: str
    kind: Kind
    doc: str
    default: Any = Default.REQUIRED
    key: str = field(default=Factory(lambda self: self.name, takes_self=True))


@frozen
class Shape:
    """Which keys an object may have. Made from a list of parameters, in a form fast to use."""

    parameters: tuple[Parameter, ...]
    known: dict[str, Parameter] = field(init=False)
    required: frozenset[str] = field(init=False)
    defaults: dict[str, Any] = field(init=False)

    @known.default
    def _known(self) -> dict[str, Parameter]:
        return {parameter.name: parameter for parameter in self.parameters}

    @required.default
    def _required(self) -> frozenset[str]:
        return frozenset(p.name for p in self.parameters if p.default is Default.REQUIRED)

    @defaults.default
    def _defaults(self) -> dict[str, Any]:
        given = [p for p in self.parameters if not isinstance(p.default, Default)]
        return {parameter.key: parameter.default for parameter in given}

    def check(self, raw: dict[str, Any], ignored: Container[str] = ()) -> dict[str, Any]:
        """The checked parameters by their keys, with defaults. Raises InvalidArgument."""
        params = self.defaults.copy()
        known = self.known
        for name, value in raw.items():
            parameter = known.get(name)
            if parameter is not None:
                params[parameter.key] = parameter.kind.check(name, value)
            elif name not in ignored:
                raise InvalidArgument(f"unknown parameter {shown(name)}", hint=nearest(name, known))
        if not self.required <= raw.keys():
            missing = ", ".join(f'"{name}"' for name in sorted(self.required - raw.keys()))
            raise InvalidArgument(f"missing: {missing}")
        return params


class Mode(Enum):
    """What an action does with the shared state, and so which common parameters it takes."""

    NODE = "about this node or its membership view"
    READ = "reads the shared state"
    CHANGE = "changes the shared state or the membership; for the leader only"


COMMON: dict[Mode, tuple[Parameter, ...]] = {
    Mode.NODE: (),
    Mode.READ: (
        Parameter(
            "consistency",
            one_of("linearizable", "local"),
            "`local` reads what this node has applied, and the result says so.",
            default="linearizable",
        ),
    ),
    Mode.CHANGE: (
        Parameter(
            "request_id",
            text_up_to(MAX_REQUEST_ID_CHARACTERS),
            "Repeating a change under the same id within an hour answers as the first did.",
            default="",
        ),
        Parameter("forward", BOOLEAN, "A follower passes it on to the leader.", default=False),
    ),
}


@frozen
class Action:
    """`result` is its shape in words; `rule` checks what no single parameter can."""

    name: str
    mode: Mode
    doc: str
    result: str
    parameters: tuple[Parameter, ...] = ()
    rule: Callable[[dict[str, Any]], None] | None = None
    shape: Shape = field(init=False)

    @shape.default
    def _shape(self) -> Shape:
        return Shape(self.parameters + COMMON[self.mode])
