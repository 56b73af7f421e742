"""Objects in JSON decoded in one step: classes that msgspec fills in, made from the same table.

msgspec sees to all that a type can say, and `Decoding.make` to the rest. What they take is right,
and becomes what `Shape.check` would make of it. What they refuse may be right nevertheless, and if
not, it is `Shape.check` that says why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct, defstruct

from nefia.admin.shapes import Default, Form, Parameter


class Decoding:
    """`kind` is what JSON is decoded into, and `make` gives what `form` makes of such an object.

    It raises InvalidArgument.
    """

    def __init__(
        self,
        form: Form,
        more: tuple[Parameter, ...] = (),
        base: type[Struct] = Struct,
        tag: str | None = None,
    ) -> None:
        """`more`: parameters that belong to no form; `tag`: the value of the base's tag field."""
        parameters = form.parameters + more
        self.kind: type[Struct] = defstruct(
            "Decoded",
            [_field(parameter) for parameter in parameters],
            bases=(base,),
            tag=tag,
            rename={parameter.key: parameter.name for parameter in parameters},
            kw_only=True,
            forbid_unknown_fields=True,
            gc=False,
        )
        self.make = _maker(form)


def _field(parameter: Parameter) -> tuple[str, Any] | tuple[str, Any, Any]:
    assert parameter.default is not Default.ABSENT, "such a one belongs to a form without it"
    if parameter.default is Default.REQUIRED:
        return parameter.key, parameter.kind.decoded
    return parameter.key, parameter.kind.decoded, parameter.default


def _maker(form: Form) -> Callable[[Any], Any]:
    """Written as one expression for each form: a loop over parameters takes twice as long."""
    names: dict[str, Any] = {"made": form.made}
    values = []
    for parameter in form.parameters:
        key, value = parameter.key, f"decoded.{parameter.key}"
        if parameter.kind.finish:
            names |= {f"finish_{key}": parameter.kind.finish, f"default_{key}": parameter.default}
            finished = f"finish_{key}({parameter.name!r}, {value})"
            value = f"{value} if {value} is default_{key} else {finished}"
        values.append(value)
    maker: Callable[[Any], Any] = eval(f"lambda decoded: made({', '.join(values)})", names)
    return maker
