"""How a class says which keys a section of nefia.yaml has: metadata on its fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attrs import field, fields, frozen

from nefia.config.kinds import AnyKind, Items, Kind, Scalar, Section, Variants, one_of

_SETTING = "nefia setting"


@frozen
class Setting:
    """One key. `default` is as it would stand in the file; None where the key must be given."""

    kind: AnyKind
    default: Scalar | None
    doc: str


def described(kind: AnyKind, default: Scalar | None, doc: str) -> dict[str, object]:
    """The metadata of a field that the reader cannot fill by itself."""
    return {_SETTING: Setting(kind, default, doc)}


def setting(kind: Kind, default: Scalar, doc: str) -> Any:
    """A field of one value that has the same default in the file and in the program."""
    return field(default=kind.convert(default), metadata=described(kind, default, doc))


def variant(word: str, doc: str) -> Any:
    """The field that names the class in the file, so that it can have no other value."""
    return field(default=word, metadata=described(one_of(word), None, doc))


def settings_of(section: type) -> dict[str, Setting]:
    """The keys of a section, in order."""
    return {
        attribute.name: attribute.metadata[_SETTING]
        for attribute in fields(section)
        if _SETTING in attribute.metadata
    }


def all_settings(section: type, prefix: str = "") -> Iterator[tuple[str, Setting]]:
    """Every key within a section, under its full name; `[]` stands for each item of a list."""
    for name, each in settings_of(section).items():
        yield prefix + name, each
        match each.kind:
            case Section(of):
                yield from all_settings(of, f"{prefix}{name}.")
            case Items(of):
                yield from all_settings(of, f"{prefix}{name}[].")
            case Variants(by, classes):
                for word, of in classes.items():
                    yield from all_settings(of, f"{prefix}{name}[{by}: {word}].")
