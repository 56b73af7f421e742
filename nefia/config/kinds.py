"""What a value in nefia.yaml may be: kinds turn plain YAML values into those of the program.

Types are strict: `500` is not a duration and `yes` is not true.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from attrs import frozen

from nefia.units import parse_duration

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

MAX_SHOWN_CHARACTERS = 80
MAX_HOST_NAME_CHARACTERS = 253

_NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_HOST_AND_PORT = re.compile(r"(?P<host>\[[^\]]*\]|[^\[\]:]*):(?P<port>[0-9]{1,5})", re.ASCII)


class WrongValue(ValueError):
    """A sentence that says what is wrong with a value, then what would be right."""


@frozen
class Unusual:
    """A YAML scalar that no key wants: a float, a date, hexadecimal, an own tag. Its text."""

    text: str


Scalar: TypeAlias = str | int | bool | Unusual


@frozen
class Kind:
    """A kind of single value. `convert` raises ValueError, with a sentence like `WrongValue`."""

    description: str
    convert: Callable[[Scalar], object]


@frozen
class Section:
    """A mapping whose keys are the settings of the class `of`."""

    of: type
    description = "section"


@frozen
class Items:
    """A list of at most `limit` mappings, each a section of the class `of`."""

    of: type
    limit: int

    @property
    def description(self) -> str:
        return f"list, at most {self.limit}"


@frozen
class Variants:
    """A list of at most `limit` mappings; the key `by` of each says of which class it is."""

    by: str
    classes: Mapping[str, type]
    limit: int

    @property
    def description(self) -> str:
        return f"list, at most {self.limit}"


@frozen
class Texts:
    """A list of at most `limit` single values, all of the kind `of`."""

    of: Kind
    limit: int

    @property
    def description(self) -> str:
        return f"list of {self.of.description}, at most {self.limit}"


@frozen
class Pairs:
    """A mapping of at most `limit` names of the user's choice to single values, all of `of`.

    In the program it is a tuple of pairs, in the order of the file.
    """

    of: Kind
    limit: int

    @property
    def description(self) -> str:
        return f"mapping of names to {self.of.description}, at most {self.limit}"


AnyKind: TypeAlias = Kind | Section | Items | Variants | Texts | Pairs


def parse_node_id(text: str) -> str:
    """`text`, if it may name a node; else raises ValueError."""
    if not _NODE_ID.fullmatch(text):
        raise WrongValue(
            f"{shown(text)} is not a node id; write 1 to 63 letters, digits, dots, hyphens and "
            "underscores that begin with a letter or digit"
        )
    return text


def parse_address(text: str) -> tuple[str, int]:
    """Host, without brackets, and port of `host:port`, `1.2.3.4:port` or `[IPv6]:port`.

    Raises ValueError with a sentence that says what is wrong and what would be right.
    """
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None:
        raise WrongValue(_why_no_address(text))
    host, port = match["host"], int(match["port"])
    if not 1 <= port <= 65535:
        raise WrongValue(f"{shown(text)} has no possible port; write a port from 1 to 65535")
    if not (_is_ip(host[1:-1], 6) if host.startswith("[") else _is_host(host)):
        raise WrongValue(
            f"{shown(text)} has no possible host; write a host name, an IPv4 address or "
            "[IPv6] before the port"
        )
    return host.strip("[]"), port


def _why_no_address(text: str) -> str:
    if _is_ip(text, 6) or _is_ip(text.rpartition(":")[0], 6):
        return f'{shown(text)} is ambiguous; write IPv6 addresses in brackets: "[fe80::1]:9700"'
    if ":" not in text.rpartition("]")[2]:
        return f'{shown(text)} has no port; write host:port, such as "10.99.0.1:9700"'
    return f'{shown(text)} is not an address; write host:port, such as "10.99.0.1:9700"'


def _is_host(host: str) -> bool:
    labels = host.removesuffix(".").split(".")
    if labels[-1].isdigit():
        return _is_ip(host, 4)
    return len(host) <= MAX_HOST_NAME_CHARACTERS and all(map(_HOST_LABEL.fullmatch, labels))


def _ip(host: str) -> IPv4Address | IPv6Address | None:
    import ipaddress

    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_ip(host: str, version: int) -> bool:
    ip = _ip(host)
    return ip is not None and ip.version == version


def _is_unspecified(host: str) -> bool:
    ip = _ip(host)
    mapped: IPv4Address | None = getattr(ip, "ipv4_mapped", None)
    return ip is not None and (mapped or ip).is_unspecified


def shown(raw: Scalar) -> str:
    """`raw` as one would find it in the file, for messages; cut off where it is long."""
    match raw:
        case bool():
            return "true" if raw else "false"
        case int():
            return str(raw)
        case Unusual(text):
            return printable(text)
        case str():
            return f'"{printable(raw)}"'


def printable(text: str) -> str:
    """`text` without what could upset a terminal; cut off where it is long."""
    visible = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return (
        visible if len(visible) <= MAX_SHOWN_CHARACTERS else visible[:MAX_SHOWN_CHARACTERS] + "..."
    )


def _text(raw: Scalar, wanted: str) -> str:
    if not isinstance(raw, str):
        raise WrongValue(f"{shown(raw)} is not text; write {wanted} in quotes")
    if not raw.isprintable():
        raise WrongValue(f"{shown(raw)} has a character that cannot be printed; write {wanted}")
    return raw


def _boolean(raw: Scalar) -> bool:
    if not isinstance(raw, bool):
        raise WrongValue(f"{shown(raw)} is neither true nor false; write true or false, unquoted")
    return raw


def _path(raw: Scalar) -> Path:
    text = _text(raw, "a path")
    if text.startswith("~"):
        raise WrongValue(f'{shown(text)} begins with "~"; write the path in full')
    return Path(text)


def _dialable(raw: Scalar) -> str:
    text = _text(raw, "host:port")
    host, _ = parse_address(text)
    if _is_unspecified(host):
        raise WrongValue(
            f"{shown(text)} cannot be dialled, since it means every address of a machine; "
            "write the one address at which the other nodes reach this one"
        )
    return text


def _bindable(raw: Scalar) -> str:
    text = _text(raw, "host:port")
    parse_address(text)
    return text


BOOLEAN = Kind("true or false", _boolean)
TEXT = Kind("text", lambda raw: _text(raw, "a name"))
PATH = Kind("path", _path)
NODE_ID = Kind("node id", lambda raw: parse_node_id(_text(raw, "a node id")))
BIND_ADDRESS = Kind("address", _bindable)
DIAL_ADDRESS = Kind("address", _dialable)


def optional(kind: Kind, *, absent: object) -> Kind:
    """`kind`, or the empty text, which stands for the value `absent`."""
    return Kind(kind.description, lambda raw: absent if raw == "" else kind.convert(raw))


def name_of(what: str) -> Kind:
    """What a service or the like is called; `what` is "a service", for the message."""

    def convert(raw: Scalar) -> str:
        if not isinstance(raw, str) or not _NAME.fullmatch(raw):
            raise WrongValue(
                f"{shown(raw)} is not {what}'s name; write 1 to 32 letters, digits, dots, hyphens "
                "and underscores that begin with a letter or digit"
            )
        return raw

    return Kind("name", convert)


def one_of(*words: str) -> Kind:
    """One of a few words."""
    wanted = " or ".join(words)

    def convert(raw: Scalar) -> str:
        if raw not in words:
            raise WrongValue(f"{shown(raw)} is none of them; write {wanted}")
        return str(raw)

    return Kind(wanted, convert)


def whole_number(smallest: int, largest: int) -> Kind:
    wanted = f"a whole number from {smallest} to {largest}"

    def convert(raw: Scalar) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int):
            raise WrongValue(f"{shown(raw)} is not a whole number; write {wanted}, unquoted")
        if not smallest <= raw <= largest:
            raise WrongValue(f"{raw} is out of bounds; write {wanted}")
        return raw

    return Kind(f"whole number, {smallest} to {largest}", convert)


def duration(shortest: str, longest: str) -> Kind:
    """Go-style text in the file, float seconds in the program."""
    smallest, largest = parse_duration(shortest), parse_duration(longest)

    def convert(raw: Scalar) -> float:
        if not isinstance(raw, str):
            raise WrongValue(
                f'{shown(raw)} is not a duration; write text with a unit, such as "500ms"'
            )
        seconds = parse_duration(_text(raw, "a duration"))
        if not smallest <= seconds <= largest:
            raise WrongValue(
                f'{shown(raw)} is out of bounds; write a duration from "{shortest}" to "{longest}"'
            )
        return seconds

    return Kind(f"duration, {shortest} to {longest}", convert)
