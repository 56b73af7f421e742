"""From the bytes of nefia.yaml to values by key, with every mistake and its line on the way.

The file is read as YAML nodes, not as Python values: a node knows its line and its tag, and two
keys of the same name are still two.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, assert_never

from attrs import define, field, frozen

from nefia.config.kinds import (
    MAX_SHOWN_CHARACTERS,
    AnyKind,
    Items,
    Kind,
    Pairs,
    Scalar,
    Section,
    Texts,
    Unusual,
    Variants,
    WrongValue,
    printable,
    shown,
)
from nefia.config.schema import Config
from nefia.config.settings import Setting, all_settings, settings_of
from nefia.errors import InvalidConfiguration, Permission
from nefia.units import format_size

if TYPE_CHECKING:
    from ruamel.yaml.nodes import Node

MAX_CONFIG_BYTES = 64 * 1024
MAX_MISTAKES_SHOWN = 100

Values = dict[str, Any]
"""By key; a section's value is again such a dict. Keys that are absent or faulty are left out."""

_TAG_PREFIX = "tag:yaml.org,2002:"


@frozen
class Mistake:
    line: int
    key: str
    sentence: str


@define
class Report:
    """The mistakes found in one file so far, and the line of each key in it."""

    path: Path
    mistakes: list[Mistake] = field(factory=list)
    lines: dict[str, int] = field(factory=dict)

    def add(self, key: str, sentence: str, line: int | None = None) -> None:
        """Note a mistake. Raises InvalidConfiguration when there are too many to go on."""
        self.mistakes.append(Mistake(line or self.line_of(key), key, sentence))
        if len(self.mistakes) >= MAX_MISTAKES_SHOWN:
            raise self.error()

    def fail(self, sentence: str, line: int = 1) -> NoReturn:
        """Raises InvalidConfiguration for a file that cannot be read any further."""
        self.add("", sentence, line)
        raise self.error()

    def is_faulty(self, key: str) -> bool:
        """Whether `key`, or a section that it stands in, has a mistake already."""
        return any(m.key in ("", key) or key.startswith(m.key + ".") for m in self.mistakes)

    def line_of(self, key: str) -> int:
        """The line of `key`, or of the innermost section around it that is in the file."""
        while key and key not in self.lines:
            key = key.rpartition(".")[0]
        return self.lines.get(key, 1)

    def error(self) -> InvalidConfiguration:
        """All mistakes, in the order of their lines."""
        messages = [
            ": ".join(part for part in (f"{self.path}:{m.line}", m.key, m.sentence) if part)
            for m in sorted(self.mistakes, key=lambda m: m.line)
        ]
        if len(messages) >= MAX_MISTAKES_SHOWN:
            messages.append(f"{self.path}: only the first {MAX_MISTAKES_SHOWN} mistakes are shown")
        return InvalidConfiguration("\n".join(messages), mistakes=messages)


def read_file(path: Path, report: Report) -> Values:
    """The values of the file at `path`; an empty file has none. Relative paths are made absolute.

    Raises InvalidConfiguration for a file that cannot be read at all, and Permission; every other
    mistake is noted in `report`.
    """
    document = _compose(_read_text(path, report), report)
    return {} if document is None else _section(Config, document, "", report)


