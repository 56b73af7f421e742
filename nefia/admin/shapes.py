"""What an action of the admin API is: its parameters, how they are checked, what it answers."""

from __future__ import annotations

from collections.abc import Callable, Container
from enum import Enum
from types import SimpleNamespace
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
from nefia.state.commands import Command


class Default(Enum):
    """What stands in `Request.params` for a parameter that was not given, if not a value."""

    REQUIRED = "an error"
    ABSENT = "nothing: it has no such attribute"


@frozen
class Parameter:
    """`kind` checks and converts the value; `key` is the attribute of `Request.params`."""

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


@frozen
class Form:
    """Parameters that go together. `made` of their values, in this order, is `Request.params`."""

    parameters: tuple[Parameter, ...]
    made: Callable[..., Any] = field()

    @made.default
    def _namespace(self) -> Callable[..., Any]:
        """An object that has them as attributes, by their keys."""
        keys = [parameter.key for parameter in self.parameters]
        return lambda *values: SimpleNamespace(**dict(zip(keys, values, strict=True)))

    def fits(self, raw: dict[str, Any]) -> bool:
        """Whether all that it requires is there."""
        required = [p.name for p in self.parameters if p.default is Default.REQUIRED]
        return raw.keys() >= set(required)

    def of(self, checked: dict[str, Any]) -> Any:
        """What is made of these, which `Shape.check` gives; there may be more than the form's."""
        return self.made(*[checked[parameter.key] for parameter in self.parameters])


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
    """`result` is its shape in words; `rule` checks what no single parameter can.

    `made` is the command of which the parameters are the fields, in this order, if there is one.
    If not all of them go together, `forms` says which do, and a rule, to people, that others don't.
    """

    name: str
    mode: Mode
    doc: str
    result: str
    parameters: tuple[Parameter, ...] = ()
    made: type[Command] | None = None
    forms: tuple[Form, ...] = field()
    rule: Callable[[dict[str, Any]], None] | None = None
    shape: Shape = field(init=False)

    @forms.default
    def _forms(self) -> tuple[Form, ...]:
        return (Form(self.parameters, self.made) if self.made else Form(self.parameters),)

    @shape.default
    def _shape(self) -> Shape:
        return Shape(self.parameters + COMMON[self.mode])
