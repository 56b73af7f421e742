"""What commands print: tables, details, JSON and YAML to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TextIO

from nefia.errors import Changed, NefiaError

FORMATS = ("table", "wide", "json", "yaml")
LEGIBLE_WIDTH = 60
"""Where a table cuts long values; `-o json` has them whole."""

_COLOURS = {
    "Leader": "32",
    "Candidate": "33",
    "Unreachable": "31",
    "Removed": "31",
    "dead": "31",
}
_CHANGED: dict[Changed, str] = {
    False: "Nothing was changed.",
    True: "The change was made.",
    "unknown": "Whether it was done is not known.",
}

_NEXT_STEPS = {
    "not_leader": "run the command there, or add --forward",
    "no_daemon": "start it with `nefia daemon`, or name its directory with --state-dir",
    "no_leader": "try again in a few seconds, and see `nefia cluster why`",
    "no_quorum": "see `nefia cluster why` for who cannot be reached",
    "peer_unreachable": "see that the node's daemon runs, and that the address and the firewall "
    "are right",
    "overloaded": "try again later",
}
"""By the code of an error that brings no hint of its own."""


def show_error(error: NefiaError) -> None:
    """On stderr: the code, what happened, whether anything was changed, what to do next."""
    mistakes = error.details.get("mistakes")
    what = "\n  " + error.message.replace("\n", "\n  ") if mistakes else _sentence(error.message)
    note(f"{_coloured('error:', '31', sys.stderr)} {error.code}: {what}")
    request_id = error.details.get("request_id")
    if error.changed == "unknown" and request_id:
        next_step = f"to repeat it safely, add --request-id {request_id}"
    else:
        next_step = error.hint or _NEXT_STEPS.get(error.code, "")
    changed = _CHANGED.get(error.changed, _CHANGED["unknown"])
    note(f"{changed} {_sentence(next_step, capital=True)}".rstrip())


def note(text: str) -> None:
    """One line or more on stderr."""
    _write(text + "\n", sys.stderr)


def line(text: str) -> None:
    _write(text + "\n", sys.stdout)


def show_json(value: object) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    line(text)


def show_yaml(value: object) -> None:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(value, sys.stdout)


STRUCTURED: dict[str, Callable[[object], None]] = {"json": show_json, "yaml": show_yaml}


def show_fields(fields: Mapping[str, object], narrowest: int = 0) -> None:
    """One `Label:  value` a line, values in one column."""
    width = max([narrowest, *(len(label) + 3 for label in fields)])
    for label, value in fields.items():
        line(f"{label + ':':<{width}}{_painted(label, cell(value), 0)}".rstrip())


def show_table(
    headers: Sequence[str], rows: Iterable[Sequence[object]], narrowest: Sequence[int] = ()
) -> None:
    """Columns of at least the widths `narrowest`, wider for longer values, one space between."""
    cells = [[cell(value) for value in row] for row in rows]
    widths = [0] * len(headers)
    for row in (headers, *cells):
        widths = [max(width, len(text)) for width, text in zip(widths, row, strict=True)]
    for column, least in enumerate(narrowest):
        widths[column] = max(widths[column], least)
    for row in (list(headers), *cells):
        padded = zip(headers, row, widths, strict=True)
        line(" ".join(_painted(*column) for column in padded).rstrip())


def _painted(header: str, text: str, width: int) -> str:
    colour = _COLOURS.get(text) if header.lower() == "state" else None
    return _coloured(f"{text:<{width}}", colour, sys.stdout)


def show_objects(rows: Iterable[Mapping[str, object]], keys: Sequence[str]) -> None:
    """A table of JSON objects; what is empty or missing is `-`, what is long is cut."""
    headers = [header_of(key) for key in keys]
    show_table(headers, ([shortened(row.get(key)) for key in keys] for row in rows))


def show_page(
    result: Mapping[str, Any], name: str, form: str, keys: Sequence[str], wide_keys: Sequence[str]
) -> None:
    """The answer of a listing, whose objects are under `name`."""
    if form in STRUCTURED:
        STRUCTURED[form](result)
        return
    show_objects(result[name], wide_keys if form == "wide" else keys)
    if result["cursor"]:
        note(f"There are more: add --cursor {result['cursor']}")


def show_changed(result: Mapping[str, Any], form: str, summary: str) -> None:
    """The answer of a change: whole, or as `summary` for people and shell scripts."""
    if form in STRUCTURED:
        STRUCTURED[form](result)
    else:
        line(summary)


def cell(value: object) -> str:
    """A JSON value for people: `-` for null, true and false, text as it is, JSON for the rest."""
    match value:
        case None:
            return "-"
        case bool():
            return "true" if value else "false"
        case str():
            return value if value.isprintable() else json.dumps(value)
        case dict() | list():
            return json.dumps(value, ensure_ascii=False)
    return str(value)


def shortened(value: object) -> str:
    text = cell(None if value == "" else value)
    return text if len(text) <= LEGIBLE_WIDTH else text[: LEGIBLE_WIDTH - 3] + "..."


def header_of(key: str) -> str:
    """`run_at` as `RUN-AT`: one word, so that tools can cut columns."""
    return key.upper().replace("_", "-")


def label_of(key: str) -> str:
    """`leader_id` as `Leader ID`."""
    return " ".join(_ABBREVIATIONS.get(word, word.capitalize()) for word in key.split("_"))


_ABBREVIATIONS = {"id": "ID", "ms": "(ms)"}


def _sentence(text: str, *, capital: bool = False) -> str:
    if capital:
        text = text[:1].upper() + text[1:]
    return text if not text or text[-1] in ".?!" else text + "."


def _coloured(text: str, colour: str | None, stream: TextIO) -> str:
    if colour is None or os.environ.get("NO_COLOR") or not stream.isatty():
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"


def _write(text: str, stream: TextIO) -> None:
    encoding = stream.encoding or "ascii"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