def _read_text(path: Path, report: Report) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
    except PermissionError as error:
        raise Permission(
            f"{path}: this user may not read it",
            hint="run nefia as the user that owns the file, or let this user read it",
        ) from error
    except OSError as error:
        raise InvalidConfiguration(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > MAX_CONFIG_BYTES:
        report.fail(f"is larger than {format_size(MAX_CONFIG_BYTES)}; is this nefia.yaml?")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        report.fail("is not UTF-8 text; save the file as UTF-8", line)


def _compose(text: str, report: Report) -> Node | None:
    """The root of the only document, None if there is nothing in it."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError
    from ruamel.yaml.reader import ReaderError

    yaml = YAML(typ="rt", pure=True)
    yaml.composer.warn_double_anchors = False
    try:
        root: Node | None = yaml.compose(text)
    except MarkedYAMLError as error:
        why = printable(error.problem or "it cannot be understood")
        if error.context and error.context_mark:
            why += f", {printable(error.context)} that begins in line {error.context_mark.line + 1}"
        report.fail(f"is not YAML: {why}", error.problem_mark.line + 1 if error.problem_mark else 1)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        report.fail(f"has the control character U+{error.character:04X}; remove it", line)
    except ValueError:
        # What ruamel makes of an escape for which `chr` has no character.
        report.fail("has, somewhere, an escape beyond \\U0010FFFF; remove it")
    except RecursionError:
        report.fail("has brackets nested too deeply; nefia.yaml needs three levels")
    return root


def _section(of: type, node: Node, key: str, report: Report) -> Values:
    settings = settings_of(of)
    values: Values = {}
    for name, value in _pairs(node, key, settings, report):
        inner = _joined(key, name)
        try:
            values[name] = _value(settings[name].kind, value, inner, report)
        except ValueError as error:
            report.add(inner, str(error))
    for name, setting in settings.items():
        inner = _joined(key, name)
        if setting.default is None and inner not in report.lines and not report.is_faulty(key):
            report.add(inner, f"is missing; write `{name}:` and the {setting.kind.description}")
    return values


def _pairs(
    node: Node, key: str, settings: dict[str, Setting], report: Report
) -> Iterator[tuple[str, Node]]:
    """The known keys of a section, each once, with the nodes of their values."""
    from ruamel.yaml.nodes import MappingNode, ScalarNode

    if _is_null(node):
        return
    if not isinstance(node, MappingNode):
        what = "is" if key else "the file is"
        report.add(key, f"{what} {_described(node)}; write `key: value` lines")
        return
    for name_node, value in node.value:
        line = name_node.start_mark.line + 1
        name = printable(name_node.value) if isinstance(name_node, ScalarNode) else "?"
        inner = _joined(key, name)
        if name not in settings:
            report.add(inner, f"unknown key; {_nearest(name, settings)}", line)
        elif inner in report.lines:
            first = report.lines[inner]
            report.add(inner, f"is given a second time; line {first} has it already", line)
        else:
            report.lines[inner] = line
            yield name, value


def _value(kind: AnyKind, node: Node, key: str, report: Report) -> object:
    """What the node stands for. Raises ValueError if this one value is wrong."""
    match kind:
        case Section(of):
            return _section(of, node, key, report)
        case Items():
            return tuple(
                _section(kind.of, item, inner, report)
                for inner, item in _items(node, kind.limit, key, report)
            )
        case Variants():
            return tuple(
                _variant(kind, item, inner, report)
                for inner, item in _items(node, kind.limit, key, report)
            )
        case Texts():
            return tuple(
                kind.of.convert(_scalar(item, kind.of))
                for _, item in _items(node, kind.limit, key, report)
            )
        case Pairs():
            return tuple(_named(kind, node, key, report))
        case Kind():
            value = kind.convert(_scalar(node, kind))
            # Relative to the file, since a daemon's working directory is anyone's guess.
            return report.path.absolute().parent / value if isinstance(value, Path) else value
        case _:
            assert_never(kind)


def _named(kind: Pairs, node: Node, key: str, report: Report) -> Iterator[tuple[str, object]]:
    """Each name of the user's choice with its value, those with a mistake left out."""
    from ruamel.yaml.nodes import MappingNode, ScalarNode

    if _is_null(node):
        return
    if not isinstance(node, MappingNode):
        raise WrongValue(f"is {_described(node)}; write `name: value` lines")
    if len(node.value) > kind.limit:
        raise WrongValue(f"has {len(node.value)} names; write at most {kind.limit}")
    for name_node, value in node.value:
        name = name_node.value if isinstance(name_node, ScalarNode) else ""
        inner = _joined(key, printable(name))
        line = name_node.start_mark.line + 1
        if not name or not name.isprintable():
            report.add(inner, "is not a name; write printable text", line)
        elif inner in report.lines:
            first = report.lines[inner]
            report.add(inner, f"is given a second time; line {first} has it already", line)
        else:
            report.lines[inner] = line
            try:
                yield name, kind.of.convert(_scalar(value, kind.of))
            except ValueError as error:
                report.add(inner, str(error))


def _items(node: Node, limit: int, key: str, report: Report) -> Iterator[tuple[str, Node]]:
    """Each item of a list with its full name."""
    nodes = _elements(node)
    if len(nodes) > limit:
        raise WrongValue(f"has {len(nodes)} items; write at most {limit}")
    for number, item in enumerate(nodes):
        inner = f"{key}[{number}]"
        report.lines[inner] = item.start_mark.line + 1
        yield inner, item


def _variant(kind: Variants, node: Node, key: str, report: Report) -> Values:
    """The section that its own `by` key names; without one nothing else can be judged."""
    from ruamel.yaml.nodes import MappingNode

    name = _joined(key, kind.by)
    wanted = f"write one of {', '.join(kind.classes)}"
    pairs = node.value if isinstance(node, MappingNode) else []
    for key_node, value in pairs:
        if key_node.value == kind.by:
            of = kind.classes.get(str(value.value))
            if of is not None:
                return _section(of, node, key, report)
            report.lines[name] = key_node.start_mark.line + 1
            report.add(name, f"{shown(str(value.value))} is unknown; {wanted}")
            return {}
    report.add(name, f"is missing; {wanted}")
    return {}


def _elements(node: Node) -> list[Node]:
    from ruamel.yaml.nodes import SequenceNode

    if _is_null(node):
        return []
    if not isinstance(node, SequenceNode):
        raise WrongValue(f"is {_described(node)}; write a list")
    elements: list[Node] = node.value
    return elements


def _scalar(node: Node, kind: Kind) -> Scalar:
    """The plain value of a node. Raises ValueError if it has none."""
    from ruamel.yaml.nodes import ScalarNode

    if _is_null(node):
        raise WrongValue(f"has no value; write one ({kind.description})")
    if not isinstance(node, ScalarNode):
        raise WrongValue(f"is {_described(node)}; write a single value ({kind.description})")
    text: str = node.value
    tag = str(node.tag)
    match tag.removeprefix(_TAG_PREFIX):
        case "str":
            return text
        case "bool" if text.lower() in ("true", "false"):
            return text.lower() == "true"
        case "int" if text.removeprefix("-").isdecimal() and len(text) <= MAX_SHOWN_CHARACTERS:
            return int(text)
    return Unusual(f"{tag} {text}" if tag.startswith("!") else text)


def _is_null(node: Node) -> bool:
    return str(node.tag) == _TAG_PREFIX + "null"


def _described(node: Node) -> str:
    from ruamel.yaml.nodes import MappingNode, SequenceNode

    match node:
        case MappingNode():
            return "a section"
        case SequenceNode():
            return "a list"
    return f"the single value {shown(node.value)}"


def _joined(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _nearest(name: str, settings: dict[str, Setting]) -> str:
    """Which key may have been meant: one of this very name, of the same section, of another."""
    from difflib import get_close_matches

    elsewhere = {key.rpartition(".")[2]: key for key, _ in all_settings(Config)}
    if name in elsewhere:
        return f'did you mean "{elsewhere[name]}"?'
    if near := get_close_matches(name, settings, n=1):
        return f'did you mean "{near[0]}"?'
    if near := get_close_matches(name, elsewhere, n=1):
        return f'did you mean "{elsewhere[near[0]]}"?'
    return f"the keys here are {', '.join(settings)}"
