"""Bytes <-> values: messages, log entries, commands, configurations. No I/O.

A value is one type byte from an explicit table and a msgpack body in which a class is the list of
its fields, so that neither renaming a class nor renaming a field changes a byte. A field may be
added only at the end of a class and with a default: older bytes then still decode. A type byte is
never given to another class. Recorded encodings of every class stand in fixtures/wire/.

All but commands are attrs classes, for which cattrs calls the hooks below. Commands come by the
ten thousand a second and are classes of msgspec's, which encode themselves in the same form.

Whatever is wrong with bytes from outside, decoding them ends in one error, `Malformed`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from types import NoneType, UnionType
from typing import Any, Generic, TypeVar, Union, get_args, get_origin

import attrs
import msgspec
from cattrs import Converter

from nefia.raft import messages
from nefia.raft.configuration import Configuration
from nefia.raft.entries import Entry
from nefia.raft.messages import Message
from nefia.state import records
from nefia.state.commands import Batch, Change
from nefia.state.records import Record

FORMAT_VERSION = 1
"""Of the encodings in this module, for files that hold them. A file with a larger one is refused.

raft.db has a version of its own (`storage.layout`), since a child that must start fast reads it.
"""

MAX_ENCODED_BYTES = 64 * 1024 * 1024
"""What `Codec.decode` looks at, at most; transports set a lower limit for their frames."""

MAX_REASON_CHARACTERS = 200
"""Of what was wrong, in `Malformed`: some errors quote what they choked on."""

T = TypeVar("T")
Hook = Callable[[Any], Any]


class Malformed(ValueError):
    """Bytes from outside that are no encoding of what was expected."""


# Strict hooks: what has the wrong type is refused, never converted.

_SCALARS = frozenset({int, bool, str, bytes})


def _exactly(kind: type) -> Callable[[object, object], object]:
    def structure(value: object, _: object) -> object:
        if type(value) is not kind:
            raise TypeError(f"{kind.__name__} expected, not {type(value).__name__}")
        return value

    return structure


def _finite(value: object, _: object) -> float:
    if type(value) is not float or not math.isfinite(value):
        raise TypeError("finite float expected")
    return value


def _unstructure_class(cls: Any, converter: Converter) -> Hook:
    """A class becomes the tuple of its fields, in the order of their definition."""
    fields = attrs.fields(attrs.resolve_types(cls))
    if len(fields) > 1 and all(field.type in _SCALARS for field in fields):
        return attrgetter(*[field.name for field in fields])
    parts = [(field.name, converter.get_unstructure_hook(field.type)) for field in fields]

    def unstructure(value: object) -> tuple[object, ...]:
        return tuple([hook(getattr(value, name)) for name, hook in parts])

    return unstructure


def _structure_class(cls: Any, converter: Converter) -> Callable[[object, object], object]:
    fields = attrs.fields(attrs.resolve_types(cls))
    names = [field.alias for field in fields]
    parts = [(converter.get_structure_hook(field.type), field.type) for field in fields]
    required = sum(field.default is attrs.NOTHING for field in fields)

    def structure(value: object, _: object) -> object:
        if type(value) is not list or not required <= len(value) <= len(names):
            raise TypeError(f"list of {len(names)} fields of {cls.__name__} expected")
        items = [hook(item, kind) for (hook, kind), item in zip(parts, value, strict=False)]
        return cls(**dict(zip(names, items, strict=False)))

    found = [_encoded_kind(field.type) for field in fields]
    converted = [(i, *part) for i, part in enumerate(parts) if part[1] not in _SCALARS]

    def structure_quickly(value: object, kind: object) -> object:
        """The same where all fields are there: one comparison for all scalars."""
        if type(value) is not list or list(map(type, value)) != found:
            return structure(value, kind)
        for i, hook, field_kind in converted:
            value[i] = hook(value[i], field_kind)
        return cls(**dict(zip(names, value, strict=True)))

    return structure if None in found else structure_quickly


def _encoded_kind(kind: Any) -> type | None:
    """What a field is before it is structured; None if that depends on its value."""
    if kind in _SCALARS:
        return kind  # type: ignore[no-any-return]
    return list if _is_tuple(kind) or attrs.has(kind) else None


def _unstructure_tuple(kind: Any, converter: Converter) -> Hook:
    hook = converter.get_unstructure_hook(get_args(kind)[0])
    return lambda items: [hook(item) for item in items]


def _structure_tuple(kind: Any, converter: Converter) -> Callable[[object, object], object]:
    item_kind = get_args(kind)[0]
    hook = converter.get_structure_hook(item_kind)

    def structure(value: object, _: object) -> tuple[object, ...]:
        if type(value) is not list:
            raise TypeError("list expected")
        return tuple([hook(item, item_kind) for item in value])

    return structure


def _structure_strings(value: object, _: object) -> dict[str, str]:
    if type(value) is not dict:
        raise TypeError("map expected")
    if not all(type(key) is str and type(item) is str for key, item in value.items()):
        raise TypeError("map of strings expected")
    return value


def _optional_kind(kind: Any) -> Any:
    """X of `X | None`, or None if `kind` is nothing of that sort."""
    if get_origin(kind) not in (Union, UnionType):
        return None
    kinds = [member for member in get_args(kind) if member is not NoneType]
    return kinds[0] if len(kinds) == 1 else None


def _unstructure_optional(kind: Any, converter: Converter) -> Hook:
    hook = converter.get_unstructure_hook(_optional_kind(kind))
    return lambda value: None if value is None else hook(value)


def _structure_optional(kind: Any, converter: Converter) -> Callable[[object, object], object]:
    item_kind = _optional_kind(kind)
    hook = converter.get_structure_hook(item_kind)
    return lambda value, _: None if value is None else hook(value, item_kind)


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_args(kind)[1:] == (...,)


def _is_strings(kind: object) -> bool:
    return kind == dict[str, str]


def _is_entries(kind: object) -> bool:
    return kind == tuple[Entry, ...]


def _unchanged(value: T) -> T:
    return value


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _strict_converter() -> Converter:
    converter = Converter()
    factories = (
        (attrs.has, _unstructure_class, _structure_class),
        (_is_tuple, _unstructure_tuple, _structure_tuple),
        (lambda kind: _optional_kind(kind) is not None, _unstructure_optional, _structure_optional),
    )
    for predicate, unstructure, structure in factories:
        converter.register_unstructure_hook_factory(predicate, unstructure)
        converter.register_structure_hook_factory(predicate, structure)
    for scalar in _SCALARS:
        converter.register_unstructure_hook(scalar, _unchanged)
        converter.register_structure_hook(scalar, _exactly(scalar))
    converter.register_unstructure_hook_func(_is_struct, _unchanged)
    converter.register_unstructure_hook(float, float)
    converter.register_structure_hook(float, _finite)
    converter.register_unstructure_hook_func(_is_strings, _unchanged)
    converter.register_structure_hook_func(_is_strings, _structure_strings)
    return converter


_converter = _strict_converter()
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


# Entries and unions have a form of their own.


def _unstructure_entry(entry: Entry) -> tuple[object, ...]:
    payload = entry.payload
    if type(payload) is Configuration:
        return entry.index, entry.term, _unstructure_configuration(payload)
    return entry.index, entry.term, payload


def _structure_entry(value: Any, _: object = None) -> Entry:
    """msgpack itself tells the payloads apart: a binary, a list (a configuration), or nil."""
    index, term, payload = value
    if type(index) is not int or type(term) is not int or index < 1 or term < 1:
        raise ValueError(f"no entry has the index {index!r} and the term {term!r}")
    if type(payload) is list:
        payload = _structure_configuration(payload, Configuration)
    elif type(payload) is not bytes and payload is not None:
        raise TypeError(f"no payload is a {type(payload).__name__}")
    return Entry(index, term, payload)


def _structure_entries(value: object, _: object) -> tuple[Entry, ...]:
    if type(value) is not list:
        raise TypeError("list of entries expected")
    entries = tuple([_structure_entry(item) for item in value])
    if any(entry.index != entries[0].index + i for i, entry in enumerate(entries)):
        raise ValueError("the entries are not consecutive")
    return entries


_unstructure_configuration = _converter.get_unstructure_hook(Configuration)
_structure_configuration = _converter.get_structure_hook(Configuration)
_converter.register_unstructure_hook(Entry, _unstructure_entry)
_converter.register_structure_hook(Entry, _structure_entry)
_converter.register_structure_hook_func(_is_entries, _structure_entries)


# Decoding, and the codecs.


def _untrusted(parse: Callable[[Any], T], data: bytes | memoryview | list[bytes]) -> T:
    """`parse(data)`; every error is the fault of `data`, whatever its class.

    Even an AssertionError: the values check themselves, and these were made by somebody else.
    """
    try:
        return parse(data)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:MAX_REASON_CHARACTERS]
        size_bytes = sum(map(len, data)) if isinstance(data, list) else len(data)
        raise Malformed(f"{size_bytes} bytes do not decode: {reason}") from error


def _parser(kind: type[T]) -> Callable[[memoryview], T]:
    """What makes a value of a body without its type byte."""
    if _is_struct(kind):
        return msgspec.msgpack.Decoder(kind).decode
    structure = _converter.get_structure_hook(kind)
    return lambda body: structure(_unpack(body), kind)


class Codec(Generic[T]):
    """Encodes the classes of one table, {type byte: class}: frozen attrs of small fields.

    Fields are int, bool, str, bytes, float, other such classes, `tuple[X, ...]`,
    `dict[str, str]` and `X | None`. A codec is immutable and may be used by several threads.
    """

    def __init__(self, table: Mapping[int, type[T]]) -> None:
        assert len(set(table.values())) == len(table), "a class with two type bytes"
        self._encoders = {
            kind: (bytes([number]), _converter.get_unstructure_hook(kind))
            for number, kind in table.items()
        }
        self._decoders = {number: _parser(kind) for number, kind in table.items()}

    def encode(self, value: T) -> bytes:
        """The type byte and the body.

        Raises UnicodeEncodeError for a lone surrogate in a string and OverflowError for an integer
        beyond 64 bits: whoever takes text and numbers from people refuses those first.
        """
        type_byte, unstructure = self._encoders[type(value)]
        return type_byte + _pack(unstructure(value))

    def decode(self, data: bytes) -> T:
        """Raises `Malformed` for anything but what `encode` may have made."""
        return _untrusted(self._parse, data)

    def decode_all(self, encoded: list[bytes]) -> list[T]:
        """`decode` of each, in half the time; one that is `Malformed` makes all of them so."""
        return _untrusted(self._parse_all, encoded)

    def _parse(self, data: bytes) -> T:
        if len(data) > MAX_ENCODED_BYTES:
            raise ValueError(f"more than {MAX_ENCODED_BYTES} bytes")
        return self._decoders[data[0]](memoryview(data)[1:])

    def _parse_all(self, encoded: list[bytes]) -> list[T]:
        if max(map(len, encoded), default=0) > MAX_ENCODED_BYTES:
            raise ValueError(f"more than {MAX_ENCODED_BYTES} bytes")
        decoders = self._decoders
        return [decoders[data[0]](memoryview(data)[1:]) for data in encoded]


MESSAGES: Codec[Message] = Codec(
    {
        1: messages.PreVote,
        2: messages.PreVoteReply,
        3: messages.RequestVote,
        4: messages.VoteReply,
        5: messages.AppendEntries,
        6: messages.AppendReply,
        7: messages.InstallSnapshot,
        8: messages.InstallSnapshotReply,
        9: messages.TimeoutNow,
    }
)

BATCH_BYTE = b"\x01"
"""The type byte of a batch, the only kind of command entry so far."""

_parse_batch = msgspec.msgpack.Decoder(Batch).decode


def decode_batch(payload: bytes) -> Batch:
    """What an entry of the log holds. Raises `Malformed`."""
    if payload[:1] != BATCH_BYTE:
        raise Malformed(f"no entry begins with {payload[:1]!r}")
    return _untrusted(_parse_batch, memoryview(payload)[1:])


def encode_change(change: Change) -> bytes:
    """A change as `batch_of` takes it. Raises as `Codec.encode` does."""
    return _pack(change)


def batch_of(changes: Iterable[bytes]) -> bytes:
    """What an entry holds: a batch of these changes, each of which is encoded already."""
    return BATCH_BYTE + _pack(([msgspec.Raw(change) for change in changes],))


RECORDS: Codec[Record] = Codec(
    {
        1: records.Counters,
        2: records.Session,
        3: records.Task,
        4: records.Request,
        5: records.Event,
        6: records.Memory,
        7: records.ApplicationState,
        8: records.ApplicationPart,
    }
)
"""What snapshots hold."""


def encode_entry(entry: Entry) -> bytes:
    """An entry as raft.db keeps it: the same form as inside AppendEntries, with no type byte."""
    return _pack(_unstructure_entry(entry))


def decode_entry(data: bytes) -> Entry:
    """Raises `Malformed`."""
    return _untrusted(_parse_entry, data)


def _parse_entry(data: bytes) -> Entry:
    return _structure_entry(_unpack(data))


def encode_configuration(configuration: Configuration) -> bytes:
    return _pack(_unstructure_configuration(configuration))


def decode_configuration(data: bytes) -> Configuration:
    """Raises `Malformed`."""
    return _untrusted(_parse_configuration, data)


def _parse_configuration(data: bytes) -> Configuration:
    configuration: Configuration = _structure_configuration(_unpack(data), Configuration)
    return configuration
